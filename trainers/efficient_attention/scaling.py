"""How an encoder layer's time and memory grow with the length of the sequence, for each attention mechanism.

Time is measured interleaved in one process against the exact layer on PyTorch's scaled_dot_product_attention, never
only against the written-out one: median over rounds of the CPU time of one thread, or of device events on a GPU.
"""

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.attention

from models.attention.spec import AttentionSpec
from models.transformer import EncoderLayer
from trainers.efficient_attention.peak_memory import answer_jobs, grown_memory, measure_apart

D_MODEL, N_HEADS, D_FF = 128, 8, 256
EXACT = "sdpa"
QUADRATIC = ("softmax",)
"""Mechanisms whose memory is N^2; "sdpa" is quadratic in time alone."""

Seconds = dict[str, dict[int, float]]


def build_layer(name: str, length: int) -> EncoderLayer:
    """A pre-norm encoder layer with the mechanism, sized for sequences of `length`."""
    torch.manual_seed(0)
    return EncoderLayer(
        D_MODEL,
        N_HEADS,
        D_FF,
        dropout=0.0,
        activation="gelu",
        norm_first=True,
        attention=AttentionSpec.for_length(name, length),
        generator=torch.Generator().manual_seed(0),
    ).eval()


def fits(name: str, length: int, limit_bytes: float = 2e9) -> bool:
    """Whether a mechanism's N x N weights of all heads stay below the limit (only the written-out softmax makes
    them).
    """
    return name not in QUADRATIC or 4 * N_HEADS * length**2 <= limit_bytes


def measure_times(
    names: Sequence[str],
    lengths: Sequence[int],
    rounds: int,
    device: torch.device,
    progress: Callable[[str], None],
    patience: float = 20.0,
) -> Seconds:
    """{mechanism: {length: median seconds of a forward pass of one sequence}}.

    A mechanism whose pass took longer than `patience` seconds is not tried at greater lengths.
    """
    seconds: Seconds = {name: {} for name in names}
    stopped: set[str] = set()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for length in lengths:
            x = torch.randn(1, length, D_MODEL, generator=torch.Generator().manual_seed(length)).to(device)
            layers = {n: build_layer(n, length).to(device) for n in names if n not in stopped and fits(n, length)}
            taken: dict[str, list[float]] = {name: [] for name in layers}
            for i in range(rounds + 1):
                for name, layer in layers.items():
                    took = _seconds_of(layer, x)
                    if i or took > patience / 4:  # the first round warms up, unless it is long enough to count
                        taken[name].append(took)
                    progress(f"{name}, {length} tokens")
                if i == 0:
                    layers = {n: layer for n, layer in layers.items() if not taken[n]}
            for name, values in taken.items():
                seconds[name][length] = statistics.median(values)
                if seconds[name][length] > patience:
                    stopped.add(name)
    finally:
        torch.set_num_threads(threads)
    return seconds


@torch.inference_mode()
def _seconds_of(layer: EncoderLayer, x: torch.Tensor) -> float:
    """Seconds of one pass; short ones are repeated until they are long enough to be read from the clock."""
    repeats = 1
    while True:
        if x.is_cuda:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(repeats):
                layer(x)
            end.record()
            torch.cuda.synchronize()
            took = start.elapsed_time(end) / 1000
        else:
            began = time.process_time()
            for _ in range(repeats):
                layer(x)
            took = time.process_time() - began
        if took > 0.02:
            return took / repeats
        repeats *= 4


def measure_memory(
    names: Sequence[str], lengths: Sequence[int], progress: Callable[[str], None]
) -> dict[str, dict[int, float]]:
    """{mechanism: {length: megabytes}}: growth of the peak resident memory during one pass, each in a fresh process
    (CPU).
    """
    pairs = [(name, length) for length in lengths for name in names if fits(name, length)]
    found = measure_apart(
        "trainers.efficient_attention.scaling",
        pairs,
        lambda i: progress("memory of {}, {} tokens".format(*pairs[i - 1])),
    )
    megabytes: dict[str, dict[int, float]] = {name: {} for name in names}
    for (name, length), value in zip(pairs, found, strict=True):
        if value is not None:
            megabytes[name][length] = value
    return megabytes


def allocator() -> str:
    """The C library and what the environment asks of its allocator. glibc by default gives blocks of some megabytes
    back after each
    use and pays for them again: the written-out softmax takes twice as long with it as with one that keeps them."""
    given = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")]
    given += [f"{name}={os.environ[name]}" for name in ("LD_PRELOAD", "THP_MEM_ALLOC_ENABLE") if name in os.environ]
    return f"{' '.join(platform.libc_ver())}, {' '.join(given) or 'default'}"


def backend(name: str, length: int, n_heads: int, d_head: int, device: torch.device, training: bool = False) -> str:
    """What computes a mechanism's scores: for sdpa, the kernel that PyTorch chooses for such q, k and v."""
    if name != EXACT:
        return "eager"
    q = torch.empty(1, n_heads, length, d_head, device=device, requires_grad=training)
    return f"SDPA {torch.nn.attention.SDPBackend(torch._fused_sdp_choice(q, q, q)).name}"


def crossover(own: Mapping[int, float], exact: Mapping[int, float]) -> float | None:
    """The length in tokens from which on the mechanism is faster than the exact layer; None if it is slower at the
    longest.

    Between the two measured lengths around it the logarithm of the ratio is taken to be linear in the logarithm of the
    length.
    Where it is faster at all of them, the shortest one: how much earlier it would be was not measured.
    """
    common = sorted(own.keys() & exact.keys())
    slower = [n for n in common if own[n] >= exact[n]]
    if not common or (slower and slower[-1] == common[-1]):
        return None
    if not slower:
        return common[0]
    before, after = slower[-1], common[common.index(slower[-1]) + 1]
    costs = [math.log(own[n] / exact[n]) for n in (before, after)]
    return float(before * (after / before) ** (costs[0] / (costs[0] - costs[1])))


def growth_exponent(values: Mapping[int, float], from_length: int = 1024) -> float:
    """Slope of log value against log length by least squares, over lengths of at least `from_length`; NaN for fewer
    than two.
    """
    points = [(math.log(n), math.log(v)) for n, v in values.items() if n >= from_length and v > 0]
    if len(points) < 2:
        return math.nan
    return float(statistics.linear_regression(*zip(*points, strict=True)).slope)


@torch.inference_mode()
def _megabytes_of_layer(job: Sequence[Any]) -> float:
    name, length = job
    layer = build_layer(name, length)
    layer(torch.randn(1, 65, D_MODEL)[:, : min(65, length)])  # libraries allocate on first use
    x = torch.randn(1, length, D_MODEL)
    with grown_memory() as megabytes:
        layer(x)
    return megabytes[0]


if __name__ == "__main__":
    answer_jobs(_megabytes_of_layer)

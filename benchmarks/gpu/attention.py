"""Part 5: every attention mechanism against PyTorch's kernels for the exact one, over the length of the sequence."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu.box import Box, median_seconds, peak_megabytes, seconds_of, set_precision, start_memory
from models.attention.spec import MECHANISMS, AttentionSpec, build_attention
from trainers.efficient_attention.scaling import crossover

N_HEADS, D_HEAD, WINDOW = 8, 64, 65
LENGTHS = (256, 1024, 4096, 16384, 65536)
PATIENCE = 0.5
"""Seconds of a pass after which longer sequences are not tried."""
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}
Core = Callable[[Tensor, Tensor, Tensor], Tensor]


def run(box: Box) -> None:
    set_precision("tf32")
    lengths = (32, 64) if box.tiny else LENGTHS
    names = (*BACKENDS, *(name for name in MECHANISMS if name != "sdpa"))
    for dtype in (torch.bfloat16, torch.float16):
        for backward in (False, True):
            sweep(box, names, lengths, dtype=dtype, backward=backward)
    if box.on_gpu:  # last: it is compiled anew for each length
        sweep(box, ("local", "flex_attention"), lengths, dtype=torch.bfloat16, backward=False)


def sweep(box: Box, names: Sequence[str], lengths: Sequence[int], *, dtype: torch.dtype, backward: bool) -> None:
    """All lengths; milliseconds, and from where on each is faster than the fastest exact kernel."""
    how = f"{str(dtype).removeprefix('torch.')}{', with backward' if backward else ''}"
    seconds: dict[str, dict[int, float]] = {name: {} for name in names}
    for length in lengths:
        for name in names:
            if max(seconds[name].values(), default=0.0) < PATIENCE:
                call = partial(measure, box, name, length, dtype=dtype, backward=backward, seconds=seconds[name])
                box.attempt(f"{name}, {length} tokens, {how}", call)
    kernels = [taken for name, taken in seconds.items() if name in BACKENDS]
    exact = {n: min(found) for n in lengths if (found := [taken[n] for taken in kernels if n in taken])}
    for name, taken in seconds.items():
        if taken:
            start = None if name in BACKENDS else crossover(taken, exact)
            box.row(
                f"Attention, milliseconds ({how})",
                mechanism=name,
                **{f"{n:,}": round(1000 * taken[n], 3) if n in taken else None for n in lengths},
                faster_than_exact_from=None if start is None else round(start),
            )


def measure(box: Box, name: str, length: int, *, dtype: torch.dtype, backward: bool, seconds: dict[int, float]) -> None:
    """Milliseconds and peak memory of a pass of one sequence; the time is put into `seconds`, too."""
    torch.manual_seed(0)
    start_memory(box.device)
    shape = (3, 1, N_HEADS, length, D_HEAD)
    q, k, v = (t.requires_grad_(backward) for t in torch.randn(shape, device=box.device, dtype=dtype).unbind(0))
    core = core_of(box, name, length, dtype)

    def call() -> Any:
        with torch.set_grad_enabled(backward):
            out = core(q, k, v)
        return torch.autograd.grad(out.float().sum(), (q, k, v), allow_unused=True) if backward else out

    first = seconds_of(call, box.device)
    rounds = 1 if box.tiny or first > PATIENCE else 10
    seconds[length] = first if first > PATIENCE else median_seconds(call, box.device, rounds, at_most=0.3)
    box.row(
        "Attention: peak memory",
        mechanism=name,
        tokens=length,
        dtype=str(dtype).removeprefix("torch."),
        backward=backward,
        first_s=round(first, 3),
        peak_MB=peak_megabytes(box.device),
    )


def core_of(box: Box, name: str, length: int, dtype: torch.dtype) -> Core:
    """What computes softmax(q k^T) v, or something in its stead."""
    if name in BACKENDS:
        return partial(one_kernel, BACKENDS[name])
    if name == "flex_attention":
        return local_by_flex_attention(length, box.device)
    spec = AttentionSpec.for_length(name, length)
    generator = torch.Generator().manual_seed(0)
    return build_attention(spec, D_HEAD, generator, n_heads=N_HEADS).eval().to(box.device, dtype)


def one_kernel(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel([backend]):
        return scaled_dot_product_attention(q, k, v)


def local_by_flex_attention(length: int, device: torch.device) -> Core:
    """The local window by PyTorch's compiled flex_attention."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query - key).abs() <= WINDOW // 2

    mask = create_block_mask(near, B=None, H=None, Q_LEN=length, KV_LEN=length, device=str(device))
    return partial(torch.compile(flex_attention), block_mask=mask)

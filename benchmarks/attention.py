"""Attention layers beside their peers: torch.nn.MultiheadAttention, linformer, performer-pytorch, nystrom-attention and
linear-attention-transformer; and the cheap mechanisms beside the exact one.

    python -m benchmarks.attention --lengths 5,64,256,1024 --rounds 15
    python -m benchmarks.attention --lengths 4096 --mode training
    python -m benchmarks.attention --lengths 1024,4096,16384,65536 --mode memory

A layer maps [1, N, 128] to [1, N, 128]: 8 heads, maps to q, k, v and out included, 64 features, landmarks or projected
keys (N, if fewer). Both sides of a pair have the same weights where these exist; `difference` says how far their
outputs are apart. Times are
CPU time of one thread: all sides take turns in random order in one process, each repeated for at least 20 ms; a ratio
is that of one round, peer / ours, and the median and the quartiles over rounds are reported. Memory: what the
high-water mark (VmHWM) of a fresh process grows by in one pass, above what it held before. The default glibc allocator
returns large blocks to the system after each use and pays for them again; `--malloc tuned` starts the process with an
allocator that keeps them. Peers that are not installed are left out:

    pip install --no-deps linformer==0.2.3 performer-pytorch==1.1.4 nystrom-attention==0.0.14
    linear-attention-transformer==0.19.1 \
        axial-positional-embedding==0.2.1 local-attention==1.9.0 product_key_memory==0.3.0 CoLT5-attention==0.11.2

The last line is JSON; a ratio above 1 means that the second side of the pair is faster (or smaller).
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.attention.spec import MECHANISMS, AttentionSpec
from models.transformer import MultiHeadAttentionBlock
from trainers.efficient_attention.peak_memory import grown_memory
from trainers.efficient_attention.scaling import allocator, backend

D_MODEL, N_HEADS, SIZE = 128, 8, 64
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "30000000000", "MALLOC_TOP_PAD_": "268435456"}

PAIRS = (
    ("MultiheadAttention", "sdpa"),
    ("MultiheadAttention fast path", "sdpa"),
    ("linformer", "own linformer"),
    ("performer-pytorch", "favor"),
    ("nystrom-attention", "nystrom"),
    ("linear-attention-transformer", "linear"),
    ("softmax", "sdpa"),
    ("sdpa", "linear"),
    ("sdpa", "cosformer"),
    ("sdpa", "favor"),
    ("sdpa", "delta"),
    ("sdpa", "gated_delta"),
    ("sdpa", "ssd"),
    ("linear", "delta"),
    ("sdpa", "own linformer"),
    ("sdpa", "nystrom"),
    ("sdpa", "local"),
    ("sdpa", "none"),
)
"""(a, b): the ratio reported is a / b."""

Layer = Callable[[Tensor], Tensor]


def own(name: str, length: int) -> MultiHeadAttentionBlock:
    """This project's layer; the same weights for every mechanism."""
    torch.manual_seed(0)
    size = min(SIZE, length)
    spec = AttentionSpec(
        name,
        max_len=length,
        n_projected=size,
        n_landmarks=size,
        n_features=SIZE,
        window=min(65, length - 1 + length % 2),
    )
    return MultiHeadAttentionBlock(D_MODEL, N_HEADS, spec, generator=torch.Generator().manual_seed(0)).eval()


def multihead_attention() -> nn.MultiheadAttention:
    peer = nn.MultiheadAttention(D_MODEL, N_HEADS, batch_first=True).eval()
    peer.load_state_dict(own("sdpa", SIZE).state_dict())
    return peer


@torch.no_grad()
def with_our_maps(peer: nn.Module, block: MultiHeadAttentionBlock) -> nn.Module:
    """Copy the four linear maps into a package's layer (which has no bias on q, k, v; ours is 0 there)."""
    maps = block.in_proj_weight.chunk(3)
    for name, weight in zip(("to_q", "to_k", "to_v"), maps, strict=True):
        if hasattr(peer, name):
            getattr(peer, name).weight.copy_(weight)
    if hasattr(peer, "to_qkv"):
        peer.to_qkv.weight.copy_(block.in_proj_weight)  # type: ignore[union-attr,operator]
    out = peer.to_out[0] if isinstance(peer.to_out, nn.Sequential) else peer.to_out
    out.load_state_dict(block.out_proj.state_dict())
    return peer.eval()


def package(name: str, length: int) -> nn.Module | None:
    """A peer package's layer with our weights, or None if it is not installed."""
    size, d_head = min(SIZE, length), D_MODEL // N_HEADS
    try:
        if name == "linformer":
            from linformer import LinformerSelfAttention

            block = own("linformer", length)
            peer = with_our_maps(LinformerSelfAttention(D_MODEL, length, k=size, heads=N_HEADS), block)
            with torch.no_grad():
                peer.proj_k.copy_(block.mechanism.project_k.T)
                peer.proj_v.copy_(block.mechanism.project_v.T)
            return peer
        if name == "performer-pytorch":
            from performer_pytorch import SelfAttention

            block = own("favor", length)
            peer = with_our_maps(SelfAttention(D_MODEL, heads=N_HEADS, dim_head=d_head, nb_features=SIZE), block)
            peer.fast_attention.projection_matrix.copy_(block.mechanism.features.projection)
            return peer
        if name == "nystrom-attention":
            from nystrom_attention import NystromAttention

            peer = NystromAttention(D_MODEL, d_head, N_HEADS, num_landmarks=size, residual=False)
            return with_our_maps(peer, own("nystrom", length))
        if name == "linear-attention-transformer":
            from linear_attention_transformer.linear_attention_transformer import SelfAttention as LinearSelfAttention

            return with_our_maps(LinearSelfAttention(D_MODEL, N_HEADS), own("linear", length))
    except ImportError:
        return None
    raise ValueError(name)


def layer_of(name: str, length: int) -> tuple[nn.Module, Layer] | None:
    """(the module, a call of it) of one side; None for a package that is not installed."""
    if name.startswith("MultiheadAttention"):
        mha, fast = multihead_attention(), name.endswith("fast path")

        def call(x: Tensor) -> Tensor:
            torch.backends.mha.set_fastpath_enabled(fast)
            return mha(x, x, x, need_weights=False)[0]

        return mha, call
    own_name = name.removeprefix("own ")
    if own_name != name or (name in MECHANISMS and name != "linformer"):  # by that name, the package's
        block = own(own_name, length)
        return block, lambda x: block(x)[0]
    peer = package(name, length)
    return None if peer is None else (peer, peer)


def backend_of(name: str, length: int, training: bool) -> str:
    """What computes the scores of a side."""
    if name == "MultiheadAttention fast path":
        return "the same as without (the fast path is for inference)" if training else "native_multi_head_attention"
    kernel = "sdpa" if name == "MultiheadAttention" else name
    return backend(kernel, length, N_HEADS, d_head=D_MODEL // N_HEADS, device=torch.device("cpu"), training=training)


def seconds_of(layer: Layer, x: Tensor, training: bool, module: nn.Module, repeats: int) -> float:
    """Seconds of CPU time of one pass, forward and, in training, backward through weights and input."""
    began = time.process_time()
    for _ in range(repeats):
        if training:
            module.zero_grad()
            layer(x).sum().backward()
        else:
            layer(x)
    return (time.process_time() - began) / repeats


def measure(length: int, training: bool, rounds: int, names: list[str], patience: float, batch: int) -> dict[str, Any]:
    """{"seconds": {side: one value per round}, "difference": {peer: relative difference of outputs from ours}}."""
    x = torch.randn(batch, length, D_MODEL, generator=torch.Generator().manual_seed(length))
    sides = {name: side for name in names if (side := layer_of(name, length)) is not None}
    outputs: dict[str, Tensor] = {}
    repeats: dict[str, int] = {}
    for name, (module, layer) in sides.items():
        with torch.set_grad_enabled(training), torch.inference_mode(not training):
            if training:
                outputs[name] = layer(x).detach()
                x.requires_grad_()
            else:
                outputs[name] = layer(x)
            once = seconds_of(layer, x, training, module=module, repeats=1)
            once = once if once > patience / 4 else seconds_of(layer, x, training, module=module, repeats=1)
        repeats[name] = max(1, round(0.02 / max(once, 1e-6)))
    difference = {
        a: float((outputs[a] - outputs[b]).norm() / outputs[b].norm())
        for a, b in PAIRS[:6]
        if a in outputs and b in outputs and a != "linear-attention-transformer"  # whose features are others
    }
    outputs.clear()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order, dice = list(sides), random.Random(length)
    for _ in range(rounds):
        dice.shuffle(order)
        for name in order:
            module, layer = sides[name]
            with torch.inference_mode(not training):
                seconds[name].append(seconds_of(layer, x, training, module=module, repeats=repeats[name]))
        if sum(taken[-1] * repeats[name] for name, taken in seconds.items()) > patience:
            break  # one round of this length is long enough to be steady
    return {"seconds": seconds, "difference": difference}


@torch.inference_mode()
def print_memory_of(name: str, length: int, training: bool) -> None:
    """In a process of its own: the megabytes by which its high-water mark grows in one pass."""
    torch.set_num_threads(1)
    side = layer_of(name, length)
    if side is None:
        print(json.dumps({"megabytes": None}))
        return
    module, layer = side
    with torch.inference_mode(False), torch.set_grad_enabled(training):
        x = torch.randn(1, length, D_MODEL, requires_grad=training)
        warm = x[:, : min(length, 2 * SIZE)]  # libraries allocate on first use
        for step in (warm, x):
            with grown_memory() as megabytes:
                out = layer(step)
                if training:
                    out.sum().backward()
            module.zero_grad()
            del out
    print(json.dumps({"megabytes": megabytes[0]}))


def memory_of(name: str, length: int, training: bool) -> float | None:
    command = [sys.executable, "-m", "benchmarks.attention", "--memory_of", name, "--lengths", str(length)]
    done = subprocess.run([*command, "--mode", "training" if training else "inference"], capture_output=True, text=True)
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])["megabytes"]


def quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def restart_with(malloc: str) -> None:
    """The allocator reads its settings when a process starts: start it again with them."""
    wanted = TUNED if malloc == "tuned" else {}
    if any(os.environ.get(key) != wanted.get(key) for key in TUNED):
        kept = {key: value for key, value in os.environ.items() if key not in TUNED}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.attention", *sys.argv[1:]], kept | wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="5,64,256,1024,4096", help="tokens, by commas")
    parser.add_argument("--mode", choices=("inference", "training", "memory", "memory_training"), default="inference")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sides", default="", help="only these sides, by commas (default: all)")
    parser.add_argument("--malloc", choices=("default", "tuned"), default="default")
    parser.add_argument(
        "--quadratic_up_to", type=int, default=16384, help="longest sequence for sides of quadratic time"
    )
    parser.add_argument("--patience", type=float, default=30.0, help="seconds of a round after which one is enough")
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    lengths = [int(part) for part in args.lengths.split(",")]
    if args.memory_of:
        return print_memory_of(args.memory_of, lengths[0], args.mode == "training")
    restart_with(args.malloc)
    torch.set_num_threads(1)

    everything = list(dict.fromkeys(name for pair in PAIRS for name in pair))
    chosen = [name.strip() for name in args.sides.split(",") if name.strip()] or everything
    if unknown := sorted(set(chosen) - set(everything)):
        parser.error(f"--sides: {', '.join(unknown)} unknown; allowed are {', '.join(everything)}")
    memory, training = args.mode.startswith("memory"), args.mode.endswith("training")
    ratios: dict[str, float] = {}
    spread: dict[str, list[float]] = {}
    rows: list[dict[str, Any]] = []
    for length in lengths:
        names = [
            name
            for name in chosen
            if (name not in ("sdpa", "MultiheadAttention") or length <= args.quadratic_up_to)
            and (name not in ("softmax", "MultiheadAttention fast path") or length <= min(8192, args.quadratic_up_to))
        ]
        difference: dict[str, float] = {}
        if memory:
            values = {name: [found] for name in names if (found := memory_of(name, length, training))}
        else:
            measured = measure(length, training, args.rounds, names=names, patience=args.patience, batch=args.batch)
            values, difference = measured["seconds"], measured["difference"]
        for name, found in values.items():
            row = {
                "mode": args.mode,
                "length": length,
                "side": name,
                ("megabytes" if memory else "ms"): round(statistics.median(found) * (1 if memory else 1000), 4),
                "backend": backend_of(name, length, training),
                "allocator": allocator(),
            }
            if name in difference:
                row["difference"] = float(f"{difference[name]:.1e}")
            rows.append(row)
        for a, b in PAIRS:
            if a in values and b in values:
                label, each = f"{length}: {a} / {b}", [x / y for x, y in zip(values[a], values[b], strict=True)]
                ratios[label] = round(statistics.median(each), 3)
                spread[label] = [round(value, 3) for value in quartiles(each)]
                low, high = spread[label]
                print(f"{args.mode} {label:52s} {ratios[label]:9.2f}  ({low:.2f} to {high:.2f})", flush=True)
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()))
    conditions = {
        "mode": args.mode,
        "d_model": D_MODEL,
        "heads": N_HEADS,
        "size": SIZE,
        "batch": args.batch,
        "threads": 1,
        "rounds": args.rounds,
        "torch": torch.__version__,
        "allocator": allocator(),
        "rows": rows,
    }
    print(json.dumps({"name": "attention", "ratios": ratios, "spread": spread, "conditions": conditions}))


if __name__ == "__main__":
    main()

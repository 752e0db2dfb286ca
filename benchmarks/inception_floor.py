"""How far Inception on a CPU is from what its arithmetic takes: one thread, float32, images of 299 pixels.

    python -m benchmarks.inception_floor --batch_size 8 --rounds 7
    python -m benchmarks.inception_floor --compile    # PyTorch's compiler, too; it needs a C++ compiler

Sides, in turns: torch-fidelity's network as it is; `fid`'s (batch norms folded, channels_last); the same with each
convolution, bias and ReLU as one call of oneDNN, weights laid out beforehand; the convolutions alone, on activations
of their sizes; the matrix products that they come to. Random weights: the time does not depend on them. A ratio is
the time of torch-fidelity's network over the side's. The last line is JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.fid import random_inception_state
from evaluation.features import build_inception, fold_batch_norms


class FusedConvolution(nn.Module):
    """ReLU of a folded convolution by oneDNN's fused kernel, which PyTorch's compiler calls."""

    def __init__(self, conv: nn.Conv2d, input_size: torch.Size) -> None:
        super().__init__()
        self.where = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.bias = conv.bias
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
            conv.weight.detach().to_mkldnn(), *self.where, list(input_size)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.where, "relu", [], "")


def recorded(network: nn.Module, images: Tensor) -> list[tuple[nn.Module, nn.Conv2d, Tensor]]:
    """(block, its convolution, an input of it) of each convolution, in order."""
    found: list[tuple[nn.Module, nn.Conv2d, Tensor]] = []
    hooks = [
        block.conv.register_forward_hook(lambda conv, inputs, _, block=block: found.append((block, conv, inputs[0])))
        for block in network.modules()
        if isinstance(getattr(block, "conv", None), nn.Conv2d)
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return found


def products(calls: list[tuple[nn.Module, nn.Conv2d, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Of each convolution the two factors that its arithmetic comes to: patches by weights."""
    factors = []
    for _, conv, x in calls:
        n_pixels = conv(x)[:, 0].numel()
        weight = conv.weight.flatten(1).T.contiguous()
        factors.append((torch.randn(n_pixels, weight.shape[0]), weight))
    return factors


def sides(batch_size: int, compiled: bool) -> tuple[dict[str, Callable[[], object]], float, float]:
    """(what is timed, GFLOP of an image, the largest difference of the fused network's features from the plain one's,
    relative to their largest)."""
    state = random_inception_state()
    images = torch.randint(0, 256, (batch_size, 3, 299, 299), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    rows = images.contiguous(memory_format=torch.channels_last)
    theirs, plain, fused = (build_inception(state, ["2048"]) for _ in range(3))
    for network in (plain, fused):
        fold_batch_norms(network)
        network.to(memory_format=torch.channels_last)
    expected = plain(rows)[0]
    for block, conv, x in recorded(fused, rows):
        joined = FusedConvolution(conv, x.shape)
        block.forward = joined.forward  # type: ignore[method-assign]
    found = fused(rows)[0]
    calls = recorded(plain, rows)
    factors = products(calls)
    work: dict[str, Callable[[], object]] = {
        "torch-fidelity": lambda: theirs(images),
        "ours": lambda: plain(rows),
        "ours, fused": lambda: fused(rows),
        "convolutions alone": lambda: [conv(x) for _, conv, x in calls],
        "matrix products": lambda: [a @ b for a, b in factors],
    }
    if compiled:
        torch._inductor.config.freezing = True
        program = torch.compile(plain)
        work["ours, compiled"] = lambda: program(rows)
    flops = sum(2.0 * a.numel() * b.shape[1] for a, b in factors) / batch_size / 1e9
    return work, flops, float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work, flops, difference = sides(args.batch_size, args.compile)
    times: dict[str, list[float]] = {name: [] for name in work}
    for i in range(args.rounds + 1):
        for name, run in work.items():
            began = time.process_time()
            run()
            if i:  # the first round warms up
                times[name].append(time.process_time() - began)
    ratios = {
        name: [base / own for base, own in zip(times["torch-fidelity"], times[name], strict=True)] for name in work
    }
    print(f"{flops:.2f} GFLOP an image; fused against plain features: {difference:.1e} of the largest")
    for name, taken in times.items():
        second = statistics.median(taken) / args.batch_size
        low, middle, high = min(ratios[name]), statistics.median(ratios[name]), max(ratios[name])
        ratio = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        print(f"{name:20s} {1000 * second:6.1f} ms an image, {flops / second:5.0f} GFLOP/s, {ratio}")
    print(
        json.dumps(
            {
                "name": "inception_floor",
                "ratios": {name: round(statistics.median(r), 3) for name, r in ratios.items()},
                "spread": {name: [round(min(r), 3), round(max(r), 3)] for name, r in ratios.items()},
                "conditions": {"batch_size": args.batch_size, "rounds": args.rounds, "torch": torch.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()

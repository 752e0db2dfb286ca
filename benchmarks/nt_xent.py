"""NT-Xent, forward and backward, beside lightly, pytorch-metric-learning and the formula as it is read.

    python -m benchmarks.nt_xent --pairs 64,256,1000

One thread's processor time, every contestant in turn on the same projections, which they agree on before the race. A
ratio is a contestant's time over ours. pytorch-metric-learning's memory grows with the cube of the pairs; it is left
out above 128.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import InputError, run_main
from models.eeg.nt_xent import nt_xent

Loss = Callable[[Tensor, Tensor], Tensor]
PML_PAIRS = 128


def plain(z_a: Tensor, z_b: Tensor, tau: float) -> Tensor:
    """The formula as it is read: cosine similarity of all, exponential, the diagonal left out, both orders one after
    the other.
    """
    z = torch.cat([z_a, z_b])
    n = z_a.shape[0]
    similarity = F.cosine_similarity(z[:, None], z[None], dim=2) / tau
    others = ~torch.eye(2 * n, dtype=torch.bool)
    denominator = (similarity.exp() * others).sum(1)
    rows = torch.arange(n)
    first = -(similarity[rows, rows + n].exp() / denominator[:n]).log()
    second = -(similarity[rows + n, rows].exp() / denominator[n:]).log()
    return (first.mean() + second.mean()) / 2


def contestants(tau: float) -> dict[str, Loss]:
    """Every loss by name; InputError where a peer is not installed."""
    try:
        from lightly.loss import NTXentLoss
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise InputError(
            f"{error.name} is not installed; the benchmark needs `pip install -r requirements-dev.txt`"
        ) from None
    return {
        "ours": lambda a, b: nt_xent(a, b, tau),
        "lightly": NTXentLoss(temperature=tau),
        "pytorch-metric-learning": losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=tau)),
        "formula": lambda a, b: plain(a, b, tau),
    }


def seconds(loss: Loss, z_a: Tensor, z_b: Tensor, repeats: int) -> float:
    began = time.process_time()
    for _ in range(repeats):
        loss(z_a, z_b).backward()
    return (time.process_time() - began) / repeats


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", default="64,256,1000", help="numbers of pairs N, separated by commas")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--tau", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    ratios, spread = {}, {}
    for n in (int(part) for part in args.pairs.split(",")):
        torch.manual_seed(0)
        z_a, z_b = (torch.randn(n, args.dim, requires_grad=True) for _ in range(2))
        racing = {k: v for k, v in contestants(args.tau).items() if k != "pytorch-metric-learning" or n <= PML_PAIRS}
        values = {name: loss(z_a, z_b).item() for name, loss in racing.items()}
        if max(values.values()) - min(values.values()) > 1e-4 * values["ours"]:
            raise InputError(f"the losses do not agree, so there is no race: {values}")
        repeats = max(1, round(0.03 / seconds(racing["ours"], z_a, z_b, 2)))
        taken: dict[str, list[float]] = {name: [] for name in racing}
        for i in range(args.rounds + 1):
            order = list(racing) if i % 2 else list(racing)[::-1]
            for name in order:
                slow = name in ("pytorch-metric-learning", "formula")
                if i and not (slow and i > 5):  # the first round warms up; five rounds are enough of the slow ones
                    taken[name].append(seconds(racing[name], z_a, z_b, 1 if slow else repeats))
        print(f"N={n}, D={args.dim}: " + ", ".join(f"{k} {1e3 * np.median(v):.2f} ms" for k, v in taken.items()))
        for name, times in taken.items():
            if name == "ours":
                continue
            of = np.array(times) / np.array(taken["ours"][: len(times)])
            ratios[f"{name}, N={n}"] = round(float(np.median(of)), 3)
            spread[f"{name}, N={n}"] = [round(float(v), 3) for v in np.quantile(of, [0.1, 0.9])]
    conditions = {
        "dim": args.dim,
        "tau": args.tau,
        "rounds": args.rounds,
        "threads": 1,
        "time": "process_time",
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    print(json.dumps({"name": "nt_xent", "ratios": ratios, "spread": spread, "conditions": conditions}))


if __name__ == "__main__":
    run_main(main)

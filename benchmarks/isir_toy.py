"""I-SIR's two weights on a toy whose targets are known exactly: D(G(z)) = s z_1.

    python -m benchmarks.isir_toy --figure docs/figures/isir_toy.png

Importance weights sample p* = N(s e_1, I). Density weights sample N(s/2 e_1, I/2): half the shift and half the
variance. In few dimensions both arrive; in many, the density weights do not mix, because ratios of exp(-|z|^2 / 2)
among draws from the prior are astronomic. Not a race: the last line has the largest distance of a mean or variance from
its target instead of ratios.
"""

import argparse
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from common.files import atomic_file
from models.gan.isir import Weights, run_chains


def moments(z: Tensor) -> tuple[float, float, float]:
    """(mean along z_1, variance along z_1, mean variance of the other dimensions)."""
    z = z.double()
    return float(z[:, 0].mean()), float(z[:, 0].var()), float(z[:, 1:].var(dim=0).mean())


def draw(z: dict[Weights, Tensor], slope: float) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axis, scatter = figure.subplots(1, 2)
    x = torch.linspace(-3.5, 5, 300)
    for weights, colour in (("importance", "tab:blue"), ("density", "tab:orange")):
        mean, variance = (slope, 1.0) if weights == "importance" else (slope / 2, 0.5)
        target = torch.exp(-((x - mean) ** 2) / (2 * variance)) / (2 * torch.pi * variance) ** 0.5
        axis.hist(
            z[weights][:, 0].numpy(),
            bins=60,
            range=(-3.5, 5),
            density=True,
            alpha=0.35,
            color=colour,
            label=f"{weights}: chains",
        )
        axis.plot(x, target, color=colour, label=f"N({mean:g}, {variance:g})")
        scatter.plot(*z[weights][:600].T.numpy()[:2], ".", markersize=3, color=colour, label=weights)
    axis.plot(x, torch.exp(-(x**2) / 2) / (2 * torch.pi) ** 0.5, ":", color="grey", label="prior")
    axis.set_xlabel("z_1")
    axis.legend(frameon=False, fontsize=8)
    scatter.set_xlabel("z_1")
    scatter.set_ylabel("z_2")
    scatter.legend(frameon=False, fontsize=8)
    figure.suptitle(f"D(G(z)) = {slope:g} z_1: what I-SIR samples with either weight", fontsize=10)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slope", type=float, default=2.0)
    parser.add_argument("--chains", type=int, default=4000)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--particles", type=int, default=10)
    parser.add_argument("--figure", help="PNG to write")
    args = parser.parse_args()

    print(
        "| dimensions | weights | mean of z_1 (target) | variance of z_1 (target) | variance of the others (target) | "
        "moved last |"
    )
    print("|---|---|---|---|---|---|")
    shown: dict[Weights, Tensor] = {}
    worst: dict[str, float] = {}
    for n_z in (2, 128):
        for weights, mean, variance in (("importance", args.slope, 1.0), ("density", args.slope / 2, 0.5)):
            name: Weights = "importance" if weights == "importance" else "density"
            chains = run_chains(
                lambda x: args.slope * x[:, 0],
                lambda z: z,
                n_chains=args.chains,
                n_iterations=args.iterations,
                n_particles=args.particles,
                n_z=n_z,
                weights=name,
                generator=torch.Generator().manual_seed(0),
                chunk_images=10**5,
            )
            found = moments(chains.z)
            cells = " | ".join(
                f"{value:.2f} ({target:g})" for value, target in zip(found, (mean, variance, variance), strict=True)
            )
            print(f"| {n_z} | {name} | {cells} | {100 * chains.curves['moved'][-1]:.0f} % |")
            worst[f"{name}, {n_z}"] = max(abs(v - t) for v, t in zip(found, (mean, variance, variance), strict=True))
            if n_z == 2:
                shown[name] = chains.z
    if args.figure:
        with atomic_file(Path(args.figure)) as temporary:
            draw(shown, args.slope).savefig(temporary, format="png", dpi=110)
    conditions = {name: getattr(args, name) for name in ("slope", "chains", "iterations", "particles")}
    print(
        json.dumps(
            {"name": "isir_toy", "ratios": {}, "spread": {}, "conditions": {**conditions, "largest_miss": worst}}
        )
    )


if __name__ == "__main__":
    main()

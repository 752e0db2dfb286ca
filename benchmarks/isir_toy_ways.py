"""Ways to spend the same points on a calibrated density ratio, where the truth is known: `theory`'s toys in the plane.

    python -m benchmarks.isir_toy_ways [--toys grid,ring,moons] [--seeds 0-2]

Each toy's generator and ratio are trained as `theory` does, once for each seed. Each way keeps n points of 51 n, as
I-SIR with N_i = 5 and N_p = 10 makes; the ways are those of benchmarks.isir_ways. near: share of points within four
standard deviations of the data. total variation: of the histogram over modes or pieces from the truth, lower is better;
so is W1, the distance from fresh points of the data. Medians over the seeds, with the smallest and largest.
"""

import argparse
import json

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.isir_ways import COST, WAYS
from common.errors import run_main
from models.gan.density_ratio import fit_log_ratio
from models.gan.isir import Kernel, run_chains
from trainers.theory.toys import NZ, RATIO, TOYS, Quality, Toy, quality, train_on

KERNELS: dict[str, tuple[Kernel, int]] = {"isir 5 x 10": ("isir", 10), "ex2mcmc": ("ex2mcmc", 7)}
"""Kernel and particles of each chain: three Langevin steps take the place of three particles."""


def chains(G: nn.Module, ratio: nn.Module, n: int, kernel: Kernel, n_particles: int, seed: int) -> Tensor:
    """Codes [n, NZ] with COST points for each."""
    return run_chains(
        ratio,
        G,
        n_chains=n,
        n_iterations=5,
        n_particles=n_particles,
        n_z=NZ,
        generator=torch.Generator().manual_seed(seed),
        kernel=kernel,
        chunk_images=50_000,
    ).z


def corrected(toy: Toy, G: nn.Module, n: int, seed: int) -> dict[str, Tensor]:
    """Points [about n, 2] of each way, and of the data and the generator as they are."""
    random = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        fake, held_out = (G(torch.randn(m, NZ, generator=random)) for m in (4 * n, 2 * n))
        ratio = fit_log_ratio(toy.draw(4 * n, random), fake, held_out, settings=RATIO, seed=seed)
        codes = torch.randn(COST * n, NZ, generator=random)
        log_w = ratio(G(codes))[:, 0]
    kept = {name: chains(G, ratio, n, kernel, size, seed) for name, (kernel, size) in KERNELS.items()}
    kept |= {name: codes[choose(log_w, n, seed)] for name, choose in WAYS.items()}
    with torch.no_grad():
        points = {name: G(z) for name, z in kept.items()}
        return {"data": toy.draw(n, random), "plain": G(codes[::COST]), **points}


def measure(toy: Toy, steps: int, n: int, seed: int) -> dict[str, Quality]:
    """What each way's points are worth, for a generator and a ratio of this seed."""
    G, _ = train_on(toy, max(1, round(toy.effort * steps)), seed)
    truth = toy.draw(n, torch.Generator().manual_seed(seed + 2))
    return {way: quality(x[:n], toy, truth[: len(x)]) for way, x in corrected(toy, G, n, seed).items()}


def spread_of(values: list[float]) -> str:
    return f"{np.median(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.isir_toy_ways",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--toys", default=",".join(TOYS), help=f"some of {', '.join(TOYS)}")
    parser.add_argument("--seeds", default="0-2", help="first and last")
    parser.add_argument("--steps", type=int, default=2500, help="generator updates on the grid; the others a third")
    parser.add_argument("--n", type=int, default=2000, help="points that are measured")
    args = parser.parse_args()
    names, (first, _, last) = args.toys.split(","), args.seeds.partition("-")
    if unknown := [name for name in names if name not in TOYS]:
        parser.error(f"--toys: {', '.join(unknown)}; allowed are {', '.join(TOYS)}")
    print("| toy | way | near | total variation | W1 |\n|---|---|---|---|---|")
    ratios: dict[str, float] = {}
    spread: dict[str, list[float]] = {}
    for toy in (TOYS[name]() for name in names):
        found = [measure(toy, args.steps, args.n, seed) for seed in range(int(first), int(last or first) + 1)]
        for way in found[0]:
            qualities = [each[way] for each in found]
            near, variation, distance = (
                spread_of([getattr(q, name) for q in qualities]) for name in ("near", "total_variation", "wasserstein")
            )
            print(f"| {toy.name} | {way} | {near} | {variation} | {distance} |", flush=True)
            gains = [each["plain"].total_variation / each[way].total_variation for each in found]
            ratios[f"{toy.name}, {way}"] = float(np.median(gains))
            spread[f"{toy.name}, {way}"] = [min(gains), max(gains)]
    conditions = {
        "a ratio is": "plain's total variation divided by the way's",
        "seeds": args.seeds,
        "n": args.n,
        "torch": torch.__version__,
    }
    print(json.dumps({"name": "isir_toy_ways", "ratios": ratios, "spread": spread, "conditions": conditions}))


if __name__ == "__main__":
    run_main(main)

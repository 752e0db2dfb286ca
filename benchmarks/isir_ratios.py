"""Which density ratio corrects a generator best: resolution, noise, number of images, on several generators.

    python -m benchmarks.isir_ratios models:/wgan-generator/1 models:/wgan-generator/2              # digits
    python -m benchmarks.isir_ratios pretrained/eurosat64 --data_dir eurosat --pool 31000 --features_too

One run of isir_fid measures 1,000 chains, whose distances differ by more than two ratios do. Here each generator makes
a pool of codes once, and chains of I-SIR (N_i = 5, N_p = 10, as in `isir_fid`'s presets) draw their fresh codes from
it: a chain uses 51 of them, so the pool gives pool / 51 chains, and shuffled again, others. A difference is the mean
of four such draws less the mean of four draws of plain codes, each of pool / 51 images.

log loss: of the ratio on held-out images. ess: effective number of 11 particles (11: they are all alike; 1: one takes
all). told apart: a rule for choosing that never sees the distance. Fresh ratios (4, 8 and 16 cells, noise 0.1), fitted
on half of the drawn and on the training images, tell the other half from held-out real ones: their mean AUC; 0.5 is
best. features: a ratio of the feature network's outputs in place of pixels.
"""

import argparse
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.isir_ways import COST, CPU, coarse, fitted, inputs_of, rated
from common.errors import InputError, run_main
from common.progress import Progress
from evaluation.features import Extractor, extract
from evaluation.frechet import Gaussian, Moments, frechet_of
from evaluation.images import drawn_rows
from models.gan.density_ratio import CoarsePixels, LogRatio, balanced_log_loss
from trainers.isir_fid.calibration import OTHER_CODES, real_batches
from training.generators.measuring import images_of, latent_codes

PARTICLES = 10
"""Fresh codes of an iteration: COST - 1 of them make five."""
DRAWS = 4
FINEST = 16
"""Cells per side that are kept of each image; coarser grids are means of it."""
RATIOS = "8:0.6,8:0.3,8:0.1,4:0.1,16:0.3,16:0.1"
JUDGES = [(4, 0.1), (8, 0.1), (16, 0.1)]
N_JUDGED = 2000
FEWEST = 100
"""Images of either side, for a ratio."""


@dataclass(frozen=True)
class Side:
    """Images as a ratio and as the distance see them: grids [n, d] of FINEST cells, features [n, f] (none: [n, 0])."""

    grids: Tensor
    features: Tensor

    def cells(self, n: int) -> Tensor:
        square = self.grids.reshape(len(self.grids), -1, FINEST, FINEST)
        return CoarsePixels(n, colour=True)(square)


@dataclass(frozen=True)
class Sides:
    """fake, scale, judge: generated images to fit a ratio, its scale, and to judge it. pool: what chains draw from."""

    real: Side
    held_out: Side
    fake: Side
    scale: Side
    judge: Side
    pool: Side
    references: dict[str, Gaussian]


def prepare(uri: str, args: argparse.Namespace) -> tuple[Sides, str]:
    """The images of one generator and those of its data, and the name of the distance."""
    options = ["--preset", args.preset, "--n_ratio", str(args.n_ratio), "--seed", str(args.seed)]
    options += ["--data_dir", str(args.data_dir)] if args.data_dir else []
    config, generator, images, extractor = inputs_of(uri, options)
    colour = not images.fitted.is_grey

    def side(batches: Iterable[Tensor], n: int, features: bool, label: str) -> Side:
        progress, grids, found = Progress(n, unit="image"), [], []
        for batch in batches:
            grids.append(coarse(batch, FINEST, colour))
            found.append(features_of(extractor, batch) if features else torch.zeros(len(batch), 0))
            progress.advance(len(batch), label)
        progress.close()
        return Side(torch.cat(grids), torch.cat(found))

    def generated(n: int, seed: int, features: bool, label: str) -> Side:
        codes = latent_codes(n, generator.nz, seed)
        return side(images_of(generator, codes, config.batch_size, CPU), n, features, label)

    def real(part: str) -> Side:
        chosen = images.fitted if part == "train" else images.held_out
        rows = drawn_rows(len(chosen), args.n_real, seed=0)
        return side(real_batches(chosen, rows, 100), len(rows), features=True, label=part)

    sizes, too = {"fake": args.n_ratio, "scale": 2 * args.n_ratio // 5, "judge": N_JUDGED}, args.features_too
    made = {
        name: generated(n, config.seed + OTHER_CODES + 1 + k, too, name) for k, (name, n) in enumerate(sizes.items())
    }
    sides = {"real": real("train"), "held_out": real("held out")}
    references = {name: Gaussian.of(Moments.of(sides[name].features)) for name in sides}
    pool = generated(args.pool // COST * COST, config.seed, True, "pool")
    return Sides(**sides, **made, pool=pool, references=references), extractor.score


def features_of(extractor: Extractor, images: Tensor) -> Tensor:
    """Features [n, f] of uint8 images."""
    return extract(extractor, images.split(100)).x


def chains(log_w: Tensor, seed: int) -> Tensor:
    """Rows [pool / COST] of the pool that chains of I-SIR keep, each with fresh rows of its own."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(log_w), generator=generator).reshape(-1, COST)
    kept = rows[:, :1]
    for fresh in rows[:, 1:].split(PARTICLES, dim=1):
        particles = torch.cat([kept, fresh], 1)
        gumbel = -torch.log(-torch.log(torch.rand(particles.shape, generator=generator)))
        kept = particles.gather(1, (log_w[particles] + gumbel).argmax(1, keepdim=True))
    return kept[:, 0]


def mean_distances(sides: Sides, draws: list[Tensor]) -> dict[str, float]:
    """The distance to each reference, mean over draws of rows of the pool."""
    return {
        name: float(np.mean([frechet_of(sides.pool.features[rows], reference) for rows in draws]))
        for name, reference in sides.references.items()
    }


def told_apart(sides: Sides, rows: Tensor) -> float:
    """Mean AUC of fresh ratios between held-out real images and the half of the drawn ones that they have not seen."""
    found = []
    for cells, noise in JUDGES:
        first, second = sides.pool.cells(cells)[rows[::2]], sides.pool.cells(cells)[rows[1::2]]
        judge = fitted(sides.real.cells(cells), first, first, noise=noise, seed=7)
        scores = [rated(judge, x) for x in (sides.held_out.cells(cells), second)]
        is_real = [True] * len(scores[0]) + [False] * len(scores[1])
        found.append(roc_auc_score(is_real, torch.cat(scores)))
    return float(np.mean(found))


def effective_particles(log_w: Tensor) -> float:
    """1 / sum w^2 of N_p + 1 particles, mean over the pool."""
    n = PARTICLES + 1
    w = torch.softmax(log_w[: len(log_w) // n * n].reshape(-1, n), 1)
    return float((1 / w.square().sum(1)).mean())


def ratio_of(sides: Sides, cells: int, noise: float, seed: int) -> tuple[LogRatio, list[Tensor]]:
    """(ratio, what it sees of held-out, judged and pooled images); cells=0: of features, standardised by the reals."""
    seen = [sides.real, sides.fake, sides.scale, sides.held_out, sides.judge, sides.pool]
    if cells:
        x = [side.cells(cells) for side in seen]
    else:
        mean, deviation = sides.real.features.mean(0), sides.real.features.std(0).clamp_min(1e-6)
        x = [((side.features - mean) / deviation).float() for side in seen]
    return fitted(x[0], x[1], x[2], noise=noise, seed=seed), x[3:]


def measure(uri: str, args: argparse.Namespace) -> tuple[dict[str, dict[str, float]], str]:
    """{"plain" or a ratio: {reference: distance}} of one generator, printed as it comes; and the distance's name."""
    sides, score = prepare(uri, args)
    n = len(sides.pool.grids) // COST
    plain_draws = [torch.arange(k, len(sides.pool.grids), COST) for k in range(DRAWS)]
    plain = mean_distances(sides, plain_draws)
    apart = f"{told_apart(sides, plain_draws[0]):.3f}"
    print(f"| {uri} | plain, {n} images | {plain['real']:.2f} | {plain['held_out']:.2f} | | | | {apart} |", flush=True)
    found = {"plain": plain}
    for cells, noise in [*args.ratios, *([(0, 0.3)] if args.features_too else [])]:
        label = f"{cells} cells, noise {noise:g}" if cells else f"features, noise {noise:g}"
        ratio, (held_out, judged, pool) = ratio_of(sides, cells, noise, args.seed)
        log_w = rated(ratio, pool)
        draws = [chains(log_w, seed) for seed in range(DRAWS)]
        found[label] = mean_distances(sides, draws)
        differences = " | ".join(f"{found[label][name] - plain[name]:+.2f}" for name in plain)
        facts = [
            f"{balanced_log_loss(rated(ratio, held_out), rated(ratio, judged)):.3f}",
            f"{float(ratio.slope):.2f}",
            f"{effective_particles(log_w):.1f}",
            f"{told_apart(sides, draws[0]):.3f}",
        ]
        print(f"| {uri} | {label} | {differences} | {' | '.join(facts)} |", flush=True)
    return found, score


def as_ratios(text: str) -> list[tuple[int, float]]:
    """[(cells, noise)] of "8:0.3,16:0.1"."""
    try:
        found = [(int(cells), float(noise)) for cells, noise in (pair.split(":") for pair in text.split(","))]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as {RATIOS}") from None
    if any(cells < 1 or FINEST % cells or not 0 <= noise < math.inf for cells, noise in found):
        raise argparse.ArgumentTypeError(f"{text!r}: cells must divide {FINEST}, and noise be at least 0")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.isir_ratios", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model_uri", nargs="+", help="generators, as isir_fid takes them")
    parser.add_argument("--preset", default="quick", help="of isir_fid")
    parser.add_argument("--data_dir", type=Path, help="of the real images, where the generator does not say it")
    parser.add_argument(
        "--ratios", type=as_ratios, default=as_ratios(RATIOS), help=f"cells:noise, ...; cells divide {FINEST}"
    )
    parser.add_argument(
        "--pool",
        type=int,
        default=102_000,
        help=f"images that chains draw from; {COST} make a chain, {200 * COST} at least",
    )
    parser.add_argument("--n_ratio", type=int, default=5000, help="generated images that a ratio is fitted on")
    parser.add_argument("--n_real", type=int, default=5000, help="real images of a reference, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--features_too", action="store_true", help="a ratio of features, too")
    args = parser.parse_args()
    if args.pool < 200 * COST:
        raise InputError(f"pool: {args.pool} images make too few chains; give at least {200 * COST}")
    if min(args.n_real, args.n_ratio) < FEWEST:
        raise InputError(f"n_real, n_ratio: too few images for a ratio and its scale; give at least {FEWEST} of each")
    print("| generator | ratio | train | held out | log loss | slope | ess | told apart |")
    print("|---|---|---|---|---|---|---|---|")
    measured = [measure(uri, args) for uri in args.model_uri]
    ratios, spread = {}, {}
    for label in list(measured[0][0])[1:]:
        falls = [
            float(np.mean([found[label][name] - found["plain"][name] for found, _ in measured]))
            for name in ("real", "held_out")
        ]
        print(f"| mean of {len(measured)} | {label} | {falls[0]:+.2f} | {falls[1]:+.2f} | | | | |")
        times = [found["plain"]["held_out"] / found[label]["held_out"] for found, _ in measured]
        ratios[label], spread[label] = float(np.median(times)), [min(times), max(times)]
    conditions = {
        "generators": args.model_uri,
        "score": measured[0][1],
        "a ratio is": "the distance to held-out images of plain samples divided by that of the corrected ones",
        "pool": args.pool,
        "n_ratio": args.n_ratio,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    print(json.dumps({"name": "isir_ratios", "ratios": ratios, "spread": spread, "conditions": conditions}))


if __name__ == "__main__":
    run_main(main)

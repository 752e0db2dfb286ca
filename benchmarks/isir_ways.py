"""How far a calibrated density ratio goes: its resolution and noise, and other ways to spend the same images on it.

    python -m benchmarks.isir_ways models:/wgan-generator/1                                # digits
    python -m benchmarks.isir_ways pretrained/eurosat64 --data_dir eurosat --n 1500 --features_too   # photographs

Everything is measured on n images for which 51 n were generated, as I-SIR does with N_i = 5 and N_p = 10.

Ways, with the ratio of the defaults (8 cells, noise 0.3): isir 5 x 10, ex2mcmc (7 particles and 3 Langevin steps), sir
(one draw among 51 by sampling importance resampling), pool (n of all 51 n drawn in proportion to w, systematic), pool
once (without replacement), rejection (w / M, M such that n are expected to be taken), best (the n rated highest).

Resolution and noise: the images of `sir` with each ratio; its log loss on held-out images; and a rule that never sees
the distance, `told apart`: the mean AUC with which fresh ratios (4, 8 and 16 cells, noise 0.1), fitted on half of the
drawn and of the training images, tell the other half of the drawn images from held-out real ones. 0.5 is best.
features: a ratio of the feature network's outputs instead of pixels, which takes the feature network for 51 n images.
"""

import argparse
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.wgan_settings import feature_extractor
from common.errors import run_main
from data.images.load import ImageSet
from evaluation.calibration import calibration_of
from evaluation.features import Extractor, extract
from evaluation.frechet import Gaussian, bootstrap_differences, frechet_of, interval
from evaluation.images import drawn_rows
from models.gan.density_ratio import CoarsePixels, LogRatio, RatioSettings, fit_log_ratio, platt_scale
from models.gan.isir import run_chains
from trainers.isir_fid.calibration import other_codes, real_batches, real_images
from trainers.isir_fid.config import PRESETS, IsirFidConfig
from training.config import parse_config
from training.generators.digit_features import train_classifier
from training.generators.foreign import load_any_generator
from training.generators.measuring import images_of, latent_codes, reference_images
from training.generators.stored import StoredNetwork

CPU = torch.device("cpu")
COST = 51
"""Images that are generated for each one that is kept."""
DEFAULT = (8, 0.3)
RATIOS = [(cells, noise) for cells in (4, 8, 16) for noise in (0.1, 0.3, 0.6)]
JUDGES = [(4, 0.1), (8, 0.1), (16, 0.1)]


@dataclass(frozen=True)
class Comparison:
    """A generator, what it is compared with, and the pool of its codes [51 n, nz]."""

    config: IsirFidConfig
    generator: StoredNetwork
    train: ImageSet
    held_out: ImageSet
    extractor: Extractor
    references: dict[str, Gaussian]
    codes: Tensor
    n: int

    @property
    def colour(self) -> bool:
        return not self.train.is_grey

    def images(self, z: Tensor) -> Tensor:
        """uint8 images [n, 3, S, S] of codes."""
        return torch.cat(list(images_of(self.generator, z, self.config.batch_size, CPU)))

    def real(self, images: ImageSet, n: int = 50_000) -> Tensor:
        return torch.cat(list(real_batches(images, drawn_rows(len(images), n, self.config.seed))))


def as_input(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def coarse(images: Tensor, cells: int, colour: bool) -> Tensor:
    return torch.cat([CoarsePixels(cells, colour)(as_input(part)) for part in images.split(500)])


def fitted(real: Tensor, fake: Tensor, held_out: Tensor, noise: float, seed: int) -> LogRatio:
    return fit_log_ratio(real=real, fake=fake, held_out=held_out, settings=RatioSettings(noise=noise), seed=seed)


@torch.no_grad()
def rated(ratio: nn.Module, x: Tensor) -> Tensor:
    """Log ratios [n]."""
    return torch.cat([ratio(part)[:, 0] for part in x.split(5000)])


def told_apart(comparison: Comparison, drawn: Tensor) -> float:
    """Mean AUC of fresh ratios between held-out real images and the half of the drawn ones that they have not seen."""
    first, second = drawn[::2], drawn[1::2]
    real, held_out, found = comparison.real(comparison.train), comparison.real(comparison.held_out), []
    for cells, noise in JUDGES:
        x = [coarse(images, cells, comparison.colour) for images in (real, first, second, held_out)]
        judge = fitted(x[0], x[1], x[1], noise, seed=7)
        scores = [rated(judge, part).numpy() for part in (x[3], x[2])]
        found.append(calibration_of(*scores, *platt_scale(*map(torch.from_numpy, scores))).auc)
    return float(np.mean(found))


def sir(log_w: Tensor, n: int, seed: int) -> Tensor:
    """One of each 51 in proportion to w: rows [n] of the pool."""
    groups = log_w.reshape(n, COST)
    noise = -torch.log(-torch.log(torch.rand(groups.shape, generator=torch.Generator().manual_seed(seed))))
    return torch.arange(n) * COST + (groups + noise).argmax(1)


def pool(log_w: Tensor, n: int, seed: int) -> Tensor:
    """n of all in proportion to w, by systematic resampling: a code may be there several times."""
    places = (torch.arange(n) + torch.rand((), generator=torch.Generator().manual_seed(seed))) / n
    return torch.searchsorted(torch.softmax(log_w.double(), 0).cumsum(0), places.double()).clamp_max(len(log_w) - 1)


def pool_once(log_w: Tensor, n: int, seed: int) -> Tensor:
    """n of all without replacement, the first by w, each next by w among the rest (Gumbel)."""
    noise = -torch.log(-torch.log(torch.rand(len(log_w), generator=torch.Generator().manual_seed(seed))))
    return (log_w + noise).topk(n).indices


def rejection(log_w: Tensor, n: int, seed: int) -> Tensor:
    """Each with probability min(1, w / M), M such that n are expected; about n rows."""
    low, high = float(log_w.min()) - math.log(len(log_w)), float(log_w.max())
    for _ in range(60):  # bisection for log M
        middle = (low + high) / 2
        low, high = (middle, high) if float((log_w - middle).exp().clamp_max(1).sum()) > n else (low, middle)
    taken = torch.rand(len(log_w), generator=torch.Generator().manual_seed(seed)) < (log_w - low).exp()
    return taken.nonzero()[:, 0]


def best(log_w: Tensor, n: int, seed: int) -> Tensor:
    return log_w.topk(n).indices


WAYS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "sir": sir,
    "pool": pool,
    "pool once": pool_once,
    "rejection": rejection,
    "best": best,
}


def chains(comparison: Comparison, ratio: nn.Module, kernel: str) -> Tensor:
    """Codes [n, nz] of I-SIR or Ex2MCMC with COST images for each."""
    rate = nn.Sequential(CoarsePixels(DEFAULT[0], comparison.colour), ratio).eval()
    return run_chains(
        rate,
        comparison.generator.network,
        n_chains=comparison.n,
        n_iterations=5,
        n_particles=10 if kernel == "isir" else 7,
        n_z=comparison.generator.nz,
        generator=torch.Generator().manual_seed(comparison.config.seed),
        kernel="isir" if kernel == "isir" else "ex2mcmc",
        mala_steps=3,
        step_size=comparison.config.step_size,
    ).z


def row(comparison: Comparison, name: str, z: Tensor, plain: Tensor) -> tuple[Tensor, dict[str, float], str]:
    """(images, distances less plain's, a line of the table) of codes [n, nz]."""
    images = comparison.images(z)
    x = extract(comparison.extractor, images.split(100)).x
    cells, found = [], {}
    for reference, gaussian in comparison.references.items():
        value = frechet_of(x, gaussian)
        cells.append(f"{value:.2f}")
        if len(x) == len(plain):
            generator = torch.Generator().manual_seed(0)
            low, high = interval(bootstrap_differences(plain, x, gaussian, draws=100, generator=generator))
            cells.append(f"{value - frechet_of(plain, gaussian):+.2f} ({low:+.2f} to {high:+.2f})")
        else:
            cells.append(f"{value - frechet_of(plain, gaussian):+.2f}")
        found[reference] = value
    share = len(torch.unique(z, dim=0)) / len(z)
    return images, found, f"| {name} | {' | '.join(cells)} | {100 * share:.0f} % |"


def prepare(uri: str, n: int, options: list[str]) -> Comparison:
    config = parse_config(IsirFidConfig, PRESETS, ["--model_uri", uri, *options], "isir_fid")
    generator = load_any_generator(config.model_uri, config.nz, CPU)
    reference = reference_images(config, generator)
    real = real_images(config, generator, reference)
    extractor = feature_extractor(reference.name, train_classifier(config.cache_dir)[0])
    rows = {"train": real.fitted, "held out": real.held_out}
    references = {
        name: Gaussian.of(extract(extractor, real_batches(images, drawn_rows(len(images), 5000, 0), 100)).moments)
        for name, images in rows.items()
    }
    codes = latent_codes(COST * n, generator.nz, config.seed)
    return Comparison(config, generator, real.fitted, real.held_out, extractor, references, codes, n)


def measure(comparison: Comparison, features_too: bool) -> dict[str, float]:
    """Print both tables; the distance from the held-out images of every way and ratio, plain's divided by it."""
    config, generator, n, seed = comparison.config, comparison.generator, comparison.n, comparison.config.seed
    codes = other_codes(config, generator)
    sides = {"fake": codes.fit, "scale": codes.scale, "judge": codes.judge, "pool": comparison.codes}
    grids = {  # the finest of the settings; coarser ones are means of it
        name: torch.cat(
            [coarse(part, 16, comparison.colour) for part in images_of(generator, z, config.batch_size, CPU)]
        )
        for name, z in sides.items()
    }
    grids["real"] = coarse(comparison.real(comparison.train, config.n_ratio), 16, comparison.colour)
    grids["held out"] = coarse(comparison.real(comparison.held_out), 16, comparison.colour)

    def seen(name: str, cells: int) -> Tensor:
        square = grids[name].reshape(len(grids[name]), -1, 16, 16)
        return CoarsePixels(cells, colour=True)(square)

    plain_codes = comparison.codes[::COST]
    plain = extract(comparison.extractor, comparison.images(plain_codes).split(100)).x
    names = " | ".join(f"{name} | less plain (95 %)" for name in comparison.references)
    print(f"| way, {COST} images for one | {names} | distinct |\n|---|{'---|' * (2 * len(comparison.references) + 1)}")
    images, base, line = row(comparison, "plain", plain_codes, plain)
    print(line, flush=True)
    found: dict[str, float] = {}

    cells, noise = DEFAULT
    ratio = fitted(seen("real", cells), seen("fake", cells), seen("scale", cells), noise, seed)
    log_w = rated(ratio, seen("pool", cells))
    ways = {name: comparison.codes[choose(log_w, n, seed)] for name, choose in WAYS.items()}
    ways = {"isir 5 x 10": chains(comparison, ratio, "isir"), "ex2mcmc": chains(comparison, ratio, "ex2mcmc"), **ways}
    for name, z in ways.items():
        _, values, line = row(comparison, name, z, plain)
        found[name] = base["held out"] / values["held out"]
        print(line, flush=True)

    print(f"\n| ratio | {names} | distinct | log loss, held out | AUC | told apart |\n|---|{'---|' * 8}")
    print(f"| plain | | | | | | | | {told_apart(comparison, images):.3f} |", flush=True)
    for cells, noise in RATIOS:
        ratio = fitted(seen("real", cells), seen("fake", cells), seen("scale", cells), noise, seed)
        scores = [rated(ratio, seen(name, cells)) for name in ("held out", "judge")]
        label = f"{cells} cells, noise {noise:g}"
        found[label] = base["held out"] / print_ratio(
            comparison, label, rated(ratio, seen("pool", cells)), scores, plain
        )
    if features_too:
        label = "features, noise 0.3"
        found[label] = base["held out"] / by_features(comparison, label, sides, plain)
    return found


def print_ratio(comparison: Comparison, label: str, log_w: Tensor, scores: list[Tensor], plain: Tensor) -> float:
    """A line of the second table; the distance from the held-out images."""
    worth = calibration_of(scores[0].numpy(), scores[1].numpy(), *platt_scale(*scores))
    z = comparison.codes[sir(log_w, comparison.n, comparison.config.seed)]
    images, values, line = row(comparison, label, z, plain)
    print(f"{line} {worth.log_loss:.3f} | {worth.auc:.3f} | {told_apart(comparison, images):.3f} |", flush=True)
    return values["held out"]


def by_features(comparison: Comparison, label: str, sides: dict[str, Tensor], plain: Tensor) -> float:
    """The same with a ratio of the feature network's outputs, each divided by its deviation over real images."""
    config = comparison.config
    x = {
        name: extract(comparison.extractor, images_of(comparison.generator, z, 100, CPU)).x.float()
        for name, z in sides.items()
    }
    for name, images in (("real", comparison.train), ("held out", comparison.held_out)):
        x[name] = extract(comparison.extractor, comparison.real(images, config.n_ratio).split(100)).x.float()
    mean, deviation = x["real"].mean(0), x["real"].std(0).clamp_min(1e-6)
    x = {name: (part - mean) / deviation for name, part in x.items()}
    ratio = fitted(x["real"], x["fake"], x["scale"], 0.3, config.seed)
    scores = [rated(ratio, x[name]) for name in ("held out", "judge")]
    return print_ratio(comparison, label, rated(ratio, x["pool"]), scores, plain)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.isir_ways", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model_uri", help="the generator, as isir_fid takes it")
    parser.add_argument("--n", type=int, default=1000, help="images that are measured")
    parser.add_argument("--preset", default="quick", help="of isir_fid")
    parser.add_argument("--data_dir", type=Path, help="of the real images, where the generator does not say it")
    parser.add_argument("--n_ratio", type=int, default=5000, help="generated images that a ratio is fitted on")
    parser.add_argument("--features_too", action="store_true", help="a ratio of features, too")
    args = parser.parse_args()
    options = ["--preset", args.preset, "--n_ratio", str(args.n_ratio)]
    options += ["--data_dir", str(args.data_dir)] if args.data_dir else []
    comparison = prepare(args.model_uri, args.n, options)
    found = measure(comparison, args.features_too)
    conditions = {
        "generator": args.model_uri,
        "n": args.n,
        "images for one": COST,
        "score": comparison.extractor.score,
        "reference": comparison.held_out.source,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    print(json.dumps({"name": "isir_ways", "ratios": found, "spread": {}, "conditions": conditions}))


if __name__ == "__main__":
    run_main(main)

"""Ways to spend the same images on a calibrated density ratio.

    python -m benchmarks.isir_ways models:/wgan-generator/1                                # digits
    python -m benchmarks.isir_ways pretrained/eurosat64 --data_dir eurosat --n 1500        # photographs

Everything is measured on n images for which 51 n were generated, as I-SIR does with N_i = 5 and N_p = 10, with the
ratio of isir_fid's defaults.

Ways: isir 5 x 10, ex2mcmc (7 particles and 3 Langevin steps), sir (one draw among 51 by sampling importance
resampling), pool (n of all 51 n drawn in proportion to w, systematic), pool once (without replacement), rejection
(w / M, M such that n are expected to be taken), best (the n rated highest). benchmarks.isir_ratios compares ratios.
"""

import argparse
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.wgan_settings import feature_extractor
from common.errors import run_main
from data.images.load import ImageSet
from evaluation.features import Extractor, extract
from evaluation.frechet import Gaussian, bootstrap_differences, frechet_of, interval
from evaluation.images import drawn_rows
from models.gan.density_ratio import CoarsePixels, LogRatio, RatioSettings, fit_log_ratio
from models.gan.isir import run_chains
from trainers.isir_fid.calibration import RealImages, other_codes, real_batches, real_images
from trainers.isir_fid.config import PRESETS, IsirFidConfig
from training.config import parse_config
from training.generators.digit_features import train_classifier
from training.generators.foreign import load_any_generator
from training.generators.measuring import check_count, images_of, latent_codes, reference_images
from training.generators.stored import StoredNetwork

CPU = torch.device("cpu")
COST = 51
"""Images that are generated for each one that is kept."""


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
    low, high = float(log_w.min()) - math.log(len(log_w)), float(log_w.max()) + math.log(len(log_w) / n)
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
    rate = nn.Sequential(CoarsePixels(comparison.config.ratio_cells, comparison.colour), ratio).eval()
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


def row(comparison: Comparison, name: str, z: Tensor, plain: Tensor) -> tuple[dict[str, float], str]:
    """(distances, a line of the table) of codes [n, nz]."""
    x = extract(comparison.extractor, comparison.images(z).split(100)).x
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
    return found, f"| {name} | {' | '.join(cells)} | {100 * share:.0f} % |"


def inputs_of(uri: str, options: list[str]) -> tuple[IsirFidConfig, StoredNetwork, RealImages, Extractor]:
    """What isir_fid reads with these options, and the network that measures its images."""
    config = parse_config(IsirFidConfig, PRESETS, ["--model_uri", uri, *options], "isir_fid")
    generator = load_any_generator(config.model_uri, config.nz, CPU)
    reference = reference_images(config, generator)
    extractor = feature_extractor(reference.name, train_classifier(config.cache_dir)[0])
    return config, generator, real_images(config, generator, reference), extractor


def prepare(uri: str, n: int, options: list[str]) -> Comparison:
    config, generator, real, extractor = inputs_of(uri, options)
    check_count(n, "n", extractor.dim, config)
    references = {
        name: Gaussian.of(extract(extractor, real_batches(images, drawn_rows(len(images), 5000, 0), 100)).moments)
        for name, images in {"train": real.fitted, "held out": real.held_out}.items()
    }
    codes = latent_codes(COST * n, generator.nz, config.seed)
    return Comparison(
        config,
        generator,
        real.fitted,
        held_out=real.held_out,
        extractor=extractor,
        references=references,
        codes=codes,
        n=n,
    )


def measure(comparison: Comparison) -> dict[str, float]:
    """Print the table; for every way, plain's distance from the held-out images divided by its own."""
    config, n, seed = comparison.config, comparison.n, comparison.config.seed
    codes = other_codes(config, comparison.generator)

    def seen(z: Tensor) -> Tensor:
        batches = images_of(comparison.generator, z, config.batch_size, CPU)
        return torch.cat([coarse(part, config.ratio_cells, comparison.colour) for part in batches])

    plain_codes = comparison.codes[::COST]
    plain = extract(comparison.extractor, comparison.images(plain_codes).split(100)).x
    names = " | ".join(f"{name} | less plain (95 %)" for name in comparison.references)
    print(f"| way, {COST} images for one | {names} | distinct |\n|---|{'---|' * (2 * len(comparison.references) + 1)}")
    base, line = row(comparison, "plain", plain_codes, plain)
    print(line, flush=True)

    real = coarse(comparison.real(comparison.train, config.n_ratio), config.ratio_cells, comparison.colour)
    ratio = fitted(real, seen(codes.fit), seen(codes.scale), noise=config.ratio_noise, seed=seed)
    log_w = rated(ratio, seen(comparison.codes))
    ways = {name: comparison.codes[choose(log_w, n, seed)] for name, choose in WAYS.items()}
    ways = {"isir 5 x 10": chains(comparison, ratio, "isir"), "ex2mcmc": chains(comparison, ratio, "ex2mcmc"), **ways}
    found: dict[str, float] = {}
    for name, z in ways.items():
        values, line = row(comparison, name, z, plain)
        found[name] = base["held out"] / values["held out"]
        print(line, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.isir_ways", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model_uri", help="the generator, as isir_fid takes it")
    parser.add_argument("--n", type=int, default=1000, help="images that are measured")
    parser.add_argument("--preset", default="quick", help="of isir_fid")
    parser.add_argument("--data_dir", type=Path, help="of the real images, where the generator does not say it")
    parser.add_argument("--n_ratio", type=int, default=5000, help="generated images that a ratio is fitted on")
    args = parser.parse_args()
    options = ["--preset", args.preset, "--n_ratio", str(args.n_ratio)]
    options += ["--data_dir", str(args.data_dir)] if args.data_dir else []
    comparison = prepare(args.model_uri, args.n, options)
    found = measure(comparison)
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

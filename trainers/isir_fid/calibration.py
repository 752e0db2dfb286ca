"""The density ratio of a run: which images it may see, its fit or its loading, what it is worth, and its registration.

The ratio sees training images, and generated images of codes that are measured nowhere. What it is worth is judged on
held-out images and on generated ones that it has not seen either.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import InputError
from common.progress import Progress
from data.images.load import ImageSet, divide, load_images
from data.images.sources import DATASETS
from evaluation.calibration import Calibration, calibration_of, in_words, plot_reliability
from evaluation.images import drawn_rows
from models.gan.density_ratio import CoarsePixels, RatioSettings, fit_log_ratio, platt_scale
from tracking.registry.models import ModelInfo, log_model
from tracking.registry.programs import Program
from tracking.run import AnyRun
from trainers.isir_fid.config import IsirFidConfig
from training.generators.measuring import data_dir_of, images_of, latent_codes
from training.generators.stored import StoredNetwork, load_density_ratio, ratio_config, sampler_with

N_JUDGED = 1000
"""Images of each side that ratio and critic are judged on, at most."""

OTHER_CODES = 2**31  # not more: torch's generator on a CPU takes the lower 32 bits of a seed
"""Added to the seed for codes that are measured nowhere: those of the chains come from the seed itself."""

HELD_OUT_SHARE = 0.2
"""Share of a folder's images that is held out, where it has no test images."""


@dataclass(frozen=True)
class RealImages:
    """fitted: the images that a ratio may see. held_out: those it may not, the second reference."""

    fitted: ImageSet
    held_out: ImageSet


def real_images(config: IsirFidConfig, generator: StoredNetwork, reference: ImageSet) -> RealImages:
    """Training and test images of the reference's data set; where a folder has no test images, a fifth is held out.

    Raises InputError where a ratio cannot be fitted to them: too few, or all equal.
    """
    data_dir = data_dir_of(config, generator)
    if not DATASETS[reference.name].has_split(data_dir, "test"):
        fitted, held_out = divide(reference, HELD_OUT_SHARE)
        assert held_out is not None
    else:

        def load(split: str) -> ImageSet:
            return load_images(
                dataset=reference.name,
                image_size=generator.image_size,
                split=split,
                data_dir=data_dir,
                cache_dir=config.cache_dir,
                on_bad=config.on_bad,
            )

        fitted = reference if reference.split == "train" else load("train")
        held_out = load("test")
    if "calibrated" in config.weights_used and config.calibration == "fit":
        _check_real(config, fitted)
    return RealImages(fitted, held_out)


def _check_real(config: IsirFidConfig, images: ImageSet) -> None:
    least = 2 * config.ratio_folds
    if len(images) < least:
        raise InputError(
            f"ratio_folds: {images.source} has {len(images)} images to fit a density ratio on; {config.ratio_folds} "
            f"folds need at least {least}: give more images, fewer folds, or samplers=importance"
        )
    if all(np.array_equal(images.pixels[0], image) for image in images.pixels[1:]):
        raise InputError(f"dataset: all {len(images)} images of {images.source} are equal: there is no ratio to fit")


def check_cells(config: IsirFidConfig, generator: StoredNetwork) -> None:
    """InputError for a ratio to be fitted to more cells than an image has pixels."""
    fits = "calibrated" in config.weights_used and config.calibration == "fit"
    if fits and config.ratio_cells > generator.image_size:
        raise InputError(
            f"ratio_cells: {config.ratio_cells} cells per side, but images of {generator.image_size} pixels; give "
            f"{generator.image_size} at most"
        )


def check_generated(generator: StoredNetwork, device: torch.device) -> None:
    """InputError for a generator that makes one image of all codes: no sampling of codes can correct it."""
    images = torch.cat(list(images_of(generator, latent_codes(8, generator.nz, OTHER_CODES), 8, device)))
    if bool((images == images[0]).all()):
        raise InputError(
            f"model_uri: {generator.uri} makes the same image of every code: no choice of codes corrects it; give "
            "another generator"
        )


def density_ratio(
    config: IsirFidConfig, generator: StoredNetwork, images: ImageSet, device: torch.device
) -> StoredNetwork:
    """The ratio that `calibration` names, or a new one, fitted to `images` and to `n_ratio` generated ones."""
    if config.calibration != "fit":
        return load_density_ratio(config.calibration, generator, device)
    settings = RatioSettings(noise=config.ratio_noise, folds=config.ratio_folds)
    colour = not images.is_grey
    coarse = CoarsePixels(config.ratio_cells, colour)
    codes = other_codes(config, generator)
    with Progress(len(codes.fit) + len(codes.scale), unit="image") as making:
        fake, held_out = (
            features_of(
                coarse, images_of(generator, z, config.batch_size, device), lambda n: making.advance(n, "density ratio")
            )
            for z in (codes.fit, codes.scale)
        )
    progress = Progress(settings.folds * settings.epochs, unit="epoch")
    try:
        log_ratio = fit_log_ratio(
            real=features_of(coarse, real_batches(images, drawn_rows(len(images), config.n_ratio, config.seed))),
            fake=fake,
            held_out=held_out,
            settings=settings,
            seed=config.seed,
            progress=lambda done: progress.advance(done, note="density ratio"),
        )
    except ValueError as error:
        raise InputError(f"calibration: {error}") from None
    progress.close()
    return StoredNetwork(
        network=nn.Sequential(coarse, log_ratio).to(device).eval(),
        uri="fitted in this run",
        image_size=generator.image_size,
        nz=generator.nz,
        trained_on={},
        config=ratio_config(settings, config.ratio_cells, colour, generator),
    )


def check_gradient(config: IsirFidConfig, generator: StoredNetwork, device: torch.device) -> None:
    """InputError where a sampler follows a gradient that the generator does not give."""
    asked = [name for name in config.samplers if name in ("mala", "ex2mcmc")]
    if asked:
        with torch.enable_grad():
            z = latent_codes(2, generator.nz, OTHER_CODES).to(device).requires_grad_(True)
            if not generator.network(z).requires_grad:
                raise InputError(
                    f"samplers: {', '.join(asked)} follow the generator's gradient, and {generator.uri} gives none; "
                    "leave them out"
                )


@dataclass(frozen=True)
class OtherCodes:
    """Codes [n, nz] that are measured nowhere: to fit a ratio, for its scale, and to judge it."""

    fit: Tensor
    scale: Tensor
    judge: Tensor


def other_codes(config: IsirFidConfig, generator: StoredNetwork) -> OtherCodes:
    """The codes of a run's density ratio."""
    sizes = [config.n_ratio, 2 * config.n_ratio // 5, N_JUDGED]
    return OtherCodes(*latent_codes(sum(sizes), generator.nz, config.seed + OTHER_CODES).split(sizes))


def real_batches(images: ImageSet, rows: np.ndarray, batch_size: int = 500) -> Iterator[Tensor]:
    """Rows of the images as uint8 batches."""
    for i in range(0, len(rows), batch_size):
        yield torch.from_numpy(np.array(images.pixels[rows[i : i + batch_size]]))


@torch.no_grad()
def features_of(
    network: Callable[[Tensor], Tensor], batches: Iterator[Tensor], advance: Callable[[int], None] = lambda n: None
) -> Tensor:
    """Output of a network that takes images in [-1, 1], for uint8 batches; `advance` counts the images."""
    found = []
    for pixels in batches:
        found.append(network(pixels.float() / 127.5 - 1))
        advance(len(pixels))
    return torch.cat(found)


def judge(
    config: IsirFidConfig,
    generator: StoredNetwork,
    *,
    raters: dict[str, StoredNetwork],
    held_out: ImageSet,
    device: torch.device,
) -> dict[str, Calibration]:
    """What each rater's scores are worth as log ratios, on held-out images and generated ones of codes of their own."""
    rows = drawn_rows(len(held_out), N_JUDGED, config.seed)
    fake = list(images_of(generator, other_codes(config, generator).judge, config.batch_size, device))
    found = {}
    for name, rater in raters.items():
        scores = []
        for batches in (real_batches(held_out, rows, config.batch_size), iter(fake)):
            scores.append(features_of(rater.network, (x.to(device) for x in batches)).reshape(-1).cpu())
        real, generated = scores
        found[name] = calibration_of(real.numpy(), generated.numpy(), *platt_scale(real, generated))
    return found


def log_calibrations(run: AnyRun, found: dict[str, Calibration], title: str) -> None:
    """AUC, slope, log loss of each rater as metrics, and its reliability curve."""
    for name, calibration in found.items():
        figures = {
            "auc": calibration.auc,
            "slope": calibration.slope,
            "log_loss": calibration.log_loss,
            "scaled_log_loss": calibration.scaled_log_loss,
        }
        run.log_metrics({f"{name}_{figure}": value for figure, value in figures.items()}, step=0)
        words = f"AUC {calibration.auc:.3f}, slope {calibration.slope:.2f}, log loss {calibration.log_loss:.3f}"
        print(f"{name.replace('_', ' ')} on held-out images: {words}\n  {in_words(calibration, 'it')}")
    curves = {name.replace("_", " "): calibration.reliability for name, calibration in found.items()}
    run.log_figure(plot_reliability(curves, title), "figures/reliability.png")


def register_ratio(
    run: AnyRun,
    config: IsirFidConfig,
    *,
    generator: StoredNetwork,
    critic: StoredNetwork | None,
    ratio: StoredNetwork,
    calibration: Calibration,
) -> ModelInfo:
    """Register the ratio, and the generator as a sampler that has it (`wgan-sampler`), for serving."""
    codes = latent_codes(4, generator.nz, OTHER_CODES)
    images = torch.cat(list(images_of(generator, codes, 4, next(ratio.network.parameters()).device)))
    example = images.cpu().float().numpy() / 127.5 - 1
    program = Program(ratio.network, example)
    facts = {"generator": generator.uri, "cells": config.ratio_cells, "noise": config.ratio_noise}
    info = log_model(
        run,
        program,
        "density_ratio",
        example,
        registered_name="wgan-density-ratio",
        config=ratio.config,
        metrics={"density_ratio_auc": calibration.auc, "density_ratio_slope": calibration.slope},
        tags=facts,
    )
    if generator.config:
        log_model(
            run,
            generator.network,
            "sampler",
            codes.numpy(),
            registered_name="wgan-sampler",
            config=generator.config,
            tags={**facts, "density_ratio": info.uri},
            sampler=sampler_with(None if critic is None else critic.network, program, config.n_iterations),
        )
    return info

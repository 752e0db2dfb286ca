"""Measure a generator against real images: `mlflow run . -e fid`, or `python -m trainers.fid --help`.

Config -> generator -> reference -> features of both in one pass -> distances -> figures -> registry -> summary.
No image is written to disk. docs/fid.md says what each score means and what it may be compared with.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from common.progress import Progress
from evaluation.features import Extractor, Features, extract
from evaluation.figures import image_grid, plot_image
from evaluation.frechet import frechet_by_size
from tracking.run import AnyRun, start_run
from trainers.fid.config import PRESETS, FidConfig
from trainers.fid.memorisation import Copies, find_copies
from training.config import as_params, launch_processes, parse_config
from training.generators.digit_features import digits_extractor
from training.generators.foreign import load_any_generator
from training.generators.measuring import (
    Reference,
    describe_measurement,
    evaluations,
    gathered,
    generate,
    images_of,
    latent_codes,
    log_reference,
    measure_reference,
    reference_images,
    refuse_early,
    scores,
)
from training.generators.stored import StoredNetwork
from training.processes import Processes, join_processes
from training.summary import SUMMARY, render_summary

SPAN = 2
"""The largest number of images divided by the smallest, at least, of a distance that is extrapolated: through points
closer together a line has the slope of their noise."""
N_SHOWN = 64
"""Images in a grid, at most."""


def run_fid(config: FidConfig) -> int:
    """Measure the generator and record the scores; the exit status."""
    processes = join_processes(config.device)
    generator = load_any_generator(config.model_uri, config.nz, processes.device)
    images = reference_images(config, generator)
    extractor = refuse_early(config, images, {"n_images": config.n_images}, processes.device)

    with start_run(
        entry_point="fid",
        params=as_params(config),
        tags={"device": processes.device.type},
        output_dir=config.output_dir,
        run_name=config.run_name,
    ) as run:
        log_reference(run, config, images)
        extractor = extractor or digits_extractor(run, config.cache_dir, processes.device)
        reference = measure_reference(config, images, extractor, processes)
        run.log_params(describe_measurement(extractor, generator, reference))

        z = latent_codes(config.n_images, generator.nz, config.seed)
        generated, seconds = measure_generated(
            config=config, generator=generator, extractor=extractor, z=z, processes=processes
        )
        if not processes.is_first:
            return 0

        results = scores(config, extractor, generated, reference)
        extrapolation = extrapolate(config, extractor, generated, reference)
        if extrapolation is not None:
            distance = results[extractor.score]
            results = {extractor.score: distance, f"{extractor.score}_infinity": extrapolation.limit, **results}
            title = f"{generator.uri}: {extractor.score} on {images.name}, bias in the number of images"
            log_extrapolation(run, extrapolation, extractor.score, title)
        copies = find_copies(
            config, generator, extractor, reference=reference, generated=generated, codes=z, device=processes.device
        )
        results |= copies.metrics() if copies else {}
        results["images_per_second"] = config.n_images / seconds
        run.log_metrics(results, step=0)
        log_pictures(run, generator, reference, shown=generate(generator, z[:N_SHOWN], processes.device), copies=copies)
        run.log_evaluations(generator.uri, evaluations(config, extractor, reference, results))

        measured = {
            "scores": results,
            "n_images": config.n_images,
            "features": extractor.name,
            "dimensions": extractor.dim,
            "family": extractor.family,
            "resize": extractor.resize,
            "reference": f"{images.source}, split {images.split}",
            "n_reference": len(reference.rows),
            "model": generator.uri,
        }
        run.log_dict(measured, "scores.json")
        summary = log_summary(run, measured, extractor, is_extrapolated=extrapolation is not None)
        run.finish()
        print(f"\n{summary}\nrun {run.run_id}\nopen it: {run.url()}")
    return 0


def log_summary(run: AnyRun, measured: Mapping[str, Any], extractor: Extractor, is_extrapolated: bool) -> str:
    """The run's own text, which is recorded."""
    summary = render_summary(
        Path(__file__).parent,
        **measured,
        distance=extractor.score,
        kernel_distance=extractor.kernel_score,
        extrapolated_from=None if is_extrapolated else SPAN * (extractor.dim + 1),
    )
    run.log_text(summary, SUMMARY)
    return summary


def measure_generated(
    config: FidConfig, generator: StoredNetwork, extractor: Extractor, z: Tensor, processes: Processes
) -> tuple[Features, float]:
    """(features of the images of codes [n, nz], seconds): each process generates and measures its share."""
    share = processes.share_of(len(z))
    progress = Progress(len(share), unit="image", quiet=not processes.is_first)
    began = time.monotonic()
    batches = images_of(generator, z[share.start : share.stop], config.batch_size, processes.device)
    features = gathered(extract(extractor, batches, progress.advance), processes)
    seconds = time.monotonic() - began
    progress.close()
    return features, seconds


def log_pictures(
    run: AnyRun, generator: StoredNetwork, reference: Reference, *, shown: np.ndarray, copies: Copies | None
) -> None:
    """Grids of generated and of reference images, and of the pairs that are closest."""
    images = reference.images
    grids = {"generated": shown, "reference": images.pixels[spread(reference.rows, N_SHOWN)]}
    for name, pixels in grids.items():
        title = f"{name}: {images.name}, {generator.uri}"
        run.log_figure(plot_image(image_grid(pixels), title), f"figures/{name}.png")
    if copies is not None:
        title = f"generated images closest to a training image, each beside it: {generator.uri}"
        run.log_figure(plot_image(image_grid(copies.pairs, columns=8), title), "figures/closest.png")


@dataclass(frozen=True)
class Extrapolation:
    """The Fréchet distance at several numbers of images, and the line limit + slope / n through it."""

    sizes: list[int]
    distances: list[float]
    limit: float
    slope: float


def extrapolate(
    config: FidConfig, extractor: Extractor, generated: Features, reference: Reference
) -> Extrapolation | None:
    """The Fréchet distance extrapolated to infinitely many images; None where there are too few for a line."""
    smallest = max(extractor.dim + 1, config.n_images // config.n_sizes)
    if config.n_images < SPAN * smallest:
        return None
    sizes = torch.linspace(smallest, config.n_images, config.n_sizes).round().int().unique().tolist()
    draws = torch.Generator().manual_seed(config.seed)
    return Extrapolation(sizes, *frechet_by_size(generated.x, reference.gaussian, sizes, draws))


def log_extrapolation(run: AnyRun, found: Extrapolation, score: str, title: str) -> None:
    """The distance at each number of images, as a metric over that number and as a figure."""
    for n, distance in zip(found.sizes, found.distances, strict=True):
        run.log_metrics({f"{score}_by_n": distance}, step=n)
    run.log_figure(plot_extrapolation(found, score, title), "figures/distance_by_n.png")


def plot_extrapolation(found: Extrapolation, score: str, title: str) -> Figure:
    """The distance against 1/n, and the line whose intercept is the extrapolation."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    inverse = [1 / n for n in found.sizes]
    line = [found.limit, found.limit + found.slope * max(inverse)]
    axis.plot(inverse, found.distances, "o", label="measured")
    axis.plot([0, max(inverse)], line, "--", label=f"line; at infinite n {found.limit:.4g}")
    axis.set_xlabel("1 / number of generated images")
    axis.set_ylabel(score)
    axis.set_title(title, fontsize=9)
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    return figure


def spread(rows: np.ndarray, n: int) -> np.ndarray:
    """n of the rows, evenly spaced; all where there are fewer."""
    return rows[:: max(1, len(rows) // n)][:n]


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    config = parse_config(FidConfig, PRESETS, argv, "fid")
    status = launch_processes(config.nproc, "trainers.fid", argv, config.max_restarts)
    return run_fid(config) if status is None else status

"""Measure a generator against real images: `mlflow run . -e fid`, or `python -m trainers.fid --help`.

Config -> generator -> reference -> features of both in one pass -> distances -> figures -> records. No image is written
to disk. docs/fid.md says what each score means and what it may be compared with.
"""

import sys
import time

import torch
from matplotlib.figure import Figure

from common.progress import Progress
from evaluation.features import extract
from evaluation.figures import image_grid, picture
from evaluation.frechet import frechet_by_size
from tracking.run import start_run
from trainers.fid.config import PRESETS, FidConfig
from training.config import as_params, launch_processes, parse_config
from training.generators.measuring import (
    build_extractor,
    check_count,
    describe_measurement,
    evaluations,
    gathered,
    images_of,
    latent_codes,
    measure_reference,
    reference_images,
    scores,
)
from training.generators.stored import load_generator
from training.processes import join_processes


def draw_sizes(score: str, sizes: list[int], distances: list[float], limit: float, slope: float, title: str) -> Figure:
    """The distance against 1/n with the line whose intercept is the extrapolation."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    inverse = [1 / n for n in sizes]
    axis.plot(inverse, distances, "o", label="measured")
    axis.plot([0, max(inverse)], [limit, limit + slope * max(inverse)], "--", label=f"line; at infinite n {limit:.4g}")
    axis.set_xlabel("1 / number of generated images")
    axis.set_ylabel(score)
    axis.set_title(title, fontsize=9)
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    return figure


def run_fid(config: FidConfig) -> int:
    """Measure, record, print; the exit status."""
    processes = join_processes(config.device)
    device = processes.device
    generator = load_generator(config.model_uri, device)
    images = reference_images(config, generator)

    run = start_run(
        "fid", as_params(config), tags={"device": device.type}, output_dir=config.output_dir, run_name=config.run_name
    )
    with run:
        run.log_data(
            images.name, images.fingerprint, {"source": images.source, "split": images.split}, context="reference"
        )
        extractor = build_extractor(config, run, device)
        check_count(config.n_images, "n_images", extractor, config)
        reference = measure_reference(config, images, extractor, processes)
        run.log_params(describe_measurement(extractor, generator, reference))

        z = latent_codes(config.n_images, generator.nz, config.seed)
        mine = processes.share_of(config.n_images)
        progress = Progress(len(mine), unit="image", quiet=not processes.is_first)
        began = time.monotonic()
        batches = images_of(generator, z[mine.start : mine.stop], config.batch_size, device)
        fake = gathered(extract(extractor, batches, progress.advance), processes)
        seconds = time.monotonic() - began
        progress.close()
        if not processes.is_first:
            return 0

        results = scores(config, extractor, fake, reference)
        smallest = min(config.n_images, max(extractor.dim + 1, config.n_images // config.n_sizes))
        sizes = torch.linspace(smallest, config.n_images, config.n_sizes).round().int().unique().tolist()
        if len(sizes) > 1:
            draws = torch.Generator().manual_seed(config.seed)
            by_size, limit, slope = frechet_by_size(fake.x, reference.gaussian, sizes, draws)
            results[f"{extractor.score}_infinity"] = limit
            for n, distance in zip(sizes, by_size, strict=True):
                run.log_metrics({f"{extractor.score}_by_n": distance}, step=n)
            title = f"{generator.uri}: {extractor.score} on {images.name}, bias in the number of images"
            run.log_figure(
                draw_sizes(extractor.score, sizes, by_size, limit, slope, title), "figures/distance_by_n.png"
            )
        results["images_per_second"] = config.n_images / seconds
        run.log_metrics(results, step=0)
        run.log_evaluations(generator.uri, evaluations(config, extractor, reference, results))
        table = {
            "scores": results,
            "n_images": config.n_images,
            "features": extractor.name,
            "family": extractor.family,
            "resize": extractor.resize,
            "reference": f"{images.source}, split {images.split}",
            "n_reference": len(reference.rows),
            "model": generator.uri,
        }
        run.log_dict(table, "scores.json")
        for name, pixels in (
            ("generated", torch.cat(list(images_of(generator, z[:64], 64, device))).cpu().numpy()),
            ("reference", images.pixels[reference.rows[:: max(1, len(reference.rows) // 64)][:64]]),
        ):
            run.log_figure(
                picture(image_grid(pixels), f"{name}: {images.name}, {generator.uri}"), f"figures/{name}.png"
            )
        run.finish()

        print(
            f"\n{generator.uri} against {images.source}, split {images.split}: {len(reference.rows):,} real, "
            f"{config.n_images:,} generated"
        )
        print(f"features: {extractor.family}; resize: {extractor.resize}")
        for name, value in results.items():
            print(f"  {name:24s} {value:.5g}")
        print(f"  run {run.run_id}\n  open it: {run.url()}")
    return 0


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    config = parse_config(FidConfig, PRESETS, argv, "fid")
    status = launch_processes(config.nproc, "trainers.fid", argv, config.max_restarts)
    return run_fid(config) if status is None else status

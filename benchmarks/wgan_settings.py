"""What settings of `wgan` are worth over several seeds, and in how many runs the critic loses its hold.

    python -m benchmarks.wgan_settings                                                    # the preset as it is
    python -m benchmarks.wgan_settings --settings ";lr_critic=0.0004;beta2=0.99" --seeds 0-5   # beside it, any
    parameters of wgan
    python -m benchmarks.wgan_settings --settings "preset=eurosat data_dir=train.zip steps=900" --seeds 0  # photographs

Each run is `make wgan`'s, `preset=quick`, or what a setting says. distance: the Frechet distance of 2,000 images of
the averaged generator from those held out for choosing (the digits have none: from those that it was trained on), in
the data set's feature network, the same for all runs: fd_digits or fd_efficientnet_lite0. gradient norm:
the largest mean of |grad D| over 100 steps after the first 100; a critic that holds its penalty stays near 1. critic
loss: mean of the last 100 steps; above 0 the penalty outweighs the distance that the critic finds. A critic holds if
its loss ends below 0 and its gradient norm stays below 1.3. Runs with the same seed are compared. A run lasts minutes,
so many workers are the way to several seeds.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from common.errors import run_main
from data.images.load import ImageBatches, ImageSet, load_images
from data.images.sources import DATASETS
from evaluation.efficientnet import efficientnet_extractor
from evaluation.features import Extractor, extract, network_extractor
from evaluation.frechet import Gaussian, frechet_distance
from evaluation.images import drawn_rows
from models.gan.digit_classifier import DigitClassifier, DigitFeatures
from trainers.wgan.config import PRESETS, WganConfig
from trainers.wgan.loop import METRICS, sample_images, training_steps
from trainers.wgan.run import build_training
from training.config import parse_config
from training.generators.digit_features import train_classifier
from training.processes import Processes

N_IMAGES = 2000
ALONE = Processes(rank=0, world_size=1, device=torch.device("cpu"))
SETTLED, SPAN = 100, 100
"""Steps before the gradient norm is looked at, and steps of a mean."""
HELD = 1.3
"""Mean |grad D| below which a critic holds its penalty."""


def config_of(setting: str, seed: int) -> WganConfig:
    """The preset with "name=value name=value" changed."""
    options = [word for pair in setting.split() for word in (f"--{pair.split('=')[0]}", pair.partition("=")[2])]
    return parse_config(WganConfig, PRESETS, [*options, "--seed", str(seed)], "wgan")


def feature_extractor(dataset: str, classifier: DigitClassifier) -> Extractor:
    """The network in whose features the data set's images are compared; `classifier`: of the digits."""
    if DATASETS[dataset].features != "digits":
        return efficientnet_extractor(torch.device("cpu"))
    return network_extractor(
        "digits", DigitFeatures(classifier.eval()), "benchmark", family="digits", device=torch.device("cpu")
    )


def reference_pixels(config: WganConfig, images: ImageSet) -> np.ndarray:
    """Up to 2,000 images to choose by: the validation split where the data set has one, else the training images."""
    split = DATASETS[config.dataset].validation_split
    if split is not None:
        images = load(config, split)
    return np.array(images.pixels[drawn_rows(len(images), N_IMAGES, seed=0)])


def load(config: WganConfig, split: str) -> ImageSet:
    return load_images(
        config.dataset,
        config.image_size,
        split,
        data_dir=config.data_dir,
        cache_dir=config.cache_dir,
        on_bad=config.on_bad,
        progress=False,
    )


def run(setting: str, seed: int, threads: int, digits: Path) -> dict[str, float]:
    """Train once; its figures."""
    torch.set_num_threads(threads)
    config, began = config_of(setting, seed), time.process_time()
    images = load(config, config.split)
    batches = ImageBatches(images, config.batch_size, seed=seed, device=torch.device("cpu"), flip=config.flip)
    training = build_training(config, ALONE, images.is_grey)
    rows = list(training_steps(training, batches, n_dis=config.n_dis, gp_scale=config.gp_scale, steps=config.steps))
    seconds = time.process_time() - began
    curves = torch.stack(rows)
    norms = curves[SETTLED:, METRICS.index("input_gradient_norm")]
    losses = curves[:, METRICS.index("critic_loss")]
    classifier = DigitClassifier()
    classifier.load_state_dict(torch.load(digits))
    extractor = feature_extractor(config.dataset, classifier)
    codes = torch.randn(N_IMAGES, config.nz, generator=torch.Generator().manual_seed(seed))
    real, made = (
        Gaussian.of(extract(extractor, torch.from_numpy(pixels).split(100)).moments)
        for pixels in (reference_pixels(config, images), sample_images(training.ema.model, codes))
    )
    return {
        "distance": frechet_distance(made, real),
        "gradient_norm": max(float(part.mean()) for part in norms.split(SPAN)),
        "critic_loss": float(losses[-SPAN:].mean()),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.wgan_settings", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--settings", default="", help="name=value name=value;...; nothing between two ;: the preset")
    parser.add_argument("--seeds", default="0-3", help="first and last")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    args = parser.parse_args()
    settings, (first, _, last) = args.settings.split(";"), args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    for setting in settings:
        config_of(setting, 0)  # a wrong name is told before hours of work
    classifier, _ = train_classifier(Path("cache"))
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn")) as workers,
    ):
        digits = Path(folder) / "digits.pt"
        torch.save(classifier.state_dict(), digits)
        # All settings of a seed before the next seed: whatever is done when it is stopped can be compared.
        running = {(s, seed): workers.submit(run, s, seed, args.threads, digits) for seed in seeds for s in settings}
        found: dict[tuple[str, int], dict[str, float]] = {}
        print("| setting | seed | distance | gradient norm | critic loss | CPU s |\n|---|---|---|---|---|---|")
        for (setting, seed), future in running.items():
            found[setting, seed] = row = future.result()
            print(
                f"| {setting or 'preset'} | {seed} | {row['distance']:.2f} | {row['gradient_norm']:.2f} | "
                f"{row['critic_loss']:+.2f} | {row['seconds']:.0f} |",
                flush=True,
            )
    ratios, spread = {}, {}
    for setting in settings:
        rows = [found[setting, seed] for seed in seeds]
        values, norms = ([row[name] for row in rows] for name in ("distance", "gradient_norm"))
        held = sum(row["critic_loss"] < 0 and row["gradient_norm"] < HELD for row in rows)
        print(
            f"{setting or 'preset'}: distance {np.median(values):.2f} [{min(values):.2f}, {max(values):.2f}], "
            f"gradient norm {np.median(norms):.2f} [{min(norms):.2f}, {max(norms):.2f}]; "
            f"the critic held in {held} of {len(rows)}"
        )
        against = [found[settings[0], seed]["distance"] / value for seed, value in zip(seeds, values, strict=True)]
        label = f"distance of {settings[0] or 'the preset'} / {setting or 'the preset'}"
        ratios[label], spread[label] = float(np.median(against)), [min(against), max(against)]
    conditions = {"seeds": args.seeds, "images": N_IMAGES, "threads": args.threads, "torch": torch.__version__}
    print(json.dumps({"name": "wgan_settings", "ratios": ratios, "spread": spread, "conditions": conditions}))


if __name__ == "__main__":
    run_main(main)

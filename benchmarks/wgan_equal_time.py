"""What a faster step buys: this project and torch-mimicry's own training, for the same processor time.

    python -m benchmarks.wgan_equal_time --data_dir eurosat/train.zip --minutes 20 --figure equal_time.png

Same images in the same order, same first weights, rates, batches and n_dis; one thread each. They take turns of 20 s of
processor time, so that what else the machine does falls on both. Each third of the time, 2,000 images of each are
compared with those for validation (`fd_efficientnet_lite0`). torch-mimicry keeps no moving average of its generator, so
ours is given with and without. A ratio is torch-mimicry's distance divided by ours.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from benchmarks.wgan_settings import ALONE, load, reference_pixels
from benchmarks.wgan_step import NoLog
from common.errors import run_main
from data.images.load import ImageBatches, ImageSet
from evaluation.efficientnet import efficientnet_extractor
from evaluation.features import Extractor, extract
from evaluation.figures import image_grid
from evaluation.frechet import Gaussian, frechet_distance
from models.gan import mimicry
from trainers.wgan.config import PRESETS, WganConfig, build_networks
from trainers.wgan.loop import sample_images, training_steps
from trainers.wgan.run import build_training
from training.config import parse_config

TURN = 20.0
"""Seconds of processor time of a turn."""
PARTS = 3
"""How often both are measured."""
N_IMAGES = 2000


@dataclass
class Side:
    """One of the two trainings: a step, the generators that it can show, and what it has used."""

    step: Callable[[], None]
    generators: dict[str, nn.Module]
    steps: int = 0
    seconds: float = 0.0

    def train(self, until: float) -> None:
        """Train until `until` seconds of processor time are used in all."""
        while self.seconds < until:
            began = time.process_time()
            self.step()
            self.seconds += time.process_time() - began
            self.steps += 1


def batches_of(config: WganConfig, images: ImageSet) -> ImageBatches:
    return ImageBatches(images, config.batch_size, seed=config.seed, device=torch.device("cpu"), flip=config.flip)


def our_side(config: WganConfig, images: ImageSet) -> Side:
    training = build_training(config, ALONE, grey=False)
    steps = training_steps(
        training, batches_of(config, images), n_dis=config.n_dis, gp_scale=config.gp_scale, steps=10**9
    )

    def step() -> None:
        next(steps)

    return Side(step, {"ours": training.G, "ours, averaged": training.ema.model})


def mimicry_side(config: WganConfig, images: ImageSet) -> Side:
    """torch-mimicry's networks and their `train_step`s, as its Trainer calls them, from our first weights."""
    G, D = mimicry.build_networks(config.image_size, nz=config.nz, ngf=config.ngf, ndf=config.ndf)
    for network, first in zip((G, D), build_networks(config, grey=False), strict=True):
        network.load_state_dict(first.state_dict())
    optimizers = [
        torch.optim.Adam(G.parameters(), config.lr_generator, (config.beta1_generator, config.beta2)),
        torch.optim.Adam(D.parameters(), config.lr_critic, (config.beta1_critic, config.beta2)),
    ]
    batches, labels, log = iter(batches_of(config, images)), torch.zeros(config.batch_size), NoLog()

    def step() -> None:
        for _ in range(config.n_dis):
            batch = (next(batches), labels)
            D.train_step(
                real_batch=batch, netG=G, optD=optimizers[1], log_data=log, global_step=0, device="cpu", scaler=None
            )
        G.train_step(
            real_batch=batch, netD=D, optG=optimizers[0], log_data=log, global_step=0, device="cpu", scaler=None
        )

    return Side(step, {"torch-mimicry": G})


def distance(extractor: Extractor, pixels: np.ndarray, reference: Gaussian) -> float:
    found = extract(extractor, torch.from_numpy(pixels).split(100)).moments
    return frechet_distance(Gaussian.of(found), reference)


def plot_grids(grids: dict[str, np.ndarray]) -> Figure:
    """A column of images for each generator and time."""
    figure = Figure(figsize=(4.0 * len(grids), 4.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(grids)))
    for axis, (title, grid) in zip(axes, grids.items(), strict=True):
        axis.imshow(grid)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.wgan_equal_time", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data_dir", type=Path, required=True, help="EuroSAT's images")
    parser.add_argument("--minutes", type=float, default=20.0, help="processor time of each side")
    parser.add_argument("--preset", default="eurosat", choices=("eurosat", "cifar10"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, help="where to draw images of both at the end")
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = ["--preset", args.preset, "--data_dir", str(args.data_dir), "--seed", str(args.seed)]
    options += ["--lr_decay", "none"]  # the number of steps is not known before
    config = parse_config(WganConfig, PRESETS, options, "wgan")
    images, extractor = load(config, config.split), efficientnet_extractor(torch.device("cpu"))
    pixels = torch.from_numpy(reference_pixels(config, images))
    reference = Gaussian.of(extract(extractor, pixels.split(100)).moments)
    codes = torch.randn(N_IMAGES, config.nz, generator=torch.Generator().manual_seed(config.seed))
    sides = {"mimicry": mimicry_side(config, images), "ours": our_side(config, images)}

    print("| generator | processor time, s | steps | fd_efficientnet_lite0 |\n|---|---|---|---|")
    grids: dict[str, np.ndarray] = {}
    ratios: dict[str, float] = {}
    for part in range(1, PARTS + 1):
        until, found = 60.0 * args.minutes * part / PARTS, {}
        while any(side.seconds < until for side in sides.values()):
            for side in sides.values():
                side.train(min(until, side.seconds + TURN))
        for side in sides.values():
            for name, generator in side.generators.items():
                made = sample_images(generator, codes)
                found[name] = distance(extractor, made, reference)
                print(f"| {name} | {side.seconds:.0f} | {side.steps} | {found[name]:.1f} |", flush=True)
                grids[f"{name}, step {side.steps}"] = image_grid(made[:36])
        ratios |= {f"{name} after {until:.0f} s": found["torch-mimicry"] / found[name] for name in list(found)[1:]}
    if args.figure:
        last = list(grids)[-3:]
        plot_grids({name: grids[name] for name in last}).savefig(args.figure, dpi=110)
    conditions = {
        "preset": args.preset,
        "minutes": args.minutes,
        "steps": {name: side.steps for name, side in sides.items()},
        "threads": 1,
        "torch": torch.__version__,
    }
    print(json.dumps({"name": "wgan_equal_time", "ratios": ratios, "spread": {}, "conditions": conditions}))


if __name__ == "__main__":
    run_main(main)

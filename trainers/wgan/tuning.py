"""What `tune` searches and judges of `wgan`: the distance of generated images to validation images."""

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import InputError
from data.images.load import ImageSet, divide, load_images
from data.images.sources import DATASETS
from evaluation.features import Extractor, extract
from evaluation.frechet import Gaussian, frechet_distance, squared_mmd
from evaluation.images import to_uint8
from tracking.run import AnyRun
from trainers.wgan.config import PRESETS, WganConfig
from trainers.wgan.run import run_wgan
from training.generators.config import MeasureConfig
from training.generators.digit_features import digits_extractor
from training.generators.measuring import build_extractor
from training.processes import join_processes
from training.tuning import Measure, Target, measure_nothing

GENERATED = 512
"""Images that a generator is judged by; their latent codes are the same in all trials."""

REAL = 5000
"""Images that they are compared with, at most."""

SPACE = {
    "gp_scale": "log:0.1..100",
    "n_dis": "1|2|3|5",
    "lr_generator": "log:0.0001..0.002",
    "lr_critic": "log:0.0001..0.002",
}


def check_images(config: WganConfig) -> None:
    """InputError where a study would choose by images that it trains on, or train on test images, or cannot read them.

    They are decoded, and kept for the workers.
    """
    if DATASETS[config.dataset].validation_split is None and config.validation_share == 0:
        raise InputError("fixed: validation_share=0 leaves no images to choose by; give a share above 0")
    if config.split != "train":
        raise InputError(f"fixed: split={config.split} may hold test images; a study trains on split=train")
    load_split(config, config.split)
    validation_pixels(config)


def load_split(config: WganConfig, split: str) -> ImageSet:
    """The images of a split."""
    return load_images(
        config.dataset,
        config.image_size,
        split=split,
        data_dir=config.data_dir,
        cache_dir=config.cache_dir,
        on_bad=config.on_bad,
        progress=False,
    )


def validation_pixels(config: WganConfig) -> np.ndarray:
    """Images uint8 [n, 3, S, S]: the data set's own validation split, else the share kept from training."""
    own_split = DATASETS[config.dataset].validation_split
    if own_split is not None:
        return load_split(config, own_split).pixels
    validation = divide(load_split(config, config.split), config.validation_share)[1]
    assert validation is not None
    return validation.pixels


def feature_network(config: WganConfig, run: AnyRun, features: str | None) -> Extractor:
    """The feature network that `features` names; else Inception in the exercise's setting, elsewhere the data set's."""
    name = features or ("inception" if config.preset == "celeba" else DATASETS[config.dataset].features)
    device = join_processes(config.device).device
    network = build_extractor(name, MeasureConfig(cache_dir=config.cache_dir), device)
    return network or digits_extractor(run, config.cache_dir, device)


def register_features(config: WganConfig, run: AnyRun, features: str | None) -> None:
    """Make and register the feature network, before all workers do."""
    feature_network(config, run, features)


def measure_validation(config: WganConfig, objectives: tuple[str, ...], run: AnyRun, features: str | None) -> Measure:
    """Distances of a generator's images to the validation images."""
    return distances_to(validation_pixels(config), objectives, feature_network(config, run, features))


def measure_test(config: WganConfig, objectives: tuple[str, ...], run: AnyRun, features: str | None) -> Measure:
    """Distances to the test images; nothing where a folder has none."""
    if not DATASETS[config.dataset].has_split(config.data_dir, "test"):
        return measure_nothing(config, objectives, run, features)
    return distances_to(load_split(config, "test").pixels, objectives, feature_network(config, run, features))


def distances_to(pixels: np.ndarray, objectives: tuple[str, ...], extractor: Extractor) -> Measure:
    """Kernel and Fréchet distance (those that are objectives) of a generator's images from uint8 [n, 3, S, S]."""
    chosen = np.linspace(0, len(pixels) - 1, min(len(pixels), REAL)).astype(int)
    parts = np.array_split(chosen, max(1, len(chosen) // 100))
    real = extract(extractor, (torch.from_numpy(np.array(pixels[i])) for i in parts))
    gaussian = Gaussian.of(real.moments) if "frechet_distance" in objectives else None
    n_generated = max(GENERATED, 2 * extractor.dim if gaussian else 0)

    @torch.no_grad()
    def measure(network: nn.Module, example: Tensor) -> dict[str, float]:
        was_training = network.training
        network.eval()
        z = torch.randn(n_generated, example.shape[1], generator=torch.Generator().manual_seed(1))
        fake = extract(extractor, (to_uint8(network(part.to(example.device))) for part in z.split(64)))
        network.train(was_training)
        values = {}
        if "kernel_distance" in objectives:
            # Of all images at once rather than of blocks: unbiased too, and with less variance.
            values["kernel_distance"] = squared_mmd(fake.x.double(), real.x.double())
        if gaussian is not None:
            values["frechet_distance"] = frechet_distance(Gaussian.of(fake.moments), gaussian)
        return values

    return measure


TARGET = Target(
    name="wgan",
    config=WganConfig,
    presets=PRESETS,
    train=run_wgan,
    space=SPACE,
    objectives={"kernel_distance": "minimize", "frechet_distance": "minimize"},
    default_objectives=("kernel_distance",),
    horizon="steps",
    check=check_images,
    every_run={"validation_share": 0.2},
    quick={"ngf": 16, "ndf": 16, "batch_size": 16, "steps": 250},
    quick_final={"steps": 400},
    prepare=register_features,
    validation=measure_validation,
    test=measure_test,
)

"""The parameters of every entry point that measures a generator."""

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from evaluation.frechet import MIN_IMAGES
from training.config import CONFIG, DeviceConfig, OptionalInteger, OptionalPath, OptionalStr, RecordConfig, Seed, option


@dataclass(frozen=True, config=CONFIG)
class MeasureConfig(DeviceConfig, RecordConfig):
    """Generator, reference images and features."""

    preset: Literal["quick", "photos", "eurosat", "cifar10", "celeba"] = option(
        "celeba",
        "quick: features that need no download, minutes on two CPU cores; photos: those the generator was trained on, "
        "eurosat, cifar10: EfficientNet, up to an hour; celeba: Inception, 50,000 images",
    )
    model_uri: OptionalStr = option(
        None,
        "generator: models:/name/version, runs:/id/name, a folder, a .safetensors or torch-mimicry .pth file; "
        "a TorchScript file, or any python_function, codes in and images in [-1, 1] out; not given: "
        "models:/wgan-generator@latest-good",
    )
    nz: OptionalInteger = option(None, "size of the latent code, of a generator that does not say it")
    # Reference
    dataset: Literal["model", "digits", "eurosat", "cifar10", "celeba", "folder"] = option(
        "celeba", "reference images; model: those the generator was trained on"
    )
    data_dir: OptionalPath = option(None, "folder or zip of the reference images; not given: where the model's were")
    split: Literal["train", "valid", "test", "all"] = option("all", "partition of the reference images")
    on_bad: Literal["stop", "skip"] = option("stop", "what to do with an image that cannot be read")
    cache_dir: Path = option(Path("cache"), "folder of decoded images and of reference features, shared by runs")
    n_reference: int = option(50_000, "reference images at most, drawn at random from the split", ge=MIN_IMAGES)
    # Features
    features: str = option(
        "inception",
        "auto: digits for the embedded digits, efficientnet for photographs; inception, efficientnet, "
        "dinov2, clip, digits, a models:/ address, or a TorchScript or .pt2 file of images in [-1, 1]",
    )
    weights: OptionalPath = option(
        None,
        "file of the network's weights; not given: those of inception, dinov2 and clip from torch-hub's cache, else "
        "downloaded",
    )
    force: bool = option(
        False, "measure despite too few or other images, other preprocessing or other Inception weights"
    )
    n_images: int = option(50_000, "generated images", ge=MIN_IMAGES)
    n_neighbours: int = option(10_000, "images of each side used for precision, recall, density and coverage", ge=8)
    batch_size: int = option(100, "images in memory at once", ge=1)
    seed: Seed = option(0, "seed of latent codes, reference draw, blocks and bootstrap")


QUICK = {"dataset": "model", "split": "train", "features": "auto", "n_images": 5000}
"""What the preset quick of every entry point that measures a generator changes."""


def photographs(dataset: str) -> dict[str, object]:
    """What the preset of a data set of photographs changes: small enough for two cores, with nothing to download."""
    return {"dataset": dataset, "split": "train", "features": "efficientnet", "n_images": 5000, "n_reference": 5000}

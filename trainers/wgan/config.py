"""The parameters of `wgan`, and the networks they ask for."""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import nn

from data.images.sources import DATASETS
from models.gan import mimicry
from models.gan.networks import Critic, Generator, first_channels
from training.config import (
    CONFIG,
    ImageSize,
    MachineConfig,
    OptionalPath,
    RecordConfig,
    ResumableConfig,
    Seed,
    option,
)


@dataclass(frozen=True, config=CONFIG)
class WganConfig(MachineConfig, RecordConfig, ResumableConfig):
    """Train a WGAN-GP (Gulrajani et al. 2017) with torch-mimicry's architecture and register generator and critic."""

    preset: Literal["quick", "photos", "eurosat", "cifar10", "celeba"] = option(
        "celeba",
        "quick: embedded digits, minutes on two CPU cores; photos: a folder or zip of your own photographs, eurosat, "
        "cifar10: 64, 64 and 32 pixels, one to two hours on two cores; celeba: the exercise's setting",
        changeable=True,
    )
    # Images
    dataset: Literal["digits", "eurosat", "cifar10", "celeba", "folder"] = option(
        "celeba", "where the images come from", changeable=True
    )
    data_dir: OptionalPath = option(
        None, "folder or zip of the images; not given: eurosat, cifar10 and celeba are downloaded", operational=True
    )
    split: Literal["train", "valid", "test", "all"] = option("train", "partition to train on", changeable=True)
    validation_share: float = option(
        0.0, "share of the training images held out; tune chooses by them", ge=0, lt=1, changeable=True
    )
    image_size: ImageSize = option(64, "pixels per side")
    flip: bool = option(True, "mirror images at random", changeable=True)
    on_bad: Literal["stop", "skip"] = option("stop", "what to do with an image that cannot be read", operational=True)
    cache_dir: Path = option(Path("cache"), "folder of the decoded images, shared by runs", operational=True)
    # Networks
    nets: Literal["own", "mimicry"] = option(
        "own", "own: our faster equivalent of torch-mimicry's networks; mimicry: the package's own modules"
    )
    nz: int = option(128, "size of the latent code", ge=1, le=65_536)
    ngf: int = option(1024, "width of the generator", ge=16, le=8192)
    ndf: int = option(1024, "width of the critic", ge=16, le=8192)
    # Training
    # A longer training is the same one continued, unless the learning rates fall to the last step (check_resumable).
    steps: int = option(100_000, "generator updates", operational=True, ge=1)
    batch_size: int = option(64, "images per update, over all processes", ge=2, changeable=True)
    n_dis: int = option(2, "critic updates per generator update", ge=1, changeable=True)
    gp_scale: float = option(10.0, "weight of the gradient penalty", ge=0, changeable=True)
    lr_generator: float = option(0.0002, "Adam's learning rate for the generator", gt=0, changeable=True)
    lr_critic: float = option(0.0002, "Adam's learning rate for the critic", gt=0, changeable=True)
    beta1_generator: float = option(0.0, "Adam's first decay rate for the generator", ge=0, lt=1, changeable=True)
    beta1_critic: float = option(0.0, "Adam's first decay rate for the critic", ge=0, lt=1, changeable=True)
    beta2: float = option(0.9, "Adam's second decay rate", ge=0, lt=1, changeable=True)
    lr_decay: Literal["none", "linear"] = option(
        "none", "linear: both learning rates fall to zero at the last step", changeable=True
    )
    ema_decay: float = option(0.999, "decay of the generator's moving average", ge=0, lt=1, changeable=True)
    precision: Literal["fp32", "bf16"] = option(
        "fp32", "bf16: mixed precision, the penalty stays in fp32", changeable=True
    )
    seed: Seed = option(0, "seed of the weights, the order of images and the latent codes", changeable=True)
    # Records
    log_every: int = option(
        100, "steps between points of the curves, each the mean since the last point", operational=True, ge=1
    )
    sample_every: int = option(1000, "steps between sample grids", operational=True, ge=1)
    checkpoint_every: int = option(1000, "steps between checkpoints", operational=True, ge=1)
    n_samples: int = option(64, "images in a sample grid", operational=True, ge=1, le=1024)

    @model_validator(mode="after")
    def _fields_agree(self) -> "WganConfig":
        source = DATASETS[self.dataset]
        if source.needs_dir and self.data_dir is None:
            raise ValueError(f"data_dir: dataset={self.dataset} needs one, a folder or a zip of images")
        if not source.takes_dir and self.data_dir is not None:
            raise ValueError(f"data_dir: dataset={self.dataset} takes none; did you mean dataset=folder?")
        if self.batch_size % self.nproc:
            raise ValueError(
                f"batch_size: {self.batch_size} images cannot be shared evenly by nproc={self.nproc} processes"
            )
        with torch.device("meta"):  # builds nothing, but checks the widths
            Generator(self.image_size, self.nz, self.ngf), Critic(self.image_size, self.ndf)
        return self


FEWEST_CHANNELS = 4
"""Channels of a critic's first block with which it was seen to learn; with two its gradient vanishes (docs/wgan.md)."""


def narrow_critic(config: WganConfig) -> str | None:
    """What to say of a critic that is too narrow to learn; None where it is wide enough."""
    channels = first_channels(config.image_size, config.ndf)
    if channels >= FEWEST_CHANNELS:
        return None
    return (
        f"with ndf={config.ndf} at {config.image_size} pixels the critic has {channels} channels in its first block, "
        "and hardly learns; give ngf=128 ndf=128, as preset=photos does"
    )


PHOTOGRAPHS: dict[str, Any] = {
    "batch_size": 32,
    "lr_critic": 0.0004,
    "lr_decay": "linear",
    "log_every": 50,
    "sample_every": 500,
    "checkpoint_every": 500,
}
"""What the presets of photographs have in common."""

PRESETS: dict[str, dict[str, Any]] = {
    # Learning rates tried on the digits (docs/wgan.md): lower ones make a worse generator of as many steps. Batches of
    # 64 allow too few steps in three minutes.
    "quick": {
        "dataset": "digits",
        "image_size": 32,
        "flip": False,
        "nz": 64,
        "ngf": 32,
        "ndf": 32,
        "steps": 800,
        "batch_size": 32,
        "lr_generator": 0.001,
        "lr_critic": 0.001,
        "lr_decay": "linear",
        "ema_decay": 0.99,
        "log_every": 10,
        "sample_every": 100,
        "checkpoint_every": 250,
    },
    # Sized by the time of a step (docs/wgan.md): about an hour on two cores, one to two.
    "photos": {"dataset": "folder", "ngf": 128, "ndf": 128, "steps": 6_500, **PHOTOGRAPHS},
    "eurosat": {"dataset": "eurosat", "ngf": 128, "ndf": 128, "steps": 6_500, **PHOTOGRAPHS},
    "cifar10": {
        "dataset": "cifar10",
        "image_size": 32,
        "ngf": 64,
        "ndf": 64,
        "steps": 10_000,
        **PHOTOGRAPHS,
        "lr_generator": 0.0004,
    },
    "celeba": {},
}


def build_networks(config: WganConfig, grey: bool) -> tuple[nn.Module, nn.Module]:
    """Generator (of grey images or of any) and critic with weights drawn from `config.seed`; the global random state is
    left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.nets == "mimicry":
            return mimicry.build_networks(config.image_size, nz=config.nz, ngf=config.ngf, ndf=config.ndf)
        return Generator(config.image_size, config.nz, config.ngf, grey), Critic(config.image_size, config.ndf)

"""The networks that `eeg_simclr` compares, built as its parameters ask for."""

import re
from dataclasses import dataclass

from torch import nn

from common.errors import InputError
from data.eeg.load import EegData
from models.eeg.simclr import (
    ChannelClassifier,
    ChannelEncoder,
    FeatureClassifier,
    LinearProbe,
    Projector,
    scaled,
)
from trainers.eeg_simclr.config import EegSimclrConfig
from training.eeg.slices import PARTS

RIVALS = ("scratch", "frozen", "probe", "random_probe")
"""Not pre-trained; the head alone on the frozen encoder; a linear probe of it; and of an untrained encoder."""


@dataclass(frozen=True)
class Shape:
    """What the networks of a run are built for. picks: numbers of the channels that are classified by, None for all;
    pre-training draws from all.
    """

    n_chans: int
    n_classes: int
    picks: list[int] | None

    @property
    def n_used(self) -> int:
        return self.n_chans if self.picks is None else len(self.picks)


def shape_of(config: EegSimclrConfig, data: EegData) -> Shape:
    """For the electrodes and classes of `data`; channels=motor: those of the rows FC, C and CP, over the sensorimotor
    strip.
    """
    picks = None
    if config.channels == "motor":
        picks = [k for k, name in enumerate(data.ch_names) if re.fullmatch(PARTS["motor"], name)]
        if not picks:
            raise InputError("channels=motor: there is no electrode of the rows FC, C and CP; give channels=all")
    return Shape(len(data.ch_names), len(data.classes), picks)


def build_encoder(config: EegSimclrConfig) -> ChannelEncoder:
    """The channel encoder with weights drawn from torch's global generator."""
    a, b, c, d = config.kernels
    return ChannelEncoder(
        config.encoder, config.width, (a, b, c, d), n_features=config.n_features, decimate=config.decimate
    )


def build_projector(config: EegSimclrConfig) -> Projector:
    """The projector (C): a channel's features -> what the loss compares."""
    *widths, d = scaled(config.head_width, 256, 128, 64, 128)
    return Projector(config.n_features, config.projection_dim, widths, d)


def build_network(config: EegSimclrConfig, shape: Shape, name: str, encoded: bool = False) -> nn.Module:
    """The network called `name`: simclr and scratch are alike but for the encoder's first weights. encoded: it is given
    the encoder's features in the place of windows.
    """
    encoder = build_encoder(config)
    if name.endswith("probe"):
        return LinearProbe(
            encoder, shape.n_chans, n_features=config.n_features, n_classes=shape.n_classes, picks=shape.picks
        )
    kind = FeatureClassifier if encoded else ChannelClassifier
    return kind(
        encoder,
        shape.n_chans,
        n_features=config.n_features,
        n_classes=shape.n_classes,
        head_width=config.head_width,
        picks=shape.picks,
        frozen=name == "frozen",
        pool=max(1, config.head_pool // config.decimate),
    )

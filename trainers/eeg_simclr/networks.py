"""The networks that `eeg_simclr` compares, built as its parameters ask for."""

from torch import nn

from data.eeg.recording import CHANNELS
from evaluation.classification import CLASSES
from models.eeg.simclr import (
    ChannelClassifier,
    ChannelEncoder,
    FeatureClassifier,
    LinearProbe,
    Projector,
    scaled,
)
from trainers.eeg_simclr.config import EegSimclrConfig

OWN = "simclr"
RIVALS = ("scratch", "frozen", "probe", "random_probe")
"""Not pre-trained; the head alone on the frozen encoder; a linear probe of it; and of an untrained encoder."""

N_MOTOR = 21
"""The first channels of CHANNELS: the rows FC, C and CP, over the sensorimotor strip."""


def picks(config: EegSimclrConfig) -> list[int] | None:
    """Numbers of the channels that are classified by, None for all. Pre-training draws from all."""
    return list(range(N_MOTOR)) if config.channels == "motor" else None


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


def build_network(config: EegSimclrConfig, name: str, encoded: bool = False) -> nn.Module:
    """The network called `name`: simclr and scratch are alike but for the encoder's first weights. encoded: it is given
    the encoder's features in the place of windows.
    """
    encoder = build_encoder(config)
    if name.endswith("probe"):
        return LinearProbe(
            encoder, len(CHANNELS), n_features=config.n_features, n_classes=len(CLASSES), picks=picks(config)
        )
    kind = FeatureClassifier if encoded else ChannelClassifier
    return kind(
        encoder,
        len(CHANNELS),
        n_features=config.n_features,
        n_classes=len(CLASSES),
        head_width=config.head_width,
        picks=picks(config),
        frozen=name == "frozen",
        pool=max(1, config.head_pool // config.decimate),
    )

"""The registered classifier of `eeg_transformer`: raw epochs in volts, its preprocessing inside."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from data.eeg.load import EegData
from tracking.registry.models import ModelInfo, load_weights
from tracking.run import AnyRun
from trainers.eeg_transformer.config import SIZES, EegTransformerConfig
from training.eeg.registry import register_classifier


def register_transformer(
    run: AnyRun,
    config: EegTransformerConfig,
    data: EegData,
    network: nn.Module,
    metrics: Mapping[str, float],
    own: str,
    alias: str | None,
) -> ModelInfo:
    """Register the network, called `own` in `metrics`, with the alias."""
    sizes: dict[str, Any] = {name: getattr(config, name) for name in SIZES}
    if config.encoder_uri:
        sizes["channel_encoder"] = load_weights(config.encoder_uri)[1]
    return register_classifier(
        run,
        config=config,
        data=data,
        network=network,
        metrics=metrics,
        own=own,
        entry_point="eeg_transformer",
        sizes=sizes,
        alias=alias,
    )

"""The registered classifier of `eeg_transformer`: raw epochs in volts, its preprocessing inside."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from data.eeg.load import EegData
from data.eeg.recording import fir_kernel
from models.eeg.slice_transformer import LateralEpochClassifier, LateralTransformer
from tracking.registry.models import ModelInfo, load_weights
from tracking.run import AnyRun
from trainers.eeg_transformer.config import OWN, SIZES, EegTransformerConfig
from trainers.eeg_transformer.lateral import SLICES
from training.eeg.registry import log_classifier, register_classifier
from training.eeg.slices import ALIGN_SHRINKAGE, REFERENCE_TRIALS, decimation, lateral_mirror


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


def register_lateral(
    run: AnyRun,
    config: EegTransformerConfig,
    data: EegData,
    *,
    network: LateralTransformer,
    reference: Tensor,
    metrics: Mapping[str, float],
    alias: str | None,
) -> ModelInfo:
    """Register the classifier of epochs around a network of slices.

    reference: training people's mean covariances in the slices' bands, for those who send few epochs.
    """
    passed = (config.l_freq, config.h_freq)
    served = LateralEpochClassifier(
        network,
        torch.from_numpy(fir_kernel(data.sfreq, *passed)),
        SLICES,
        mirror=lateral_mirror(data, "give network=windows"),
        reference=reference,
        tmin=float(data.times[0]),
        sfreq=data.sfreq,
        step=decimation(data.sfreq, config.h_freq),
        passed=passed,
        shrinkage=ALIGN_SHRINKAGE,
        n_usual=REFERENCE_TRIALS,
    )
    sizes: dict[str, Any] = {name: getattr(config, name) for name in ("network", "attention", "n_networks")}
    return log_classifier(
        run,
        config=config,
        data=data,
        served=served,
        metrics=metrics,
        own=OWN,
        entry_point="eeg_transformer",
        sizes=sizes,
        alias=alias,
    )

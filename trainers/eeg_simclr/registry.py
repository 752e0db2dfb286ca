"""What `eeg_simclr` registers: the pre-trained encoder, and the classifier of raw epochs."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from data.eeg.load import EegData
from data.eeg.recording import fir_kernel
from models.eeg.neighbour import NeighbourClassifier, NeighbourEpochClassifier
from tracking.registry.models import ModelInfo, log_model
from tracking.run import AnyRun
from trainers.eeg_simclr.config import OWN, EegSimclrConfig
from trainers.eeg_simclr.neighbour import TASK_SECONDS, vector_slices
from trainers.eeg_simclr.networks import build_encoder
from training.config import as_params
from training.eeg.load import served_trials
from training.eeg.registry import facts_of, log_classifier, register_classifier
from training.eeg.slices import ALIGN_SHRINKAGE, REFERENCE_TRIALS, decimation, lateral_mirror


def register_networks(
    run: AnyRun,
    config: EegSimclrConfig,
    data: EegData,
    network: nn.Module,
    metrics: Mapping[str, float],
    encoder_weights: Mapping[str, Tensor],
    alias: str | None,
) -> ModelInfo:
    """Register the pre-trained encoder (channels in, features out) and the classifier of raw epochs in volts."""
    facts = facts_of(config, data)
    sizes = {name: getattr(config, name) for name in ("width", "kernels", "n_features", "decimate")}
    encoder = build_encoder(config)
    encoder.load_state_dict(encoder_weights)
    example = np.random.default_rng(0).standard_normal((4, config.window)).astype(np.float32)
    # Whoever goes on from this encoder must know whom it has seen: to test on them would be a leak.
    seen = {"dataset": config.dataset, "subjects": np.unique(data.subject[served_trials(config, data)]).tolist()}
    log_model(
        run,
        encoder,
        "eeg_simclr_encoder",
        example,
        registered_name="eeg-simclr-encoder",
        config={"class": "eeg-channel-encoder", "kind": config.encoder, **sizes, **seen},
        params=as_params(config),
        tags=facts,
        metadata={**facts, "input": "channels [n, window] in standard deviations of their window over all channels"},
        alias=alias,
    )
    of_the_head = {
        "encoder": config.encoder,
        **sizes,
        "head_width": config.head_width,
        "head_pool": config.head_pool,
        "channels": config.channels,
    }
    return register_classifier(
        run,
        config=config,
        data=data,
        network=network,
        metrics=metrics,
        own=OWN,
        entry_point="eeg_simclr",
        sizes=of_the_head,
        alias=alias,
    )


def register_neighbour(
    run: AnyRun,
    config: EegSimclrConfig,
    data: EegData,
    *,
    network: NeighbourClassifier,
    reference: Tensor,
    metrics: Mapping[str, float],
    alias: str | None,
) -> ModelInfo:
    """Register the encoder of slices (vectors in, z out) and the classifier of raw epochs in volts.

    reference: training people's mean covariance, for those who send few epochs.
    """
    facts, band = facts_of(config, data), (config.l_freq, config.h_freq)
    n_features, n_components = network.encoder.components.shape
    sizes = {"n_features": n_features, "n_components": n_components}
    example = np.random.default_rng(0).standard_normal((4, n_features)).astype(np.float32)
    seen = {"dataset": config.dataset, "subjects": np.unique(data.subject[served_trials(config, data)]).tolist()}
    log_model(
        run,
        network.encoder,
        "eeg_neighbour_encoder",
        example,
        registered_name="eeg-neighbour-encoder",
        config={"class": "eeg-neighbour-encoder", **sizes, **seen},
        params=as_params(config),
        tags=facts,
        metadata={**facts, "input": "odd tangent vectors of half-second slices [n, n_features], aligned by person"},
        alias=alias,
    )
    served = NeighbourEpochClassifier(
        network,
        torch.from_numpy(fir_kernel(data.sfreq, *band)),
        vector_slices(band)[: len(TASK_SECONDS)],
        mirror=lateral_mirror(data, "give pretext=channel"),
        reference=reference,
        tmin=float(data.times[0]),
        sfreq=data.sfreq,
        step=decimation(data.sfreq, config.h_freq),
        passed=band,
        shrinkage=ALIGN_SHRINKAGE,
        n_usual=REFERENCE_TRIALS,
    )
    return log_classifier(
        run,
        config=config,
        data=data,
        served=served,
        metrics=metrics,
        own=OWN,
        entry_point="eeg_simclr",
        sizes={"pretext": config.pretext, **sizes},
        alias=alias,
    )

"""What `eeg_simclr` registers: the pre-trained channel encoder, and the classifier of raw epochs."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from data.eeg.load import EegData
from tracking.registry.models import ModelInfo, log_model
from tracking.run import AnyRun
from trainers.eeg_simclr.config import EegSimclrConfig
from trainers.eeg_simclr.networks import OWN, build_encoder
from training.config import as_params
from training.eeg.registry import facts_of, register_classifier


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
    seen = {"dataset": config.dataset, "subjects": np.unique(data.subject).tolist()}
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

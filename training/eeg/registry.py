"""The registration of an EEG classifier that takes raw epochs in volts, its preprocessing inside."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from data.eeg.load import EegData
from data.eeg.recording import fir_kernel
from models.eeg.transformer import EpochClassifier
from tracking.registry.evaluations import Evaluation
from tracking.registry.models import ModelInfo, log_model
from tracking.run import Run
from tracking.silent_run import SilentRun
from training.config import as_params
from training.eeg.config import EegConfig
from training.eeg.load import SHRINKAGE, group_covariances, served_trials


def facts_of(config: EegConfig, data: EegData) -> dict[str, str]:
    """What a model's page says about the data it comes from."""
    return {"dataset": config.dataset, "split": config.split, "data_fingerprint": data.fingerprint}


def register_classifier(
    run: Run | SilentRun,
    config: EegConfig,
    data: EegData,
    *,
    network: nn.Module,
    metrics: Mapping[str, float],
    own: str,
    entry_point: str,
    sizes: Mapping[str, Any],
    alias: str | None,
) -> ModelInfo:
    """Register the classifier of epochs around `network`, a classifier of windows called `own` in `metrics`.

    Its registered name is the entry point with hyphens; it gets the alias. sizes: what it takes to build the network
    again.
    """
    kernel = torch.from_numpy(fir_kernel(data.sfreq, config.l_freq, config.h_freq))
    reference = None
    if config.align == "euclidean":
        covariances, group = group_covariances(data, config.split)
        reference = covariances[np.unique(group[served_trials(config, data)])].mean(0)
    served = EpochClassifier(
        network,
        kernel,
        window=config.window,
        step=config.window - config.overlap,
        reference=reference,
        shrinkage=SHRINKAGE,
    )
    windows = {name: getattr(config, name) for name in ("window", "overlap", "align")}
    return log_classifier(
        run,
        config=config,
        data=data,
        served=served,
        metrics=metrics,
        own=own,
        entry_point=entry_point,
        sizes={**sizes, **windows},
        alias=alias,
    )


def log_classifier(
    run: Run | SilentRun,
    config: EegConfig,
    data: EegData,
    *,
    served: nn.Module,
    metrics: Mapping[str, float],
    own: str,
    entry_point: str,
    sizes: Mapping[str, Any],
    alias: str | None,
) -> ModelInfo:
    """Register `served`, a classifier of raw epochs in volts; the rest as for `register_classifier`."""
    facts = facts_of(config, data)
    # What a request needs to know: which channels in which order, how many samples from when at which rate, what is
    # answered.
    epochs = {
        "unit": "V",
        "ch_names": list(data.ch_names),
        "sfreq": data.sfreq,
        "tmin": config.tmin,
        "tmax": config.tmax,
        "classes": list(data.classes),
        **({"reference": list(config.reference), "notch": list(config.notch)} if data.is_own else {}),
    }
    conditions = {
        "data": data.fingerprint[:16],
        "split": config.split,
        "n_folds": config.n_folds,
        "seed": config.seed,
        "validation_share": config.validation_share,
    }
    if config.test_subjects:
        conditions["test_subjects"] = config.test_subjects
    shape = {"n_chans": data.trials.shape[1], "n_times": data.trials.shape[2]}
    name = entry_point.replace("_", "-")
    return log_model(
        run,
        served,
        entry_point,
        np.asarray(data.trials[:4], dtype=np.float32),
        registered_name=name,
        config={"class": name, **shape, **sizes},
        metrics=metrics,
        params=as_params(config),
        tags=facts,
        metadata={**facts, "epochs": epochs},
        alias=alias,
        evaluations=[Evaluation("trial_accuracy", metrics[f"{own}_trial_accuracy"], True, conditions)],
    )

"""Classify imagined left or right fist movement with a Transformer written from scratch: `mlflow run . -e
eeg_transformer`.

Config -> trials, windows, folds -> a network for each fold, baselines on the same folds -> figures over subjects ->
what the network looks at -> a last network for the registry -> report. training/eeg/fit.py and training/eeg/folds.py
have what all EEG trainers share; docs/eeg_transformer.md explains.
"""

import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from data.eeg.load import EegData
from tracking.registry.models import ModelInfo, load_weights
from tracking.run import Run
from tracking.silent_run import SilentRun
from trainers.eeg_transformer.config import (
    PRESETS,
    SIZES,
    EegTransformerConfig,
    build_network,
    load_channel_encoder,
)
from trainers.eeg_transformer.explain import (
    record_explanations,
)
from training.config import launch_processes, parse_config
from training.eeg.folds import run_eeg
from training.eeg.registry import register_classifier
from training.trial import StudyTrial

# ------------------------------------------------------------------------------------------------- what the network
# looks at


def register(
    run: Run | SilentRun,
    config: EegTransformerConfig,
    data: EegData,
    network: nn.Module,
    metrics: Mapping[str, float],
    alias: str | None,
) -> ModelInfo:
    """Register the classifier of raw epochs in volts, its preprocessing inside."""
    own = next(key.removesuffix("_trial_accuracy") for key in metrics if key.endswith("_trial_accuracy"))
    sizes: dict[str, Any] = {name: getattr(config, name) for name in SIZES}
    if config.encoder_uri:
        sizes["channel_encoder"] = load_weights(config.encoder_uri)[1]
    return register_classifier(run, config, data, network, metrics, own, "eeg_transformer", sizes, alias)


def run_eeg_transformer(config: EegTransformerConfig, study_trial: StudyTrial | None = None) -> int:
    """Train, compare, record, register; the exit status. study_trial: the run's place in a study."""
    if config.encoder_uri:
        load_channel_encoder(config)  # what is wrong with it is said before the run begins

    def build(data: EegData, name: str) -> nn.Module:
        return build_network(config, data.trials.shape[1])

    return run_eeg(
        "eeg_transformer", "transformer", config, build, record_explanations, register, study_trial=study_trial
    )


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    config = parse_config(EegTransformerConfig, PRESETS, argv, "eeg_transformer")
    status = launch_processes(config.nproc, "trainers.eeg_transformer", argv, config.max_restarts)
    return run_eeg_transformer(config) if status is None else status

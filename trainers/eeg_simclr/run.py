"""Contrastive pre-training on EEG channels, then classification of imagined fist movement: `mlflow run . -e
eeg_simclr`.

Config -> trials, windows, folds -> for each fold: an encoder pre-trained on channels of the training people without
labels, then fine-tuned, frozen, probed, and the same network trained from scratch, over shares of the labels ->
baselines on the same folds -> figures over subjects, does pre-training help? -> encoder and classifier for the registry
-> report. training/eeg/folds.py has what all EEG trainers share, config.py the parameters, pretraining.py the
pre-training; docs/eeg_simclr.md explains.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.progress import Progress
from data.eeg.load import EegData, Preprocessing, load_eeg
from data.eeg.pool import ChannelPool, check_pretraining, labelled_share, pretraining_rows
from data.eeg.recording import CHANNELS
from data.eeg.splits import Fold
from data.eeg.windows import Windows
from evaluation.classification import CLASSES
from models.eeg.simclr import (
    ChannelClassifier,
    ChannelEncoder,
    FeatureClassifier,
    LinearProbe,
    Projector,
    scaled,
)
from tracking.registry.models import ModelInfo, log_model
from tracking.run import Run
from tracking.silent_run import SilentRun
from trainers.eeg_simclr.comparison import percent, record_comparison
from trainers.eeg_simclr.config import PRESETS, SFREQ, EegSimclrConfig, augment_ranges, frozen_fit
from trainers.eeg_simclr.frozen import EncodedWindows, all_features, encode_windows, fit_probe
from trainers.eeg_simclr.pretraining import Pretraining
from training.config import as_params, launch_processes, parse_config
from training.eeg.folds import Outcome, Procedure, Progressing, run_eeg
from training.eeg.load import align
from training.eeg.registry import facts_of, register_classifier
from training.processes import Processes
from training.trial import StudyTrial

OWN = "simclr"
RIVALS = ("scratch", "frozen", "probe", "random_probe")
"""Not pre-trained; the head alone on the frozen encoder; a linear probe of it; and of an untrained encoder."""

ENCODED_AT_MOST = 2**31
"""Bytes of a frozen encoder's features that are kept, of all folds."""

N_MOTOR = 21
"""The first channels of CHANNELS: the rows FC, C and CP, over the sensorimotor strip."""

# --------------------------------------------------------------------------------------------------------- networks,
# from config


def picks(config: EegSimclrConfig) -> list[int] | None:
    """Numbers of the channels that are classified by, None for all. Pre-training draws from all."""
    return list(range(N_MOTOR)) if config.channels == "motor" else None


def build_encoder(config: EegSimclrConfig) -> ChannelEncoder:
    """The channel encoder with weights drawn from torch's global generator."""
    a, b, c, d = config.kernels
    return ChannelEncoder(config.encoder, config.width, (a, b, c, d), config.n_features, config.decimate)


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
        return LinearProbe(encoder, len(CHANNELS), config.n_features, len(CLASSES), picks(config))
    kind = FeatureClassifier if encoded else ChannelClassifier
    return kind(
        encoder,
        len(CHANNELS),
        config.n_features,
        len(CLASSES),
        config.head_width,
        picks(config),
        name == "frozen",
        max(1, config.head_pool // config.decimate),
    )


# ------------------------------------------------------------------------------------------------- training, in several
# stages


def begin_pretraining(
    config: EegSimclrConfig,
    pool: ChannelPool,
    rows: np.ndarray,
    validation: np.ndarray,
    processes: Processes,
    pool_fingerprint: str = "",
) -> Pretraining:
    """The pre-training that `config` asks for, on the rows of a pool, its networks drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        encoder, projector = build_encoder(config), build_projector(config)
    return Pretraining(
        config,
        encoder,
        projector,
        pool,
        rows,
        validation,
        augment_ranges(config, SFREQ),
        config.augmentations,
        config.n_augmentations,
        processes,
        tau=config.tau,
        epochs=config.pretrain_epochs,
        pairs=config.pretrain_batch,
        channels_per_window=config.channels_per_window,
        lr=config.pretrain_lr,
        weight_decay=config.pretrain_weight_decay,
        mask_same_trial=config.mask_same_trial,
        pool_fingerprint=pool_fingerprint,
    )


class Contrast:
    """What a run trains: for each fold an encoder without labels, then every network of RIVALS and OWN on shares of the
    labels.

    unlabelled: further recordings to pre-train on. The encoders stand in the checkpoint under "pretrain_<fold>".
    """

    def __init__(self, config: EegSimclrConfig, unlabelled: EegData | None) -> None:
        self.config, self.unlabelled = config, unlabelled
        self.pool: ChannelPool | None = None
        self.state: Progressing | None = None
        self.features: dict[str, np.ndarray] = {}  # of all windows, by the fold whose encoder made them
        self.encoded: dict[str, EncodedWindows] = {}  # likewise
        self.looked_up: set[str] = set()

    def procedure(self) -> Procedure:
        return Procedure(self.train, self.also, self.epochs)

    def epochs(self, n_folds: int) -> int:
        """All epochs of a run, for the progress shown."""
        c = self.config
        pretrainings = n_folds + 1 + len([tau for tau in c.tau_sweep if tau != c.tau])
        comparisons = n_folds * len(self.shares())
        whole = 2 * comparisons + c.leakage_check + 1  # pre-trained and from scratch
        return pretrainings * c.pretrain_epochs + whole * c.epochs + comparisons * c.frozen_epochs

    def shares(self) -> list[float]:
        """The label fractions, 1 among them."""
        return sorted({*self.config.label_fractions, 1.0}, reverse=True)

    def encoder_weights(
        self,
        state: Progressing,
        windows: Windows,
        fold: Fold,
        progress: Progress,
        tau: float | None = None,
        look: Callable[[Pretraining], None] | None = None,
    ) -> dict[str, Any]:
        """The finished pre-training for `fold`: weights and curves; look: called after every epoch."""
        config, data = self.config, state.data
        key = pretraining_key(fold) + (f"_tau_{tau:g}" if tau else "")
        if key in self.looked_up:
            return state.done[key]
        self.looked_up.add(key)  # once through `finish`, which counts its epochs
        if self.pool is None:
            sources = [(data, windows)]
            if self.unlabelled is not None:
                more: Windows = self.unlabelled.windows(config.window, config.overlap)
                aligned = config.align == "euclidean"
                sources.append((self.unlabelled, align(more, self.unlabelled, config.split) if aligned else more))
            self.pool = ChannelPool(sources, config.window, config.time_shift)
        pool = self.pool
        rows = pretraining_rows(pool, windows, fold, config.split)
        check_pretraining(pool, rows, windows, fold, config.split)

        def make() -> Pretraining:
            return begin_pretraining(
                config if tau is None else replace(config, tau=tau),
                pool,
                rows,
                fold.validation,
                state.processes,
                "" if self.unlabelled is None else self.unlabelled.fingerprint,
            )

        return state.finish(key, make, config.pretrain_epochs, progress, look)

    def search(
        self, state: Progressing, windows: Windows, fold: Fold, label: np.ndarray, progress: Progress
    ) -> dict[str, Any]:
        """A study's trial: the pre-training alone, judged by a linear probe on the validation people now and then."""
        every = max(1, self.config.pretrain_epochs // 4)

        def look(pretraining: Pretraining) -> None:
            if pretraining.epoch % every and not pretraining.finished:
                return
            network = build_network(self.config, "probe").to(state.processes.device)
            network.encoder.load_state_dict(pretraining.result()["weights"])  # type: ignore[union-attr]
            features = all_features(network, windows, self.config, state.processes.device)
            log_p = fit_probe(network, features, label, fold.train, fold.validation)
            y = torch.from_numpy(label[fold.validation])
            figures = {
                "log_loss": float(F.nll_loss(log_p, y)),
                "accuracy": float((log_p.argmax(1) == y).float().mean()),
            }
            measured = state.study_trial.measure(network, windows.gather(fold.validation[:1]))
            state.study_trial.report(state.run, {**figures, **measured}, pretraining.epoch)

        return self.encoder_weights(state, windows, fold, progress, look=look)

    def train(
        self,
        state: Progressing,
        name: str,
        key: str,
        windows: Windows,
        fold: Fold,
        label: np.ndarray,
        progress: Progress,
        share: float = 1.0,
    ) -> dict[str, Any]:
        """The finished fit `key` of network `name` on a share of the fold's labels."""
        self.state = state
        if state.study_trial.searching:
            return self.search(state, windows, fold, label, progress)
        weights = None
        if name not in ("scratch", "random_probe"):
            weights = self.encoder_weights(state, windows, fold, progress)["weights"]
        used = labelled_share(fold, windows, share, self.config.seed)

        def build(encoded: bool = False) -> nn.Module:
            network = build_network(self.config, name, encoded)
            if weights is not None:
                network.encoder.load_state_dict(weights)  # type: ignore[union-attr]
            return network

        if name.endswith("probe"):
            return self.probe(state, name, key, build, windows, used, label)
        how = frozen_fit(self.config) if name == "frozen" else self.config
        if name == "frozen" and self.may_encode(windows):
            if fold.name not in self.encoded:
                network = build().to(state.processes.device)
                assert isinstance(network, ChannelClassifier)
                self.encoded[fold.name] = encode_windows(network, windows, self.config, state.processes.device)
            return state.fit(key, partial(build, True), self.encoded[fold.name], used, label, progress, how)
        return state.fit(key, build, windows, used, label, progress, how)

    def may_encode(self, windows: Windows) -> bool:
        """Whether a frozen encoder's features of all windows are kept: they differ in no epoch, but must fit in the
        memory.
        """
        c = self.config
        used = N_MOTOR if c.channels == "motor" else len(CHANNELS)
        steps = c.window // max(c.decimate, c.head_pool // 2)
        a_fold = 4 * len(windows) * used * c.n_features * steps
        return not c.augment and (len(self.encoded) + 1) * a_fold < ENCODED_AT_MOST

    def probe(
        self, state: Progressing, name: str, key: str, build: Any, windows: Windows, fold: Fold, label: np.ndarray
    ) -> dict[str, Any]:
        """The finished linear probe `key`: logistic regression (scikit-learn) on the frozen encoder's pooled
        features.
        """
        if key in state.done:
            return state.done[key]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            network = build().to(state.processes.device)
        encoder = "untrained" if name == "random_probe" else fold.name
        if encoder not in self.features:
            self.features[encoder] = all_features(network, windows, self.config, state.processes.device)
        log_p = fit_probe(network, self.features[encoder], label, fold.train, fold.test)
        state.done[key] = {
            "log_p": log_p if len(fold.test) else None,
            "weights": {k: value.detach().cpu() for k, value in network.state_dict().items()},
            "curve": [],
        }
        state.save(None)
        return state.done[key]

    def also(self, state: Progressing, windows: Windows, folds: list[Fold], progress: Progress) -> None:
        """Smaller shares of the labels, and the sweep over temperatures, judged on the first fold's validation
        people.
        """
        for share in self.shares():
            for i, fold in enumerate(folds):
                for name in (OWN, *RIVALS) if share < 1 else ():
                    key = f"{name}_{percent(share)}_fold{i + 1}"
                    self.train(state, name, key, windows, fold, windows.label, progress, share)
        fold = folds[0]
        for tau in self.config.tau_sweep:
            own = None if tau == self.config.tau else tau
            pretrained = self.encoder_weights(state, windows, fold, progress, own)
            key = f"probe_tau_{tau:g}"
            if key in state.done:
                continue
            network = build_network(self.config, "probe").to(state.processes.device)
            network.encoder.load_state_dict(pretrained["weights"])  # type: ignore[union-attr]
            features = all_features(network, windows, self.config, state.processes.device)
            log_p = fit_probe(network, features, windows.label, fold.train, fold.validation)
            state.done[key] = {"log_p": log_p, "weights": None, "curve": pretrained["curve"]}
            state.save(None)


def pretraining_key(fold: Fold) -> str:
    return f"pretrain_{fold.name.replace(' ', '_')}"


# ----------------------------------------------------------------------------------------------------------------------
# records


def register(
    contrast: Contrast,
    run: Run | SilentRun,
    config: EegSimclrConfig,
    data: EegData,
    network: nn.Module,
    metrics: Mapping[str, float],
    alias: str | None,
) -> ModelInfo:
    """Register the pre-trained encoder (channels in, features out) and the classifier of raw epochs in volts."""
    facts = facts_of(config, data)
    sizes = {name: getattr(config, name) for name in ("width", "kernels", "n_features", "decimate")}
    assert contrast.state is not None
    encoder = build_encoder(config)
    encoder.load_state_dict(contrast.state.done["pretrain_all"]["weights"])
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
    more = {
        "encoder": config.encoder,
        **sizes,
        "head_width": config.head_width,
        "head_pool": config.head_pool,
        "channels": config.channels,
    }
    return register_classifier(run, config, data, network, metrics, OWN, "eeg_simclr", more, alias)


def run_eeg_simclr(config: EegSimclrConfig, study_trial: StudyTrial | None = None) -> int:
    """Pre-train, train, compare, record, register; the exit status. study_trial: the run's place in a study."""
    unlabelled = None
    if config.unlabelled_runs:
        preprocessing = Preprocessing(l_freq=config.l_freq, h_freq=config.h_freq, tmin=config.tmin, tmax=config.tmax)
        unlabelled = load_eeg(
            config.dataset,
            config.cache_dir,
            config.data_dir,
            config.subjects,
            config.unlabelled_runs,
            preprocessing,
            labelled=False,
            exclude=config.exclude,
            on_bad=config.on_bad,
            checksums=config.checksums,
        )
    contrast = Contrast(config, unlabelled)

    def build(data: EegData, name: str) -> nn.Module:
        return build_network(config, name)

    def explain(
        run: Run | SilentRun,
        config: EegSimclrConfig,
        data: EegData,
        windows: Windows,
        outcome: Outcome,
        device: torch.device,
    ) -> str:
        if unlabelled is not None:
            run.log_data(
                f"{unlabelled.dataset}-unlabelled", unlabelled.fingerprint, unlabelled.summary(), "pre-training"
            )
        return record_comparison(run, config, data, windows, outcome, contrast.shares(), device)

    return run_eeg(
        "eeg_simclr",
        OWN,
        config,
        build,
        explain,
        partial(register, contrast),
        RIVALS,
        procedure=contrast.procedure(),
        study_trial=study_trial,
    )


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    config = parse_config(EegSimclrConfig, PRESETS, argv, "eeg_simclr")
    status = launch_processes(config.nproc, "trainers.eeg_simclr", argv, config.max_restarts)
    return run_eeg_simclr(config) if status is None else status

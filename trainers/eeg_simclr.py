"""Contrastive pre-training on EEG channels, then classification of imagined fist movement: `mlflow run . -e eeg_simclr`.

Config -> trials, windows, folds -> for each fold: an encoder pre-trained on channels of the training people without labels, then
fine-tuned, frozen, probed, and the same network trained from scratch, over shares of the labels -> baselines on the same folds ->
figures over subjects, does pre-training help? -> encoder and classifier for the registry -> report. trainers/eeg_run.py has what
all EEG trainers share, trainers/simclr_pretraining.py the pre-training; docs/eeg_simclr.md explains.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from common.errors import run_main
from common.progress import Progress
from data.eeg import EegData, Preprocessing, load_eeg
from data.eeg_pool import ChannelPool, check_pretraining, labelled_share, pretraining_rows
from data.eeg_recording import CHANNELS
from data.eeg_windows import Windows
from data.splits import Fold
from evaluation.classification import CLASSES
from models.eeg_augment import NAMES, AugmentRanges
from models.simclr import (
    ChannelClassifier,
    ChannelEncoder,
    LinearProbe,
    Projector,
    scaled,
)
from tracking.models import ModelInfo, log_model
from tracking.run import Run, SilentRun
from trainers.config import (
    CONFIG,
    Floats,
    Integers,
    OptionalStr,
    Strings,
    as_params,
    launch_processes,
    option,
    parse_config,
)
from trainers.eeg import PHYSIONET, EegConfig, align, autocast, predict
from trainers.eeg_registry import facts_of, register_classifier
from trainers.eeg_run import Outcome, Procedure, Progressing, run_eeg
from trainers.simclr_pretraining import Pretraining
from trainers.simclr_report import percent, record_comparison
from trainers.study_trial import StudyTrial

OWN = "simclr"
RIVALS = ("scratch", "frozen", "probe", "random_probe")
"""Not pre-trained; the head alone on the frozen encoder; a linear probe of it; and of an untrained encoder."""

DEFAULT = tuple(name for name in NAMES if name != "amplitude")
"""Views that differ in amplitude teach that power does not matter, but power is what is classified; see the docs for figures."""

SFREQ = 160.0
"""EEGMMI's sampling rate; recordings of others are refused when they are read."""

N_MOTOR = 21
"""The first channels of CHANNELS: the rows FC, C and CP, over the sensorimotor strip."""


@dataclass(frozen=True, config=CONFIG)
class EegSimclrConfig(EegConfig):
    """Pre-train a channel encoder by contrast, without labels, and see if that helps to classify imagined fist movement."""

    preset: Literal["quick", "physionet", "drawn"] = option(  # type: ignore[assignment]
        "quick",
        "quick: simulated subjects, minutes on two CPU cores; physionet: 99 people of EEGMMI, downloaded; drawn: the same with the "
        "networks and settings of Mohsenvand et al. in full size",
    )
    # Networks
    channels: Literal["all", "motor"] = option("motor", "channels looked at: all 64, or the 21 of rows FC, C and CP")
    encoder: Literal["recurrent", "convolutional"] = option("convolutional", "encoder (A) or (B) of Mohsenvand et al.")
    width: float = option(0.03, "scale of the drawn encoder's widths; 1: as drawn", gt=0)
    kernels: Integers = option((16, 8, 4, 8), "of encoder=convolutional: three branches, blocks (drawn: 128,64,16,64)")
    n_features: int = option(4, "features of a channel (drawn: 4)", ge=1)
    decimate: int = option(2, "the encoder reads every so many samples; exact while the band stays below", ge=1)
    head_width: float = option(0.06, "scale of the drawn projector's and classifier's widths; 1: as drawn", gt=0)
    projection_dim: int = option(32, "numbers that a channel is projected to for the contrast (drawn: 32)", ge=2)
    # Pre-training
    pretrain_epochs: int = option(6, "passes of the pre-training over the training windows", ge=1)
    pretrain_batch: int = option(128, "channel pairs in a batch of the pre-training, over all processes", ge=2)
    channels_per_window: int = option(2, "recombined channels drawn from each window", ge=1)
    pretrain_lr: float = option(0.003, "AdamW's learning rate in pre-training, after warm-up", gt=0)
    pretrain_weight_decay: float = option(0.0001, "AdamW's weight decay in pre-training", ge=0)
    tau: float = option(0.05, "temperature of NT-Xent", gt=0)
    mask_same_trial: bool = option(True, "channels of the same trial are no negatives of each other")
    unlabelled_runs: OptionalStr = option(None, "runs to pre-train on beside the labelled trials, such as 1-14")
    # Augmentations
    augmentations: Strings = option(DEFAULT, f"what views are made by: some of {', '.join(NAMES)}")
    n_augmentations: int = option(2, "augmentations drawn for each view of each channel", ge=1)
    amplitude: Floats = option((0.5, 2.0), "factor, from and to")
    time_shift: int = option(40, "samples, at most, to either side", ge=0)
    dc_shift: float = option(0.5, "standard deviations, at most, up or down", ge=0)
    zero_mask: Integers = option((0, 24), "samples masked, from and to")
    noise: Floats = option((0.0, 0.2), "standard deviation of Gaussian noise, from and to")
    band_stop: Floats = option((9.5, 27.5), "centre of the stopped band in Hz, from and to")
    band_width: float = option(5.0, "width of the stopped band in Hz", gt=0)
    # What it is compared over
    label_fractions: Floats = option((0.01, 0.1, 0.5, 1.0), "shares of the labelled trials to train on")
    tau_sweep: Floats = option((0.05, 0.2, 0.5), "temperatures to pre-train the first fold with, or none")
    # Other defaults than of all EEG trainers
    align: Literal["none", "euclidean"] = option(
        "euclidean",
        "euclidean: whiten everyone's windows by their own mean covariance, without labels, for all networks",
    )
    epochs: int = option(3, "passes over the training windows at most", ge=1)
    patience: int = option(3, "epochs without a better validation accuracy before training stops", ge=1)
    batch_size: int = option(32, "windows per update, over all processes", ge=1)
    updates_per_epoch: int = option(
        25, "updates of an epoch at least: where training windows are few, it passes over them more than once", ge=1
    )
    lr: float = option(0.003, "AdamW's learning rate after warm-up", gt=0)

    @model_validator(mode="after")
    def _values_agree(self) -> "EegSimclrConfig":
        for name in ("amplitude", "zero_mask", "noise", "band_stop"):
            if len(getattr(self, name)) != 2:
                raise ValueError(f"{name}: two numbers, from and to, are needed, such as 0,1")
        if len(self.kernels) != 4 or min(self.kernels) < 1:
            raise ValueError(f"kernels={self.kernels}: four numbers of at least 1 are needed")
        unknown = [name for name in self.augmentations if name not in NAMES]
        if unknown or not 1 <= self.n_augmentations <= len(self.augmentations):
            raise ValueError(
                f"augmentations: {', '.join(unknown) or 'n_augmentations=' + str(self.n_augmentations)}; allowed are "
                f"{', '.join(NAMES)}, and at least as many as n_augmentations"
            )
        augment_ranges(self, SFREQ)
        lower = SFREQ / self.decimate
        if lower / 2 <= self.h_freq:
            raise ValueError(
                f"decimate={self.decimate}: sampled at {lower:g} Hz, nothing from {lower / 2:g} Hz on is told apart, but "
                f"h_freq={self.h_freq:g}"
            )
        if self.pretrain_batch // self.channels_per_window < 2:
            raise ValueError(
                f"pretrain_batch={self.pretrain_batch}: of channels_per_window={self.channels_per_window} channels each, two "
                "windows or more must fit in"
            )
        if not all(0 < share <= 1 for share in self.label_fractions):
            raise ValueError(f"label_fractions={self.label_fractions}: shares above 0, up to 1")
        if not all(tau > 0 for tau in self.tau_sweep):
            raise ValueError(f"tau_sweep={self.tau_sweep}: temperatures must be above 0")
        shortest = -(-self.window // self.decimate)
        if self.encoder == "convolutional" and max(self.kernels) // 2 >= shortest:
            raise ValueError(
                f"kernels: {max(self.kernels)} samples cannot mirror a window of {shortest} (window / decimate)"
            )
        return self


LARGE = {
    **PHYSIONET, "channels": "all", "decimate": 1, "pretrain_epochs": 100, "pretrain_batch": 1024, "batch_size": 64, "lr": 0.001,
    "pretrain_lr": 0.001, "tau_sweep": (0.05, 0.1, 0.5), "unlabelled_runs": "1-14",
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {},
    "physionet": {**LARGE, "width": 0.25, "kernels": (64, 32, 16, 32), "head_width": 0.25},
    "drawn": {
        **LARGE, "width": 1.0, "kernels": (128, 64, 16, 64), "head_width": 1.0, "pretrain_epochs": 300, "pretrain_batch": 1000,
        "augmentations": NAMES,
    },
}  # fmt: skip


# What `tune` searches unless told otherwise, in the language of its parameter `space`.
SPACE = {
    "tau": "log:0.02..1.0", "n_augmentations": "1|2|3|4", "amplitude": "0.8,1.25|0.5,2|0.25,4", "time_shift": "10|20|40",
    "zero_mask": "0,12|0,24|0,60", "noise": "0,0.1|0,0.2|0,0.5",
}  # fmt: skip

# --------------------------------------------------------------------------------------------------------- networks, from config


def augment_ranges(config: EegSimclrConfig, sfreq: float) -> AugmentRanges:
    low_mask, high_mask = config.zero_mask
    amplitude, noise, band_stop = ((low, high) for low, high in (config.amplitude, config.noise, config.band_stop))
    return AugmentRanges(
        amplitude, config.time_shift, config.dc_shift, (low_mask, high_mask), noise, band_stop, config.band_width, sfreq
    )


def picks(config: EegSimclrConfig) -> list[int] | None:
    """Numbers of the channels looked at, None for all."""
    return list(range(N_MOTOR)) if config.channels == "motor" else None


def build_encoder(config: EegSimclrConfig) -> ChannelEncoder:
    """The channel encoder with weights drawn from torch's global generator."""
    a, b, c, d = config.kernels
    return ChannelEncoder(config.encoder, config.width, (a, b, c, d), config.n_features, config.decimate)


def build_projector(config: EegSimclrConfig) -> Projector:
    """The projector (C): a channel's features -> what the loss compares."""
    widths, d = scaled((256, 128, 64), config.head_width), scaled((128, 0, 0), config.head_width)[0]
    return Projector(config.n_features, config.projection_dim, widths, d)


def build_network(config: EegSimclrConfig, name: str) -> nn.Module:
    """The network called `name`: simclr and scratch are alike but for the encoder's first weights."""
    encoder = build_encoder(config)
    if name.endswith("probe"):
        return LinearProbe(encoder, len(CHANNELS), config.n_features, len(CLASSES), picks(config))
    frozen = name == "frozen"
    return ChannelClassifier(
        encoder, len(CHANNELS), config.n_features, len(CLASSES), config.head_width, picks(config), frozen
    )


# ------------------------------------------------------------------------------------------------- training, in several stages


class Contrast:
    """What a run trains: for each fold an encoder without labels, then every network of RIVALS and OWN on shares of the labels.

    unlabelled: further recordings to pre-train on. The encoders stand in the checkpoint under "pretrain_<fold>".
    """

    def __init__(self, config: EegSimclrConfig, unlabelled: EegData | None) -> None:
        self.config, self.unlabelled = config, unlabelled
        self.pool: ChannelPool | None = None
        self.state: Progressing | None = None
        self.features: dict[tuple[str, str], np.ndarray] = {}
        self.looked_up: set[str] = set()

    def procedure(self) -> Procedure:
        return Procedure(self.train, self.also, self.epochs)

    def epochs(self, n_folds: int) -> int:
        """All epochs of a run, for the progress shown."""
        c = self.config
        pretrainings = n_folds + 1 + len([tau for tau in c.tau_sweep if tau != c.tau])
        # Three networks are trained by epochs: pre-trained, from scratch, and on the frozen encoder.
        fits = 3 * n_folds * len(self.shares()) + c.leakage_check + 1
        return pretrainings * c.pretrain_epochs + fits * c.epochs

    def shares(self) -> list[float]:
        """The label fractions, 1 among them."""
        return sorted({*self.config.label_fractions, 1.0}, reverse=True)

    def encoder_weights(
        self, state: Progressing, windows: Windows, fold: Fold, progress: Progress, tau: float | None = None,
        look: Callable[[Pretraining], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
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
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                encoder, projector = build_encoder(config), build_projector(config)
            return Pretraining(
                config, encoder, projector, pool, rows, fold.validation, augment_ranges(config, data.sfreq),
                config.augmentations, config.n_augmentations, state.processes, tau=tau or config.tau,
                epochs=config.pretrain_epochs, pairs=config.pretrain_batch, channels_per_window=config.channels_per_window,
                lr=config.pretrain_lr, weight_decay=config.pretrain_weight_decay, mask_same_trial=config.mask_same_trial,
                picks=picks(config), pool_fingerprint="" if self.unlabelled is None else self.unlabelled.fingerprint,
            )  # fmt: skip

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
            fit_probe(network, features[fold.train], label[fold.train])
            log_p = torch.from_numpy(predict(network, windows, fold.validation, state.processes.device))
            y = torch.from_numpy(label[fold.validation])
            figures = {
                "log_loss": float(F.nll_loss(log_p, y)),
                "accuracy": float((log_p.argmax(1) == y).float().mean()),
            }
            measured = state.study_trial.measure(network, windows.gather(fold.validation[:1]))
            state.study_trial.report(state.run, {**figures, **measured}, pretraining.epoch)

        return self.encoder_weights(state, windows, fold, progress, look=look)

    def train(
        self, state: Progressing, name: str, key: str, windows: Windows, fold: Fold, label: np.ndarray, progress: Progress,
        share: float = 1.0,
    ) -> dict[str, Any]:  # fmt: skip
        """The finished fit `key` of network `name` on a share of the fold's labels."""
        self.state = state
        if state.study_trial.searching:
            return self.search(state, windows, fold, label, progress)
        weights = None
        if name not in ("scratch", "random_probe"):
            weights = self.encoder_weights(state, windows, fold, progress)["weights"]
        used = labelled_share(fold, windows, share, self.config.seed)

        def build() -> nn.Module:
            network = build_network(self.config, name)
            if weights is not None:
                network.encoder.load_state_dict(weights)  # type: ignore[union-attr]
            return network

        if name.endswith("probe"):
            return self.probe(state, name, key, build, windows, used, label)
        return state.fit(key, build, windows, used, label, progress)

    def probe(
        self, state: Progressing, name: str, key: str, build: Any, windows: Windows, fold: Fold, label: np.ndarray
    ) -> dict[str, Any]:
        """The finished linear probe `key`: logistic regression (scikit-learn) on the frozen encoder's pooled features."""
        if key in state.done:
            return state.done[key]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            network = build().to(state.processes.device)
        if (name, fold.name) not in self.features:
            self.features[name, fold.name] = all_features(network, windows, self.config, state.processes.device)
        features = self.features[name, fold.name]
        fit_probe(network, features[fold.train], label[fold.train])
        test = fold.test
        state.done[key] = {
            "log_p": torch.from_numpy(predict(network, windows, test, state.processes.device)) if len(test) else None,
            "weights": {k: value.detach().cpu() for k, value in network.state_dict().items()}, "curve": [],
        }  # fmt: skip
        state.save(None)
        return state.done[key]

    def also(self, state: Progressing, windows: Windows, folds: list[Fold], progress: Progress) -> None:
        """Smaller shares of the labels, and the sweep over temperatures, judged on the first fold's validation people."""
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
            fit_probe(network, features[fold.train], windows.label[fold.train])
            log_p = predict(network, windows, fold.validation, state.processes.device)
            state.done[key] = {"log_p": torch.from_numpy(log_p), "weights": None, "curve": pretrained["curve"]}
            state.save(None)


def pretraining_key(fold: Fold) -> str:
    return f"pretrain_{fold.name.replace(' ', '_')}"


@torch.no_grad()
def all_features(network: nn.Module, windows: Windows, config: EegSimclrConfig, device: torch.device) -> np.ndarray:
    """The probe's pooled features of every window, float32 [n_windows, n]."""
    assert isinstance(network, LinearProbe)
    network.eval()
    parts = []
    for i in range(0, len(windows), 256):
        x = windows.gather(np.arange(i, min(i + 256, len(windows)))).to(device)
        with autocast(config, device):
            parts.append(network.features(x).float().cpu())
    return torch.cat(parts).numpy()


def fit_probe(network: nn.Module, features: np.ndarray, label: np.ndarray) -> None:
    """Write a logistic regression of `label` on standardised `features` [n, d] into the probe."""
    assert isinstance(network, LinearProbe)
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
    model.fit(scaler.transform(features), label)
    with torch.no_grad():
        network.mean.copy_(torch.from_numpy(scaler.mean_))
        network.scale.copy_(torch.from_numpy(scaler.scale_))
        half = torch.from_numpy(model.coef_[0] / 2)  # softmax of (-s / 2, s / 2) is the sigmoid of s
        network.linear.weight.copy_(torch.stack([-half, half]))
        bias = float(model.intercept_[0]) / 2
        network.linear.bias.copy_(torch.tensor([-bias, bias]))


# ---------------------------------------------------------------------------------------------------------------------- records


def register(
    contrast: Contrast, run: Run | SilentRun, config: EegSimclrConfig, data: EegData, network: nn.Module,
    metrics: Mapping[str, float],
) -> ModelInfo:  # fmt: skip
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
        run, encoder, "eeg_simclr_encoder", example, registered_name="eeg-simclr-encoder",
        config={"class": "eeg-channel-encoder", "kind": config.encoder, **sizes, **seen}, params=as_params(config), tags=facts,
        metadata={**facts, "input": "channels [n, window] in standard deviations of their window over all channels"},
    )  # fmt: skip
    more = {"encoder": config.encoder, **sizes, "head_width": config.head_width, "channels": config.channels}
    return register_classifier(run, config, data, network, metrics, OWN, "eeg_simclr", more)


def run_eeg_simclr(config: EegSimclrConfig, study_trial: StudyTrial | None = None) -> int:
    """Pre-train, train, compare, record, register; the exit status. study_trial: the run's place in a study."""
    unlabelled = None
    if config.unlabelled_runs:
        preprocessing = Preprocessing(l_freq=config.l_freq, h_freq=config.h_freq, tmin=config.tmin, tmax=config.tmax)
        unlabelled = load_eeg(
            config.dataset, config.cache_dir, config.data_dir, config.subjects, config.unlabelled_runs, preprocessing,
            labelled=False, exclude=config.exclude, on_bad=config.on_bad, checksums=config.checksums,
        )  # fmt: skip
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


if __name__ == "__main__":
    run_main(main)

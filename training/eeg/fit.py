"""What the EEG trainers share: parameters, data, and the training of one classifier on one fold.

A trainer says which network it builds; everything else is here, so that two networks differ in nothing but themselves.
"""

import copy
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from common.errors import InputError
from data.eeg.align import AlignedWindows, normalise
from data.eeg.load import EegData, Preprocessing, load_eeg
from data.eeg.recording import fir_kernel
from data.eeg.splits import Fold, make_folds
from data.eeg.windows import WindowBatches, Windows
from models.eeg.align import mean_covariance, whitening
from models.eeg.augment import NAMES, AugmentRanges, augment, pad_by_reflection
from tracking.checkpoint import restore_optimizer
from training.config import CONFIG, OptionalInteger, OptionalPath, OptionalStr, Strings, option
from training.processes import Processes, average_gradients

SHRINKAGE = 0.05
"""Of the covariances that align=euclidean whitens by, see models/eeg/align.py."""


@dataclass(frozen=True, config=CONFIG)
class EegConfig:
    """Parameters of every EEG trainer."""

    preset: Literal["quick", "physionet"] = option(
        "quick", "quick: simulated subjects, minutes on two CPU cores; physionet: 96 people of EEGMMI, downloaded"
    )
    # Data
    dataset: Literal["simulated", "physionet"] = option("simulated", "simulated recordings, or PhysioNet's EEGMMI")
    data_dir: OptionalPath = option(None, "folder of EEGMMI; not given: MNE's own, filled by download")
    subjects: str = option("1-9", "subjects, as 1,3,7-20")
    runs: str = option("4,8,12", "runs with left and right fists: 4,8,12 imagined, 3,7,11 executed")
    exclude: str = option("known", "subjects to leave out: known (faulty recordings), none, or 88,92")
    on_bad: Literal["stop", "skip"] = option("stop", "what to do with a damaged recording")
    checksums: bool = option(True, "recordings of EEGMMI must have PhysioNet's bytes; false: your own in its layout")
    cache_dir: Path = option(Path("cache"), "folder of trials, shared by runs")
    l_freq: float = option(7.0, "lower edge of the band, Hz", gt=0)
    h_freq: float = option(30.0, "upper edge of the band, Hz", gt=0)
    tmin: float = option(-1.0, "start of a trial, seconds from the cue")
    tmax: float = option(4.0, "end of a trial, seconds from the cue")
    windows: Literal["views", "torcheeg"] = option(
        "views", "views of the trials, or torcheeg's MNEDataset (slow, equal)"
    )
    window: int = option(160, "samples of a window", ge=2)
    overlap: int = option(80, "samples that neighbouring windows share", ge=0)
    align: Literal["none", "euclidean"] = option(
        "none", "euclidean: whiten everyone's windows by their own mean covariance, without labels, for all networks"
    )
    # Evaluation
    split: Literal["cross_subject", "within_subject"] = option(
        "cross_subject", "test on other people, or on other runs"
    )
    n_folds: int = option(3, "groups of subjects held out in turn; 0: one subject at a time", ge=0)
    run_folds: int = option(0, "train and test on the first so many of the folds alone, as tune does; 0: all", ge=0)
    fold_seed: OptionalInteger = option(None, "seed of the folds alone; not given: that of all else, seed")
    validation_share: float = option(
        0.2, "share of the training subjects (or trials) that early stopping looks at", gt=0, lt=1
    )
    baselines: bool = option(True, "CSP + LDA, tangent space + logistic regression and EEGNet on the same folds")
    leakage_check: bool = option(True, "train once more on labels shuffled by trial: it must end at chance")
    # Training
    epochs: int = option(12, "passes over the training windows at most", ge=1)
    patience: int = option(4, "epochs without a better validation accuracy before training stops", ge=1)
    batch_size: int = option(64, "windows per update, over all processes", ge=1)
    updates_per_epoch: int = option(
        1, "updates of an epoch at least: where training windows are few, it passes over them more than once", ge=1
    )
    lr: float = option(0.001, "AdamW's learning rate after warm-up", gt=0)
    weight_decay: float = option(0.01, "AdamW's weight decay", ge=0)
    warmup: float = option(0.1, "share of the updates in which the rate rises; after it, a cosine to zero", ge=0, lt=1)
    label_smoothing: float = option(0.1, "share of the target spread over the classes", ge=0, lt=1)
    augment: Strings = option(
        (), f"augmentations of training windows, one drawn for each window: none, or some of {', '.join(NAMES)}"
    )
    precision: Literal["fp32", "bf16"] = option("fp32", "bf16: mixed precision of the networks; losses stay in fp32")
    seed: int = option(0, "seed of folds, weights, order and dropout", ge=0, le=2**31 - 1)
    # Machine and records
    device: Literal["auto", "cpu", "cuda"] = option("auto", "auto: a GPU if there is one")
    nproc: int = option(1, "processes on this machine, one GPU each (torchrun starts them)", ge=1)
    max_restarts: int = option(0, "times that torchrun starts the processes again when one of them is lost", ge=0)
    output_dir: Path = option(
        Path("runs"), "folder of checkpoints and of what is not yet delivered to the tracking server"
    )
    run_name: OptionalStr = option(None, "name of the run in MLflow")
    resume: OptionalStr = option(None, "go on with this run: its id, or latest")
    allow_changes: bool = option(False, "let a resumed run have other hyper-parameters than before")

    @model_validator(mode="after")
    def _values_allowed(self) -> "EegConfig":
        unknown = [name for name in self.augment if name not in NAMES]
        if unknown:
            raise ValueError(f"augment: {', '.join(unknown)}; allowed are none, {', '.join(NAMES)}")
        if self.batch_size % self.nproc:
            raise ValueError(
                f"batch_size: {self.batch_size} windows cannot be shared evenly by nproc={self.nproc} processes; give "
                "a multiple "
                f"of {self.nproc}"
            )
        return self


PHYSIONET = {"dataset": "physionet", "subjects": "1-99", "n_folds": 5, "epochs": 60, "patience": 10}
"""What every EEG trainer's preset "physionet" changes."""


def load_data(config: EegConfig, quiet: bool) -> tuple[EegData, Windows, list[Fold]]:
    """The trials, their windows and the folds, checked for leaks."""
    preprocessing = Preprocessing(l_freq=config.l_freq, h_freq=config.h_freq, tmin=config.tmin, tmax=config.tmax)
    half = len(fir_kernel(preprocessing.sfreq, config.l_freq, config.h_freq)) // 2
    if preprocessing.n_times <= half:  # the registered classifier mirrors half a kernel at an epoch's ends
        raise InputError(
            f"tmin={config.tmin:g}, tmax={config.tmax:g}: trials of {preprocessing.n_times} samples are no longer "
            "than half the "
            f"band-pass filter of {config.l_freq:g} to {config.h_freq:g} Hz; give at least {half + 1} samples, "
            f"{(half + 1) / preprocessing.sfreq:.2f} s"
        )
    data = load_eeg(
        config.dataset,
        config.cache_dir,
        config.data_dir,
        config.subjects,
        config.runs,
        preprocessing,
        exclude=config.exclude,
        on_bad=config.on_bad,
        checksums=config.checksums,
        quiet=quiet,
    )
    make = data.windows if config.windows == "views" else data.torcheeg_windows
    windows: Windows = make(config.window, config.overlap)
    if config.align == "euclidean":
        windows = align(windows, data, config.split)
    fold_seed = config.seed if config.fold_seed is None else config.fold_seed
    folds = make_folds(windows, config.split, config.n_folds, config.validation_share, fold_seed)
    return data, windows, folds[: config.run_folds or None]


def group_covariances(data: EegData, split: str) -> tuple[Tensor, np.ndarray]:
    """Mean covariances [n_groups, n_chans, n_chans], square microvolts, and the group of each trial.

    A group is a subject, or, in within_subject, a run.
    """
    names = data.subject if split == "cross_subject" else data.subject * 1000 + data.run
    groups, group = np.unique(names, return_inverse=True)
    trials = (torch.from_numpy(np.asarray(data.trials[group == k])) for k in range(len(groups)))
    return torch.stack([mean_covariance(1e6 * x) for x in trials]), group


def align(windows: Windows, data: EegData, split: str) -> AlignedWindows:
    """The windows of every subject (or, in within_subject, of every run) whitened by the mean covariance of all their
    trials.
    """
    covariances, group = group_covariances(data, split)
    matrices = torch.stack([whitening(covariance, SHRINKAGE) for covariance in covariances])
    return AlignedWindows(windows, matrices.float().numpy(), group[windows.trial])


# ------------------------------------------------------------------------------------------------------------------
# training


def warm_cosine(share: float, warmup: float) -> float:
    """The factor of the learning rate after a `share` (0 to 1) of all updates: a linear rise, then half a cosine to
    zero.
    """
    return share / warmup if share < warmup else 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


class Fit:
    """The training of one network on one fold: AdamW, warm-up and cosine, early stopping on the validation windows.

    `state_dict` holds all that a resumed process needs to end with the same weights: network, optimiser, the order of
    the windows, dropout's generator, the best weights so far.
    """

    def __init__(
        self,
        config: EegConfig,
        network: nn.Module,
        windows: Windows,
        fold: Fold,
        processes: Processes,
        label: np.ndarray,
    ) -> None:
        self.config, self.network, self.windows, self.fold, self.processes = config, network, windows, fold, processes
        self.label = torch.from_numpy(label)
        batch = min(config.batch_size, len(fold.train) // processes.world_size * processes.world_size)
        passes = math.ceil(config.updates_per_epoch / (len(fold.train) // batch))
        self.batches = WindowBatches(
            windows,
            np.tile(fold.train, passes),
            batch,
            config.seed,
            processes.device,
            processes.rank,
            processes.world_size,
        )
        self.optimizer = torch.optim.AdamW(network.parameters(), config.lr, weight_decay=config.weight_decay)
        counts = torch.bincount(self.label[fold.train], minlength=2).float()
        self.class_weight = (counts.sum() / (2 * counts)).to(processes.device)
        self.epoch, self.update, self.best_loss, self.best_epoch = 0, 0, math.inf, -1
        self.best = copy.deepcopy(network.state_dict())
        self.curve: list[dict[str, float]] = []

    @property
    def finished(self) -> bool:
        return self.epoch >= self.config.epochs or self.epoch - self.best_epoch > self.config.patience

    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine to zero."""
        share = (self.update + 1) / (len(self.batches) * self.config.epochs)
        return self.config.lr * warm_cosine(share, self.config.warmup)

    def run_epoch(self) -> dict[str, float]:
        """One pass over the training windows, then the validation figures; returns the epoch's point of the curves."""
        losses, right = [], []
        began = time.perf_counter()
        for x, _, chosen in self.batches:
            self.network.train()
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate()
            y = self.label[chosen.cpu()].to(x.device)
            # All randomness of an update from its seed and number alone: a resumed run draws the same.
            seed = self.config.seed * 1_000_003 + self.update * 101 + self.processes.rank
            x = augmented(x, self.config, torch.Generator().manual_seed(seed))
            with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                torch.manual_seed(seed)
                with autocast(self.config, x.device):
                    logits = self.network(x)
            logits = logits.float()
            loss = F.cross_entropy(logits, y, self.class_weight, label_smoothing=self.config.label_smoothing)
            self.optimizer.zero_grad()
            loss.backward()
            average_gradients(self.network)
            self.optimizer.step()
            self.update += 1
            losses.append(loss.detach())
            right.append((logits.detach().argmax(1) == y).float().mean())
        train_loss = self.processes.mean(torch.stack(losses).mean()).item()
        if not math.isfinite(train_loss):
            raise FloatingPointError(f"{self.fold.name}, epoch {self.epoch + 1}: the training loss is {train_loss}")
        seconds = time.perf_counter() - began
        log_p = predict(self.network, self.windows, self.fold.validation, self.processes.device)
        y = self.label[self.fold.validation]
        # The first process's figures in all of them, so that all stop alike.
        validation_loss, validation_accuracy = self.processes.share(
            (
                F.nll_loss(torch.from_numpy(log_p), y).item(),
                float((torch.from_numpy(log_p).argmax(1) == y).float().mean()),
            )
        )
        # By accuracy, and by loss only between equals: a network may grow too sure on the few validation subjects, so
        # that its loss is lowest before it has learnt anything, while its ranking of their trials still improves.
        before = self.curve[self.best_epoch]["validation_accuracy"] if self.best_epoch >= 0 else -1.0
        if (validation_accuracy, -validation_loss) > (before, -self.best_loss):
            self.best_loss, self.best_epoch = validation_loss, self.epoch
            self.best = copy.deepcopy(self.network.state_dict())
        self.epoch += 1
        point = {
            "train_loss": train_loss,
            "train_accuracy": self.processes.mean(torch.stack(right).mean()).item(),
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
        }
        self.curve.append(point)
        n_windows = len(self.batches) * self.batches.batch_size
        return {**point, "windows_per_second": n_windows / seconds, "epoch_seconds": time.perf_counter() - began}

    def best_point(self) -> dict[str, float]:
        """Log-loss and accuracy on the validation windows after the best epoch so far."""
        return {"log_loss": self.best_loss, "accuracy": self.curve[self.best_epoch]["validation_accuracy"]}

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.state_dict(),
            "best": self.best,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "epoch": self.epoch,
            "update": self.update,
            "curve": self.curve,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.batches.load_state_dict(state["batches"])
        self.best, self.best_loss, self.best_epoch = state["best"], state["best_loss"], state["best_epoch"]
        self.epoch, self.update, self.curve = state["epoch"], state["update"], list(state["curve"])

    def result(self) -> dict[str, Any]:
        """The test windows' log-probabilities by the best weights (None without any), those weights, and the curves."""
        self.network.load_state_dict(self.best)
        test, device = self.fold.test, self.processes.device
        return {
            "log_p": torch.from_numpy(predict(self.network, self.windows, test, device)) if len(test) else None,
            "weights": {name: value.cpu() for name, value in self.best.items()},
            "curve": self.curve,
        }


def augmented(x: Tensor, config: EegConfig, generator: torch.Generator) -> Tensor:
    """Windows [n, n_chans, n_times], each with one of the augmentations that `config` names, the same for all its
    channels.
    """
    if not config.augment:
        return x
    margin = min(AugmentRanges.time_shift, x.shape[-1] - 1)
    ranges = AugmentRanges(time_shift=margin)
    return normalise(augment(pad_by_reflection(x, margin), x.shape[-1], ranges, generator, 1, config.augment))


def autocast(config: EegConfig, device: torch.device) -> torch.autocast:
    """Mixed precision, if `config` asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


@torch.no_grad()
def predict(
    network: nn.Module, windows: Windows, chosen: np.ndarray, device: torch.device, batch: int = 64
) -> np.ndarray:
    """Log-probabilities [n, 2] of the windows `chosen`, the network in eval mode.

    batch: windows at a time; 256 of them do not stay in a CPU's cache, and EEGNet takes twice as long.
    """
    network.eval()
    parts = [
        network(windows.gather(chosen[i : i + batch]).to(device)).float().log_softmax(1).cpu()
        for i in range(0, len(chosen), batch)
    ]
    return torch.cat(parts).double().numpy()

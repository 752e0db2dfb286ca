"""The training of one EEG classifier on one fold, the same for all networks, so that they differ in nothing else."""

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.progress import Progress
from data.eeg.aligned_windows import normalise
from data.eeg.splits import Fold
from data.eeg.windows import WindowBatches, Windows
from evaluation.classification import balanced_accuracy
from models.eeg.augment import AugmentRanges, augment, pad_by_reflection
from models.sync_norm import synchronise_batch_norms
from training.eeg.config import EegConfig
from training.optimizer import restore_optimizer
from training.processes import Processes, average_gradients
from training.session import NotFinite, Session

ADVICE = "Lower lr, or look at the recordings"
"""What to do about a loss that is not finite."""


def warm_cosine(share: float, warmup: float) -> float:
    """The factor of the learning rate after a `share` (0 to 1) of all updates: a linear rise, then half a cosine to
    zero.
    """
    share = min(share, 1.0)  # a resumed run may have had more updates in an epoch
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
            batch_size=batch,
            seed=config.seed,
            device=processes.device,
            rank=processes.rank,
            world_size=processes.world_size,
        )
        self.optimizer = torch.optim.AdamW(network.parameters(), config.lr, weight_decay=config.weight_decay)
        counts = torch.bincount(self.label[fold.train], minlength=int(self.label.max()) + 1).float()
        self.class_weight = (counts.sum() / (len(counts) * counts.clamp_min(1))).to(processes.device)
        self.epoch, self.update, self.best_loss, self.best_epoch = 0, 0, math.inf, -1
        self.best_accuracy = -1.0  # balanced, so that a constant answer is not the best where one class is larger
        self.best = copy.deepcopy(network.state_dict())
        self.curve: list[dict[str, float]] = []
        self.seconds = 0.0

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
            raise NotFinite(f"{self.fold.name}, epoch {self.epoch + 1}: the training loss is {train_loss}")
        seconds = time.perf_counter() - began
        log_p = predict(self.network, self.windows, self.fold.validation, self.processes.device)
        y = self.label[self.fold.validation]
        # The first process's figures in all of them, so that all stop alike.
        validation_loss, validation_accuracy, balanced = self.processes.share(
            (
                F.nll_loss(torch.from_numpy(log_p), y).item(),
                float((torch.from_numpy(log_p).argmax(1) == y).float().mean()),
                torch.tensor(balanced_accuracy(y.numpy(), log_p.argmax(1))).item(),
            )
        )
        # By balanced accuracy, and by loss only between equals: a network may grow too sure on the few validation
        # subjects, so that its loss is lowest before it has learnt anything, while its ranking of their trials still
        # improves.
        if (balanced, -validation_loss) > (self.best_accuracy, -self.best_loss):
            self.best_loss, self.best_epoch, self.best_accuracy = validation_loss, self.epoch, balanced
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
        self.seconds += time.perf_counter() - began
        return {**point, "windows_per_second": n_windows / seconds, "epoch_seconds": time.perf_counter() - began}

    def best_point(self) -> dict[str, float]:
        """Log-loss and balanced accuracy on the validation windows after the best epoch so far."""
        return {"log_loss": self.best_loss, "accuracy": self.best_accuracy}

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.state_dict(),
            "best": self.best,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "best_accuracy": self.best_accuracy,
            "epoch": self.epoch,
            "update": self.update,
            "curve": self.curve,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.batches.load_state_dict(state["batches"])
        self.best, self.best_loss, self.best_epoch = state["best"], state["best_loss"], state["best_epoch"]
        self.epoch, self.update, self.curve = state["epoch"], state["update"], list(state["curve"])
        self.seconds = state.get("seconds", math.nan)
        if "best_accuracy" in state:
            self.best_accuracy = state["best_accuracy"]
        elif self.best_epoch >= 0:  # a checkpoint from before balanced accuracy chose the best epoch
            self.best_accuracy = self.curve[self.best_epoch]["validation_accuracy"]

    def result(self) -> dict[str, Any]:
        """The test windows' log-probabilities by the best weights (None without any), those weights, and the curves."""
        self.network.load_state_dict(self.best)
        test, device = self.fold.test, self.processes.device
        return {
            "log_p": torch.from_numpy(predict(self.network, self.windows, test, device)) if len(test) else None,
            "weights": {name: value.cpu() for name, value in self.best.items()},
            "curve": self.curve,
            "seconds": self.seconds,
        }


def final_fit(config: EegConfig, own: str, windows: Windows, folds: list[Fold]) -> tuple[str, Fold]:
    """(key, fold) of the fit of `own` that is registered.

    The first fold's validation windows to stop by, all others to train on, none to test. With `test_subjects`, who are
    trained on nowhere, it is the fit that was measured.
    """
    if config.test_subjects:
        return f"{own}_fold1", folds[0]
    everything = np.arange(len(windows))
    held_out = folds[0].validation
    return "final", Fold("all", np.setdiff1d(everything, held_out), held_out, np.array([], dtype=int))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, PyTorch's global generator begins at `seed`; afterwards it is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Fitting:
    """What the fits of a run share."""

    session: Session
    progress: Progress
    config: EegConfig
    windows: Windows

    def fit(self, key: str, network: nn.Module, fold: Fold, label: np.ndarray) -> dict[str, Any]:
        """The finished fit `key` of a fresh network: trained now, or by an earlier process of the run.
        {"log_p": test log-probabilities or None, "weights": ..., "curve": ...}.

        label: of all windows. Raises Stopped after the epoch in which a signal came, NotFinite, and Pruned by a study.
        """
        end = self.progress.done + self.config.epochs
        result = self.session.once(key, lambda: self._train(key, network, fold, label))
        self.progress.advance_to(end)
        return result

    def _train(self, key: str, network: nn.Module, fold: Fold, label: np.ndarray) -> dict[str, Any]:
        """Train epoch by epoch, with a checkpoint after each."""
        session, progress, config = self.session, self.progress, self.config
        network = network.to(session.device)
        if session.processes.world_size > 1:
            synchronise_batch_norms(network)
        fit = Fit(config, network, windows=self.windows, fold=fold, processes=session.processes, label=label)
        session.restore(key, fit)
        progress.advance(fit.epoch)
        for point in session.epochs(key, fit):
            session.run.log_metrics({f"{key}_{name}": value for name, value in point.items()}, step=fit.epoch)
            progress.advance(note=f"{key}: validation accuracy {point['validation_accuracy']:.3f}")
            if session.trial.searching:
                measured = session.trial.measure(network, self.windows.gather(fold.validation[:1]))
                session.trial.report(session.run, {**fit.best_point(), **measured}, fit.epoch)
        return fit.result()


def augmented(x: Tensor, config: EegConfig, generator: torch.Generator) -> Tensor:
    """Windows [n, n_chans, n_times], each with one of the augmentations that `config` names, the same for all its
    channels.
    """
    if not config.augment:
        return x
    margin = min(AugmentRanges.time_shift, x.shape[-1] - 1)
    ranges = AugmentRanges(time_shift=margin)
    padded = pad_by_reflection(x, margin)
    return normalise(augment(padded, x.shape[-1], ranges, generator, n_applied=1, names=config.augment))


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

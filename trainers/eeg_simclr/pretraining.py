"""Contrastive pre-training of a channel encoder: two views of each channel, NT-Xent, resumable at every epoch."""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import InputError
from common.progress import Progress
from data.eeg.load import EegData
from data.eeg.pool import ChannelPool
from data.eeg.splits import Fold
from data.eeg.windows import WindowBatches, Windows
from models.eeg.augment import recombine, views
from models.eeg.nt_xent import alignment, nt_xent, uniformity
from models.sync_norm import synchronise_batch_norms
from trainers.eeg_simclr.config import EegSimclrConfig, augment_ranges
from trainers.eeg_simclr.networks import build_encoder, build_projector
from training.eeg.fit import seeded, warm_cosine
from training.eeg.load import align
from training.optimizer import restore_optimizer
from training.processes import Processes, average_gradients
from training.session import NotFinite, Session

MONITORED = 128
"""Validation windows, at most, that the loss after each epoch is measured on."""


class Pretraining:
    """The pre-training that `config` asks for, of an encoder and a projector drawn from its seed, on the rows `train`
    of a pool of channels.

    A batch takes windows, draws `channels_per_window` recombined channels from each, makes two views of every one and
    projects them. The weights with the lowest loss on the validation rows are kept. `state_dict` holds all that a
    resumed process needs to end with the same weights.

    Args:
        pool_fingerprint: of the recordings, checked on resuming.
    """

    def __init__(
        self,
        config: EegSimclrConfig,
        pool: ChannelPool,
        train: np.ndarray,
        validation: np.ndarray,
        processes: Processes,
        pool_fingerprint: str = "",
    ) -> None:
        self.config, self.pool, self.processes, self.pool_fingerprint = config, pool, processes, pool_fingerprint
        with seeded(config.seed):
            networks = {"encoder": build_encoder(config), "projector": build_projector(config)}
        self.network = nn.ModuleDict(networks).to(processes.device)
        if processes.world_size > 1:
            synchronise_batch_norms(self.network)
        self.ranges = augment_ranges(config, config.sfreq)
        n_windows = min(config.pretrain_batch // config.channels_per_window, len(train))
        n_windows -= n_windows % processes.world_size
        self.batches = WindowBatches(
            pool,
            train,
            batch_size=n_windows,
            seed=config.seed,
            device=processes.device,
            rank=processes.rank,
            world_size=processes.world_size,
        )
        # An even choice over the validation rows, so that every subject is in it.
        self.validation = validation[np.linspace(0, len(validation) - 1, min(MONITORED, len(validation))).astype(int)]
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), config.pretrain_lr, weight_decay=config.pretrain_weight_decay
        )
        self.epoch, self.update, self.best_loss = 0, 0, math.inf
        self.best = copy.deepcopy(self.network.state_dict())
        self.curve: list[dict[str, float]] = []

    @property
    def finished(self) -> bool:
        return self.epoch >= self.config.pretrain_epochs

    def project(self, x: Tensor, trial: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Stretches [n, n_chans, window + 2 margin] of trials [n] -> two views' projections [n k, D] and their trials
        [n k].
        """
        config = self.config
        channels = recombine(x, config.channels_per_window, generator).flatten(0, 1)
        pair = views(
            channels,
            self.pool.window,
            self.ranges,
            generator,
            n_applied=config.n_augmentations,
            names=tuple(config.augmentations),
        )
        with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            # Both views at once: batch statistics of one view alone would tell the views apart.
            z = self.network["projector"](self.network["encoder"](torch.cat(pair)))
        z_a, z_b = z.float().chunk(2)
        return z_a, z_b, trial.repeat_interleave(config.channels_per_window)

    def run_epoch(self) -> dict[str, float]:
        """One pass over the training rows, then loss, alignment and uniformity on validation rows; the epoch's
        point.
        """
        config, losses = self.config, []
        for x, _, chosen in self.batches:
            self.network.train()
            for group in self.optimizer.param_groups:
                share = (self.update + 1) / (len(self.batches) * config.pretrain_epochs)
                group["lr"] = config.pretrain_lr * warm_cosine(share, config.warmup)
            # All randomness of an update from its seed and number alone: a resumed run draws the same.
            seed = config.seed * 1_000_003 + self.update * 101 + self.processes.rank
            z_a, z_b, trial = self.project(x, self.trials_of(chosen), torch.Generator().manual_seed(seed))
            masked = trial if config.mask_same_trial else None
            loss = gathered_nt_xent(z_a, z_b, config.tau, trial=masked, processes=self.processes)
            self.optimizer.zero_grad()
            (loss * self.processes.world_size).backward()
            average_gradients(self.network)
            self.optimizer.step()
            self.update += 1
            losses.append(loss.detach())
        train_loss = self.processes.mean(torch.stack(losses).mean()).item()
        if not math.isfinite(train_loss):
            raise NotFinite(f"pre-training, epoch {self.epoch + 1}: the loss is {train_loss}")
        point = {"train_loss": train_loss, **self.monitor()}
        if point["validation_loss"] <= self.best_loss:
            self.best_loss, self.best = point["validation_loss"], copy.deepcopy(self.network.state_dict())
        self.epoch += 1
        self.curve.append(point)
        return point

    def trials_of(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self.pool.trial[rows.cpu().numpy()]).to(rows.device)

    @torch.no_grad()
    def monitor(self) -> dict[str, float]:
        """NT-Xent, alignment and uniformity of validation channels, always the same channels and views."""
        self.network.eval()
        x = self.pool.gather(self.validation).to(self.processes.device)
        trial = self.trials_of(torch.from_numpy(self.validation)).to(x.device)
        z_a, z_b, trial = self.project(x, trial, torch.Generator().manual_seed(self.config.seed))
        loss = nt_xent(z_a, z_b, self.config.tau, trial if self.config.mask_same_trial else None)
        found = {
            "validation_loss": float(loss),
            "alignment": float(alignment(z_a, z_b)),
            "uniformity": float(uniformity(z_a)),
        }
        shared: dict[str, float] = self.processes.share(found)
        return shared

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.state_dict(),
            "best": self.best,
            "best_loss": self.best_loss,
            "epoch": self.epoch,
            "update": self.update,
            "curve": self.curve,
            "pool": self.pool_fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["pool"] != self.pool_fingerprint:
            raise InputError("resume: the unlabelled recordings are others than those the run began with")
        self.network.load_state_dict(state["network"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.batches.load_state_dict(state["batches"])
        self.best, self.best_loss = state["best"], state["best_loss"]
        self.epoch, self.update, self.curve = state["epoch"], state["update"], list(state["curve"])

    def result(self) -> dict[str, Any]:
        """The best weights of the encoder and of the projector, and the curves."""

        def part(name: str) -> dict[str, Tensor]:
            begin = f"{name}."
            return {key.removeprefix(begin): v.cpu() for key, v in self.best.items() if key.startswith(begin)}

        return {"weights": part("encoder"), "projector": part("projector"), "curve": self.curve}


def gathered_nt_xent(z_a: Tensor, z_b: Tensor, tau: float, trial: Tensor | None, processes: Processes) -> Tensor:
    """NT-Xent over the pairs of all processes, the same value in each.

    Only this process's own rows carry a gradient, that of the whole loss: the sum of the processes' gradients is one
    process's with all pairs. `average_gradients` takes the mean, so multiply by the number of processes.
    """
    if processes.world_size == 1:
        return nt_xent(z_a, z_b, tau, trial)
    import torch.distributed as dist

    def gathered(own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(processes.world_size)]
        dist.all_gather(parts, own.detach().contiguous())
        parts[processes.rank] = own
        return torch.cat(parts)

    return nt_xent(gathered(z_a), gathered(z_b), tau, None if trial is None else gathered(trial))


def build_pool(config: EegSimclrConfig, data: EegData, windows: Windows, unlabelled: EegData | None) -> ChannelPool:
    """All windows to pre-train on: of the trials, and of further recordings without labels, aligned alike."""
    sources = [(data, windows)]
    if unlabelled is not None:
        further: Windows = unlabelled.windows(config.window, config.overlap)
        aligned = config.align == "euclidean"
        sources.append((unlabelled, align(further, unlabelled, config.split) if aligned else further))
    return ChannelPool(sources, config.window, config.time_shift)


def pretraining_key(fold: Fold) -> str:
    """Where the finished pre-training for a fold stands in the checkpoint."""
    return f"pretrain_{fold.name.replace(' ', '_')}"


def pretraining_epochs(session: Session, progress: Progress, key: str, work: Pretraining) -> Iterator[None]:
    """Train to the end, from where an earlier process of the run stopped; the caller has a turn after every epoch."""
    session.restore(key, work)
    progress.advance(work.epoch)
    for point in session.epochs(key, work):
        session.run.log_metrics({f"{key}_{name}": value for name, value in point.items()}, step=work.epoch)
        progress.advance(note=f"{key}: validation loss {point['validation_loss']:.3f}")
        yield

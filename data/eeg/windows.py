"""Windows of trials: views into the array of trials, normalised when read, and batches of them.

The exercise cuts each trial into windows of 160 samples that overlap by 80 and normalises each by its own mean and
standard deviation over all channels together: per channel, the ratio of left to right power, which holds the label,
would be gone. Storing every window costs twice the memory of the trials; here a window is a pair (trial, first sample)
with a mean and a deviation.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

from common.errors import InputError

TRIALS_AT_ONCE = 32  # while measuring windows: 32 trials in float64 are 13 MB
FLOOR_VOLTS = 1e-9  # a thousandth of a step of EEGMMI's converter: a deviation below is the filter's rounding
FLOOR_SHARE = 1e-6  # of the mean: a deviation below is float32's rounding


def recording_number(subject: np.ndarray, run: np.ndarray) -> np.ndarray:
    """One number for each subject and run, [n]; numbers of runs are below 1000."""
    return subject * 1000 + run


class Windows(Protocol):
    """What batches and splits need of windows; `EegWindows` and `TorcheegWindows` both have it."""

    trial: np.ndarray
    position: np.ndarray
    start: np.ndarray
    label: np.ndarray
    subject: np.ndarray
    run: np.ndarray

    def __len__(self) -> int: ...

    def gather(self, indices: np.ndarray | torch.Tensor) -> torch.Tensor: ...


class EegWindows:
    """All windows of `trials` in order: trial by trial, and within a trial by time.

    trials: float32 [n_trials, n_chans, n_times], array or memory map, in volts. label, subject, run: int64
    [n_trials].
    window, overlap: samples; window k of a trial covers samples [k * (window - overlap), k * (window -
    overlap) + window).

    Attributes, one entry per window: `trial` (row of `trials`), `position` (k), `start` (first sample),
    `label`, `subject`, `run` (int64), `mean` and `sd` (float64, volts). A window without any variation but rounding
    gets sd 1, so that it reads as zeros, not as NaN or amplified noise.
    """

    def __init__(
        self,
        trials: np.ndarray,
        label: np.ndarray,
        subject: np.ndarray,
        run: np.ndarray,
        window: int = 160,
        overlap: int = 80,
    ) -> None:
        starts = window_starts(trials.shape[2], window, overlap)
        # A plain view: slicing an np.memmap makes a new memmap each time, a third of the cost of a window.
        self.trials, self.window, self.overlap = trials.view(np.ndarray), window, overlap
        self.trial = np.repeat(np.arange(len(trials)), len(starts))
        self.position = np.tile(np.arange(len(starts)), len(trials))
        self.start = np.tile(starts, len(trials))
        self.label, self.subject, self.run = label[self.trial], subject[self.trial], run[self.trial]
        self.mean, self.sd = window_moments(trials, starts, window)
        self._on_device: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.trial)

    def to(self, device: torch.device | str) -> "EegWindows":
        """Keep the trials on a GPU and gather there, if they fit in half of its free memory; returns self.

        On a CPU there is nothing to do: the memory map is read in place.
        """
        device = torch.device(device)
        if device.type == "cuda" and 2 * self.trials.nbytes < torch.cuda.mem_get_info(device)[0]:
            self._on_device = torch.from_numpy(np.asarray(self.trials)).to(device)
        return self

    def gather(self, indices: np.ndarray | torch.Tensor) -> torch.Tensor:
        """The windows `indices` [n], normalised: float32 [n, n_chans, window], on the device given to `to`,
        else on the CPU.
        """
        if self._on_device is not None:
            return self._gather_on_device(torch.as_tensor(indices))
        chosen = np.asarray(indices)
        batch = np.empty((len(chosen), self.trials.shape[1], self.window), np.float32)
        mean, scale = self.mean[chosen].astype(np.float32), (1.0 / self.sd[chosen]).astype(np.float32)
        # One window at a time, both steps while it is in the cache: 2-3 times as fast as torch's indexing of an
        # unfolded view followed by a normalisation of the whole batch (157,000 against 83,000 windows/s with trials
        # in the processor's cache, 105,000 against 39,000 out of it, one core).
        rows = zip(batch, self.trial[chosen].tolist(), self.start[chosen].tolist(), mean, scale, strict=True)
        for out, trial, start, m, s in rows:
            np.subtract(self.trials[trial, :, start : start + self.window], m, out)
            np.multiply(out, s, out)
        return torch.from_numpy(batch)

    def _gather_on_device(self, indices: torch.Tensor) -> torch.Tensor:
        assert self._on_device is not None
        device = self._on_device.device
        chosen = indices.cpu().numpy()
        views = self._on_device.unfold(
            2, self.window, self.window - self.overlap
        )  # [n_trials, n_chans, n_positions, window]
        trial, position = (torch.from_numpy(column[chosen]).to(device) for column in (self.trial, self.position))
        moments = np.stack([self.mean[chosen], 1.0 / self.sd[chosen]]).astype(np.float32)
        mean, scale = torch.from_numpy(moments).to(device)[:, :, None, None]
        return views[trial, :, position].sub_(mean).mul_(scale)


def window_starts(n_times: int, window: int, overlap: int) -> np.ndarray:
    """First samples of the windows that fit into `n_times` samples; InputError if none does or they would not
    advance.
    """
    if not 2 <= window <= n_times:
        raise InputError(f"window={window}: a window needs 2 to {n_times} samples (a trial has {n_times})")
    if not 0 <= overlap < window:
        raise InputError(f"overlap={overlap}: windows of {window} samples can overlap by 0 to {window - 1}")
    return np.arange(0, n_times - window + 1, window - overlap)


def window_moments(trials: np.ndarray, starts: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (divisor n) of every window over channels and time, float64 [n_trials *
    n_windows], trial by trial.
    """
    means, deviations = [], []
    for first in range(0, len(trials), TRIALS_AT_ONCE):
        block = np.asarray(trials[first : first + TRIALS_AT_ONCE], dtype=np.float64)
        # Sums over channels first, then running sums over time: each sample is read once however much the
        # windows overlap.
        sums = np.stack([block.sum(axis=1), np.einsum("nct,nct->nt", block, block)])
        running = np.concatenate([np.zeros((*sums.shape[:2], 1)), sums.cumsum(axis=2)], axis=2)
        mean, square = (running[:, :, starts + window] - running[:, :, starts]) / (window * trials.shape[1])
        means.append(mean.ravel())
        deviations.append(np.sqrt(np.maximum(square - mean**2, 0.0)).ravel())
    mean, sd = np.concatenate(means), np.concatenate(deviations)
    return mean, floored(mean, sd)


def floored(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """`sd`, but 1 where it is no more than rounding leaves of a constant (volts)."""
    return np.where(sd > np.maximum(FLOOR_VOLTS, FLOOR_SHARE * np.abs(mean)), sd, 1.0)


class WindowBatches:
    """Shuffled batches of windows that can be resumed anywhere: the order depends on the seed and the epoch alone.

    Every epoch is one permutation of `indices`, cut into global batches of `batch_size`; the last, smaller
    one is left out. Process `rank` of `world_size` takes its contiguous part of each global batch, so the
    processes' parts joined by rank are the batch one process would see. Iterating gives the rest of the
    current epoch and leaves the state at the start of the next.
    """

    def __init__(
        self,
        windows: Windows,
        indices: np.ndarray,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise InputError(
                f"batch_size={batch_size} cannot be shared by {world_size} processes; take a multiple of {world_size}"
            )
        if batch_size < 1 or batch_size > len(indices):
            raise InputError(
                f"batch_size={batch_size}: there are {len(indices)} training windows, so 1 to "
                f"{len(indices)} are allowed"
            )
        self.windows, self.indices = windows, np.asarray(indices)
        self.batch_size, self.seed, self.device = batch_size, seed, torch.device(device)
        self.rank, self.world_size = rank, world_size
        self.epoch, self.batch = 0, 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.indices) // self.batch_size

    def state_dict(self) -> dict[str, Any]:
        """The position: {"seed", "epoch", "batch"}; `batch` of the current epoch comes next."""
        return {"seed": self.seed, "epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; the windows, the batch size and the seed must be those it was saved with."""
        if state["seed"] != self.seed:
            raise InputError(
                f"seed={self.seed}: the saved batches were drawn with seed={state['seed']}; resume with that one"
            )
        self.epoch, self.batch = state["epoch"], state["batch"]

    def order(self, epoch: int) -> np.ndarray:
        """The windows of that epoch in the order they are visited, over all processes."""
        permutation = np.random.default_rng([self.seed, epoch]).permutation(len(self.indices))
        return self.indices[permutation]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yields (windows float32 [n, n_chans, window], labels int64 [n], window numbers int64 [n]) on the
        device.
        """
        order = self.order(self.epoch)
        share = self.batch_size // self.world_size
        while self.batch < len(self):
            first = self.batch * self.batch_size + self.rank * share
            chosen = order[first : first + share]
            self.batch += 1  # before the yield: whoever saves the state after this batch resumes with the next
            if self.batch == len(self):
                self.epoch, self.batch = self.epoch + 1, 0
                yield self._load(chosen)
                return
            yield self._load(chosen)

    def _load(self, chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return (
            self.windows.gather(chosen).to(self.device, non_blocking=True),
            torch.from_numpy(self.windows.label[chosen]).to(self.device, non_blocking=True),
            torch.from_numpy(chosen).to(self.device, non_blocking=True),
        )

"""Windows for pre-training channels: those of labelled trials and of unlabelled recordings.

Each window comes with the samples around it. No label is read here. `pretraining_rows` decides which rows a fold may
use, and `check_pretraining` checks the result.
"""

from collections.abc import Sequence

import numpy as np
import torch

from data.eeg.aligned_windows import AlignedWindows, centred_over
from data.eeg.load import EegData
from data.eeg.splits import Fold, LeakageError
from data.eeg.windows import Windows, recording_number


class ChannelPool:
    """Windows of several data sets in a row, read with `margin` samples on both sides.

    Args:
        sources: (trials and their windows), the run's own data first: row i < len(windows) is its window i. Aligned
        windows are read aligned. window, margin: samples.

    Attributes, for each row: `source`; `trial`, unique over the sources; `subject`, `run`, `position`, `start`; `label`
    (-1: none).
    """

    def __init__(self, sources: Sequence[tuple[EegData, Windows]], window: int, margin: int) -> None:
        self.trials = [data.trials.view(np.ndarray) for data, _ in sources]
        self.window, self.margin = window, margin
        self.source = np.concatenate([np.full(len(windows), i) for i, (_, windows) in enumerate(sources)])
        first = np.cumsum([0, *(len(trials) for trials in self.trials)])
        self.first = first
        self.trial = np.concatenate([windows.trial + first[i] for i, (_, windows) in enumerate(sources)])
        # The aligning matrix of each row; None where nothing is aligned.
        self.matrices = [w.matrices.cpu() if isinstance(w, AlignedWindows) else None for _, w in sources]
        self.group = np.concatenate(
            [w.group.numpy() if isinstance(w, AlignedWindows) else np.zeros(len(w), int) for _, w in sources]
        )
        columns = ("subject", "run", "position", "start", "label")
        self.subject, self.run, self.position, self.start, self.label = (
            np.concatenate([getattr(windows, name) for _, windows in sources]) for name in columns
        )

    def __len__(self) -> int:
        return len(self.trial)

    def gather(self, indices: np.ndarray | torch.Tensor) -> torch.Tensor:
        """The rows `indices` [n]: float32 [n, n_chans, window + 2 margin], normalised by the middle window's mean and
        deviation.

        Where a trial begins or ends within the margin, its own samples are mirrored.
        """
        chosen = np.asarray(indices)
        n_chans, length = self.trials[0].shape[1], self.window + 2 * self.margin
        raw = np.empty((len(chosen), n_chans, length), np.float32)
        for out, row in zip(raw, chosen.tolist(), strict=True):
            x = self.trials[self.source[row]][self.trial[row] - self.first[self.source[row]]]
            begin = self.start[row] - self.margin
            if begin >= 0 and begin + length <= x.shape[1]:  # a slice is several times as fast as chosen samples
                np.multiply(x[:, begin : begin + length], np.float32(1e6), out)  # squares of volts would lose digits
            else:
                np.multiply(x[:, mirrored(np.arange(begin, begin + length), x.shape[1])], np.float32(1e6), out)
        middle = slice(self.margin, self.margin + self.window)
        batch = torch.from_numpy(raw)
        batch -= batch[..., middle].mean((1, 2), keepdim=True)
        for number, matrices in enumerate(self.matrices):
            of = np.flatnonzero(self.source[chosen] == number)
            if matrices is not None and len(of):
                batch[of] = matrices[self.group[chosen[of]]] @ batch[of]
        return centred_over(batch, middle)


def mirrored(index: np.ndarray, n: int) -> np.ndarray:
    """Sample numbers, some before 0 or from n on, mirrored at the first and the last sample: -2 is 2, n is n - 2."""
    if n == 1:
        return np.zeros_like(index)
    folded = np.abs(index) % (2 * (n - 1))
    return np.minimum(folded, 2 * (n - 1) - folded)


def _recordings(subject: np.ndarray, run: np.ndarray, split: str) -> np.ndarray:
    """What must not be shared with held-out windows: the subject (cross_subject), or the subject's run
    (within_subject).
    """
    return subject if split == "cross_subject" else recording_number(subject, run)


def pretraining_rows(pool: ChannelPool, windows: Windows, fold: Fold, split: str) -> np.ndarray:
    """The rows of `pool` a fold pre-trains on: its training windows, and every unlabelled stretch of subjects that
    are not in validation or test (within_subject: of other runs).
    """
    held_out = np.concatenate([fold.validation, fold.test])
    not_allowed = _recordings(windows.subject[held_out], windows.run[held_out], split)
    extra = (pool.source > 0) & ~np.isin(_recordings(pool.subject, pool.run, split), not_allowed)
    if split != "cross_subject":  # a run of the pool's own person, not of everyone
        extra &= np.isin(pool.subject, windows.subject[fold.train])
    return np.concatenate([fold.train, np.flatnonzero(extra)])


def check_pretraining(pool: ChannelPool, rows: np.ndarray, windows: Windows, fold: Fold, split: str) -> None:
    """Raise LeakageError if `rows` share a trial with the fold's validation or test windows, or a subject
    (cross_subject) or run (within_subject) with the test windows.
    """
    pooled = _recordings(pool.subject[rows], pool.run[rows], split)
    tested = _recordings(windows.subject[fold.test], windows.run[fold.test], split)
    held_out = np.concatenate([windows.trial[fold.validation], windows.trial[fold.test]])
    for what, shared in (
        ("subjects" if split == "cross_subject" else "runs", np.intersect1d(pooled, tested)),
        ("trials", np.intersect1d(pool.trial[rows][pool.source[rows] == 0], held_out)),
    ):
        if len(shared):
            raise LeakageError(
                f"{fold.name}: pre-training would see {len(shared)} {what} of the held-out part (the first is "
                f"{shared[0]})"
            )


def labelled_share(fold: Fold, windows: Windows, share: float, seed: int) -> Fold:
    """The fold with the labels of only a share of the training trials, and of as large a share of the validation
    trials.

    By trial and by class, at least one trial of each class in each part; a smaller share is part of a larger one. Test
    stays.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: allowed is above 0, up to 1")

    def part(chosen: np.ndarray) -> np.ndarray:
        kept = []
        for c in np.unique(windows.label[chosen]):
            trials = np.unique(windows.trial[chosen][windows.label[chosen] == c])
            order = np.random.default_rng([seed, int(c)]).permutation(trials)
            kept.append(order[: max(1, round(share * len(trials)))])
        return chosen[np.isin(windows.trial[chosen], np.concatenate(kept))]

    return Fold(fold.name, part(fold.train), part(fold.validation), fold.test)

"""Splits without leakage: by subject or by run, never through a trial.

Neighbouring windows of a trial share half of their samples, so a classifier that has seen one has nearly seen the
other: on pure noise a random split of windows "finds" 75 to 97 % accuracy. The splitters here are scikit-learn's, or
follow its protocol. They split trials; `make_folds` turns them into folds of windows with a validation part, and
`check_no_leakage` checks the result.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.model_selection import (
    BaseCrossValidator,
    GroupKFold,
    GroupShuffleSplit,
    LeaveOneGroupOut,
    StratifiedShuffleSplit,
)

from common.errors import InputError
from data.eeg.plan import Names
from data.eeg.windows import Windows, recording_number

Split = Literal["cross_subject", "within_subject", "cross_session"]


class LeakageError(RuntimeError):
    """Training and held-out windows come from the same trial, run or subject, so the run's figures
    would be meaningless.
    """


class LeaveOneRunOutPerSubject(BaseCrossValidator):
    """Within-subject cross-validation: for every subject, train on all but one of the runs and test on that
    one.

    `groups` is int [n, 2]: subject and run of each trial. names: what the subjects' numbers stand for; what: a run may
    also be a "session".
    """

    def __init__(self, names: Names | None = None, what: str = "run") -> None:
        self.names, self.what = names or Names(), what

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        return len(self._pairs(groups))

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (train, test), trial numbers, by subject and then run."""
        groups = np.asarray(groups)
        for subject, run in self._pairs(groups):
            own = groups[:, 0] == subject
            held_out = own & (groups[:, 1] == run)
            yield np.flatnonzero(own & ~held_out), np.flatnonzero(held_out)

    def _pairs(self, groups: Any) -> np.ndarray:
        """The (subject, run) that are held out in turn, [n, 2]."""
        pairs = np.unique(np.asarray(groups), axis=0)
        subjects, n_runs = np.unique(pairs[:, 0], return_counts=True)
        if (n_runs < 2).any():
            name, what = self.names.of_subject(int(subjects[n_runs < 2][0])), self.what
            example = "" if self.names.subject else f" ({what}s=4,8,12)"
            raise InputError(
                f"split={'within_subject' if what == 'run' else 'cross_session'} holds out one {what} at a time, but "
                f"subject {name} has a single {what}; ask for two or more {what}s{example}, or leave {name} out"
            )
        return pairs


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold: ascending numbers of the windows for training, validation (early stopping, selection) and test."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def make_folds(
    windows: Windows,
    split: Split,
    n_folds: int = 5,
    validation_share: float = 0.2,
    seed: int = 0,
    test_subjects: Sequence[int] = (),
    names: Names | None = None,
) -> list[Fold]:
    """The folds of `windows`, checked for leaks.

    cross_subject: the subjects are divided into `n_folds` groups, each held out once; n_folds=0 leaves one
    subject out at a time. Validation subjects are taken from the training subjects. cross_session: as within_subject,
    of windows whose `run` is their session (`EegData.by_session`). within_subject: each run
    of each subject is held out once (`n_folds` is not used) and only the same subject's other runs are
    trained on; validation trials are taken from those, as many of each class.

    test_subjects: in cross_subject, these are the test part of a single fold, and `n_folds` is not used.

    names: what the numbers of subjects and runs stand for, in the folds' names and in messages.

    `validation_share` of the training subjects or trials, at least one, go to validation. Raises InputError
    where the data is too small.
    """
    names, what = names or Names(), "session" if split == "cross_session" else "run"
    if not 0 < validation_share < 1:
        raise InputError(f"validation_share={validation_share:g}: allowed is a share between 0 and 1")
    first_window = np.unique(windows.trial, return_index=True)[1]
    label, subject, run, trial = (
        column[first_window] for column in (windows.label, windows.subject, windows.run, windows.trial)
    )
    if split == "cross_subject" and test_subjects:
        tested = np.isin(subject, test_subjects)
        held_out = [(np.flatnonzero(~tested), np.flatnonzero(tested))]
    elif split == "cross_subject":
        held_out = _cross_subject_tests(subject, n_folds, seed)
    elif split in ("within_subject", "cross_session"):
        groups = np.stack([subject, run], axis=1)
        splitter = LeaveOneRunOutPerSubject(names, what)
        held_out = list(splitter.split(label, label, groups))
    else:
        raise InputError(f"split={split!r} is not allowed; choose cross_subject, within_subject or cross_session")

    folds = []
    for number, (rest, test) in enumerate(held_out):
        if split == "cross_subject":
            tested = np.unique(subject[test])
            name = f"subject {names.of_subject(int(tested[0]))}" if len(tested) == 1 else f"fold {number + 1}"
            train, validation = _carve_subjects(rest, subject, validation_share, seed)
        else:
            of_run = names.run_in_words(int(run[test[0]])) if what == "run" else run[test[0]]
            name = f"subject {names.of_subject(int(subject[test[0]]))} {what} {of_run}"
            train, validation = _carve_trials(rest, label, share=validation_share, seed=seed, name=name)
        if len(np.unique(label[train])) < 2:
            raise InputError(f"{name}: the {len(train)} training trials are all of one class; add runs or subjects")
        parts = [np.flatnonzero(np.isin(windows.trial, trial[rows])) for rows in (train, validation, test)]
        fold = Fold(name, *parts)
        check_no_leakage(windows, fold, split)
        folds.append(fold)
    return folds


def check_no_leakage(windows: Windows, fold: Fold, split: Split) -> None:
    """Raise LeakageError if two parts of the fold share a trial, a subject (cross_subject) or a tested run
    (within_subject).
    """
    parts = {"training": fold.train, "validation": fold.validation, "test": fold.test}
    run = recording_number(windows.subject, windows.run)
    for one, other in (("training", "validation"), ("training", "test"), ("validation", "test")):
        columns = {"trial": windows.trial}
        if split == "cross_subject":
            columns["subject"] = windows.subject
        elif other == "test":
            columns["run"] = run
        for name, column in columns.items():
            shared = np.intersect1d(column[parts[one]], column[parts[other]])
            if len(shared):
                raise LeakageError(
                    f"{fold.name}: {len(shared)} {name}s are in both the {one} and the {other} part (the "
                    f"first is {shared[0]})"
                )


def shuffled_labels(windows: Windows, seed: int) -> np.ndarray:
    """Labels [n_windows] shuffled among the trials of each subject and run; all windows of a trial share one.

    A network trained on these must end at chance.
    """
    rng = np.random.default_rng(seed)
    _trials, first_window, trial_of = np.unique(windows.trial, return_index=True, return_inverse=True)
    label = windows.label[first_window].copy()
    group = np.stack([windows.subject, windows.run], axis=1)[first_window]
    for pair in np.unique(group, axis=0):
        rows = np.flatnonzero((group == pair).all(axis=1))
        label[rows] = label[rng.permutation(rows)]
    return label[trial_of]


def _cross_subject_tests(subject: np.ndarray, n_folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    n_subjects = len(np.unique(subject))
    if n_subjects < 3:
        raise InputError(
            f"split=cross_subject needs at least 3 subjects (to train, to validate, to test), there are {n_subjects}; "
            "ask for more subjects, or use split=within_subject"
        )
    if n_folds == 0:
        return list(LeaveOneGroupOut().split(subject, groups=subject))
    if not 2 <= n_folds <= n_subjects:
        raise InputError(
            f"n_folds={n_folds}: {n_subjects} subjects allow 2 to {n_subjects} folds, or 0 to leave one subject out"
        )
    return list(GroupKFold(n_folds, shuffle=True, random_state=seed).split(subject, groups=subject))


def _carve_subjects(rest: np.ndarray, subject: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the training trials `rest` by subject into (train, validation)."""
    n_subjects = len(np.unique(subject[rest]))
    if n_subjects < 2:
        raise InputError(
            "n_folds: a fold leaves a single subject to train on and none to validate; take more folds "
            "(n_folds=0 leaves one out)"
        )
    n_validation = min(max(1, round(share * n_subjects)), n_subjects - 1)
    train, validation = next(
        GroupShuffleSplit(1, test_size=n_validation, random_state=seed).split(rest, groups=subject[rest])
    )
    return rest[train], rest[validation]


def _carve_trials(
    rest: np.ndarray, label: np.ndarray, share: float, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Split the training trials `rest` by class into (train, validation)."""
    classes, counts = np.unique(label[rest], return_counts=True)
    if len(classes) < 2:
        raise InputError(f"{name}: the {len(rest)} training trials are all of one class; add runs")
    n_validation = min(max(len(classes), round(share * len(rest))), len(rest) - len(classes))
    if counts.min() < 2 or n_validation < len(classes):
        raise InputError(
            f"{name}: {len(rest)} training trials ({counts.min()} of one class) are too few to train and "
            f"validate on; add runs"
        )
    train, validation = next(
        StratifiedShuffleSplit(1, test_size=n_validation, random_state=seed).split(rest, label[rest])
    )
    return rest[np.sort(train)], rest[np.sort(validation)]

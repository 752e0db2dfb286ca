"""Splits never part a trial, and the guard sees it when one does."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from data.eeg.plan import Names
from data.eeg.splits import (
    Fold,
    LeakageError,
    LeaveOneRunOutPerSubject,
    check_no_leakage,
    make_folds,
    shuffled_labels,
)


def windows(n_subjects: int = 6, runs: tuple[int, ...] = (4, 8, 12), n_trials: int = 15, n_windows: int = 9) -> Any:
    """The columns of the windows of that many subjects; classes alternate."""
    subject = np.repeat(np.arange(1, n_subjects + 1), len(runs) * n_trials)
    run = np.tile(np.repeat(runs, n_trials), n_subjects)
    trial = np.arange(len(subject))
    columns = {"trial": trial, "subject": subject, "run": run, "label": trial % 2}
    columns = {name: np.repeat(column, n_windows) for name, column in columns.items()}
    return SimpleNamespace(position=np.tile(np.arange(n_windows), len(subject)), **columns)


def parts(fold: Fold) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return fold.train, fold.validation, fold.test


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 9), st.integers(1, 4), st.sampled_from([0, 2, 3, 5]), st.integers(0, 3))
def test_cross_subject_parts_share_no_subject(n_subjects: int, n_trials: int, n_folds: int, seed: int) -> None:
    data = windows(n_subjects, n_trials=n_trials)
    try:
        folds = make_folds(data, "cross_subject", n_folds=n_folds, seed=seed)
    except InputError:
        assert n_folds > n_subjects or (n_folds == 2 and n_subjects <= 3)
        return
    assert len(folds) == (n_folds or n_subjects)
    for fold in folds:
        subjects = [set(data.subject[part]) for part in parts(fold)]
        assert all(subjects)
        assert sum(map(len, subjects)) == len(set.union(*subjects)) == n_subjects
        assert sum(map(len, parts(fold))) == len(data.trial)
    np.testing.assert_array_equal(np.sort(np.concatenate([f.test for f in folds])), np.arange(len(data.trial)))


def test_one_subject_left_out_at_a_time_has_its_name() -> None:
    folds = make_folds(windows(4), "cross_subject", n_folds=0)
    assert [fold.name for fold in folds] == ["subject 1", "subject 2", "subject 3", "subject 4"]


@pytest.mark.parametrize("n_subjects", [1, 3])
def test_within_subject_tests_each_run_on_models_of_its_own_subject(n_subjects: int) -> None:
    data = windows(n_subjects)
    folds = make_folds(data, "within_subject")
    assert [fold.name for fold in folds] == [
        f"subject {s} run {r}" for s in range(1, n_subjects + 1) for r in (4, 8, 12)
    ]
    for fold in folds:
        subject, run = (set(column[fold.test]) for column in (data.subject, data.run))
        assert len(subject) == len(run) == 1
        for part in (fold.train, fold.validation):
            assert set(data.subject[part]) == subject
            assert not set(data.run[part]) & run
            assert len(set(data.label[part])) == 2
        trials = [set(data.trial[part]) for part in parts(fold)]
        assert list(map(len, trials)) == [24, 6, 15]
        assert len(set.union(*trials)) == 45


def test_the_same_seed_gives_the_same_folds() -> None:
    one, same, other = (make_folds(windows(9), "cross_subject", 3, seed=seed) for seed in (1, 1, 2))
    assert all(
        np.array_equal(a.test, b.test) and np.array_equal(a.train, b.train) for a, b in zip(one, same, strict=True)
    )
    assert not all(np.array_equal(a.test, b.test) for a, b in zip(one, other, strict=True))


def test_the_splitter_follows_scikit_learns_protocol() -> None:
    from sklearn.dummy import DummyClassifier
    from sklearn.model_selection import cross_val_score

    rng = np.random.default_rng(0)
    groups = np.stack([np.repeat([1, 2], 30), np.tile(np.repeat([4, 8, 12], 10), 2)], axis=1)
    splitter = LeaveOneRunOutPerSubject()
    scores = cross_val_score(DummyClassifier(), rng.normal(size=(60, 3)), np.arange(60) % 2, groups=groups, cv=splitter)
    assert len(scores) == splitter.get_n_splits(groups=groups) == 6


# The guard


def test_the_guard_sees_one_window_of_a_trial_on_the_other_side() -> None:
    data = windows(4)
    fold = make_folds(data, "cross_subject", 2)[0]
    for taken in (fold.test[:1], fold.validation[-1:]):
        leaky = dataclasses.replace(fold, train=np.concatenate([fold.train, taken]))
        with pytest.raises(LeakageError, match="1 trials are in both the training and the"):
            check_no_leakage(data, leaky, "cross_subject")


def test_the_guard_sees_a_random_split_of_windows() -> None:
    data = windows(4)
    order = np.random.default_rng(0).permutation(len(data.trial))
    leaky = Fold("random", order[:800], order[800:1000], order[1000:])
    for split in ("cross_subject", "within_subject"):
        with pytest.raises(LeakageError, match="trials are in both"):
            check_no_leakage(data, leaky, split)


def test_the_guard_sees_a_subject_or_a_run_on_both_sides() -> None:
    data = windows(4)
    trial = data.trial
    by_trial = Fold("by trial", *(np.flatnonzero(trial % 3 == k) for k in range(3)))
    with pytest.raises(LeakageError, match="subjects are in both the training and the validation"):
        check_no_leakage(data, by_trial, "cross_subject")
    with pytest.raises(LeakageError, match="runs are in both the training and the test"):
        check_no_leakage(data, by_trial, "within_subject")


# Too little data


@pytest.mark.parametrize(
    ("data", "split", "n_folds", "message"),
    [
        (windows(1), "cross_subject", 5, "needs at least 3 subjects .* there are 1; .*split=within_subject"),
        (windows(4), "cross_subject", 5, "n_folds=5: 4 subjects allow 2 to 4 folds"),
        (windows(4), "cross_subject", 1, "n_folds=1"),
        (windows(3), "cross_subject", 2, "single subject to train on"),
        (windows(1, runs=(4,)), "within_subject", 5, "subject 1 has a single run"),
        (windows(1, runs=(4, 8), n_trials=2), "within_subject", 5, "are too few to train and validate on"),
        (windows(1, runs=(4, 8), n_trials=1), "within_subject", 5, "all of one class"),
        (windows(1), "random", 5, "choose cross_subject, within_subject or cross_session"),
    ],
)
def test_too_little_data_says_what_is_needed(data: Any, split: Any, n_folds: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_folds(data, split, n_folds)


def test_folds_and_messages_have_the_names_of_people_and_runs() -> None:
    names = Names(subject={1: "anna"}, run={4: "before", 8: "after"})
    folds = make_folds(windows(1, runs=(4, 8)), "within_subject", names=names)
    assert [fold.name for fold in folds] == ["subject anna run before", "subject anna run after"]
    with pytest.raises(InputError, match=r"subject anna has a single run; ask for two or more runs, or leave anna out"):
        make_folds(windows(1, runs=(4,)), "within_subject", names=names)
    with pytest.raises(InputError, match=r"split=cross_session .*subject anna has a single session"):
        make_folds(windows(1, runs=(4,)), "cross_session", names=names)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_impossible_validation_shares_are_refused(share: float) -> None:
    with pytest.raises(InputError, match="validation_share"):
        make_folds(windows(), "cross_subject", validation_share=share)


@pytest.mark.parametrize("n_trials", [8, 9, 15])
def test_a_validation_part_has_a_trial_of_each_of_four_classes(n_trials: int) -> None:
    data = windows(1, runs=(4, 8), n_trials=n_trials)
    data.label = data.trial % 4
    for fold in make_folds(data, "within_subject"):
        assert set(data.label[fold.validation]) == set(data.label[fold.train]) == {0, 1, 2, 3}


# Shuffled labels


def test_shuffled_labels_keep_trials_whole_and_classes_even() -> None:
    data = windows(5)
    label = shuffled_labels(data, seed=0)
    assert (label.reshape(-1, 9) == label.reshape(-1, 9)[:, :1]).all()
    for subject in range(1, 6):
        for run in (4, 8, 12):
            own = (data.subject == subject) & (data.run == run)
            assert label[own].sum() == data.label[own].sum()
    agreement = (label == data.label).mean()
    assert 0.35 < agreement < 0.65
    np.testing.assert_array_equal(label, shuffled_labels(data, seed=0))

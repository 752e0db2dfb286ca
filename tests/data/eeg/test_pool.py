"""Windows for pre-training: equal to the windows of trials, and never of a held-out subject."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.eeg.load import EegData, load_eeg
from data.eeg.pool import ChannelPool, check_pretraining, labelled_share, mirrored, pretraining_rows
from data.eeg.splits import Fold, LeakageError, make_folds
from data.eeg.windows import EegWindows
from training.eeg.load import align


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EegData:
    return load_eeg("simulated", tmp_path_factory.mktemp("pool"), subjects="1-3", runs="4,8", quiet=True)


@pytest.fixture(scope="module")
def unlabelled(data: EegData) -> EegData:
    return load_eeg("simulated", data.cache_dir, subjects="1-3", runs="1,4", labelled=False, quiet=True)


@pytest.fixture(scope="module")
def windows(data: EegData) -> EegWindows:
    return data.windows()


@pytest.fixture(scope="module")
def fold(windows: EegWindows) -> Fold:
    return make_folds(windows, "cross_subject", 3)[0]


@pytest.mark.parametrize("aligned", [False, True])
def test_the_middle_is_the_window_itself(data: EegData, windows: EegWindows, aligned: bool) -> None:
    source = align(windows, data, "cross_subject") if aligned else windows
    pool = ChannelPool([(data, source)], 160, 40)
    rows = np.array([0, 5, 8, 17, 700])
    x = pool.gather(rows)
    assert x.shape == (5, 64, 240)
    assert torch.allclose(x[..., 40:200], source.gather(rows), atol=1e-4)
    # Window 5 of a trial begins at sample 400, with the trial's own samples before it; window 4 holds them, normalised
    # otherwise.
    before, inside = x[1, :, :40], pool.gather(np.array([4]))[0, :, 80:120]
    for channel in range(64):
        assert torch.corrcoef(torch.stack([before[channel], inside[channel]]))[0, 1] > 0.9999
    # The first window has nothing before it: mirrored at its first sample.
    assert torch.allclose(x[0, :, :40], x[0, :, 41:81].flip(1), atol=1e-5)


def test_mirroring() -> None:
    assert mirrored(np.array([-2, -1, 0, 3, 4, 5, 8, 9]), 5).tolist() == [2, 1, 0, 3, 4, 3, 0, 1]
    assert mirrored(np.array([-1, 0, 4]), 1).tolist() == [0, 0, 0]


def test_rows_are_training_windows_and_stretches_of_training_people(
    data: EegData, unlabelled: EegData, windows: EegWindows, fold: Fold
) -> None:
    pool = ChannelPool([(data, windows), (unlabelled, unlabelled.windows())], 160, 40)
    rows = pretraining_rows(pool, windows, fold, "cross_subject")
    assert set(fold.train) <= set(rows)
    assert len(rows) > len(fold.train)
    assert set(pool.subject[rows]) == set(windows.subject[fold.train])
    assert set(pool.label[rows][pool.source[rows] == 1]) == {-1}
    assert len(np.unique(pool.trial)) == len(data.trials) + len(unlabelled.trials)
    check_pretraining(pool, rows, windows=windows, fold=fold, split="cross_subject")
    assert pool.gather(rows[-3:]).isfinite().all()


def test_within_subject_keeps_the_tested_run_out(data: EegData, unlabelled: EegData, windows: EegWindows) -> None:
    pool = ChannelPool([(data, windows), (unlabelled, unlabelled.windows())], 160, 40)
    for fold in make_folds(windows, "within_subject"):
        rows = pretraining_rows(pool, windows, fold, "within_subject")
        person, run = windows.subject[fold.test][0], windows.run[fold.test][0]
        assert set(pool.subject[rows]) == {person}
        assert run not in pool.run[rows]
        assert (pool.run[rows] == 1).any()
        check_pretraining(pool, rows, windows=windows, fold=fold, split="within_subject")


@pytest.mark.parametrize("split", ["cross_subject", "within_subject"])
def test_the_guard_finds_held_out_rows(data: EegData, unlabelled: EegData, windows: EegWindows, split: str) -> None:
    """A test window, a validation window, and an unlabelled stretch of what is tested, each put among the rows."""
    pool = ChannelPool([(data, windows), (unlabelled, unlabelled.windows())], 160, 40)
    fold = make_folds(windows, split, 3)[0]  # type: ignore[arg-type]
    rows = pretraining_rows(pool, windows, fold, split)
    recording = (pool.subject == windows.subject[fold.test][0]) & (pool.run == windows.run[fold.test][0])
    stretch = np.flatnonzero((pool.source == 1) & recording)
    assert len(stretch)
    for leak in (fold.test[:1], fold.validation[:1], stretch[:1]):
        with pytest.raises(LeakageError, match="pre-training would see"):
            check_pretraining(pool, np.concatenate([rows, leak]), windows=windows, fold=fold, split=split)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_a_share_of_the_labels_is_by_trial_and_class(windows: EegWindows, fold: Fold, share: float) -> None:
    part = labelled_share(fold, windows, share, 0)
    assert np.array_equal(part.test, fold.test)
    for ours, whole in ((part.train, fold.train), (part.validation, fold.validation)):
        assert set(ours) <= set(whole)
        for c in (0, 1):
            trials = np.unique(windows.trial[whole][windows.label[whole] == c])
            kept = np.unique(windows.trial[ours][windows.label[ours] == c])
            assert len(kept) == max(1, round(share * len(trials)))
        assert len(ours) == 9 * len(np.unique(windows.trial[ours]))  # whole trials
    larger = labelled_share(fold, windows, min(1.0, 2 * share), 0)
    assert set(part.train) <= set(larger.train)
    with pytest.raises(ValueError, match="share=0"):
        labelled_share(replace(fold), windows, 0.0, 0)

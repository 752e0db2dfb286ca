"""Windows seen through the matrix of their group: against NumPy, on windows of every group at once."""

import numpy as np
import pytest
import torch

from data.eeg.aligned_windows import AlignedWindows, normalise
from data.eeg.windows import EegWindows


def windows() -> EegWindows:
    rng = np.random.default_rng(0)
    trials = rng.normal(size=(6, 4, 480)).astype(np.float32)
    return EegWindows(
        trials, label=np.arange(6) % 2, subject=np.repeat([3, 8], 3), run=np.ones(6, int), window=160, overlap=80
    )


def test_each_window_is_multiplied_by_its_groups_matrix_and_normalised() -> None:
    w = windows()
    matrices = np.random.default_rng(1).normal(size=(2, 4, 4)).astype(np.float32)
    aligned = AlignedWindows(w, matrices, (w.subject == 8).astype(int)).to("cpu")
    chosen = np.array([0, 29, 7, 16])
    got = aligned.gather(chosen).numpy()
    for row, i in zip(got, chosen, strict=True):
        x = w.trials[w.trial[i], :, w.start[i] : w.start[i] + 160].astype(float)
        x = matrices[int(w.subject[i] == 8)] @ (x - x.mean())
        np.testing.assert_allclose(row, (x - x.mean()) / x.std(), atol=1e-4)
    assert len(aligned) == len(w)
    assert (aligned.label == w.label).all()


def test_the_identity_changes_nothing() -> None:
    w = windows()
    aligned = AlignedWindows(w, np.eye(4, dtype=np.float32)[None], np.zeros(len(w), int))
    torch.testing.assert_close(aligned.gather(np.arange(5)), w.gather(np.arange(5)), atol=1e-5, rtol=1e-5)


def test_a_flat_window_becomes_zeros() -> None:
    for value in (0.0, 3.0, 0.1, -1e-7, 123.4567):
        assert (normalise(torch.full((1, 64, 160), value)).abs() < 1e-4).all(), value


def test_groups_without_a_matrix_are_refused() -> None:
    w = windows()
    with pytest.raises(ValueError, match="1 matrices"):
        AlignedWindows(w, np.eye(4, dtype=np.float32)[None], np.ones(len(w), int))

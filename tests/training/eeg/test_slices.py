"""Slices of trials as vectors: alignment and centring by person, and what a causal classifier may know."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch

from common.errors import InputError
from data.eeg.load import EegData, load_eeg
from models.eeg.lateral import Slice
from tests.eeg_montage import mirror_64
from training.eeg.slices import (
    aligned_vectors,
    causal_vectors,
    check_slices,
    reference_covariances,
    trial_covariances,
)

SLICES = (Slice(0, 0.5), Slice(1, 4, 7, 14, 0.1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EegData:
    return load_eeg("simulated", tmp_path_factory.mktemp("eeg"), subjects="1-2", runs="4", quiet=True)


def test_vectors_are_those_of_the_definition(data: EegData) -> None:
    """Whitened samples, their covariance, logm, odd half, minus the person's mean: in NumPy and SciPy."""
    slices = (Slice(0, 0.5), Slice(1, 2))
    vectors = aligned_vectors(trial_covariances(data, slices), data.subject).double().numpy()
    assert vectors.shape == (len(data.trials), 2, 999)
    x = 1e6 * data.trials[data.subject == 2][:, :, ::2].astype(np.float64)
    covariance = np.einsum("nct,ndt->cd", x, x) / (len(x) * x.shape[2])
    size = np.trace(covariance) / 64
    whitened = np.linalg.inv(scipy.linalg.sqrtm(0.95 * covariance + 0.05 * size * np.eye(64))).real @ x
    mirror, odd = mirror_64().numpy(), []
    for trial in whitened:
        c = trial[:, 80:120] @ trial[:, 80:120].T / 40
        log = scipy.linalg.logm(0.8 * c + 0.2 * np.trace(c) / 64 * np.eye(64)).real
        odd.append(((log - log[mirror][:, mirror]) / 2).ravel())
    expected = np.stack(odd) - np.mean(odd, axis=0)
    own = vectors[data.subject == 2, 0]
    assert np.allclose(own @ own.T, expected @ expected.T, atol=1e-3 * np.abs(expected @ expected.T).max())


def test_no_persons_vectors_depend_on_another_person(data: EegData) -> None:
    found = trial_covariances(data, SLICES)
    both = aligned_vectors(found, data.subject)
    rows = torch.from_numpy(np.flatnonzero(data.subject == 1))
    alone = replace(found, parts=found.parts[rows], whole=found.whole[rows])
    assert torch.allclose(aligned_vectors(alone, data.subject[data.subject == 1]), both[rows], atol=1e-5)
    assert both[rows].mean(0).abs().max() < 1e-5


def test_causal_vectors_do_not_change_when_later_trials_do(data: EegData) -> None:
    found = trial_covariances(data, SLICES)
    reference = reference_covariances(found, data.subject, np.flatnonzero(data.subject == 1))
    before = causal_vectors(found, data.subject, reference)
    rows = torch.from_numpy(np.flatnonzero(data.subject == 2))
    parts, whole = found.parts.clone(), found.whole.clone()
    parts[rows[7:]], whole[rows[7:]] = parts[rows[7:]].flip(0) * 3, whole[rows[7:]].flip(0) * 3
    after = causal_vectors(replace(found, parts=parts, whole=whole), data.subject, reference)
    assert torch.equal(after[rows[:7]], before[rows[:7]])
    assert not torch.allclose(after[rows[8:]], before[rows[8:]])


def test_a_persons_first_trial_is_whitened_by_the_reference_alone(data: EegData) -> None:
    found = trial_covariances(data, SLICES)
    first = int(np.flatnonzero(data.subject == 2)[0])
    reference = found.whole[first].double()  # whose own whitening it then is
    ours = causal_vectors(found, data.subject, reference)[first]
    one = replace(found, parts=found.parts[[first, first]], whole=found.whole[[first, first]])
    assert aligned_vectors(one, np.array([1, 1])).abs().max() < 1e-6  # centred: nothing left
    assert ours.norm() > 1  # not centred: the mean over no trials is 0


def test_chunks_change_nothing(data: EegData) -> None:
    one, other = trial_covariances(data, SLICES, chunk=7), trial_covariances(data, SLICES)
    assert torch.allclose(one.parts, other.parts, rtol=1e-4)
    assert torch.allclose(one.whole, other.whole, rtol=1e-4)


def test_channels_can_be_picked(data: EegData) -> None:
    picked = trial_covariances(data, SLICES).pick(["C4", "C3", "Cz"])
    assert aligned_vectors(picked, data.subject).shape == (len(data.trials), 2, 2)


@pytest.mark.parametrize(
    ("piece", "words"), [(Slice(3.5, 4.5), "3.5 to 4.5 s, .* outside the trials"), (Slice(0, 1, 4, 8), "the band")]
)
def test_slices_outside_the_data_are_refused(data: EegData, piece: Slice, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_slices((piece,), data)

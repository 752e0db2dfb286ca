"""The mirror and the odd half of the tangent vector, against the definition in NumPy and SciPy."""

import numpy as np
import pytest
import scipy.linalg
import torch

from data.eeg.electrodes import electrode_positions, standard_positions
from data.eeg.recording import CHANNELS
from models.eeg.lateral import OddTangent, Slice, band_pass, log_covariance, mirror_basis, mirror_of, slice_covariances
from tests.eeg_montage import mirror_64, mirror_by_names


def some_covariances(n: int, n_chans: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(n, n_chans, 3 * n_chans, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x @ x.transpose(1, 2) / x.shape[2]


def test_the_mirror_swaps_left_and_right_and_twice_it_is_the_identity() -> None:
    mirror = mirror_64()
    assert torch.equal(mirror[mirror], torch.arange(64))
    for left, right in (("C3", "C4"), ("T9", "T10"), ("Fp1", "Fp2"), ("PO7", "PO8"), ("Iz", "Iz")):
        assert CHANNELS[int(mirror[CHANNELS.index(left)])] == right
    assert int((mirror == torch.arange(64)).sum()) == 10


@pytest.mark.parametrize("montage", ["biosemi32", "biosemi64", "easycap-M1", "GSN-HydroCel-128"])
def test_any_symmetric_cap_has_a_mirror_by_position(montage: str) -> None:
    names = tuple(electrode_positions(montage).ch_names)
    places = torch.from_numpy(standard_positions(names, montage))
    mirror = mirror_of(places, names)
    assert torch.allclose(places[mirror] * torch.tensor([-1.0, 1, 1]), places, atol=1e-3)
    if montage.startswith("biosemi"):
        assert mirror.tolist() == mirror_by_names(names)


def test_the_mirror_by_position_is_that_of_the_names() -> None:
    assert mirror_64().tolist() == mirror_by_names(CHANNELS)
    moved = torch.from_numpy(standard_positions(CHANNELS)) + 0.003  # a cap that sits 3 mm aside
    assert mirror_of(moved, CHANNELS).tolist() == mirror_by_names(CHANNELS)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("C3", "Cz", "P3", "P4"), "no partner on the other side of the head for C3"),
        (("Fz", "Cz", "Pz"), "no left and right among Fz Cz Pz"),
        (("C3", "C2", "Cz"), "for C3 C2"),
    ],
)
def test_channels_without_a_mirror_image_are_refused(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mirror_of(torch.from_numpy(standard_positions(names)), names)


def test_even_and_odd_patterns_are_an_orthonormal_basis() -> None:
    mirror = mirror_64()
    even, odd = mirror_basis(mirror)
    whole = torch.cat([even, odd])
    assert torch.allclose(whole @ whole.T, torch.eye(64, dtype=torch.float64), atol=1e-12)
    assert torch.equal(even[:, mirror], even)
    assert torch.equal(odd[:, mirror], -odd)


def test_the_odd_half_changes_sign_under_the_mirror() -> None:
    mirror, c = mirror_64(), some_covariances(3, 64)
    tangent = OddTangent(mirror)
    swapped = c[:, mirror][:, :, mirror]
    assert tangent(c).shape == (3, 999)
    assert tangent(c).abs().max() > 0.01
    assert torch.allclose(tangent(swapped), -tangent(c), atol=1e-5)
    assert tangent(c + swapped).abs().max() < 1e-5  # nothing lateral in it


def test_it_is_the_odd_half_of_the_matrix_logarithm() -> None:
    """Same inner products as the vectors of (log C - P log(C) P) / 2 with off-diagonals times sqrt 2."""
    names = ["C3", "Cz", "C4", "P3", "P4", "Fz"]
    mirror, c = torch.tensor(mirror_by_names(names)), some_covariances(4, 6)
    ours = OddTangent(mirror)(c, shrinkage=0.3).double().numpy()
    rows, p = [], mirror.numpy()
    for matrix in c.numpy():
        log = scipy.linalg.logm(0.7 * matrix + 0.3 * np.trace(matrix) / 6 * np.eye(6))
        rows.append(((log - log[p][:, p]) / 2).ravel())
    theirs = np.stack(rows)
    assert np.allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-5)


def test_vectors_become_the_matrix_they_come_from() -> None:
    mirror, c = mirror_64(), some_covariances(2, 64)
    tangent = OddTangent(mirror)
    log = log_covariance(c, 0.2)
    assert torch.allclose(tangent.matrix(tangent(c)), (log - log[:, mirror][:, :, mirror]) / 2, atol=1e-5)


def test_a_band_holds_its_own_frequencies_alone() -> None:
    t = torch.arange(400) / 80
    low, high = torch.sin(2 * torch.pi * 10 * t), torch.sin(2 * torch.pi * 20 * t)
    assert torch.allclose(band_pass(low + high, (7, 14), 80.0), low, atol=1e-4)


def test_covariances_of_slices_are_those_of_their_samples() -> None:
    x = torch.randn(2, 3, 401, generator=torch.Generator().manual_seed(0))
    slices = (Slice(0, 0.5), Slice(1, 4, 7, 14))
    parts, whole = slice_covariances(x, slices, tmin=-1.0, sfreq=80.0, passed=(7.0, 30.0))
    piece = x[0, :, 80:120].numpy()
    assert np.allclose(parts[0, 0], piece @ piece.T / 40, atol=1e-5)
    piece = band_pass(x, (7, 14), 80.0)[1, :, 160:400].numpy()
    assert np.allclose(parts[1, 1], piece @ piece.T / 240, atol=1e-5)
    assert whole.shape == (2, 2, 3, 3)
    assert np.allclose(whole[0, 1], x[0].numpy() @ x[0].numpy().T / 401, atol=1e-5)  # (7, 14) comes first

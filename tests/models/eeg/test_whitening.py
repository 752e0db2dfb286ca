"""Euclidean alignment: whitened means white, other caps and anatomies no longer differ, and degenerate data stays
finite.
"""

import numpy as np
import pytest
import scipy.linalg
import torch

from models.eeg.whitening import mean_covariance, whitening


def trials(n: int = 20, n_chans: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(n_chans, n_chans, generator=generator, dtype=torch.float64)
    return mixing @ torch.randn(n, n_chans, 300, generator=generator, dtype=torch.float64)


def test_the_mean_covariance_is_numpys() -> None:
    x = trials(3)
    expected = np.mean([t @ t.T / 300 for t in x.numpy()], axis=0)
    np.testing.assert_allclose(mean_covariance(x.float()), expected, rtol=1e-4)


def test_whitened_trials_have_the_identity_as_mean_covariance() -> None:
    x = trials()
    aligned = whitening(mean_covariance(x), 0.0) @ x
    torch.testing.assert_close(mean_covariance(aligned), torch.eye(6, dtype=torch.float64))


def test_shrinkage_is_the_inverse_root_of_the_shrunk_covariance() -> None:
    covariance = mean_covariance(trials())
    shrunk = 0.7 * covariance + 0.3 * covariance.diagonal().mean() * torch.eye(6)
    expected = np.linalg.inv(scipy.linalg.sqrtm(shrunk.numpy()))
    np.testing.assert_allclose(whitening(covariance, 0.3), expected, rtol=1e-6, atol=1e-9)
    size = covariance.diagonal().mean()
    torch.testing.assert_close(whitening(covariance, 1.0), torch.eye(6, dtype=torch.float64) / size.sqrt())


def test_another_mixing_of_the_channels_gives_the_same_signals_up_to_a_rotation() -> None:
    x = trials()
    other = torch.randn(6, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64) @ x
    one, two = (whitening(mean_covariance(t), 0.0) @ t for t in (x, other))
    gram = [torch.einsum("nct,mct->nm", t, t) for t in (one, two)]  # blind to a rotation of the channels
    torch.testing.assert_close(gram[0], gram[1])


@pytest.mark.parametrize("rank", [0, 1])
def test_flat_or_dependent_channels_stay_finite(rank: int) -> None:
    x = torch.ones(6, rank) @ torch.randn(2, rank, 50) if rank else torch.zeros(2, 6, 50)
    assert (whitening(mean_covariance(x), 0.05) @ x.double()).isfinite().all()


def test_a_shrinkage_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shrinkage=1\.5"):
        whitening(torch.eye(3), 1.5)

"""Euclidean alignment: every person's signals are whitened by their own mean covariance, which needs no labels.

He and Wu 2020, Transfer Learning for Brain-Computer Interfaces: A Euclidean Space Data Alignment Approach, IEEE
Transactions on Biomedical Engineering 67(2): with R the mean of a person's trial covariances, x <- R^(-1/2) x. What
differs between people by anatomy, cap and loudness goes; what differs between trials of one person stays.
"""

import torch
from torch import Tensor


def mean_covariance(trials: Tensor) -> Tensor:
    """Mean over trials [N, n_chans, n_times] of x x^T / n_times: [n_chans, n_chans], float64."""
    x = trials.double()
    return torch.einsum("nct,ndt->cd", x, x) / (x.shape[0] * x.shape[2])


def whitening(covariance: Tensor, shrinkage: float) -> Tensor:
    """R^(-1/2), symmetric, [n_chans, n_chans], of R = (1 - shrinkage) covariance + shrinkage (its mean eigenvalue) I.

    Without shrinkage the weakest directions of 64 channels, which hold the electrodes' noise, would be blown up to the
    size of the strongest; with 1 only the overall amplitude is normalised. A covariance of zeros gives the identity.
    """
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"shrinkage={shrinkage}: it must be from 0 to 1")
    n = covariance.shape[0]
    size = covariance.diagonal().mean()
    eye = torch.eye(n, dtype=covariance.dtype, device=covariance.device)
    relative = torch.where(size > 0, covariance / torch.where(size > 0, size, 1.0), eye)
    values, vectors = torch.linalg.eigh((1 - shrinkage) * relative + shrinkage * eye)
    root = (vectors * values.clamp_min(1e-10).rsqrt()) @ vectors.T
    return root * torch.where(size > 0, size, 1.0).rsqrt()

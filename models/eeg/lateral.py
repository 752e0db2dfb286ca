"""What differs between left and right: the half of a trial's tangent vector that changes sign under the mirror.

The mirror swaps every left electrode with the right one at the same place. Imagining the left fist is, to first order,
the mirror image of imagining the right one, so what tells them apart changes sign when the electrodes are swapped, and
whatever does not change sign is noise for this task.

A slice of a trial (a piece of time in a band) is described by the matrix logarithm of its covariance after the
person's alignment, the tangent vector of Barachant et al. 2012 (Multiclass Brain-Computer Interface Classification by
Riemannian Geometry, IEEE Transactions on Biomedical Engineering 59(4)) in its log-Euclidean form (Arsigny et al. 2006).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Slice:
    """A piece of a trial: seconds from the cue [start, stop), band in Hz [low, high), shrinkage of its covariance."""

    start: float
    stop: float
    low: float = 7.0
    high: float = 30.0
    shrinkage: float = 0.2

    @property
    def band(self) -> tuple[float, float]:
        return self.low, self.high


MOST_APART, MOST_OF_SPACING = 0.015, 0.5
"""How far an electrode's mirror image may lie from its partner: metres, and share of the way to its neighbour."""


def mirror_of(positions: Tensor, ch_names: Sequence[str]) -> Tensor:
    """Of each channel the index of its mirror image, int64 [n_chans], by where the electrodes are.

    positions: metres in the head's frame, [n_chans, 3], x to the right ear. Two electrodes are a pair where each is the
    other's nearest after the exchange of left and right, to MOST_APART and MOST_OF_SPACING; one on the midline is its
    own mirror image. ValueError, with the names, where a channel has no partner, or where there is no pair at all.
    """
    places = positions.double()
    swapped = places * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    apart, spacing = torch.cdist(swapped, places), torch.cdist(places, places)
    spacing.fill_diagonal_(math.inf)
    distance, mirror = apart.min(1)
    own = torch.arange(len(mirror))
    close = distance <= torch.minimum(torch.tensor(MOST_APART), MOST_OF_SPACING * spacing.min(1).values)
    alone = own[~(close & (mirror[mirror] == own))].tolist()
    if alone:
        raise ValueError(f"no partner on the other side of the head for {' '.join(ch_names[i] for i in alone)}")
    if bool((mirror == own).all()):
        raise ValueError(f"no left and right among {' '.join(ch_names)}")
    return mirror


def mirror_basis(mirror: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal patterns that the mirror keeps [n_even, n_chans] and those that it negates [n_odd, n_chans]; float64.

    Even: sums of pairs, and midline channels; odd: differences of pairs, left minus right of the smaller index.
    """
    own = torch.arange(len(mirror))
    eye = torch.eye(len(mirror), dtype=torch.float64)
    first, midline = own[mirror > own], own[mirror == own]
    one, other = eye[first], eye[mirror[first]]
    return torch.cat([(one + other) / math.sqrt(2), eye[midline]]), (one - other) / math.sqrt(2)


def log_covariance(covariance: Tensor, shrinkage: float | Tensor) -> Tensor:
    """Matrix logarithm of (1 - shrinkage) C + shrinkage tr(C) / n_chans I: [..., n_chans, n_chans], float64.

    shrinkage: one for all, or of the shape [..., 1, 1].
    Half a second of 64 channels has fewer samples than channels: without shrinkage it has no logarithm.
    """
    c = covariance.double()
    size = c.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
    values, vectors = torch.linalg.eigh((1 - shrinkage) * c + shrinkage * size * eye)
    return (vectors * values.clamp_min(1e-8).log()[..., None, :]) @ vectors.transpose(-2, -1)


class OddTangent(nn.Module):
    """Covariances [..., n_chans, n_chans] -> vectors [..., n_even * n_odd], float32: log C's half odd under the mirror.

    In the basis of even and odd patterns, that half of a symmetric matrix is one block, E log(C) O^T; times sqrt 2 its
    norm is that of (log C - P log(C) P) / 2. With P the mirror, forward(P C P) = -forward(C). No learned weights; 64
    channels of which 10 are midline give 37 x 27 = 999 numbers.
    """

    even: Tensor
    odd: Tensor

    def __init__(self, mirror: Tensor) -> None:
        super().__init__()
        even, odd = mirror_basis(mirror)
        self.register_buffer("even", even)
        self.register_buffer("odd", odd)

    @property
    def n_features(self) -> int:
        return len(self.even) * len(self.odd)

    def forward(self, covariance: Tensor, shrinkage: float | Tensor = 0.2) -> Tensor:
        log = log_covariance(covariance, shrinkage)
        return (math.sqrt(2) * (self.even @ log @ self.odd.T)).flatten(-2).float()

    def matrix(self, vectors: Tensor) -> Tensor:
        """The symmetric matrices [..., n_chans, n_chans], odd under the mirror, of vectors [..., n_even * n_odd]."""
        block = vectors.to(self.even.dtype).unflatten(-1, (len(self.even), len(self.odd))) / math.sqrt(2)
        half = self.even.T @ block @ self.odd
        return half + half.transpose(-2, -1)


def band_pass(x: Tensor, band: tuple[float, float], sfreq: float) -> Tensor:
    """The Fourier components of x [..., n_times] inside [low, high) Hz."""
    n = x.shape[-1]
    frequency = torch.fft.rfftfreq(n, 1 / sfreq, device=x.device)
    inside = (frequency >= band[0]) & (frequency < band[1])
    return torch.fft.irfft(torch.fft.rfft(x) * inside, n)


def covariances(x: Tensor) -> Tensor:
    """x x^T / n_times of each trial: [..., n_chans, n_times] -> [..., n_chans, n_chans]."""
    return x @ x.transpose(-2, -1) / x.shape[-1]


def bands_of(slices: Sequence[Slice]) -> list[tuple[float, float]]:
    """The bands of the slices, each once, ascending."""
    return sorted({s.band for s in slices})


def shrinkages(slices: Sequence[Slice]) -> Tensor:
    """Of each slice, [n_slices, 1, 1]."""
    return torch.tensor([s.shrinkage for s in slices], dtype=torch.float64)[:, None, None]


def slice_covariances(
    x: Tensor, slices: Sequence[Slice], *, tmin: float, sfreq: float, passed: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Covariances of every slice [n, n_slices, n_chans, n_chans], and of whole trials in every band of `bands_of`
    [n, n_bands, n_chans, n_chans], before any alignment.

    x: trials [n, n_chans, n_times] that begin at tmin seconds from the cue. passed: the band that they already have;
    a slice of this band is not filtered again.
    """
    signals = {band: x if band == passed else band_pass(x, band, sfreq) for band in bands_of(slices)}
    parts = []
    for s in slices:
        first = round((s.start - tmin) * sfreq)
        parts.append(covariances(signals[s.band][..., first : first + round((s.stop - s.start) * sfreq)]))
    return torch.stack(parts, 1), torch.stack([covariances(signal) for signal in signals.values()], 1)

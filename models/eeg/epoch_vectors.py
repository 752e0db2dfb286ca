"""Raw epochs of one person to the odd tangent vectors of their slices: what served classifiers begin with."""

import torch
from torch import Tensor, nn

from models.eeg.lateral import OddTangent, Slice, bands_of, shrinkages, slice_covariances
from models.eeg.whitening import whitening


class EpochVectors(nn.Module):
    """`vectors`: raw epochs in volts [N, n_chans, n_times] -> odd tangent vectors [N, n_slices, n_features].

    The epochs of one call are one person's, in any order. They are whitened by their own mean covariance and centred on
    their own mean vector, to which the training people's count as `n_usual` epochs: so a single epoch has an answer
    too, and past trials of the person, sent along with the present one, make its answer better. Give one person a call.

    Args:
        kernel: FIR band-pass of training; the epoch's ends are mirrored, where training saw the recording go on.
        slices, mirror: as for training. step: every how many samples are kept after the filter.
        tmin, sfreq: of the epochs as they come. passed: the kernel's band in Hz.
        reference: training people's mean covariance in each band, square microvolts [n_bands, n_chans, n_chans].
        shrinkage: of the covariance whitened by.
    """

    kernel: Tensor
    reference: Tensor
    shrinkages: Tensor
    band_of: Tensor

    def __init__(
        self,
        kernel: Tensor,
        slices: tuple[Slice, ...],
        mirror: Tensor,
        reference: Tensor,
        *,
        tmin: float,
        sfreq: float,
        step: int,
        passed: tuple[float, float],
        shrinkage: float,
        n_usual: float,
    ) -> None:
        super().__init__()
        if kernel.dim() != 1 or len(kernel) % 2 == 0:
            raise ValueError(f"the kernel has shape {list(kernel.shape)}; an odd number of taps is needed")
        self.slices, self.tangent = slices, OddTangent(mirror)
        self.tmin, self.sfreq, self.step, self.passed = tmin, sfreq, step, passed
        self.shrinkage, self.n_usual = shrinkage, n_usual
        self.register_buffer("kernel", kernel.float())
        self.register_buffer("reference", reference.double())
        self.register_buffer("shrinkages", shrinkages(slices))
        bands = bands_of(slices)
        self.register_buffer("band_of", torch.tensor([bands.index(s.band) for s in slices]))

    def vectors(self, x: Tensor) -> Tensor:
        """Odd tangent vectors [N, n_slices, n_features] of raw epochs, aligned and centred as one person's."""
        x = x.to(self.kernel.dtype)  # MNE's epochs are float64
        n, n_chans, n_times = x.shape
        half = len(self.kernel) // 2
        padded = nn.functional.pad((x * 1e6).reshape(n * n_chans, 1, n_times), (half, half), mode="reflect")
        filtered = nn.functional.conv1d(padded, self.kernel.view(1, 1, -1), stride=self.step).view(n, n_chans, -1)
        parts, whole = slice_covariances(
            filtered, self.slices, tmin=self.tmin, sfreq=self.sfreq / self.step, passed=self.passed
        )
        mean = (self.n_usual * self.reference + whole.double().sum(0)) / (self.n_usual + n)
        whiten = torch.stack([whitening(covariance, self.shrinkage) for covariance in mean.unbind()])[self.band_of]
        found = self.tangent(whiten @ parts.double() @ whiten, self.shrinkages)
        return found - found.sum(0) / (self.n_usual + n)

"""Windows multiplied by the alignment matrix of their subject or recording, and normalised again."""

import numpy as np
import torch

from data.eeg.windows import EegWindows, Windows


class AlignedWindows:
    """`windows`, each multiplied over its channels by its group's matrix, then normalised by its mean and deviation.

    matrices: float32 [n_groups, n_chans, n_chans]. group: of each window, [n_windows]. The matrices may be in any unit:
    the last normalisation removes every overall factor.
    """

    def __init__(self, windows: Windows, matrices: np.ndarray, group: np.ndarray) -> None:
        if len(group) != len(windows) or group.max(initial=0) >= len(matrices):
            raise ValueError(
                f"{len(group)} groups of {len(windows)} windows, up to {group.max()}; {len(matrices)} matrices"
            )
        self.windows, self.group = windows, torch.from_numpy(group)
        self.matrices = torch.from_numpy(matrices)
        self.trial, self.position, self.start = windows.trial, windows.position, windows.start
        self.label, self.subject, self.run = windows.label, windows.subject, windows.run

    def __len__(self) -> int:
        return len(self.windows)

    def to(self, device: torch.device | str) -> "AlignedWindows":
        """Keep the trials on a GPU, as `EegWindows.to` does; returns self."""
        if isinstance(self.windows, EegWindows):
            self.windows.to(device)
        return self

    def gather(self, indices: np.ndarray | torch.Tensor) -> torch.Tensor:
        """The windows `indices` [n], aligned and normalised: float32 [n, n_chans, window], on the device of
        `windows`.
        """
        x = self.windows.gather(indices)
        chosen = torch.as_tensor(indices).cpu()
        if self.matrices.device != x.device:
            self.matrices = self.matrices.to(x.device)
        return normalise(self.matrices[self.group[chosen].to(x.device)] @ x)


def normalise(x: torch.Tensor) -> torch.Tensor:
    """Windows [n, n_chans, window], each by its own mean and deviation over all channels; a flat one becomes zeros."""
    return centred_over(x, slice(None))


def centred_over(x: torch.Tensor, part: slice) -> torch.Tensor:
    """[n, n_chans, T] by the mean and deviation over all channels and the samples `part` of time; where those are flat,
    unscaled.

    In two passes: torch.std_mean over two dimensions takes three times as long on a CPU.
    """
    mean = x[..., part].mean((1, 2), keepdim=True)
    x = x - mean
    sd = x[..., part].square().mean((1, 2), keepdim=True).sqrt()
    return x / torch.where(sd > 1e-6 * mean.abs(), sd, 1.0)  # a flat window's mean is rounded

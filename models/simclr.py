"""The networks of Mohsenvand et al. 2020 (figure 4): two channel encoders, the projector, and the classifier made like it.

Left open by the figure and decided here: a GRU's or LSTM's D is its width per direction; "first & last output" are the outputs of
both directions at the first and the last step; downsampling is a mean of two neighbours, upsampling linear to the full length, so
that any length works; convolutions with even kernels pad (K - 1) // 2 before and K // 2 behind, mirrored.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def halve(x: Tensor) -> Tensor:
    """[N, C, T] -> [N, C, ceil(T / 2)]: means of neighbours; an odd last sample stays itself."""
    return F.avg_pool1d(x, 2, ceil_mode=True, count_include_pad=False)


class RecurrentEncoder(nn.Module):
    """(A): channels [M, T] -> features [M, n_features, T]: GRUs at the full, half and quarter rate, joined; two residual GRUs."""

    def __init__(self, n_features: int = 4, widths: tuple[int, int, int] = (256, 128, 64), d: int = 128) -> None:
        super().__init__()
        self.grus = nn.ModuleList([nn.GRU(1, width, batch_first=True) for width in widths])
        self.dense = nn.Linear(sum(widths), d)
        self.norms = nn.ModuleList([nn.LayerNorm(d) for _ in range(2)])
        self.residuals = nn.ModuleList([nn.GRU(d, d, batch_first=True) for _ in range(2)])
        self.out = nn.Linear(d, n_features)

    def forward(self, x: Tensor) -> Tensor:
        length, rate = x.shape[-1], x.unsqueeze(1)
        parts = []
        for gru in self.grus:
            h = gru(rate.transpose(1, 2))[0].transpose(1, 2)
            parts.append(F.interpolate(h, size=length, mode="linear", align_corners=False))
            rate = halve(rate)
        h = F.relu(self.dense(torch.cat(parts, 1).transpose(1, 2)))
        for norm, gru in zip(self.norms, self.residuals, strict=True):
            h = h + gru(norm(h))[0]
        return self.out(h).transpose(1, 2)


class SameConv(nn.Module):
    """A convolution along time that keeps the length, its input mirrored at the ends: [M, c_in, T] -> [M, c_out, T]."""

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv = nn.Conv1d(c_in, c_out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] <= self.kernel // 2:
            raise ValueError(f"a kernel of {self.kernel} samples cannot mirror a signal of {x.shape[-1]}")
        return self.conv(F.pad(x, ((self.kernel - 1) // 2, self.kernel // 2), mode="reflect"))


class ConvolutionalEncoder(nn.Module):
    """(B): channels [M, T] -> features [M, n_features, T]. Three kernel sizes joined, then four residual blocks.

    `width` scales the drawn one (1.0: 250 channels, 16.3 million parameters, 2.6 GMAC per channel of 160 samples); `kernels` are
    those of the three branches and of the blocks.
    """

    def __init__(
        self, n_features: int = 4, width: float = 1.0, kernels: tuple[int, int, int, int] = (128, 64, 16, 64)
    ) -> None:
        super().__init__()
        if not width > 0:
            raise ValueError(f"width={width} must be above 0")
        sizes = [max(1, round(c * width)) for c in (100, 100, 50)]
        d = sum(sizes)
        self.branches = nn.ModuleList([SameConv(1, c, k) for c, k in zip(sizes, kernels[:3], strict=True)])
        self.dense = nn.ModuleList([nn.Linear(d, d) for _ in range(4)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(d) for _ in range(5)])
        self.convs = nn.ModuleList([SameConv(d, d, kernels[3]) for _ in range(4)])
        self.out = SameConv(d, n_features, kernels[3])

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([branch(x.unsqueeze(1)) for branch in self.branches], 1)
        for dense, norm, conv in zip(self.dense, self.norms, self.convs, strict=False):
            r = F.relu(dense(h.transpose(1, 2))).transpose(1, 2)
            h = h + conv(norm(r))  # the skip starts before the dense layer
        return self.out(self.norms[4](F.relu(h)))


class Projector(nn.Module):
    """(C): features [M, c_in, T] -> [M, n_out]: bidirectional LSTMs at three rates, first and last outputs, two dense layers."""

    def __init__(
        self, c_in: int = 4, n_out: int = 32, widths: tuple[int, int, int] = (256, 128, 64), d: int = 128
    ) -> None:
        super().__init__()
        self.lstms = nn.ModuleList([nn.LSTM(c_in, width, batch_first=True, bidirectional=True) for width in widths])
        self.dense = nn.Linear(4 * sum(widths), d)
        self.out = nn.Linear(d, n_out)

    def forward(self, x: Tensor) -> Tensor:
        ends = []
        for lstm in self.lstms:
            h = lstm(x.transpose(1, 2))[0]
            ends += [h[:, 0], h[:, -1]]
            x = halve(x)
        return self.out(F.relu(self.dense(torch.cat(ends, 1))))


class ChannelClassifier(nn.Module):
    """Windows [N, n_chans, T] -> log-probabilities [N, n_classes]: the shared encoder on every channel, the features stacked, then
    the projector's shape with n_classes outputs and LogSoftmax."""

    def __init__(
        self,
        encoder: nn.Module,
        n_chans: int,
        n_features: int = 4,
        n_classes: int = 2,
        widths: tuple[int, int, int] = (256, 128, 64),
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = Projector(n_chans * n_features, n_classes, widths)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x.flatten(0, 1))  # [N n_chans, n_features, T]
        return self.head(features.view(x.shape[0], -1, x.shape[-1])).log_softmax(-1)

"""The networks of Mohsenvand et al. 2020 (figure 4): two channel encoders, the projector, and the classifier made like
it.

Left open by the figure and decided here: a GRU's or LSTM's D is its width per direction; "first & last output" are the
outputs of both directions at the first and the last step; downsampling is a mean of two neighbours, upsampling linear
to the full length, so that any length works; convolutions with even kernels pad (K - 1) // 2 before and K // 2 behind,
mirrored.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENCODERS = ("recurrent", "convolutional")


def halve(x: Tensor) -> Tensor:
    """[N, C, T] -> [N, C, ceil(T / 2)]: means of neighbours; an odd last sample stays itself."""
    return F.avg_pool1d(x, 2, ceil_mode=True, count_include_pad=False)


class RecurrentEncoder(nn.Module):
    """(A): channels [M, T] -> features [M, n_features, T]: GRUs at the full, half and quarter rate, joined; two
    residual GRUs.
    """

    def __init__(self, n_features: int = 4, widths: Sequence[int] = (256, 128, 64), d: int = 128) -> None:
        super().__init__()
        self.grus = nn.ModuleList([nn.GRU(1, width, batch_first=True) for width in widths])
        self.dense = nn.Linear(sum(widths), d)
        self.norms = nn.ModuleList([nn.LayerNorm(d) for _ in range(2)])
        self.residuals = nn.ModuleList([nn.GRU(d, d, batch_first=True) for _ in range(2)])
        self.out = nn.Linear(d, n_features)

    def forward(self, x: Tensor) -> Tensor:
        """Channels [M, T] -> features [M, n_features, T]."""
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
    """A convolution along time that keeps the length, its input mirrored at the ends: [M, T, c_in] -> [M, T, c_out].

    Channels come last in memory: with the few channels of a narrow encoder, a step of training takes half as long on a
    CPU.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv = nn.Conv1d(c_in, c_out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """[M, T, c_in] -> [M, T, c_out]. ValueError where T is too short to be mirrored."""
        before, behind = (self.kernel - 1) // 2, self.kernel // 2
        if x.shape[1] <= behind:
            raise ValueError(f"a kernel of {self.kernel} samples cannot mirror a signal of {x.shape[1]}")
        padded = torch.cat([x[:, 1 : before + 1].flip(1), x, x[:, x.shape[1] - behind - 1 : -1].flip(1)], 1)
        # As an image one pixel high: of 1-D convolutions PyTorch has none with channels last.
        weight = self.conv.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        return F.conv2d(padded.transpose(1, 2).unsqueeze(2), weight, self.conv.bias).squeeze(2).transpose(1, 2)


class ConvolutionalEncoder(nn.Module):
    """(B): channels [M, T] -> features [M, n_features, T]. Three kernel sizes joined, then four residual blocks.

    `width` scales the drawn one (1.0: 250 channels, 16.3 million parameters, 2.6 GMAC per channel of 160 samples);
    `kernels` are those of the three branches and of the blocks.
    """

    def __init__(
        self, n_features: int = 4, width: float = 1.0, kernels: tuple[int, int, int, int] = (128, 64, 16, 64)
    ) -> None:
        super().__init__()
        if not width > 0:
            raise ValueError(f"width={width} must be above 0")
        sizes = scaled(width, 100, 100, 50)
        d = sum(sizes)
        self.branches = nn.ModuleList([SameConv(1, c, k) for c, k in zip(sizes, kernels[:3], strict=True)])
        self.dense = nn.ModuleList([nn.Linear(d, d) for _ in range(4)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(d) for _ in range(5)])
        self.convs = nn.ModuleList([SameConv(d, d, kernels[3]) for _ in range(4)])
        self.out = SameConv(d, n_features, kernels[3])

    def forward(self, x: Tensor) -> Tensor:
        """Channels [M, T] -> features [M, n_features, T]."""
        h = torch.cat([branch(x.unsqueeze(2)) for branch in self.branches], 2)  # [M, T, d]
        for dense, norm, conv in zip(self.dense, self.norms, self.convs, strict=False):
            h = h + conv(over_last(norm, F.relu(dense(h))))  # the skip starts before the dense layer
        return self.out(over_last(self.norms[4], F.relu(h))).transpose(1, 2)


def over_last(norm: nn.Module, x: Tensor) -> Tensor:
    """A batch norm of the last dimension of x [M, T, d]."""
    normed: Tensor = norm(x.flatten(0, 1))
    return normed.view(x.shape)


class Projector(nn.Module):
    """(C): features [M, c_in, T] -> [M, n_out]: bidirectional LSTMs at three rates, first and last outputs, two dense
    layers.
    """

    def __init__(self, c_in: int = 4, n_out: int = 32, widths: Sequence[int] = (256, 128, 64), d: int = 128) -> None:
        super().__init__()
        self.lstms = nn.ModuleList([nn.LSTM(c_in, width, batch_first=True, bidirectional=True) for width in widths])
        self.dense = nn.Linear(4 * sum(widths), d)
        self.out = nn.Linear(d, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """Features [M, c_in, T] -> projections [M, n_out]."""
        ends = []
        for lstm in self.lstms:
            h = lstm(x.transpose(1, 2))[0]
            ends += [h[:, 0], h[:, -1]]
            x = halve(x)
        return self.out(F.relu(self.dense(torch.cat(ends, 1))))


class ChannelEncoder(nn.Module):
    """Channels [M, T] -> features [M, n_features, ceil(T / decimate)]: every `decimate`-th sample, then encoder (A) or
    (B).

    Leaving samples out is exact where the signal has nothing at or above half of the lower rate: 160 Hz band-passed at
    30 Hz may be read at 80 Hz, at half the cost. width scales all widths of the drawn encoder; kernels: of
    "convolutional" alone.
    """

    def __init__(
        self,
        kind: str = "convolutional",
        width: float = 1.0,
        kernels: tuple[int, int, int, int] = (128, 64, 16, 64),
        *,
        n_features: int = 4,
        decimate: int = 1,
    ) -> None:
        super().__init__()
        if kind not in ENCODERS:
            raise ValueError(f"encoder={kind!r}: allowed are {', '.join(ENCODERS)}")
        if decimate < 1 or not width > 0:
            raise ValueError(f"decimate={decimate}, width={width}: at least 1, and above 0")
        self.decimate, self.n_features = decimate, n_features
        *widths, d = scaled(width, 256, 128, 64, 128)
        self.encoder: nn.Module = (
            RecurrentEncoder(n_features, widths, d)
            if kind == "recurrent"
            else ConvolutionalEncoder(n_features, width, kernels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Channels [M, T] -> features [M, n_features, ceil(T / decimate)]."""
        return self.encoder(x[:, :: self.decimate])


def scaled(scale: float, *widths: int) -> list[int]:
    """Widths times `scale`, each at least 1."""
    return [max(1, round(width * scale)) for width in widths]


class Chosen(nn.Module):
    """The chosen channels of windows: [N, n_chans, T] -> [N, len(picks), T]; None: all."""

    picks: Tensor | None

    def __init__(self, picks: Sequence[int] | None) -> None:
        super().__init__()
        self.register_buffer("picks", None if picks is None else torch.tensor(picks), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, n_chans, T] -> [N, len(picks), T]."""
        return x if self.picks is None else x[:, self.picks]


def encode_channels(encoder: nn.Module, x: Tensor) -> Tensor:
    """Windows [N, C, T] -> the shared encoder's features of every channel, stacked: [N, C n_features, T']."""
    features = encoder(x.flatten(0, 1))
    return features.reshape(x.shape[0], x.shape[1] * features.shape[1], features.shape[2])


class ChannelClassifier(nn.Module):
    """Windows [N, n_chans, T] -> log-probabilities [N, n_classes]: the shared encoder on every channel, the features
    stacked, then the projector's shape with n_classes outputs and LogSoftmax.

    picks: numbers of the channels that are looked at, None for all. head_width: scales the drawn head. frozen: the
    encoder keeps its weights and statistics, and the head alone is trained. pool: the head is given means of the
    features over so many steps of time, one every pool // 2 steps; 1: every step, as drawn. Few steps are learnt from
    faster than many.
    """

    def __init__(
        self,
        encoder: nn.Module,
        n_chans: int,
        *,
        n_features: int = 4,
        n_classes: int = 2,
        head_width: float = 1.0,
        picks: Sequence[int] | None = None,
        frozen: bool = False,
        pool: int = 1,
    ) -> None:
        super().__init__()
        if pool < 1:
            raise ValueError(f"pool={pool}: at least 1")
        self.choose, self.encoder, self.frozen, self.pool = Chosen(picks), encoder, frozen, pool
        n_used = n_chans if picks is None else len(picks)
        *widths, d = scaled(head_width, 256, 128, 64, 128)
        self.head = Projector(n_used * n_features, n_classes, widths, d)
        encoder.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> "ChannelClassifier":
        """As nn.Module.train; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()  # else its batch norms would go on learning
        return self

    def features(self, x: Tensor) -> Tensor:
        """Windows [N, n_chans, T] -> what the head is given [N, C n_features, steps]."""
        features = encode_channels(self.encoder, self.choose(x))
        return F.avg_pool1d(features, self.pool, self.pool // 2) if self.pool > 1 else features

    def classify(self, features: Tensor) -> Tensor:
        """What the head is given [N, C n_features, steps] -> log-probabilities [N, n_classes]."""
        return self.head(features).log_softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Windows [N, n_chans, T] -> log-probabilities [N, n_classes]."""
        return self.classify(self.features(x))


class FeatureClassifier(ChannelClassifier):
    """A ChannelClassifier that is given `features` in the place of windows: those of a frozen encoder need computing
    only once.
    """

    def forward(self, x: Tensor) -> Tensor:
        """What `features` gives, [N, C n_features, steps] -> log-probabilities [N, n_classes]."""
        return self.classify(x)


def pooled_features(encoder: nn.Module, x: Tensor) -> Tensor:
    """Windows [N, C, T] -> [N, 2 C n_features]: mean and log variance over time of every channel's features."""
    features = encode_channels(encoder, x)
    return torch.cat([features.mean(2), features.var(2, correction=0).clamp_min(1e-8).log()], 1)


class LinearProbe(nn.Module):
    """Windows [N, n_chans, T] -> log-probabilities [N, n_classes]: a linear map of the frozen encoder's pooled
    features.

    `fit` of a logistic regression elsewhere gives mean and scale of the features, weights and bias.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        n_chans: int,
        *,
        n_features: int = 4,
        n_classes: int = 2,
        picks: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.choose, self.encoder = Chosen(picks), encoder.requires_grad_(False)
        n = 2 * (n_chans if picks is None else len(picks)) * n_features
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("scale", torch.ones(n))
        self.linear = nn.Linear(n, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """[N, n_chans, T] -> [N, 2 C n_features]."""
        return pooled_features(self.encoder, self.choose(x))

    def classify(self, features: Tensor) -> Tensor:
        """[N, 2 C n_features] -> log-probabilities [N, n_classes]."""
        return self.linear((features - self.mean) / self.scale).log_softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """Windows [N, n_chans, T] -> log-probabilities [N, n_classes]."""
        return self.classify(self.features(x))

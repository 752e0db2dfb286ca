"""The Transformer for EEG windows: slices of time as tokens, an encoder over them, and class queries that decode
them.
"""

import torch
from torch import Tensor, nn

from models.attention.spec import AttentionSpec
from models.eeg.simclr import ChannelEncoder, encode_channels
from models.eeg.whitening import mean_covariance, whitening
from models.transformer import Decoder, DecoderLayer, PositionalEncoding, pre_norm_encoder

POOLS = ("decoder", "cls", "mean")
EMBEDDINGS = ("power", "linear")
REFERENCE_EPOCHS = 5
"""How many epochs the training data's covariance counts for when a served classifier aligns the epochs it is given."""


class PowerEmbedding(nn.Module):
    """Log power of learned filters in each slice: windows [N, n_chans, n_times] -> tokens [N, n_tokens, d_model].

    A spatial filter (a weighted sum of channels), a temporal one, square, mean over the slice, logarithm, less its mean
    over the filters: ratios of the band powers that imagined movement changes, as in the ShallowConvNet of
    Schirrmeister et al. 2017 (arXiv:1703.05051). The phase of a rhythm says nothing about the hand; a linear map of a
    slice sees nothing else, and has to build squares in later layers.
    """

    def __init__(
        self, n_chans: int, d_model: int, *, patch_len: int, patch_stride: int, n_filters: int, filter_len: int
    ) -> None:
        super().__init__()
        if n_filters < 1 or filter_len < 1 or filter_len % 2 == 0:
            raise ValueError(
                f"n_filters={n_filters}, filter_len={filter_len}: at least 1 filter of an odd length are needed"
            )
        self.patch_len, self.patch_stride = patch_len, patch_stride
        self.space = nn.Conv1d(n_chans, n_filters, 1, bias=False)
        self.time = nn.Conv1d(n_filters, n_filters, filter_len, padding=filter_len // 2, groups=n_filters, bias=False)
        self.norm = nn.LayerNorm(n_filters)
        self.linear = nn.Linear(n_filters, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Windows [N, n_chans, n_times] -> tokens [N, n_tokens, d_model]."""
        filtered = self.time(self.space(x))
        power = nn.functional.avg_pool1d(filtered.square(), self.patch_len, self.patch_stride)
        return self.linear(self.norm(power.clamp_min(1e-6).log().transpose(1, 2)))


class LinearEmbedding(nn.Module):
    """A linear map of each slice: windows [N, n_chans, n_times] -> tokens [N, n_tokens, d_model]."""

    def __init__(self, n_chans: int, d_model: int, *, patch_len: int, patch_stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_chans, d_model, patch_len, patch_stride)

    def forward(self, x: Tensor) -> Tensor:
        """Windows [N, n_chans, n_times] -> tokens [N, n_tokens, d_model]."""
        return self.conv(x).transpose(1, 2)


class ChannelEmbedding(nn.Module):
    """Tokens from a channel encoder's features: windows [N, n_chans, n_times] -> [N, n_tokens, d_model].

    The shared encoder (models/eeg/simclr.py) reads every channel; log power of its features in each slice, over all
    channels, and a linear map. patch_len and patch_stride are multiples of the encoder's decimate, else a ValueError.
    """

    def __init__(
        self, encoder: ChannelEncoder, n_chans: int, d_model: int, *, patch_len: int, patch_stride: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        rate = encoder.decimate
        if patch_len % rate or patch_stride % rate:
            raise ValueError(
                f"patch_len={patch_len} and patch_stride={patch_stride} must be multiples of the encoder's "
                f"decimate={rate}"
            )
        self.patch_len, self.patch_stride = patch_len // rate, patch_stride // rate
        self.norm = nn.LayerNorm(n_chans * encoder.n_features)
        self.linear = nn.Linear(n_chans * encoder.n_features, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Windows [N, n_chans, n_times] -> tokens [N, n_tokens, d_model]."""
        features = encode_channels(self.encoder, x)
        power = nn.functional.avg_pool1d(features.square(), self.patch_len, self.patch_stride)
        return self.linear(self.norm(power.clamp_min(1e-6).log().transpose(1, 2)))


def _embedding(
    kind: str,
    n_chans: int,
    d_model: int,
    *,
    patch_len: int,
    patch_stride: int,
    n_filters: int,
    filter_len: int,
    channel_encoder: ChannelEncoder | None,
) -> nn.Module:
    if kind not in EMBEDDINGS:
        raise ValueError(f"embedding={kind!r}: allowed are {', '.join(EMBEDDINGS)}")
    if channel_encoder is not None:
        return ChannelEmbedding(channel_encoder, n_chans, d_model, patch_len=patch_len, patch_stride=patch_stride)
    if kind == "linear":
        return LinearEmbedding(n_chans, d_model, patch_len=patch_len, patch_stride=patch_stride)
    return PowerEmbedding(
        n_chans,
        d_model,
        patch_len=patch_len,
        patch_stride=patch_stride,
        n_filters=n_filters,
        filter_len=filter_len,
    )


class EegTransformer(nn.Module):
    """Windows [N, n_chans, n_times], normalised -> logits [N, n_classes].

    A token is a slice of `patch_len` samples over all channels, embedded in d_model features (`embedding`: "power", see
    PowerEmbedding, or "linear"); slices begin every `patch_stride` samples (the samples left at the end of a window are
    not used). Then, by `pool`:

    - "decoder": learned queries, one a class, attend to the encoded slices (Vaswani et al.'s decoder); each gives its
      logit;
    - "cls": a learned token in front of the slices, whose encoding is classified (Dosovitskiy et al. 2021);
    - "mean": the mean of the encoded slices is classified.

    Args:
        n_chans, patch_len, patch_stride: see above. d_model, n_heads, n_layers, d_ff, dropout: the encoder's (pre-norm,
        GELU).
        n_decoder_layers: of "decoder". attention: mechanism of the encoder, see models/attention/spec.py. n_filters,
        filter_len: of the "power" embedding. channel_encoder: tokens are embedded from its features, whatever
        `embedding` says.
    """

    def __init__(
        self,
        n_chans: int = 64,
        n_classes: int = 2,
        *,
        patch_len: int = 16,
        patch_stride: int = 8,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 2,
        n_decoder_layers: int = 1,
        d_ff: int = 128,
        dropout: float = 0.2,
        pool: str = "decoder",
        embedding: str = "power",
        n_filters: int = 32,
        filter_len: int = 33,
        attention: AttentionSpec | str = "sdpa",
        generator: torch.Generator | None = None,
        channel_encoder: ChannelEncoder | None = None,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool={pool!r}: allowed are {', '.join(POOLS)}")
        if patch_len < 1 or not patch_stride >= 1:
            raise ValueError(f"patch_len={patch_len}, patch_stride={patch_stride}: both must be at least 1")
        self.pool, self.patch_len, self.patch_stride = pool, patch_len, patch_stride
        self.embed = _embedding(
            embedding,
            n_chans,
            d_model,
            patch_len=patch_len,
            patch_stride=patch_stride,
            n_filters=n_filters,
            filter_len=filter_len,
            channel_encoder=channel_encoder,
        )
        self.position = PositionalEncoding(d_model, dropout)
        self.encoder = pre_norm_encoder(
            d_model,
            n_heads,
            n_layers,
            d_ff=d_ff,
            dropout=dropout,
            attention=attention,
            generator=generator,
        )
        if pool == "decoder":
            self.queries = nn.Parameter(torch.randn(n_classes, d_model) * 0.02)
            decoder = [
                DecoderLayer(d_model, n_heads, d_ff, dropout=dropout, activation="gelu", norm_first=True)
                for _ in range(n_decoder_layers)
            ]
            self.decoder = Decoder(decoder, nn.LayerNorm(d_model))
            self.head = nn.Linear(d_model, n_classes)  # row c reads the query of class c
        else:
            if pool == "cls":
                self.cls = nn.Parameter(torch.randn(1, d_model) * d_model**-0.5)
            self.head = nn.Linear(d_model, n_classes)

    def n_tokens(self, n_times: int) -> int:
        """Slices of a window of n_times samples."""
        if isinstance(self.embed, ChannelEmbedding):
            # Of the samples that the encoder keeps, the last of an odd number among them.
            n_times += -n_times % self.embed.encoder.decimate
        return (n_times - self.patch_len) // self.patch_stride + 1

    def encode(self, x: Tensor) -> Tensor:
        """Windows [N, n_chans, n_times] -> encoded slices [N, n_tokens, d_model] (with "cls", one more in front)."""
        if x.shape[-1] < self.patch_len:
            raise ValueError(f"patch_len={self.patch_len} is longer than the window of {x.shape[-1]} samples")
        tokens = self.embed(x)
        if self.pool == "cls":
            tokens = torch.cat([self.cls.expand(x.shape[0], 1, -1), tokens], 1)
        return self.encoder(self.position(tokens))[0]

    def forward(self, x: Tensor) -> Tensor:
        """Windows [N, n_chans, n_times], normalised -> logits [N, n_classes]."""
        memory = self.encode(x)
        if self.pool == "cls":
            return self.head(memory[:, 0])
        if self.pool == "mean":
            return self.head(memory.mean(1))
        decoded, _ = self.decoder(self.queries.expand(x.shape[0], -1, -1), memory)
        return (decoded * self.head.weight).sum(-1) + self.head.bias

    def attention_over_time(self, x: Tensor) -> Tensor:
        """How much is attended to each slice in the last layer, mean over heads: [N, n_queries, n_tokens], rows sum to
        1.

        pool="decoder": by each class query (n_queries = n_classes). pool="cls": by the class token (n_queries = 1; what
        it gives itself is left out), for exact mechanisms only. pool="mean" has no such query.
        """
        if self.pool == "mean":
            raise ValueError("pool='mean' has no class query or token that attends over time")
        if self.pool == "cls":
            tokens = torch.cat([self.cls.expand(x.shape[0], 1, -1), self.embed(x)], 1)
            weights = self.encoder(self.position(tokens), need_weights=True)[1][-1].mean(1)[:, :1, 1:]
            return weights / weights.sum(-1, keepdim=True)
        _, layers = self.decoder(self.queries.expand(x.shape[0], -1, -1), self.encode(x), need_weights=True)
        return layers[-1].mean(1)


class EpochClassifier(nn.Module):
    """What is served: raw epochs in volts [N, n_chans, n_times] -> probabilities [N, n_classes], of (left, right) or of
    whatever classes were trained.

    Band-pass (the FIR kernel of training, the epoch's ends mirrored), windows, each normalised by its own mean and
    deviation, the network on all of them, mean log-probability. Training filtered whole recordings: at an epoch's ends,
    within half a kernel, this filter sees mirrored samples instead of what came before and after.

    reference: mean covariance [n_chans, n_chans] in square microvolts of the trials trained on, if they were aligned
    (see models/eeg/whitening.py); None: no alignment. With it, the epochs of one call are taken to be one person's:
    they are whitened by their own mean covariance, to which the reference is added with the weight of REFERENCE_EPOCHS
    epochs. So the answer for an epoch depends on those it comes with; many of one person are best, and a single one
    still has an answer.
    """

    kernel: Tensor
    reference: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        kernel: Tensor,
        *,
        window: int,
        step: int,
        reference: Tensor | None = None,
        shrinkage: float = 0.05,
    ) -> None:
        super().__init__()
        if kernel.dim() != 1 or len(kernel) % 2 == 0:
            raise ValueError(f"the kernel has shape {list(kernel.shape)}; an odd number of taps is needed")
        self.network, self.window, self.step, self.shrinkage = network, window, step, shrinkage
        self.register_buffer("kernel", kernel.float())
        self.register_buffer("reference", None if reference is None else reference.double())

    def forward(self, x: Tensor) -> Tensor:
        """Epochs [N, n_chans, n_times] in volts -> probabilities [N, n_classes]."""
        x = x.to(self.kernel.dtype)  # MNE's epochs are float64
        n, n_chans, n_times = x.shape
        half = len(self.kernel) // 2
        # In microvolts: squares of volts (1e-10) would lose digits in float32.
        padded = nn.functional.pad((x * 1e6).reshape(n * n_chans, 1, n_times), (half, half), mode="reflect")
        filtered = nn.functional.conv1d(padded, self.kernel.view(1, 1, -1)).view(n, n_chans, n_times)
        if self.reference is not None:
            weight = REFERENCE_EPOCHS / (n + REFERENCE_EPOCHS)
            covariance = (1 - weight) * mean_covariance(filtered) + weight * self.reference
            filtered = whitening(covariance, self.shrinkage).to(filtered.dtype) @ filtered
        windows = filtered.unfold(2, self.window, self.step).permute(0, 2, 1, 3)  # [N, n_windows, n_chans, window]
        mean = windows.mean((2, 3), keepdim=True)
        sd = (windows - mean).square().mean((2, 3), keepdim=True).sqrt()
        windows = (windows - mean) / sd.clamp_min(1e-12)
        log_p = self.network(windows.flatten(0, 1)).log_softmax(-1).unflatten(0, (n, -1)).mean(1)
        return log_p.softmax(-1)

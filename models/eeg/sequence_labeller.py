"""Transformers that label every token: of recall sequences, and of whole EEG recordings, at once or as they come in."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention.spec import AttentionSpec, StreamingState
from models.transformer import PositionalEncoding, pre_norm_encoder


class RecallTransformer(nn.Module):
    """keys, values [B, N] (see data/recall.py) -> logits [B, N, n_values] of the value that belongs to each token's
    key.
    """

    def __init__(
        self,
        n_pairs: int,
        n_values: int,
        *,
        d_model: int,
        n_heads: int,
        n_layers: int,
        attention: AttentionSpec | str,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.key, self.value = nn.Embedding(n_pairs, d_model), nn.Embedding(n_values + 1, d_model)
        self.position = PositionalEncoding(d_model, 0.0)
        self.encoder = pre_norm_encoder(
            d_model, n_heads, n_layers, d_ff=2 * d_model, dropout=0.0, attention=attention, generator=generator
        )
        self.head = nn.Linear(d_model, n_values)

    def forward(self, keys: Tensor, values: Tensor) -> Tensor:
        """keys [B, N] in 0 .. n_pairs - 1, values [B, N] in 0 .. n_values (n_values: asked for) -> [B, N, n_values]."""
        return self.head(self.encoder(self.position(self.key(keys) + self.value(values)))[0])


class StreamState(NamedTuple):
    """What a RecordingTransformer remembers of a recording; its size does not depend on how long the recording is.

    samples: spatially filtered samples that the temporal filters still need [1, n_filters, filter_len - 1]. powers: of
    the samples of a slice that is not complete [1, n_filters, fewer than patch_len]. position: number of slices so far.
    layers: of attention.
    """

    samples: Tensor
    powers: Tensor
    position: int
    layers: tuple[StreamingState | None, ...]

    def n_numbers(self) -> int:
        """How many numbers the state holds."""
        of_layers = sum(layer.n_numbers() for layer in self.layers if layer is not None)
        return self.samples.numel() + self.powers.numel() + of_layers


class RecordingTransformer(nn.Module):
    """A recording [B, n_chans, n_times] -> logits [B, n_times // patch_len, n_classes], one for each slice of patch_len
    samples.

    A token is the log power of learned filters (spatial, then temporal) in a slice, as in models/eeg/transformer.py.
    With causal=True nothing looks ahead: the filters see the past, attention is causal; then, with a mechanism of the
    linear family, `stream` labels a recording as it comes in, in pieces of one sample or more, and gives what `forward`
    gives.
    """

    def __init__(
        self,
        n_chans: int,
        n_classes: int,
        *,
        patch_len: int,
        d_model: int,
        n_heads: int,
        n_layers: int,
        dropout: float,
        attention: AttentionSpec | str,
        causal: bool = False,
        n_filters: int = 16,
        filter_len: int = 33,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if patch_len < 1 or filter_len < 1 or filter_len % 2 == 0:
            raise ValueError(f"patch_len={patch_len}, filter_len={filter_len}: at least 1, and the filter's odd")
        self.patch_len, self.filter_len, self.causal = patch_len, filter_len, causal
        self.space = nn.Conv1d(n_chans, n_filters, 1, bias=False)
        self.time = nn.Conv1d(n_filters, n_filters, filter_len, groups=n_filters, bias=False)
        self.norm, self.linear = nn.LayerNorm(n_filters), nn.Linear(n_filters, d_model)
        self.position = PositionalEncoding(d_model, dropout)
        self.encoder = pre_norm_encoder(
            d_model, n_heads, n_layers, d_ff=2 * d_model, dropout=dropout, attention=attention, generator=generator
        )
        self.head = nn.Linear(d_model, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """A recording [B, n_chans, n_times] -> logits [B, n_times // patch_len, n_classes]."""
        if x.shape[-1] < self.patch_len:
            raise ValueError(f"patch_len={self.patch_len} is longer than the recording of {x.shape[-1]} samples")
        ends = (self.filter_len - 1, 0) if self.causal else (self.filter_len // 2, self.filter_len // 2)
        powers = self.time(F.pad(self.space(x), ends)).square()
        return self.head(self.encoder(self.position(self._tokens(powers)), causal=self.causal)[0])

    def _tokens(self, powers: Tensor) -> Tensor:
        """Powers [B, n_filters, n_times] -> tokens [B, n_times // patch_len, d_model]."""
        mean = F.avg_pool1d(powers, self.patch_len)
        return self.linear(self.norm(mean.clamp_min(1e-6).log().transpose(1, 2)))

    def start(self) -> StreamState:
        """The state before the first sample."""
        weight = self.space.weight
        n_filters = weight.shape[0]
        return StreamState(
            weight.new_zeros(1, n_filters, self.filter_len - 1),
            weight.new_zeros(1, n_filters, 0),
            0,
            (None,) * len(self.encoder.layers),
        )

    def stream(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """The next samples x [1, n_chans, n] of a recording -> (logits of the slices they complete [1, slices,
        n_classes], the state after them)."""
        if not self.causal:
            raise ValueError("this network looks ahead: stream needs causal=True")
        filtered = torch.cat((state.samples, self.space(x)), 2)
        powers = torch.cat((state.powers, self.time(filtered).square()), 2)
        whole = powers.shape[2] // self.patch_len * self.patch_len
        samples = filtered[:, :, filtered.shape[2] - (self.filter_len - 1) :]
        if not whole:
            return x.new_zeros(1, 0, self.head.out_features), state._replace(samples=samples, powers=powers)
        tokens = self.position(self._tokens(powers[:, :, :whole]), state.position)
        encoded, layers = self.encoder.stream(tokens, state.layers)
        position = state.position + whole // self.patch_len
        return self.head(encoded), StreamState(samples, powers[:, :, whole:], position, layers)

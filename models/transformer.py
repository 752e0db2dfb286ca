"""The Transformer of Vaswani et al. 2017 (arXiv:1706.03762), written out.

Parameter names, shapes and defaults are torch.nn's (`MultiheadAttention`, `TransformerEncoderLayer`,
`TransformerDecoderLayer`, `Transformer`), so their state dicts load here and the reverse;
tests/models/test_transformer.py holds outputs and gradients equal. Batches come first
everywhere: [B, N, d_model]. Masks are torch.nn's: True means "ignore". One departure: where torch.nn gives NaN because
every key of a sample is padding, attention here gives 0.

`attention=` puts any mechanism of `models.attention.spec` into any block. Each block returns (output, attention weights
or None).
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention.multi_head import MultiHeadAttentionBlock
from models.attention.spec import AttentionBlock, AttentionSpec, StreamingState

__all__ = [
    "AttentionBlock",
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "MultiHeadAttentionBlock",
    "PositionalEncoding",
    "Transformer",
    "pre_norm_encoder",
    "sinusoidal_encoding",
]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


def sinusoidal_encoding(
    length: int,
    d_model: int,
    start: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Encodings of the positions start ... start + length - 1, [length, d_model]; section 3.5 of the paper.

    pe[p, 2i] = sin(p / 10000^(2i / d_model)), pe[p, 2i + 1] = cos(p / 10000^(2i / d_model)); an odd d_model ends with a
    sine. Angles are computed in float64: in float32 they are wrong by 0.03 at position 576,000.
    """
    table = torch.empty(length, d_model, dtype=dtype, device=device)
    pair = torch.arange(0, d_model, 2, dtype=torch.float64, device=device)
    frequency = torch.exp(pair * (-math.log(10000.0) / d_model))
    for first in range(0, length, 16384):  # so that float64 never takes more than a few megabytes
        rows = table[first : first + 16384]
        position = torch.arange(len(rows), dtype=torch.float64, device=device) + (start + first)
        angle = position[:, None] * frequency
        rows[:, 0::2] = angle.sin().to(dtype)
        rows[:, 1::2] = angle.cos()[:, : d_model // 2].to(dtype)
    return table


class PositionalEncoding(nn.Module):
    """Add sinusoidal encodings to tokens of any length: x [B, N, d_model] -> [B, N, d_model].

    The table is made when first needed, and again when a longer sequence comes; it is no part of the state dict.
    """

    table: Tensor

    def __init__(self, d_model: int, dropout: float = 0.0) -> None:
        super().__init__()
        if d_model < 1:
            raise ValueError(f"d_model={d_model}: at least 1")
        self.d_model = d_model
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("table", torch.empty(0, d_model), persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """x [B, N, d_model] -> the same shape. start: position of the first token, for a recording in pieces."""
        if x.shape[-1] != self.d_model:
            raise ValueError(f"tokens have {x.shape[-1]} features, the encoding has d_model={self.d_model}")
        end = start + x.shape[-2]
        if start > 0:  # pieces of an endless recording must not make an endless table
            encoding = sinusoidal_encoding(x.shape[-2], self.d_model, start, dtype=x.dtype, device=x.device)
            return self.dropout(x + encoding)
        if len(self.table) < end or self.table.dtype != x.dtype or self.table.device != x.device:
            self.table = sinusoidal_encoding(end, self.d_model, dtype=x.dtype, device=x.device)
        return self.dropout(x + self.table[:end])


class EncoderLayer(nn.Module):
    """Self-attention, then the same two-layer network on every token, each added to its input and normalised.

    Args:
        d_model, n_heads: see MultiHeadAttentionBlock.
        d_ff: hidden features of the two-layer network.
        dropout: after attention, inside and after the network. Weights of attention have their own,
            `AttentionSpec.dropout`, 0 by default (torch.nn uses one number for both; on a CPU, dropping weights makes
            attention several times slower).
        activation: `relu` or `gelu`.
        norm_first: normalise the input of each part (pre-norm) instead of the sum (post-norm, the paper's).
        attention: mechanism of the self-attention.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int = 2048,
        *,
        dropout: float = 0.1,
        activation: str = "relu",
        norm_first: bool = False,
        attention: AttentionSpec | str = "sdpa",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttentionBlock(d_model, n_heads, attention, generator=generator)
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout, self.dropout1, self.dropout2 = (nn.Dropout(dropout) for _ in range(3))
        self.activation = _activation(activation)
        self.norm_first = norm_first

    def forward(
        self,
        x: Tensor,
        key_padding_mask: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        causal: bool = False,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """x [B, N, d_model] -> (the same shape, weights [B, h, N, N] or None)."""
        h = self.norm1(x) if self.norm_first else x
        h, weights = self.self_attn(
            h, key_padding_mask=key_padding_mask, attn_mask=attn_mask, causal=causal, need_weights=need_weights
        )
        return self._after_attention(x, h), weights

    def stream(self, x: Tensor, state: StreamingState | None) -> tuple[Tensor, StreamingState]:
        """The next tokens x [B, n, d_model] of a sequence that need not end; see MultiHeadAttentionBlock.stream."""
        h, state = self.self_attn.stream(self.norm1(x) if self.norm_first else x, state)
        return self._after_attention(x, h), state

    def _after_attention(self, x: Tensor, h: Tensor) -> Tensor:
        x = x + self.dropout1(h)
        if not self.norm_first:
            x = self.norm1(x)
        h = self.norm2(x) if self.norm_first else x
        h = self.linear2(self.dropout(self.activation(self.linear1(h))))
        x = x + self.dropout2(h)
        return x if self.norm_first else self.norm2(x)


class DecoderLayer(nn.Module):
    """Self-attention of the targets, attention to the encoder's output (`memory`), then the two-layer network.

    Args: as EncoderLayer; `attention` is the mechanism among the targets, `cross_attention` the one from targets to
    memory.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int = 2048,
        *,
        dropout: float = 0.1,
        activation: str = "relu",
        norm_first: bool = False,
        attention: AttentionSpec | str = "sdpa",
        cross_attention: AttentionSpec | str = "sdpa",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttentionBlock(d_model, n_heads, attention, generator=generator)
        self.multihead_attn = MultiHeadAttentionBlock(d_model, n_heads, cross_attention, generator=generator)
        if not self.multihead_attn.mechanism.takes_cross:
            raise ValueError(
                f"cross_attention={cross_attention!r} attends within one sequence; it cannot attend to memory"
            )
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d_model) for _ in range(3))
        self.dropout, self.dropout1, self.dropout2, self.dropout3 = (nn.Dropout(dropout) for _ in range(4))
        self.activation = _activation(activation)
        self.norm_first = norm_first

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        memory_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        causal: bool = False,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """x [B, N, d_model], memory [B, M, d_model] -> (as x, weights of the attention to memory [B, h, N, M] or
        None).
        """
        h = self.norm1(x) if self.norm_first else x
        h, _ = self.self_attn(h, key_padding_mask=key_padding_mask, attn_mask=attn_mask, causal=causal)
        x = x + self.dropout1(h)
        if not self.norm_first:
            x = self.norm1(x)
        h = self.norm2(x) if self.norm_first else x
        h, weights = self.multihead_attn(
            h, memory, key_padding_mask=memory_padding_mask, attn_mask=memory_mask, need_weights=need_weights
        )
        x = x + self.dropout2(h)
        if not self.norm_first:
            x = self.norm2(x)
        h = self.norm3(x) if self.norm_first else x
        h = self.linear2(self.dropout(self.activation(self.linear1(h))))
        x = x + self.dropout3(h)
        return (x if self.norm_first else self.norm3(x)), weights


class Encoder(nn.Module):
    """Encoder layers one after the other, and a last normalisation unless `norm` is None (pre-norm layers need it)."""

    def __init__(self, layers: list[EncoderLayer], norm: nn.LayerNorm | None = None) -> None:
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm

    def forward(
        self,
        x: Tensor,
        key_padding_mask: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        causal: bool = False,
        need_weights: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """x [B, N, d_model] -> (the same shape, the weights of each layer if asked for)."""
        weights = []
        for layer in self.layers:
            x, w = layer(x, key_padding_mask, attn_mask=attn_mask, causal=causal, need_weights=need_weights)
            weights += [] if w is None else [w]
        return (x if self.norm is None else self.norm(x)), weights

    def stream(
        self, x: Tensor, states: Sequence[StreamingState | None]
    ) -> tuple[Tensor, tuple[StreamingState | None, ...]]:
        """The next tokens x [B, n, d_model] of a sequence that need not end, and each layer's state before and after
        them.
        """
        after: list[StreamingState | None] = []
        for layer, state in zip(self.layers, states, strict=True):
            assert isinstance(layer, EncoderLayer)
            x, state = layer.stream(x, state)
            after.append(state)
        return (x if self.norm is None else self.norm(x)), tuple(after)


def pre_norm_encoder(
    d_model: int,
    n_heads: int,
    n_layers: int,
    *,
    d_ff: int,
    dropout: float,
    attention: AttentionSpec | str,
    generator: torch.Generator | None = None,
) -> Encoder:
    """n_layers alike with GELU, each normalising its input, and a last normalisation: [B, N, d_model] -> the same."""
    layers = [
        EncoderLayer(
            d_model,
            n_heads,
            d_ff,
            dropout=dropout,
            activation="gelu",
            norm_first=True,
            attention=attention,
            generator=generator,
        )
        for _ in range(n_layers)
    ]
    return Encoder(layers, nn.LayerNorm(d_model))


class Decoder(nn.Module):
    """Decoder layers one after the other, and a last normalisation unless `norm` is None."""

    def __init__(self, layers: list[DecoderLayer], norm: nn.LayerNorm | None = None) -> None:
        super().__init__()
        self.layers, self.norm = nn.ModuleList(layers), norm

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        memory_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        causal: bool = False,
        need_weights: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """x [B, N, d_model], memory [B, M, d_model] -> (as x, the weights of each layer's attention to memory if asked
        for).
        """
        weights = []
        for layer in self.layers:
            x, w = layer(
                x,
                memory,
                key_padding_mask=key_padding_mask,
                memory_padding_mask=memory_padding_mask,
                attn_mask=attn_mask,
                memory_mask=memory_mask,
                causal=causal,
                need_weights=need_weights,
            )
            weights += [] if w is None else [w]
        return (x if self.norm is None else self.norm(x)), weights


class Transformer(nn.Module):
    """Encoder and decoder: src [B, N, d_model], tgt [B, M, d_model] -> [B, M, d_model]. Embeddings and the last map are
    the caller's.

    Args: as EncoderLayer and DecoderLayer. `attention` is the encoder's mechanism, `decoder_attention` the one among
    the targets, `cross_attention` the one from targets to the encoder's output.
    """

    def __init__(
        self,
        d_model: int = 512,
        n_heads: int = 8,
        n_encoder_layers: int = 6,
        n_decoder_layers: int = 6,
        *,
        d_ff: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        norm_first: bool = False,
        attention: AttentionSpec | str = "sdpa",
        decoder_attention: AttentionSpec | str = "sdpa",
        cross_attention: AttentionSpec | str = "sdpa",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        encoder = [
            EncoderLayer(
                d_model,
                n_heads,
                d_ff,
                dropout=dropout,
                activation=activation,
                norm_first=norm_first,
                attention=attention,
                generator=generator,
            )
            for _ in range(n_encoder_layers)
        ]
        decoder = [
            DecoderLayer(
                d_model,
                n_heads,
                d_ff,
                dropout=dropout,
                activation=activation,
                norm_first=norm_first,
                attention=decoder_attention,
                cross_attention=cross_attention,
                generator=generator,
            )
            for _ in range(n_decoder_layers)
        ]
        self.encoder = Encoder(encoder, nn.LayerNorm(d_model))
        self.decoder = Decoder(decoder, nn.LayerNorm(d_model))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        *,
        src_padding_mask: Tensor | None = None,
        tgt_padding_mask: Tensor | None = None,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_causal: bool = False,
    ) -> Tensor:
        """src [B, N, d_model], tgt [B, M, d_model] -> [B, M, d_model].

        Padding masks [B, N] and [B, M], attention masks [N, N], [M, M] and [M, N]; tgt_causal: target i sees targets
        0..i.
        """
        memory, _ = self.encoder(src, src_padding_mask, attn_mask=src_mask)
        decoded, _ = self.decoder(
            tgt,
            memory,
            key_padding_mask=tgt_padding_mask,
            memory_padding_mask=src_padding_mask,
            attn_mask=tgt_mask,
            memory_mask=memory_mask,
            causal=tgt_causal,
        )
        return decoded


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r}: allowed are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]

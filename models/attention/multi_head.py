"""Several attentions side by side: section 3.2.2 of Vaswani et al. 2017 (arXiv:1706.03762), written out.

Parameter names, shapes and masks are torch.nn.MultiheadAttention's; see models/transformer.py. Two mechanisms have a
shorter way
from tokens to output than map, mechanism, map: Linformer shortens tokens before it maps them, linear attention is
re-associated (models/attention/tokens.py). tests/models/attention/test_multi_head.py holds both equal to the long way.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention.base import Masks, without_nan
from models.attention.spec import (
    AttentionBlock,
    AttentionSpec,
    LinearAttention,
    Linformer,
    StreamingState,
    build_attention,
)
from models.attention.tokens import Maps, attend_tokens, takes_samples, takes_written_gradient, train_tokens


class MultiHeadAttentionBlock(nn.Module):
    """h attentions side by side, each on its own linear map of the inputs; section 3.2.2 of the paper.

    Args:
        d_model: features of a token, in and out; divisible by n_heads.
        n_heads: h. Head i works on features i d_head ... (i + 1) d_head - 1 of the maps, d_head = d_model / h.
        attention: mechanism of the heads.
        bias: whether the four linear maps have one.
        generator: for the random directions of FAVOR+.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        attention: AttentionSpec | str = "sdpa",
        *,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if n_heads < 1 or d_model < 1 or d_model % n_heads:
            raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}")
        self.d_model, self.n_heads, self.d_head = d_model, n_heads, d_model // n_heads
        # The maps to q, k and v lie in one matrix, so that self-attention computes them in one product.
        self.in_proj_weight = nn.Parameter(torch.empty(3 * d_model, d_model))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * d_model)) if bias else None
        self.out_proj = nn.Linear(d_model, d_model, bias)
        self.mechanism = build_attention(attention, self.d_head, generator, n_heads=n_heads)
        nn.init.xavier_uniform_(self.in_proj_weight)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        causal: bool = False,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from query [B, N_q, d_model] to key and value [B, N_k, d_model]: (out [B, N_q, d_model], weights or
        None).

        key None: self-attention. value None: the key. need_weights: also return [B, h, N_q, N_k] (exact mechanisms
        only); the scores are then written out, whatever the backend.
        """
        key = query if key is None else key
        value = key if value is None else value
        query, key, value = _without_nan(query, key, value, key_padding_mask)
        if query.shape[-1] != self.d_model or key.shape[-1] != self.d_model:
            raise ValueError(
                f"tokens have {query.shape[-1]} and {key.shape[-1]} features, the block has d_model={self.d_model}"
            )
        mechanism, masks = self.mechanism, Masks(key_padding_mask, attn_mask, causal)
        if need_weights:
            if not isinstance(mechanism, AttentionBlock):
                raise ValueError(
                    f"{type(mechanism).__name__} never forms attention weights; need_weights=True needs sdpa or softmax"
                )
            q, k, v = self.project(query, key, value)
            heads, weights = mechanism.with_weights(q, k, v, masks)
            return self.merge(heads), weights
        if isinstance(mechanism, Linformer) and attn_mask is None and not causal:
            return self._linformer(mechanism, query, key, value, key_padding_mask=key_padding_mask), None
        if isinstance(mechanism, LinearAttention) and attn_mask is None and not causal:
            if takes_written_gradient(mechanism, query, key, value):
                if key_padding_mask is not None:
                    mechanism.check(query[:, None], key[:, None], masks)
                out = train_tokens(
                    query,
                    in_weight=self.in_proj_weight,
                    in_bias=self.in_proj_bias,
                    out_weight=self.out_proj.weight,
                    out_bias=self.out_proj.bias,
                    key_padding_mask=key_padding_mask,
                    n_heads=self.n_heads,
                )
                return out, None
            if takes_samples(query):
                mechanism.check(query[:, None], key[:, None], masks)
                maps = self._all_maps()
                return attend_tokens(
                    mechanism, maps, query, key=key, value=value, key_padding_mask=key_padding_mask
                ), None
        q, k, v = self.project(query, key, value)
        return self.merge(mechanism(q, k, v, key_padding_mask, attn_mask=attn_mask, causal=causal)), None

    def stream(self, x: Tensor, state: StreamingState | None) -> tuple[Tensor, StreamingState]:
        """Causal self-attention over the next tokens x [B, n, d_model] of a sequence that need not end: (out, state
        after them).

        state: of the tokens before, None at the start. However a sequence is cut, the result is that of one call with
        causal=True.
        """
        heads, state = self.mechanism.stream(*self.project(x, x, x), state)
        return self.merge(heads), state

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of all heads [B, h, N, d_head] (views of token-major memory)."""
        if query is key and key is value:
            q, k, v = self._maps(query, 0, 3)
            return q, k, v
        return self._maps(query, 0, 1)[0], *self._keys_and_values(key, value)

    def _keys_and_values(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if key is value:
            k, v = self._maps(key, 1, 3)
            return k, v
        return self._maps(key, 1, 2)[0], self._maps(value, 2, 3)[0]

    def merge(self, heads: Tensor) -> Tensor:
        """Heads [B, h, N, d_head] side by side, through the last linear map: [B, N, d_model]."""
        return self.out_proj(heads.transpose(1, 2).flatten(2))

    def _all_maps(self) -> Maps:
        biases = None if self.in_proj_bias is None else self.in_proj_bias.view(3, -1).unbind(0)
        matrices = self.in_proj_weight.view(3, self.d_model, self.d_model).unbind(0)
        return Maps(
            weights=matrices,
            biases=biases,
            out_weight=self.out_proj.weight,
            out_bias=self.out_proj.bias,
            n_heads=self.n_heads,
        )

    def _maps(self, x: Tensor, first: int, last: int) -> list[Tensor]:
        """Linear maps number first ... last - 1 (of q, k, v) of x, split into heads."""
        weight, bias = self._parameters_of(first, last)
        return self._split(F.linear(x, weight, bias), last - first)

    def _parameters_of(self, first: int, last: int) -> tuple[Tensor, Tensor | None]:
        rows = slice(first * self.d_model, last * self.d_model)
        return self.in_proj_weight[rows], None if self.in_proj_bias is None else self.in_proj_bias[rows]

    def _split(self, x: Tensor, n_maps: int) -> list[Tensor]:
        batch, length, _ = x.shape
        if n_maps == 1:
            return [x.unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)]
        return list(x.view(batch, length, n_maps, self.n_heads, self.d_head).permute(2, 0, 3, 1, 4).unbind(0))

    def _linformer(
        self,
        mechanism: Linformer,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        key_padding_mask: Tensor | None,
    ) -> Tensor:
        """E (x W + 1 b) = (E x) W + (E 1) b: shortening the tokens before the linear maps saves the maps of N -
        n_projected of them.

        The same function in two thirds less work in the maps; time 1.3 to 1.9 times shorter from 1,024 tokens on.
        """
        mechanism.check(query[:, None], key[:, None], Masks(key_padding_mask))
        if query is key and key is value and key.shape[1] < 2 * mechanism.n_projected:  # too short to save anything
            q, rows_k, rows_v = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
            k, v, _, _ = mechanism.shorten(rows_k, rows_v, key_padding_mask)
            q, k, v = (self._split(t, 1)[0] for t in (q, k, v))
            return self.merge(mechanism.attend_shortened(q, k, v))
        (q,) = self._maps(query, 0, 1)
        k, v, sums_k, sums_v = mechanism.shorten(key, value, key_padding_mask)
        (weight_k, bias_k), (weight_v, bias_v) = self._parameters_of(1, 2), self._parameters_of(2, 3)
        k, v = F.linear(k, weight_k), F.linear(v, weight_v)
        if bias_k is not None and bias_v is not None:
            k, v = torch.addcmul(k, sums_k(), bias_k), torch.addcmul(v, sums_v(), bias_v)
        (k,), (v,) = self._split(k, 1), self._split(v, 1)
        return self.merge(mechanism.attend_shortened(q, k, v))


def _without_nan(query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The same, with 0 for what is not finite in padding; what was one tensor stays one. Queries of another sequence
    have no padding that is known."""
    if padding is None or padding.shape != key.shape[:2] or padding.dtype != torch.bool:  # the latter are refused later
        return query, key, value
    clean_key = without_nan(key, padding)
    clean_value = clean_key if value is key else without_nan(value, padding)
    return (clean_key if query is key else query), clean_key, clean_value

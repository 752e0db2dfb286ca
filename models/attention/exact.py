"""Exact attention and the two controls, under the call that every mechanism of `models.attention.spec` shares.

    mechanism(q, k, v, key_padding_mask=None, attn_mask=None, causal=False) -> out

q [B, h, N_q, d_head], k and v [B, h, N_k, d_head], out [B, h, N_q, d_head].
key_padding_mask: bool [B, N_k], True where a key is padding and must be ignored (the sense of
torch.nn.MultiheadAttention; the opposite of torch's scaled_dot_product_attention). Where every key of a sample is
padding, its output is 0, never NaN.
attn_mask: bool [N_q, N_k] or broadcastable to [B, h, N_q, N_k], True where a query must not see a key; or float, added
to the scores. Only exact attention takes it: the others have no table of N_q x N_k scores to apply it to.
causal: query i sees the keys 0..i.
"""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BACKENDS = ("sdpa", "softmax")


class Abilities(Protocol):
    """What a mechanism's class says it takes: causal=True; keys that are not as many as queries; attn_mask."""

    takes_causal: bool
    takes_cross: bool
    takes_attn_mask: bool


def check_call(
    name: str,
    mechanism: Abilities,
    q: Tensor,
    k: Tensor,
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None = None,
    causal: bool = False,
) -> None:
    """Raise ValueError, naming the sizes, for a call that the mechanism, called `name`, cannot answer."""
    n_q, n_k = q.shape[-2], k.shape[-2]
    if key_padding_mask is not None and key_padding_mask.shape != (k.shape[0], n_k):
        raise ValueError(
            f"key_padding_mask has shape {list(key_padding_mask.shape)}, the keys need [{k.shape[0]}, {n_k}]"
        )
    if key_padding_mask is not None and key_padding_mask.dtype != torch.bool:
        raise ValueError(f"key_padding_mask is {key_padding_mask.dtype}; it must be bool, True for padding")
    if attn_mask is not None and not mechanism.takes_attn_mask:
        raise ValueError(
            f"{name} attention forms no {n_q} x {n_k} scores, so attn_mask cannot apply; use sdpa or softmax"
        )
    if causal and not mechanism.takes_causal:
        raise ValueError(
            f"{name} attention mixes all {n_k} positions before any query reads them: causal=True cannot hold"
        )
    if (causal or not mechanism.takes_cross) and n_q != n_k:
        what = "causal attention" if causal else f"{name} attention"
        raise ValueError(f"{what} needs as many queries as keys, got {n_q} and {n_k}")
    if attn_mask is not None and attn_mask.dtype != torch.bool and not attn_mask.is_floating_point():
        raise ValueError(
            f"attn_mask is {attn_mask.dtype}; it must be bool, True for unseen, or float, added to the scores"
        )
    if attn_mask is not None:
        fits = attn_mask.dim() <= 4 and all(
            size in (1, full)
            for size, full in zip(attn_mask.shape[::-1], (n_k, n_q, q.shape[1], q.shape[0]), strict=False)
        )
        if not fits:
            raise ValueError(
                f"attn_mask has shape {list(attn_mask.shape)}, the scores are [{q.shape[0]}, {q.shape[1]}, {n_q}, "
                f"{n_k}]"
            )


def additive_mask(
    q: Tensor, k: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None, causal: bool
) -> Tensor | None:
    """All masks as one tensor added to the scores: 0 or the given number where a key is seen, -inf where it is not."""
    n_q, n_k = q.shape[-2], k.shape[-2]
    blocked = None if key_padding_mask is None else key_padding_mask[:, None, None, :]
    if causal:
        later = torch.ones(n_q, n_k, dtype=torch.bool, device=q.device).triu(1)
        blocked = later if blocked is None else blocked | later
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        blocked = attn_mask if blocked is None else blocked | attn_mask
        attn_mask = None
    if blocked is None:
        return None if attn_mask is None else attn_mask.to(q.dtype)
    zeros = torch.zeros((), dtype=q.dtype, device=q.device) if attn_mask is None else attn_mask.to(q.dtype)
    return zeros.masked_fill(blocked, -math.inf)


def attention_weights(
    q: Tensor,
    k: Tensor,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """softmax(q k^T / sqrt(d_head)) [B, h, N_q, N_k], equation 1 of Vaswani et al. 2017; 0 in rows that see no key."""
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    mask = additive_mask(q, k, key_padding_mask, attn_mask, causal)
    if mask is None:
        return scores.softmax(-1)
    blocked = mask == -math.inf
    # The lowest finite number instead of -inf: a row that sees nothing then has no NaN, neither in its weights nor in
    # its gradient.
    lowest = torch.finfo(q.dtype).min
    weights = (scores + mask.masked_fill(blocked, 0)).masked_fill(blocked, lowest).softmax(-1)
    return weights.masked_fill(blocked, 0)


class AttentionBlock(nn.Module):
    """Scaled dot-product attention, softmax(q k^T / sqrt(d_head)) v.

    Reference: Vaswani et al. 2017, arXiv:1706.03762, equation 1; Dao et al. 2022, arXiv:2205.14135, for the tiled form.
    Main idea: every query takes the average of the values, weighted by how well it matches each key.
    Cost: 4 N^2 d_model operations and N^2 h exponentials. Memory N^2 h numbers written out, O(N d_model) tiled.
    Exact: it is the definition. Choose it up to about a thousand tokens, and wherever time allows.

    Args:
        backend: `sdpa`, torch's scaled_dot_product_attention: tiled, the scores are never stored, the same numbers up
        to
            rounding; or `softmax`, written out, which stores them.
        dropout: share of attention weights set to zero in training. Above 0, torch's CPU kernel stores the scores too
        and is several times slower.
    """

    takes_causal = takes_cross = takes_attn_mask = True

    def __init__(self, backend: str = "sdpa", dropout: float = 0.0) -> None:
        super().__init__()
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend!r}: allowed are {', '.join(BACKENDS)}")
        self.backend, self.dropout = backend, dropout

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        if self.backend == "softmax":
            return self.with_weights(q, k, v, key_padding_mask, attn_mask, causal)[0]
        check_call(self.backend, self, q, k, key_padding_mask, attn_mask, causal)
        dropout = self.dropout if self.training else 0.0  # the function itself does not know of eval()
        if key_padding_mask is None and attn_mask is None:
            # Row-contiguous heads: the kernel is 7 % faster at 4,096 tokens than on views of the packed projection.
            if k.shape[-2] >= 1024 and not torch.is_grad_enabled():
                q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)
        if attn_mask is None and not causal and key_padding_mask is not None:
            seen: Tensor | None = ~key_padding_mask[:, None, None, :]  # broadcast: N numbers, not N^2
        else:
            seen = additive_mask(q, k, key_padding_mask, attn_mask, causal)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)

    def with_weights(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        causal: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The output and the weights [B, h, N_q, N_k] that made it (after dropout, in training)."""
        check_call("softmax", self, q, k, key_padding_mask, attn_mask, causal)
        weights = attention_weights(q, k, key_padding_mask, attn_mask, causal)
        weights = F.dropout(weights, self.dropout, self.training)
        return weights @ v, weights


class NoMixing(nn.Module):
    """Control: each token keeps its own value, out = v. What a model reaches with this, it reaches without attention.

    Cost: nothing beyond the projections around it, so its time is the ceiling of every mechanism's speed-up.
    """

    takes_causal, takes_cross, takes_attn_mask = True, False, False

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        check_call("none", self, q, k, key_padding_mask, attn_mask, causal)
        return v


class FourierMixing(nn.Module):
    """Control: a fixed mixing without parameters, Re(FFT over time (FFT over features)) of the values of all heads
    together.

    Reference: Lee-Thorp et al. 2021 (FNet), arXiv:2105.03824, equation 3; with orthonormal transforms, since
    unnormalised ones did not train in a pre-norm block.
    Cost: O(N d_model log(N d_model)). Queries and keys are ignored. No causal form. Padding is set to zero first, but
    the
    frequencies still depend on the padded length: a sample alone and in a padded batch differ.
    """

    takes_causal = takes_cross = takes_attn_mask = False

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        check_call("fourier", self, q, k, key_padding_mask, attn_mask, causal)
        batch, heads, length, d_head = v.shape
        if key_padding_mask is not None:
            v = v.masked_fill(key_padding_mask[:, None, :, None], 0)
        rows = v.transpose(1, 2).reshape(batch, length, heads * d_head)
        half = rows.dtype in (torch.float16, torch.bfloat16)  # no FFT in these
        mixed = torch.fft.fft2(rows.float() if half else rows, dim=(1, 2), norm="ortho").real.to(v.dtype)
        return mixed.view(batch, length, heads, d_head).transpose(1, 2)

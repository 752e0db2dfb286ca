"""Exact attention and the two controls. Masks and shapes: see `models.attention.base`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention.base import NO_MASKS, Attention, Masks

BACKENDS = ("sdpa", "softmax")


def additive_mask(q: Tensor, k: Tensor, masks: Masks) -> Tensor | None:
    """All masks as one tensor added to the scores: 0 or the given number where a key is seen, -inf where it is not."""
    n_q, n_k = q.shape[-2], k.shape[-2]
    attn_mask = masks.attn
    blocked = None if masks.key_padding is None else masks.key_padding[:, None, None, :]
    if masks.causal:
        later = torch.ones(n_q, n_k, dtype=torch.bool, device=q.device).triu(1)
        blocked = later if blocked is None else blocked | later
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        blocked = attn_mask if blocked is None else blocked | attn_mask
        attn_mask = None
    if blocked is None:
        return None if attn_mask is None else attn_mask.to(q.dtype)
    zeros = torch.zeros((), dtype=q.dtype, device=q.device) if attn_mask is None else attn_mask.to(q.dtype)
    return zeros.masked_fill(blocked, -math.inf)


def attention_weights(q: Tensor, k: Tensor, masks: Masks = NO_MASKS) -> Tensor:
    """softmax(q k^T / sqrt(d_head)) [B, h, N_q, N_k], equation 1 of Vaswani et al. 2017; 0 in rows that see no key."""
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    mask = additive_mask(q, k, masks)
    if mask is None:
        return scores.softmax(-1)
    blocked = mask == -math.inf
    # The lowest finite number instead of -inf: a row that sees nothing then has no NaN, neither in its weights nor in
    # its gradient.
    lowest = torch.finfo(q.dtype).min
    weights = (scores + mask.masked_fill(blocked, 0)).masked_fill(blocked, lowest).softmax(-1)
    return weights.masked_fill(blocked, 0)


class AttentionBlock(Attention):
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
        self.name = self.backend = backend
        self.dropout = dropout

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks) -> Tensor:
        """q, k, v [B, h, N, d_head] -> [B, h, N_q, d_head]; see `Attention`."""
        if self.backend == "softmax":
            return self.with_weights(q, k, v, masks)[0]
        dropout = self.dropout if self.training else 0.0  # the function itself does not know of eval()
        if masks.key_padding is None and masks.attn is None:
            # Row-contiguous heads: the kernel is 7 % faster at 4,096 tokens than on views of the packed projection.
            if k.shape[-2] >= 1024 and not torch.is_grad_enabled():
                q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=masks.causal)
        if masks.attn is None and not masks.causal and masks.key_padding is not None:
            seen: Tensor | None = ~masks.key_padding[:, None, None, :]  # broadcast: N numbers, not N^2
        else:
            seen = additive_mask(q, k, masks)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)

    def with_weights(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks = NO_MASKS) -> tuple[Tensor, Tensor]:
        """The output and the weights [B, h, N_q, N_k] that made it (after dropout, in training)."""
        self.check(q, k, masks)
        weights = attention_weights(q, k, masks)
        weights = F.dropout(weights, self.dropout, self.training)
        return weights @ v, weights


class NoMixing(Attention):
    """Control: each token keeps its own value, out = v. What a model reaches with this, it reaches without attention.

    Cost: nothing beyond the projections around it, so its time is the ceiling of every mechanism's speed-up.
    """

    name = "none"
    takes_causal, takes_cross, takes_attn_mask = True, False, False

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks) -> Tensor:
        """q, k, v [B, h, N, d_head] -> [B, h, N_q, d_head]; see `Attention`."""
        return v


class FourierMixing(Attention):
    """Control: a fixed mixing without parameters, Re(FFT over time (FFT over features)) of the values of all heads
    together.

    Reference: Lee-Thorp et al. 2021 (FNet), arXiv:2105.03824, equation 3; with orthonormal transforms, since
    unnormalised ones did not train in a pre-norm block.
    Cost: O(N d_model log(N d_model)). Queries and keys are ignored. No causal form. Padding is set to zero first, but
    the
    frequencies still depend on the padded length: a sample alone and in a padded batch differ.
    """

    name = "fourier"
    takes_causal = takes_cross = takes_attn_mask = False

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks) -> Tensor:
        """q, k, v [B, h, N, d_head] -> [B, h, N_q, d_head]; see `Attention`."""
        batch, heads, length, d_head = v.shape
        rows = v.transpose(1, 2).reshape(batch, length, heads * d_head)
        half = rows.dtype in (torch.float16, torch.bfloat16)  # no FFT in these
        mixed = torch.fft.fft2(rows.float() if half else rows, dim=(1, 2), norm="ortho").real.to(v.dtype)
        return mixed.view(batch, length, heads, d_head).transpose(1, 2)

"""The call that all mechanisms share, and what it refuses.

    mechanism(q, k, v, key_padding_mask=None, *, attn_mask=None, causal=False) -> out

q [B, h, N_q, d_head], k and v [B, h, N_k, d_head], out [B, h, N_q, d_head].
key_padding_mask: bool [B, N_k], True where a key is padding and must be ignored (the sense of
torch.nn.MultiheadAttention; the opposite of torch's scaled_dot_product_attention). Whatever stands there, NaN too, no
token that is not padding feels it. Where every key of a sample is padding, its output is 0, never NaN.
attn_mask: bool [N_q, N_k] or broadcastable to [B, h, N_q, N_k], True where a query must not see a key; or float, added
to the scores. Only exact attention takes it: the others have no table of N_q x N_k scores to apply it to.
causal: query i sees the keys 0..i.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Masks(NamedTuple):
    """Which keys the queries of a call may see: see the top of this file."""

    key_padding: Tensor | None = None
    attn: Tensor | None = None
    causal: bool = False


NO_MASKS = Masks()


class Attention(nn.Module):
    """A mechanism: checks a call, then answers it by `attend`, which is all that a subclass writes.

    name: as in `AttentionSpec`, for messages. takes_causal, takes_cross, takes_attn_mask: whether causal=True, keys
    that are not as many as queries, and attn_mask have a meaning for it. streams: whether it needs no more of the past
    than a state of fixed size, and has `stream`.
    """

    name: str
    takes_causal: bool
    takes_cross: bool
    takes_attn_mask: bool
    streams: bool = False

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_padding_mask: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """q [B, h, N_q, d_head], k and v [B, h, N_k, d_head] -> [B, h, N_q, d_head]. ValueError as `check` says."""
        masks = Masks(key_padding_mask, attn_mask, causal)
        self.check(q, k, masks)
        if key_padding_mask is not None:
            # A weight of 0 does not keep NaN out: 0 x NaN is NaN.
            padding = key_padding_mask[:, None, :, None]
            k, v = k.masked_fill(padding, 0), v.masked_fill(padding, 0)
        return self.attend(q, k, v, masks)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks) -> Tensor:
        """What `forward` returns, for a call that has been checked."""
        raise NotImplementedError

    def stream(self, q: Tensor, k: Tensor, v: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Causal attention over the next tokens q, k, v [B, h, n, d_head]: (out, the state after them)."""
        raise ValueError(f"{self.name} attention needs all tokens it has ever seen: it cannot stream")

    def check(self, q: Tensor, k: Tensor, masks: Masks) -> None:
        """Raise ValueError, naming the sizes, for a call that this mechanism cannot answer."""
        n_q, n_k = q.shape[-2], k.shape[-2]
        if masks.key_padding is not None:
            _check_key_padding(masks.key_padding, k.shape[0], n_k)
        if masks.attn is not None and not self.takes_attn_mask:
            raise ValueError(
                f"{self.name} attention forms no {n_q} x {n_k} scores, so attn_mask cannot apply; use sdpa or softmax"
            )
        if masks.causal and not self.takes_causal:
            raise ValueError(
                f"{self.name} attention mixes all {n_k} positions before any query reads them: causal=True cannot hold"
            )
        if (masks.causal or not self.takes_cross) and n_q != n_k:
            what = "causal attention" if masks.causal else f"{self.name} attention"
            raise ValueError(f"{what} needs as many queries as keys, got {n_q} and {n_k}")
        if masks.attn is not None:
            _check_attn_mask(masks.attn, [q.shape[0], q.shape[1], n_q, n_k])


def without_nan(x: Tensor, padding: Tensor | None) -> Tensor:
    """Tokens x [B, N, d] with 0 for what is not finite in those of padding [B, N]; x itself where there is no mask."""
    return x if padding is None else x.masked_fill(padding[..., None] & ~x.isfinite(), 0)


def _check_key_padding(mask: Tensor, batch: int, n_keys: int) -> None:
    if mask.shape != (batch, n_keys):
        raise ValueError(f"key_padding_mask has shape {list(mask.shape)}, the keys need [{batch}, {n_keys}]")
    if mask.dtype != torch.bool:
        raise ValueError(f"key_padding_mask is {mask.dtype}; it must be bool, True for padding")


def _check_attn_mask(mask: Tensor, scores: list[int]) -> None:
    """scores: their shape [B, h, N_q, N_k], to which the mask must broadcast."""
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(f"attn_mask is {mask.dtype}; it must be bool, True for unseen, or float, added to the scores")
    fits = mask.dim() <= 4 and all(
        size in (1, full) for size, full in zip(mask.shape[::-1], scores[::-1], strict=False)
    )
    if not fits:
        raise ValueError(f"attn_mask has shape {list(mask.shape)}, the scores are {scores}")


def at_least_float32(x: Tensor) -> Tensor:
    """Sums over many thousand keys overflow in float16 and lose digits in bfloat16."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which autocast leaves operations on x's device alone."""
    if not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)

"""Attention that approximates softmax's table of scores by a small one (Linformer, Nystrom) or by its band (local
window).

Masks and shapes: see `models.attention.base`. The linear family is in `models.attention.linear`.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention.base import Attention, Masks, at_least_float32, no_autocast


class Linformer(Attention):
    """Softmax attention over n_projected learned mixtures of the keys and of the values.

    Reference: Wang et al. 2020, arXiv:2006.04768, equation 7: softmax(q (E k)^T / sqrt(d_head)) (F v).
    Main idea: the table of attention weights is close to low rank, so the N keys and values may be shortened, along
    time, to n_projected rows by learned E, F [n_projected, max_len]. One pair for all heads ("headwise sharing").
    Cost: 8 N n_projected d_model operations, memory O(N d_model), 2 max_len n_projected parameters.
    Not exact: another function than softmax attention, equal to it for E = F = I. Choose it when all sequences have one
    known length.
    Limits: at most max_len tokens (a shorter sequence uses the first columns of E and F); no causal form, since E mixes
    all of time; each position has weights of its own, so it is not equivariant to permutations. Padding is removed
    before E and F.
    """

    name = "linformer"
    takes_causal, takes_cross, takes_attn_mask = False, True, False

    def __init__(self, max_len: int, n_projected: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        if not 1 <= n_projected <= max_len:
            raise ValueError(f"n_projected={n_projected} is not between 1 and max_len={max_len}")
        self.max_len, self.n_projected, self.dropout = max_len, n_projected, dropout
        self.project_k = nn.Parameter(torch.empty(n_projected, max_len))
        self.project_v = nn.Parameter(torch.empty(n_projected, max_len))
        for weight in (self.project_k, self.project_v):
            nn.init.uniform_(weight, -1 / math.sqrt(n_projected), 1 / math.sqrt(n_projected))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks) -> Tensor:
        """q, k, v [B, h, N, d_head] -> [B, h, N_q, d_head]; see `Attention`."""
        batch, heads, length, d_head = k.shape
        # All heads side by side: one product [n_projected, N] x [N, d_model] a sample instead of one a head.
        rows_k, rows_v = (t.transpose(1, 2).reshape(batch, length, heads * d_head) for t in (k, v))
        short_k, short_v, _, _ = self.shorten(rows_k, rows_v, masks.key_padding)
        k, v = (t.unflatten(-1, (heads, d_head)).transpose(1, 2) for t in (short_k, short_v))
        return self.attend_shortened(q, k, v)

    def shorten(
        self, k: Tensor, v: Tensor, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Callable[[], Tensor], Callable[[], Tensor]]:
        """E k and F v for rows k, v [B, N, d_model]: [B, n_projected, d_model]; and functions that return the sums
        [(B,) n_projected, 1] of E's and F's rows.

        The sums say what a constant (a bias) becomes: E (k + 1 b) = E k + sums b.
        """
        length = k.shape[1]
        if length > self.max_len:
            raise ValueError(f"a sequence of {length} tokens, but this Linformer was made for max_len={self.max_len}")
        weight_k, weight_v = self.project_k[:, :length], self.project_v[:, :length]
        if key_padding_mask is not None:
            seen = (~key_padding_mask[:, None, :]).to(weight_k.dtype)
            weight_k, weight_v = weight_k * seen, weight_v * seen
        if k is v:
            both = torch.cat((weight_k, weight_v), -2) @ k
            short_k, short_v = both[:, : self.n_projected], both[:, self.n_projected :]
        else:
            short_k, short_v = weight_k @ k, weight_v @ v
        return short_k, short_v, lambda: weight_k.sum(-1, keepdim=True), lambda: weight_v.sum(-1, keepdim=True)

    def attend_shortened(self, q: Tensor, short_k: Tensor, short_v: Tensor) -> Tensor:
        """Softmax attention of q [B, h, N, d_head] over the shortened keys and values [B, h, n_projected, d_head]."""
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, short_k, short_v, dropout_p=dropout)


class Nystrom(Attention):
    """Softmax attention through n_landmarks landmarks.

    Reference: Xiong et al. 2021 (Nystromformer), arXiv:2102.03902, equations 13 and 14:
    softmax(q k'^T) A+ (softmax(q' k^T) v), A = softmax(q' k'^T), q' and k' the means of n_landmarks segments of time.
    Main idea: rows and columns of a few landmarks determine a table of low rank (the Nystrom method).
    Cost: 8 N n_landmarks d_model operations, plus 8 h n_landmarks^3 in each of the 6 iterations; memory O(N d_model):
    both outer softmaxes run on torch's tiled kernel and the product is taken from the right, so nothing of N x
    n_landmarks is stored. Not exact, but it approximates a trained softmax model without retraining, and well where q
    and k vary slowly in time; with n_landmarks = N it converges to softmax with the iterations. Choose it to speed up a
    trained model from some 600 tokens on.
    Limits: as many queries as keys, no causal form. Of fewer tokens than n_landmarks each is one. The pseudo-inverse
    is the paper's iteration, scaled for each head of each sample alone. A more exact inverse is worse: stopping after 6
    steps is what regularises it. With padding, the segments hold equal numbers of the tokens that are not padding. In
    half precision it computes in float32.
    """

    name = "nystrom"
    takes_causal = takes_cross = takes_attn_mask = False

    def __init__(self, n_landmarks: int = 64, iterations: int = 6) -> None:
        super().__init__()
        if n_landmarks < 1 or iterations < 1:
            raise ValueError(f"n_landmarks={n_landmarks} and iterations={iterations} must be at least 1")
        self.n_landmarks, self.iterations = n_landmarks, iterations

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks) -> Tensor:
        """q, k, v [B, h, N, d_head] -> [B, h, N_q, d_head]; see `Attention`."""
        # The iteration multiplies rounding: in bfloat16 up to 38 % of the output, in float32 as much as v's own.
        dtype = q.dtype
        q, k, v = at_least_float32(q), at_least_float32(k), at_least_float32(v)
        with no_autocast(q):
            return self._attend(q, k, v, masks.key_padding).to(dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
        scale, n_landmarks = 1 / math.sqrt(q.shape[-1]), min(self.n_landmarks, q.shape[-2])
        few_q, few_k = segment_means(q, n_landmarks, padding), segment_means(k, n_landmarks, padding)
        seen = landmark_seen = None
        scores = (few_q * scale) @ few_k.transpose(-2, -1)
        if padding is not None:
            seen = ~padding[:, None, None, :]
            # A sample with fewer tokens than landmarks leaves the last landmarks empty: they are seen by none.
            n_seen = (~padding).sum(1)
            landmark_seen = torch.arange(n_landmarks, device=q.device) < n_seen[:, None]
            landmark_seen = landmark_seen[:, None, None, :]
            full = landmark_seen & landmark_seen.transpose(-2, -1)
            scores = scores.masked_fill(~full, torch.finfo(scores.dtype).min)
            kernel = scores.softmax(-1).masked_fill(~full, 0)
        else:
            kernel = scores.softmax(-1)
        values = F.scaled_dot_product_attention(few_q, k, v, attn_mask=seen)
        inverse = pseudo_inverse(kernel, self.iterations)
        return F.scaled_dot_product_attention(q, few_k, inverse @ values, attn_mask=landmark_seen)


def segment_means(x: Tensor, n_segments: int, key_padding_mask: Tensor | None = None) -> Tensor:
    """Means of n_segments consecutive, nearly equal parts of the tokens of x: [B, h, N, d] -> [B, h, n_segments, d].

    Padding is left out. Token number r of n belongs to segment floor(r n_segments / n); with n < n_segments tokens each
    has its own segment and the others are 0.
    """
    batch, heads, length, d = x.shape
    if key_padding_mask is None and length % n_segments == 0:
        return x.unflatten(2, (n_segments, -1)).mean(3)
    if key_padding_mask is None:
        rank = torch.arange(length, device=x.device)[None]
        count = torch.full((1, 1), length, device=x.device)
    else:
        rank = (~key_padding_mask).cumsum(1) - 1
        count = (~key_padding_mask).sum(1, keepdim=True)
    segment = (rank * n_segments // count.clamp(min=n_segments)).clamp(min=0)
    segment = torch.where(count < n_segments, rank.clamp(min=0), segment)
    weight = torch.ones_like(segment, dtype=x.dtype)
    if key_padding_mask is not None:
        weight = weight.masked_fill(key_padding_mask, 0)
        x = x.masked_fill(key_padding_mask[:, None, :, None], 0)  # NaN would survive a weight of 0
    sizes = torch.zeros(segment.shape[0], n_segments, dtype=x.dtype, device=x.device).scatter_add_(1, segment, weight)
    weight = weight / sizes.gather(1, segment).clamp(min=1)
    sums = torch.zeros(batch, heads, n_segments, d, dtype=x.dtype, device=x.device)
    index = segment[:, None, :, None].expand(batch, heads, length, d)
    return sums.scatter_add(2, index, x * weight[:, None, :, None])


def pseudo_inverse(a: Tensor, iterations: int = 6) -> Tensor:
    """Moore-Penrose inverse of a [B, h, m, m] with positive rows by the third-order iteration of Razavi et al. 2014.

    Z <- Z/4 (13 I - A Z (15 I - A Z (7 I - A Z))), Z_0 = A^T / (|A|_1 |A|_inf): equation 14 of arXiv:2102.03902. The
    norms are those of each matrix, not the largest of the batch, so that a sample's result does not depend on its
    neighbours.
    """
    norms = a.sum(-1).amax(-1) * a.sum(-2).amax(-1)
    a, shape = a.flatten(0, 1), a.shape
    z = a.transpose(-2, -1) / norms.flatten().clamp(min=torch.finfo(a.dtype).tiny)[:, None, None]
    for _ in range(iterations):
        az = a @ z  # each line below is one fused product: c - a @ b with factors
        inner = torch.baddbmm(az, az, az, beta=7, alpha=-1)
        inner = torch.baddbmm(az, az, inner, beta=15, alpha=-1)
        z = torch.baddbmm(z, z, inner, beta=13 / 4, alpha=-1 / 4)
    return z.view(shape)


class LocalWindow(Attention):
    """Softmax attention in a band: each query sees the `window` keys centred on it.

    Reference: Beltagy et al. 2020 (Longformer), arXiv:2004.05150, section 3.1.
    Main idea: neighbours in time matter most; layers stacked on each other see further.
    Cost: 4 N window d_model operations; in blocks as here 1.5 times as many, more for windows below 33. Memory O(N
    d_model), and
    1.5 N window numbers of a mask (of each sample, where there is padding).
    Exact inside the window, and equal to softmax attention where the window covers the sequence (window >= 2 N - 1).
    Choose it for local patterns; nothing further than n_layers (window - 1) / 2 tokens away can be used. Causal: the
    window's past half.
    """

    name = "local"
    takes_causal, takes_cross, takes_attn_mask = True, False, False

    def __init__(self, window: int = 65, dropout: float = 0.0) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise ValueError(
                f"window={window} must be odd to be centred on a token: {max(1, window - 1)} or {window + 1}"
            )
        self.window, self.dropout = window, dropout

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks) -> Tensor:
        """q, k, v [B, h, N, d_head] -> [B, h, N_q, d_head]; see `Attention`."""
        padding, causal = masks.key_padding, masks.causal
        dropout = self.dropout if self.training else 0.0
        length, reach = q.shape[-2], self.window // 2
        if length <= reach + 1 and padding is None:
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)
        # Blocks of `block` queries, each against the `block + 2 reach` keys around it; the band is cut out by one mask
        # for all blocks.
        block = min(length, max(reach, 16))
        n_blocks = -(-length // block)
        tail = n_blocks * block - length
        q = F.pad(q, (0, 0, 0, tail)).unflatten(2, (n_blocks, block))
        k, v = (
            F.pad(t, (0, 0, reach, reach + tail)).unfold(2, block + 2 * reach, block).transpose(-2, -1) for t in (k, v)
        )
        offset = (
            torch.arange(block + 2 * reach, device=q.device) - reach - torch.arange(block, device=q.device)[:, None]
        )
        band = (offset >= -reach) & (offset <= (0 if causal else reach))
        inside = torch.ones(1, length, dtype=torch.bool, device=q.device) if padding is None else ~padding
        inside = F.pad(inside, (reach, reach + tail)).unfold(1, block + 2 * reach, block)
        seen = band & inside[:, :, None, :]  # [B or 1, n_blocks, block, block + 2 reach]
        batch, heads = q.shape[:2]
        if padding is None and batch > 1:
            # Heads join the batch and blocks stand in their place: one mask for all samples and heads, never copied
            # (without autograd 1.4 to 1.9 times as fast; for a single sample the other way is, by a twentieth).
            q, k, v = (t.flatten(0, 1) for t in (q, k, v))
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)
            return out.unflatten(0, (batch, heads)).flatten(2, 3)[:, :, :length]
        q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in (q, k, v))  # blocks join the batch: one mask for all heads
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen.flatten(0, 1)[:, None], dropout_p=dropout)
        return out.unflatten(0, (batch, n_blocks)).transpose(1, 2).flatten(2, 3)[:, :, :length]

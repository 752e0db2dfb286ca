"""Linear attention: softmax's exp(q . k) replaced by phi(q) . phi(k), so that the keys and values are summed once for
all queries.

    out_i = phi(q_i)^T S / phi(q_i)^T z,   S = sum_j phi(k_j) v_j^T,   z = sum_j phi(k_j)

The feature map phi is a part of its own: `EluFeatures`, `CosineFeatures` (cosFormer), `FavorFeatures` (Performer). The
sums S and z are a `LinearState`: what is known of a recording after any number of tokens, of a size that does not
depend on their number.
Masks and shapes: see `models.attention.base`. The maps work on columns, [..., d_head, N]: time is last, so that what
is done to a token's features (a maximum, a division) runs along whole rows of memory.
"""

import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.attention.base import Attention, Masks, at_least_float32, no_autocast

CAUSAL_CHUNK = 128  # tokens whose mutual scores are written out at a time
# Features of the tokens that a block takes at a time without autograd: 2^17 float32 numbers are half a megabyte, half a
# core's cache.
CHUNK_NUMBERS = 1 << 17
FAVOR_RANGE = 600.0  # logarithms of features in one causal chunk: float64 holds 700
SMALLEST_DENOMINATOR = 1e-12  # relu features may all be zero: 0 / 1e-12 = 0 instead of NaN


class LinearState(NamedTuple):
    """Sums over the keys and values seen so far.

    kv: sum of phi(k) v^T [B, h, n_features, d_head]. z: sum of phi(k) [B, h, n_features, 1]. length: how many tokens.
    shift: logarithm [B, h, n_features, 1] by which FAVOR+ scaled each feature down, else None.
    """

    kv: Tensor
    z: Tensor
    length: int
    shift: Tensor | None

    def n_numbers(self) -> int:
        """How many numbers the state holds."""
        return sum(t.numel() for t in (self.kv, self.z, self.shift) if t is not None)

    def to(self, dtype: torch.dtype) -> "LinearState":
        """The same sums in another precision."""
        shift = self.shift
        if shift is not None:
            lowest = max(torch.finfo(dtype).min, torch.finfo(shift.dtype).min)
            shift = shift.clamp(min=lowest).to(dtype)  # of padding alone: the lowest number, never -inf
        return LinearState(self.kv.to(dtype), self.z.to(dtype), self.length, shift)


class FeatureMap(Protocol):
    """phi of columns [..., d_head, N]: [..., n_features, N]. `position` is the index of the first token given; `scale`
    the length scale of the whole sequence, [B, 1, 1, 1] or a number; `padding` is broadcastable to the columns, True to
    ignore."""

    def n_features(self, d_head: int) -> int:
        """How many features a head of d_head numbers gets."""

    def of_keys(
        self, k: Tensor, *, position: int, scale: Tensor | int | None, shift: Tensor | None, padding: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """phi of the keys k [..., d_head, N]: [..., n_features, N], and the shift they are under (FAVOR+), or None."""

    def of_queries(self, q: Tensor, *, position: int, scale: Tensor | int | None, shift: Tensor | None) -> Tensor:
        """phi of the queries q [..., d_head, N]: [..., n_features, N], for keys under that shift."""


class EluFeatures(nn.Module):
    """phi(x) = elu(x) + 1. Katharopoulos et al. 2020, arXiv:2006.16236, equation 7."""

    def n_features(self, d_head: int) -> int:
        """As many as the head has numbers."""
        return d_head

    def of_keys(
        self, k: Tensor, *, position: int, scale: Tensor | int | None, shift: Tensor | None, padding: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """elu(k) + 1 [..., d_head, N], under no shift."""
        return elu_plus_one(k), None

    def of_queries(self, q: Tensor, *, position: int, scale: Tensor | int | None, shift: Tensor | None) -> Tensor:
        """elu(q) + 1 [..., d_head, N]."""
        return elu_plus_one(q)


class _EluPlusOne(torch.autograd.Function):
    """elu(x) + 1, whose derivative is min(elu(x) + 1, 1): the result is all that training has to keep."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp(max=0).exp_().add_(x.relu())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grad * y.clamp(max=1)


def elu_plus_one(x: Tensor) -> Tensor:
    """elu(x) + 1 = exp(min(x, 0)) + max(x, 0): the vectorised exp makes it 3 times as fast as F.elu's expm1 on a
    CPU.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        y: Tensor = _EluPlusOne.apply(x)
        return y
    return x.clamp(max=0).exp_().add_(x.relu())


class CosineFeatures(nn.Module):
    """phi(x_i) = [relu(x_i) cos(pi i / 2M), relu(x_i) sin(pi i / 2M)]: scores relu(q_i) . relu(k_j) cos(pi (i - j) /
    2M).

    Reference: Qin et al. 2022 (cosFormer), arXiv:2202.08791, equation 10. Near tokens count more, by a cosine of their
    distance.
    M, the length scale, is the length of the sequence (of its part that is not padding) or a fixed number of tokens,
    which streaming needs; a sequence longer than it would get negative weights and is refused. Padded queries, whose
    output means nothing, stand where the padding begins.
    """

    def __init__(self, length_scale: int | None = None) -> None:
        super().__init__()
        if length_scale is not None and length_scale < 1:
            raise ValueError(f"length_scale={length_scale}: at least 1 token")
        self.length_scale = length_scale

    def n_features(self, d_head: int) -> int:
        """Two for each number of the head."""
        return 2 * d_head

    def of_keys(
        self, k: Tensor, *, position: int, scale: Tensor | int | None, shift: Tensor | None, padding: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """[..., 2 d_head, N], under no shift."""
        return self.of_queries(k, position=position, scale=scale, shift=None), None

    def of_queries(self, q: Tensor, *, position: int, scale: Tensor | int | None, shift: Tensor | None) -> Tensor:
        """[..., 2 d_head, N]: times cosine and sine of the positions from `position` on."""
        assert scale is not None
        steps = torch.arange(position, position + q.shape[-1], device=q.device, dtype=torch.float64)
        # Beyond M a cosine would be negative, and a denominator near 0 or below.
        angle = (steps / scale).clamp(max=1) * (math.pi / 2)
        x = q.relu()
        return torch.cat((x * angle.cos().to(x.dtype), x * angle.sin().to(x.dtype)), -2)


class FavorFeatures(nn.Module):
    """phi(x) = exp(w . x - |x|^2 / 2) / sqrt(m) for m random w: an unbiased estimate of exp(q . k) with positive
    numbers.

    Reference: Choromanski et al. 2021 (Performer, FAVOR+), arXiv:2009.14794, lemma 1 and section 2.4. x is q or k times
    d_head^(-1/4). The relative variance of one estimate is (exp(|q + k|^2) - 1) / m for independent w: m must grow
    exponentially with the size of the scores.
    The w are rows of random orthogonal matrices with lengths of Gaussian vectors; the sign that LAPACK gives the
    diagonal of R is undone, without which the first row of each block is not uniform and the estimate biased. They are
    a buffer: saved with the weights, kept in eval and in training until `redraw` is called. Each feature is divided by
    its largest value among the keys and multiplied back on the side of the queries (a running maximum when keys come in
    chunks). This cancels in the ratio, nothing overflows, and the denominator is at least 1 where a query sees all of
    these keys: no epsilon is needed. A causal chunk also scales by keys that an early query does not see: it is
    computed in float64, which holds 700 in the exponent, and cut in two where its keys span more.
    """

    projection: Tensor

    def __init__(self, d_head: int, n_features: int = 64, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if n_features < 1:
            raise ValueError(f"n_features={n_features}: at least 1")
        self.register_buffer("projection", orthogonal_gaussian(n_features, d_head, generator))

    def redraw(self, generator: torch.Generator | None = None) -> None:
        """New random directions, in place."""
        n_features, d_head = self.projection.shape
        self.projection.copy_(orthogonal_gaussian(n_features, d_head, generator))

    def n_features(self, d_head: int) -> int:
        """As many as random directions."""
        return self.projection.shape[0]

    def log_features(self, x: Tensor) -> Tensor:
        """log(sqrt(m) phi(x)) of columns: [..., d_head, N] -> [..., m, N]."""
        scale = x.shape[-2] ** -0.25
        half_square = x.square().sum(-2, keepdim=True) * (scale**2 / 2)
        return ((self.projection.to(x.dtype) * scale) @ x).sub_(half_square)

    def of_keys(
        self, k: Tensor, *, position: int, scale: Tensor | int | None, shift: Tensor | None, padding: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """[..., m, N] divided by the largest of each feature, and the logarithm of it, [..., m, 1]."""
        logs = self.log_features(k)
        if padding is not None:
            logs = logs.masked_fill(padding, -math.inf)
        largest = logs.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(logs.dtype).min)
        shift = largest if shift is None else torch.maximum(shift, largest)
        return logs.sub_(shift).exp_(), shift

    def of_queries(self, q: Tensor, *, position: int, scale: Tensor | int | None, shift: Tensor | None) -> Tensor:
        """[..., m, N], multiplied by what the keys were divided by; each column sums to 1."""
        logs = (self.projection.to(q.dtype) * q.shape[-2] ** -0.25) @ q
        # A factor of a whole column cancels in the ratio: exp(-|q|^2 / 2) need not be computed, and the column may be
        # divided by its sum.
        return (logs if shift is None else logs.add_(shift)).softmax(-2)


def orthogonal_gaussian(n_rows: int, d: int, generator: torch.Generator | None = None) -> Tensor:
    """[n_rows, d]: rows distributed as N(0, I), orthogonal to one another within blocks of d. Drawn on the CPU in
    float64.
    """
    blocks = []
    for start in range(0, n_rows, d):
        q, r = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))
        q = q * r.diagonal().sign()  # Q of LAPACK is not uniform without it (Mezzadri 2007, math-ph/0609050)
        blocks.append(q.T[: n_rows - start])
    lengths = torch.randn(n_rows, d, dtype=torch.float64, generator=generator).norm(dim=1, keepdim=True)
    return (torch.cat(blocks) * lengths).to(torch.get_default_dtype())


class LinearAttention(Attention):
    """Attention with a kernel of finite features instead of softmax's.

    Reference: Katharopoulos et al. 2020, arXiv:2006.16236, equations 5, 6 and, causal, 9 to 12. The maps: see the
    feature classes.
    Main idea: phi(q_i) . phi(k_j) lets (phi(Q) phi(K)^T) V be computed as phi(Q) (phi(K)^T V), which has no N x N in
    it.
    Cost: 4 N d_model n_features operations; memory O(N d_model) and a state of n_features d_head numbers a head.
    Not exact: another kernel (FAVOR+ estimates softmax's own, exact only on average). Rows of the implied weights sum
    to 1. Choose it for very long sequences and recordings that never end; train with it, a trained softmax model does
    not survive the exchange (but for FAVOR+ with enough features). Causal and padding masks hold exactly; dropout of
    weights does not exist.
    """

    takes_causal, takes_cross, takes_attn_mask = True, True, False
    streams = True

    def __init__(self, features: EluFeatures | CosineFeatures | FavorFeatures, name: str = "linear") -> None:
        super().__init__()
        self.features, self.name = features, name

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks) -> Tensor:
        """q, k, v [B, h, N, d_head] -> [B, h, N_q, d_head]; see `Attention`."""
        padding = masks.key_padding
        if masks.causal:
            return self.stream(q, k, v, key_padding_mask=padding)[0]
        scale = self.length_scale(q.shape[-2], k.shape[-2], padding)
        return self.read(q, self.absorb(None, k, v, key_padding_mask=padding, scale=scale), scale=scale)

    def chunk_length(self, n_numbers: int) -> int:
        """How many tokens a block should take at a time without autograd, if each has n_numbers features in all
        heads.
        """
        return max(128, CHUNK_NUMBERS // n_numbers)

    def length_scale(self, n_queries: int, n_keys: int, key_padding_mask: Tensor | None = None) -> Tensor | int | None:
        """cosFormer's M: fixed, or the number of keys up to the last that is not padding; queries that outnumber or
        fall short of the keys are another sequence, and count whole."""
        if not isinstance(self.features, CosineFeatures):
            return None
        fixed, n_tokens = self.features.length_scale, max(n_queries, n_keys)
        if fixed is not None and n_tokens > fixed:
            raise ValueError(f"{n_tokens} tokens, but length_scale={fixed}: cosFormer's weights would be negative")
        if fixed is not None or key_padding_mask is None:
            return fixed or n_tokens
        steps = torch.arange(1, n_keys + 1, device=key_padding_mask.device)
        seen = steps.masked_fill(key_padding_mask, 1).amax(1)[:, None, None, None]
        return seen if n_queries == n_keys else seen.clamp(min=n_queries)

    def absorb(
        self,
        state: LinearState | None,
        k: Tensor,
        v: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        scale: Tensor | int | None = None,
    ) -> LinearState:
        """The state after the keys and values k, v [B, h, n, d_head]; state None for the first ones."""
        k, v = at_least_float32(k), at_least_float32(v)
        with no_autocast(k):
            keys, shift = self.keys(state, k.transpose(-2, -1), key_padding_mask, scale)
            kv, z = keys @ v, keys.sum(-1, keepdim=True)
            if state is None:
                return LinearState(kv, z, k.shape[-2], shift)
            old_kv, old_z = self.rescaled(state, shift)
            return LinearState(old_kv + kv, old_z + z, state.length + k.shape[-2], shift)

    def read(self, q: Tensor, state: LinearState, position: int = 0, scale: Tensor | int | None = None) -> Tensor:
        """What the queries q [B, h, n, d_head], the first of them token number `position`, get from a state."""
        x = at_least_float32(q)
        with no_autocast(x):
            columns = x.transpose(-2, -1)
            queries = self.features.of_queries(columns, position=position, scale=scale, shift=state.shift)
            queries = queries.transpose(-2, -1)
            denominator = (queries @ state.z).clamp_(min=SMALLEST_DENOMINATOR)
            numerator = queries @ state.kv
            out = numerator / denominator if torch.is_grad_enabled() else numerator.div_(denominator)
            return out.to(q.dtype)

    def stream(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: LinearState | None = None,
        *,
        key_padding_mask: Tensor | None = None,
    ) -> tuple[Tensor, LinearState]:
        """Causal attention over the next tokens of a recording: (out [B, h, n, d_head], the state after them).

        Chunks of 128: within one, the scores are written out and masked; what came before is in the state. The result
        does not depend on how a recording is cut into calls. ValueError for cosFormer without a fixed length_scale.
        """
        length, seen = q.shape[-2], 0 if state is None else state.length
        if not length:
            raise ValueError("stream was given 0 tokens; at least 1")
        if isinstance(self.features, CosineFeatures) and self.features.length_scale is None:
            raise ValueError(
                "causal cosformer attention needs a fixed length_scale: with the length of the sequence itself, what "
                "a token gets would depend on how many follow"
            )
        scale = self.length_scale(seen + length, seen + length)
        outs = []
        start, ends = 0, [*range(CAUSAL_CHUNK, length, CAUSAL_CHUNK), length]
        while ends:
            part = slice(start, ends[0])
            padding = None if key_padding_mask is None else key_padding_mask[:, part]
            if ends[0] - start > 1 and self._spans_too_much(k[:, :, part], state, padding):
                ends.insert(0, (start + ends[0]) // 2)
                continue
            out, state = self._causal_chunk(
                q[:, :, part], k[:, :, part], v[:, :, part], state, key_padding_mask=padding, scale=scale
            )
            outs.append(out)
            start = ends.pop(0)
        assert state is not None
        return torch.cat(outs, -2), state

    def _spans_too_much(self, k: Tensor, state: LinearState | None, key_padding_mask: Tensor | None) -> bool:
        """Whether the largest key of a chunk k [B, h, n, d_head] would scale features of its first ones down to 0."""
        if not isinstance(self.features, FavorFeatures):
            return False
        logs = self.features.log_features(k.detach().double().transpose(-2, -1))
        if key_padding_mask is not None:
            logs = logs.masked_fill(key_padding_mask[:, None, None, :], -math.inf)
        if state is not None and state.shift is not None:
            logs = torch.cat((state.shift.double(), logs), -1)
        largest = logs.cummax(-1).values
        nothing_seen = largest <= torch.finfo(torch.float32).min  # by this token, and so nothing to scale down
        return bool((largest[..., -1:] - largest).masked_fill(nothing_seen, 0).amax() > FAVOR_RANGE)

    def _causal_chunk(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: LinearState | None,
        *,
        key_padding_mask: Tensor | None,
        scale: Tensor | int | None,
    ) -> tuple[Tensor, LinearState]:
        dtype, position = q.dtype, 0 if state is None else state.length
        q, k, v = at_least_float32(q), at_least_float32(k), at_least_float32(v)
        smallest, kept_dtype = SMALLEST_DENOMINATOR, q.dtype
        if isinstance(self.features, FavorFeatures):
            # The chunk's largest key scales all of it down, early queries too, which do not see it.
            q, k, v, smallest = q.double(), k.double(), v.double(), torch.finfo(torch.float64).tiny
            state = None if state is None else state.to(torch.float64)
        with no_autocast(q):
            keys, shift = self.keys(state, k.transpose(-2, -1), key_padding_mask, scale)
            columns = q.transpose(-2, -1)
            queries = self.features.of_queries(columns, position=position, scale=scale, shift=shift).transpose(-2, -1)
            scores = (queries @ keys).tril()
            numerator, denominator = scores @ v, scores.sum(-1, keepdim=True)
            kv, z = keys @ v, keys.sum(-1, keepdim=True)
            if state is not None:
                old_kv, old_z = self.rescaled(state, shift)
                numerator, denominator = numerator + queries @ old_kv, denominator + queries @ old_z
                kv, z = old_kv + kv, old_z + z
            out = (numerator / denominator.clamp(min=smallest)).to(dtype)
        return out, LinearState(kv, z, position + q.shape[-2], shift).to(kept_dtype)

    def keys(
        self,
        state: LinearState | None,
        k: Tensor,
        key_padding_mask: Tensor | None,
        scale: Tensor | int | None,
    ) -> tuple[Tensor, Tensor | None]:
        """(phi of the columns k [B, h, d_head, n] that come after `state`, 0 where padding is; the shift they are
        under).
        """
        position, shift = (0, None) if state is None else (state.length, state.shift)
        padding = None if key_padding_mask is None else key_padding_mask[:, None, None, :]
        keys, shift = self.features.of_keys(k, position=position, scale=scale, shift=shift, padding=padding)
        return keys if padding is None else keys.masked_fill(padding, 0), shift

    @staticmethod
    def rescaled(state: LinearState, shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sums of a state under a new shift."""
        if shift is None or state.shift is None:
            return state.kv, state.z
        factor = (state.shift - shift).exp()
        return state.kv * factor, state.z * factor

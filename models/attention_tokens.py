"""Linear attention from a block's tokens to its output, without q, k, v and heads in between; the same function, re-associated.

With keys k_j = W_k x_j + b_k and so on, phi the feature map and z = sum_j phi(k_j), for each head:

    sum_j phi(k_j) v_j^T = (sum_j phi(k_j) x_j^T) W_v^T + z b_v^T              no map of all tokens to values
    sum_h W_o,h S_h^T phi(q_h) / (z_h . phi(q_h)) = M (phi(q) / its denominators),  M_h = W_o,h S_h^T    no numerators

Both save work where a head has no more features than numbers (phi = elu + 1); with more, values and heads are formed. Everything
is kept in columns [features, time], so that heads are rows and nothing is transposed. Without autograd the tokens come some hundred
at a time: maps and features of a chunk never leave the cache, and nothing but the output is ever as long as the sequence.
tests/models/test_attention.py holds the results equal to map, mechanism and map, one after the other.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.attention_linear import SMALLEST_DENOMINATOR, LinearAttention, LinearState

SHORTEST = 128  # tokens
SAMPLE_NUMBERS = 1 << 15


def takes_samples(x: Tensor) -> bool:
    """Whether `attend_tokens` pays for x [B, N, d_model]: in full precision, if a sample is large enough to be taken alone."""
    full = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)
    batch, length, d_model = x.shape
    return full and length >= SHORTEST and (batch == 1 or length * d_model >= SAMPLE_NUMBERS)


@dataclass(frozen=True)
class Maps:
    """The four linear maps of a block. weights: to q, k, v, each [d_model, d_model]; biases: each [d_model], or None."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...] | None
    out_weight: Tensor
    out_bias: Tensor | None
    n_heads: int

    def columns(self, number: int, x: Tensor) -> Tensor:
        """Map number 0, 1, 2 (to q, k, v) of tokens x [n, d_model] as columns [1, h, d_head, n]."""
        weight = self.weights[number]
        y = weight @ x.t() if self.biases is None else torch.addmm(self.biases[number][:, None], weight, x.t())
        return y.view(1, self.n_heads, -1, x.shape[0])

    def out(self, y: Tensor, weight: Tensor) -> Tensor:
        """weight^T y + bias for columns y [c, n] and weight [c, d_model]: tokens [n, d_model]."""
        return y.t() @ weight if self.out_bias is None else torch.addmm(self.out_bias, y.t(), weight)


def attend_tokens(
    mechanism: LinearAttention, maps: Maps, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None
) -> Tensor:
    """What MultiHeadAttentionBlock computes, from query [B, N_q, d_model] to key and value [B, N_k, d_model], by samples."""
    grad = torch.is_grad_enabled()
    masks = [None] * len(query) if key_padding_mask is None else key_padding_mask.unbind(0)
    out = None if grad else torch.empty_like(query, memory_format=torch.contiguous_format)
    samples: list[Tensor] = []
    queries = _unbind(query)
    keys = queries if key is query else _unbind(key)
    values = keys if value is key else _unbind(value)
    for i, (q, k, v, mask) in enumerate(zip(queries, keys, values, masks, strict=True)):
        padding = None if mask is None else mask[None]
        scale = mechanism.length_scale(max(len(q), len(k)), padding)
        state = sums(mechanism, maps, k, v, padding, scale)
        weight = _read_weight(mechanism, maps, state)
        chunk = _chunk(mechanism, maps, q)
        for start in range(0, len(q), chunk):
            part = _read(mechanism, maps, q[start : start + chunk], state, weight, start, scale)
            if out is None:
                samples.append(part)
            else:
                out[i, start : start + chunk] = part
    if out is not None:
        return out
    return samples[0].unsqueeze(0) if len(samples) == 1 else torch.stack(samples)


def _unbind(x: Tensor) -> tuple[Tensor, ...]:
    return (x.squeeze(0),) if len(x) == 1 else x.unbind(0)


def sums(
    mechanism: LinearAttention,
    maps: Maps,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
    scale: Tensor | int | None,
) -> LinearState:
    """The state over all keys and values of one sample, tokens [N, d_model]."""
    n_features = mechanism.features.n_features(key.shape[1] // maps.n_heads)
    from_tokens = value is key and n_features * maps.n_heads <= key.shape[1]
    chunk = _chunk(mechanism, maps, key)
    state: LinearState | None = None
    for start in range(0, len(key), chunk):
        part = slice(start, start + chunk)
        x = key[part]
        k, shift = mechanism.keys(state, maps.columns(1, x), None if padding is None else padding[:, part], scale)
        if from_tokens:
            kv = (k.flatten(0, 2) @ x).view(1, maps.n_heads, n_features, -1)  # tokens in the place of values
        else:
            kv = k @ maps.columns(2, value[part]).transpose(-2, -1)
        z = k.sum(-1, keepdim=True)
        if state is not None:
            old_kv, old_z = mechanism.rescaled(state, shift)
            kv, z = old_kv + kv, old_z + z
        state = LinearState(kv, z, min(start + chunk, len(key)), shift)
    assert state is not None
    if from_tokens:
        kv = state.kv @ maps.weights[2].view(maps.n_heads, -1, key.shape[1]).transpose(-2, -1)
        if maps.biases is not None:
            kv = kv + state.z * maps.biases[2].view(maps.n_heads, 1, -1)
        state = state._replace(kv=kv)
    return state


def _read_weight(mechanism: LinearAttention, maps: Maps, state: LinearState) -> Tensor:
    """M [h n_features, d_model] where that is no larger than the map itself; else [h, d_head + 1, n_features]: kv^T over z^T."""
    _, n_heads, n_features, d_head = state.kv.shape
    if n_features <= d_head:
        return (state.kv @ maps.out_weight.t().reshape(n_heads, d_head, -1)).flatten(0, 2)
    return torch.cat((state.kv, state.z), -1).transpose(-2, -1).contiguous()


def _read(
    mechanism: LinearAttention, maps: Maps, query: Tensor, state: LinearState, weight: Tensor, position: int,
    scale: Tensor | int | None,
) -> Tensor:  # fmt: skip
    """What the tokens query [n, d_model], the first of them number `position`, get from a state: [n, d_model]."""
    phi = mechanism.features.of_queries(maps.columns(0, query), position, scale, state.shift)
    if weight.dim() == 2:
        y = _over_its_denominators(phi, state.z)
        return maps.out(y.flatten(0, 2), weight)
    both = weight @ phi
    y = both[:, :, :-1] / both[:, :, -1:].clamp(min=SMALLEST_DENOMINATOR)
    return maps.out(y.flatten(0, 2), maps.out_weight.t())


class _Normalised(torch.autograd.Function):
    """phi [1, h, m, n] / (z . phi), z [1, h, m, 1]; the gradient takes fewer passes than those of product, maximum and division."""

    @staticmethod
    def forward(ctx: Any, phi: Tensor, z: Tensor) -> Tensor:
        denominator = z.transpose(-2, -1) @ phi
        y = phi / denominator.clamp(min=SMALLEST_DENOMINATOR)
        ctx.save_for_backward(y, denominator, z)
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator,unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        y, denominator, z = ctx.saved_tensors
        # y . grad is what a larger denominator would cost; nothing where the smallest one stands instead.
        cost = (grad * y).sum(-2, keepdim=True).masked_fill_(denominator < SMALLEST_DENOMINATOR, 0)
        less = torch.baddbmm(grad.flatten(0, 1), z.flatten(0, 1), cost.flatten(0, 1), alpha=-1).view_as(grad)
        return less.div_(denominator.clamp(min=SMALLEST_DENOMINATOR)), -(y @ cost.transpose(-2, -1))


def _over_its_denominators(phi: Tensor, z: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        y: Tensor = _Normalised.apply(phi, z)
        return y
    return phi.div_((z.transpose(-2, -1) @ phi).clamp_(min=SMALLEST_DENOMINATOR))


def _chunk(mechanism: LinearAttention, maps: Maps, x: Tensor) -> int:
    """Tokens at a time: as many as the cache holds; all of them under autograd, which keeps them anyway, and on a GPU."""
    if torch.is_grad_enabled() or x.is_cuda:
        return max(1, len(x))
    return mechanism.chunk_length(maps.n_heads * mechanism.features.n_features(x.shape[1] // maps.n_heads))

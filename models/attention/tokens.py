"""Linear attention from a block's tokens to its output, without q, k, v and heads in between; the same function,
re-associated.

With keys k_j = W_k x_j + b_k and so on, phi the feature map and z = sum_j phi(k_j), for each head:

    sum_j phi(k_j) v_j^T = (sum_j phi(k_j) x_j^T) W_v^T + z b_v^T              no map of all tokens to values
    sum_h W_o,h S_h^T phi(q_h) / (z_h . phi(q_h)) = M (phi(q) / its denominators),  M_h = W_o,h S_h^T    no numerators

Both save work where a head has no more features than numbers (phi = elu + 1); with more, values and heads are formed.
Everything is kept in columns [features, time], so that heads are rows and nothing is transposed. Without autograd the
tokens come some hundred
at a time: maps and features of a chunk never leave the cache, and nothing but the output is ever as long as the
sequence. For training with phi = elu + 1, the gradient is written out, too (`train_tokens`). Results and gradients
equal map, mechanism and map,
one after the other: tests/models/attention/test_multi_head.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.attention.linear import SMALLEST_DENOMINATOR, EluFeatures, LinearAttention, LinearState, elu_plus_one

SHORTEST = 128  # tokens
SAMPLE_NUMBERS = 1 << 15


def takes_samples(x: Tensor) -> bool:
    """Whether `attend_tokens` pays for x [B, N, d_model]: in full precision, if a sample is large enough to be taken
    alone.
    """
    batch, length, d_model = x.shape
    return _full_precision(x) and length >= SHORTEST and (batch == 1 or length * d_model >= SAMPLE_NUMBERS)


def takes_written_gradient(mechanism: LinearAttention, query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `train_tokens` holds and pays: self-attention with elu + 1 in training, in full precision.

    Its products of d_model x d_model numbers a sample are more than those of maps to values and heads if tokens are
    few.
    """
    batch, length, d_model = query.shape
    own = isinstance(mechanism.features, EluFeatures) and query is key and key is value
    return own and torch.is_grad_enabled() and _full_precision(query) and (batch == 1 or length >= d_model)


def _full_precision(x: Tensor) -> bool:
    return x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)


@dataclass(frozen=True)
class Maps:
    """The four linear maps of a block. weights: to q, k, v, each [d_model, d_model]; biases: each [d_model], or
    None.
    """

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
    mechanism: LinearAttention,
    maps: Maps,
    query: Tensor,
    *,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
) -> Tensor:
    """What MultiHeadAttentionBlock computes, from query [B, N_q, d_model] to key and value [B, N_k, d_model], by
    samples.
    """
    grad = torch.is_grad_enabled()
    masks = [None] * len(query) if key_padding_mask is None else key_padding_mask.unbind(0)
    out = None if grad else torch.empty_like(query, memory_format=torch.contiguous_format)
    samples: list[Tensor] = []
    queries = _unbind(query)
    keys = queries if key is query else _unbind(key)
    values = keys if value is key else _unbind(value)
    for i, (q, k, v, mask) in enumerate(zip(queries, keys, values, masks, strict=True)):
        padding = None if mask is None else mask[None]
        scale = mechanism.length_scale(len(q), len(k), padding)
        state = sums(mechanism, maps, k, v, padding=padding, scale=scale)
        weight = _read_weight(mechanism, maps, state)
        chunk = _chunk(mechanism, maps, q)
        for start in range(0, len(q), chunk):
            tokens = q[start : start + chunk]
            part = _read(mechanism, maps, tokens, state, weight=weight, position=start, scale=scale)
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
    *,
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
    """M [h n_features, d_model] where that is no larger than the map itself; else [h, d_head + 1, n_features]: kv^T
    over z^T.
    """
    _, n_heads, n_features, d_head = state.kv.shape
    if n_features <= d_head:
        return (state.kv @ maps.out_weight.t().reshape(n_heads, d_head, -1)).flatten(0, 2)
    return torch.cat((state.kv, state.z), -1).transpose(-2, -1).contiguous()


def _read(
    mechanism: LinearAttention,
    maps: Maps,
    query: Tensor,
    state: LinearState,
    *,
    weight: Tensor,
    position: int,
    scale: Tensor | int | None,
) -> Tensor:
    """What the tokens query [n, d_model], the first of them number `position`, get from a state: [n, d_model]."""
    phi = mechanism.features.of_queries(maps.columns(0, query), position=position, scale=scale, shift=state.shift)
    if weight.dim() == 2:
        y = _over_its_denominators(phi, state.z)
        return maps.out(y.flatten(0, 2), weight)
    both = weight @ phi
    y = both[:, :, :-1] / both[:, :, -1:].clamp(min=SMALLEST_DENOMINATOR)
    return maps.out(y.flatten(0, 2), maps.out_weight.t())


def _over_its_denominators(phi: Tensor, z: Tensor) -> Tensor:
    denominator = (z.transpose(-2, -1) @ phi).clamp(min=SMALLEST_DENOMINATOR)
    return phi / denominator if torch.is_grad_enabled() else phi.div_(denominator)


def _chunk(mechanism: LinearAttention, maps: Maps, x: Tensor) -> int:
    """Tokens at a time: as many as the cache holds; all of them under autograd, which keeps them anyway, and on a
    GPU.
    """
    if torch.is_grad_enabled() or x.is_cuda:
        return max(1, len(x))
    return mechanism.chunk_length(maps.n_heads * mechanism.features.n_features(x.shape[1] // maps.n_heads))


def train_tokens(
    x: Tensor,
    *,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    key_padding_mask: Tensor | None,
    n_heads: int,
) -> Tensor:
    """What MultiHeadAttentionBlock with elu + 1 computes of its own tokens x [B, N, d_model], gradient included.

    in_weight, in_bias: of the maps to q, k and v, [3 d_model, d_model] and [3 d_model].
    """
    y: Tensor = _TrainedTokens.apply(x, in_weight, in_bias, out_weight, out_bias, key_padding_mask, n_heads)
    return y


class _TrainedTokens(torch.autograd.Function):
    """The equations at the top of this file, and their gradient with fewer passes over the tokens than autograd's.

    A sample's features, heads one below the other, are [d, N]; sums and maps of single heads are [h, B m, .], d = h m,
    so that one product a head takes all samples. torch.bmm: at a few tokens, what `@` does around it shows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        in_weight: Tensor,
        in_bias: Tensor | None,
        out_weight: Tensor,
        out_bias: Tensor | None,
        padding: Tensor | None,
        n_heads: int,
    ) -> Tensor:
        batch, length, d = x.shape
        h, m = n_heads, d // n_heads
        to_qk, columns = in_weight[: 2 * d].expand(batch, -1, -1), x.transpose(1, 2)
        maps = torch.bmm(to_qk, columns) if in_bias is None else torch.baddbmm(in_bias[: 2 * d, None], to_qk, columns)
        phi = elu_plus_one(maps)
        q, k = phi[:, :d], phi[:, d:]
        if padding is not None:
            k.masked_fill_(padding[:, None], 0)
        z = k.sum(2, keepdim=True)
        kx = _by_head(torch.bmm(k, x), h)
        to_v = in_weight[2 * d :].view(h, m, d).transpose(1, 2)
        kv = torch.bmm(kx, to_v)
        if in_bias is not None:
            kv += _by_head(z, h) * in_bias[2 * d :].view(h, 1, m)
        read = _by_sample(torch.bmm(kv, out_weight.t().view(h, m, d)), batch)
        q = q.reshape(batch * h, m, length)
        denominator = torch.bmm(z.view(batch * h, 1, m), q)
        y = (q / denominator.clamp(min=SMALLEST_DENOMINATOR)).view(batch, d, length)
        ctx.save_for_backward(x, in_weight, in_bias, out_weight, phi, z, kx, kv, read, denominator, y)
        ctx.n_heads, ctx.has_out_bias = n_heads, out_bias is not None
        rows = y.transpose(1, 2)
        return torch.bmm(rows, read) if out_bias is None else torch.baddbmm(out_bias, rows, read)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator,unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, in_weight, in_bias, out_weight, phi, z, kx, kv, read, denominator, y = ctx.saved_tensors
        batch, length, d = x.shape
        h, m = ctx.n_heads, d // ctx.n_heads
        d_in_weight = torch.empty_like(in_weight)
        d_in_bias = None if in_bias is None else torch.empty_like(in_bias)

        # From the output back to the sums over keys, and through them to the map to values.
        d_read = _by_head(torch.bmm(y, grad), h)
        d_out_weight = torch.bmm(kv.transpose(1, 2), d_read).view(d, d).t()
        d_kv = torch.bmm(d_read, out_weight.view(d, h, m).transpose(0, 1))
        torch.bmm(d_kv.transpose(1, 2), kx, out=d_in_weight[2 * d :].view(h, m, d))
        d_kx = _by_sample(torch.bmm(d_kv, in_weight[2 * d :].view(h, m, d)), batch)

        # To the queries. y . grad is what a larger denominator would cost; nothing where the smallest one stands
        # instead.
        d_y = torch.bmm(read, grad.transpose(1, 2)).view(batch * h, m, length)
        y = y.view_as(d_y)
        cost = (d_y * y).sum(1, keepdim=True).masked_fill_(denominator < SMALLEST_DENOMINATOR, 0)
        d_q = torch.baddbmm(d_y, z.view(batch * h, m, 1), cost, alpha=-1)
        d_q = d_q.div_(denominator.clamp(min=SMALLEST_DENOMINATOR)).view(batch, d, length)
        d_z = -torch.bmm(y, cost.transpose(1, 2)).view(batch, d, 1)
        if in_bias is not None and d_in_bias is not None:
            d_z += _by_sample(torch.bmm(d_kv, in_bias[2 * d :].view(h, m, 1)), batch)
            torch.bmm(d_kv.transpose(1, 2), _by_head(z, h), out=d_in_bias[2 * d :].view(h, m, 1))

        # The derivative of elu + 1 is min(elu + 1, 1): 0 at padding, where the features are.
        d_maps = phi.clamp(max=1)
        d_maps[:, :d].mul_(d_q)
        d_maps[:, d:].mul_(torch.baddbmm(d_z, d_kx, x.transpose(1, 2)))
        flat = d_maps.transpose(0, 1).reshape(2 * d, batch * length)
        torch.mm(flat, x.reshape(batch * length, d), out=d_in_weight[: 2 * d])
        if d_in_bias is not None:
            torch.sum(flat, 1, out=d_in_bias[: 2 * d])
        d_out_bias = grad.sum((0, 1)) if ctx.has_out_bias else None
        d_x = torch.bmm(phi[:, d:].transpose(1, 2), d_kx)
        d_x = torch.baddbmm(d_x, d_maps.transpose(1, 2), in_weight[: 2 * d].expand(batch, -1, -1))
        return d_x, d_in_weight, d_in_bias, d_out_weight, d_out_bias, None, None


def _by_head(x: Tensor, n_heads: int) -> Tensor:
    """[B, h m, c] -> [h, B m, c]."""
    batch, d, c = x.shape
    if batch == 1:
        return x.view(n_heads, d // n_heads, c)
    return x.view(batch, n_heads, -1, c).transpose(0, 1).reshape(n_heads, batch * d // n_heads, c)


def _by_sample(x: Tensor, batch: int) -> Tensor:
    """[h, B m, c] -> [B, h m, c]."""
    n_heads, rows, c = x.shape
    if batch == 1:
        return x.view(1, n_heads * rows, c)
    return x.view(n_heads, batch, -1, c).transpose(0, 1).reshape(batch, n_heads * rows // batch, c)

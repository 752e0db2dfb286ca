"""Attention by a memory that is corrected: the delta rule, with or without forgetting, and the selective state space.

The memory is a matrix S [n_keys, d_model] that maps keys to values. Token t changes it, then its query reads it:

    S_t = a_t S_(t-1) + w_t phi(k_t) (v_t - a_t S_(t-1)^T phi(k_t))^T,    out_t = S_t^T phi(q_t),    |phi| = 1

w_t in (0, 1) says how much of the difference between the value and what the memory answers for its key is written;
a_t in (0, 1] how much of the memory is kept. The sum of linear attention only ever adds, so that keys which resemble
one another blur; here what is known already is not written again, and a new value of a key replaces the old one.
Without the correction (the second term in the brackets) it is the selective state space of Mamba-2.

All heads share one memory, as all heads of Mamba-2 share B and C: a key is made of the q or k of all heads side by
side. The same state then tells more keys apart, and what is done with keys alone is done once and not for each head.

Token by token this is slow. In chunks, the corrections within a chunk are found for all chunks at once by a triangular
solve each, and only the memory is handed from chunk to chunk (the WY form of Yang et al. 2024; `_pass`).
Masks and shapes: see `models.attention.base`. Tests hold it equal to the recurrence, and to flash-linear-attention's
references where these are installed.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention.base import Attention, Masks, at_least_float32, no_autocast
from models.attention.linear import orthogonal_gaussian

CHUNK = 64  # tokens
NORMALIZE_EPS = 1e-12  # F.normalize's
SPREAD = 0.8  # standard deviation of the first A x, in radians, for x of variance 1


class MemoryState(NamedTuple):
    """A memory after `length` tokens: kv, S of each sample [B, n_keys, d_model]."""

    kv: Tensor
    length: int

    def n_numbers(self) -> int:
        """How many numbers the state holds."""
        return self.kv.numel()


class Chunks(NamedTuple):
    """A sequence of n chunks of C tokens: q, k [B, n, C, n_keys], v [B, n, C, d_model], write [B, n, C, 1];
    log_keep, the logarithm of what is kept at each token [B, n, C], or None for all of it."""

    q: Tensor
    k: Tensor
    v: Tensor
    write: Tensor
    log_keep: Tensor | None


class Products(NamedTuple):
    """Within the chunks, [B, n, C, C]: qk, queries by keys; kk, keys by keys, where what they write is corrected and
    fades; solved, T of `_pass` going forward, where it is corrected and does not fade."""

    qk: Tensor
    kk: Tensor | None = None
    solved: Tensor | None = None


class Memory(Attention):
    """What the mechanisms of this file share: features, gates, chunks, streaming. See the subclasses.

    Without causal=True a token reads two memories, one of the tokens up to it and one of the tokens from it on, and
    gets the sum. phi(x) = sin(A x), normalised, with A learned: so far from 0 that keys which differ become nearly
    orthogonal, even where they are more than d_model (sines alone, of random Fourier features: Rahimi and Recht 2007).
    The gates are linear in a token's key and value.

    Args:
        d_model: numbers of all heads together. n_keys: features of a key. n_gates: of a token.
        generator: for the first A.
    """

    takes_causal, takes_cross, takes_attn_mask = True, False, False
    streams = True
    corrects: bool
    """Whether what the memory answers already is subtracted from what is written."""

    def __init__(
        self, d_model: int, n_keys: int = 256, *, n_gates: int = 1, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if n_keys < 1:
            raise ValueError(f"n_keys={n_keys}: at least 1")
        self.d_model = d_model
        self.directions = nn.Parameter(orthogonal_gaussian(n_keys, d_model, generator) * (SPREAD / math.sqrt(d_model)))
        self.gates = nn.Linear(2 * d_model, n_gates)

    def features(self, x: Tensor) -> Tensor:
        """phi of q or k [B, N, d_model]: [B, N, n_keys], rows of length 1."""
        angles = F.linear(x, self.directions.to(x.dtype))
        if torch.is_grad_enabled():
            return F.normalize(angles.sin(), dim=-1)
        # In place: on a CPU, fresh memory costs more than the sines.
        return angles.sin_().div_(angles.norm(dim=-1, keepdim=True).clamp_min_(NORMALIZE_EPS))

    def gate(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """(w, log a or None) of tokens k, v [B, N, d_model], each [B, N]."""
        raise NotImplementedError

    def gate_logits(self, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """The gates' linear map of k, v [B, N, d_model]: n_gates times [B, N]."""
        weight, bias = self.gates.weight.to(k.dtype), self.gates.bias.to(k.dtype)
        of_k, of_v = weight.split(self.d_model, 1)
        return (F.linear(k, of_k, bias) + F.linear(v, of_v)).unbind(-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, masks: Masks) -> Tensor:
        """q, k, v [B, h, N, d_head] -> [B, h, N, d_head]; see `Attention`."""
        with no_autocast(q):
            chunks = self._chunks(q, k, v, masks.key_padding)
            products = self._products(chunks)
            out, _ = _pass(chunks, products, torch.zeros_like(chunks.v), None, reverse=False)
            if not masks.causal:
                out, _ = _pass(chunks, products, out, None, reverse=True)
        return _heads(out, q)

    def stream(self, q: Tensor, k: Tensor, v: Tensor, state: MemoryState | None = None) -> tuple[Tensor, MemoryState]:
        """Causal attention over the next tokens of a recording: (out [B, h, n, d_head], the state after them).

        The result does not depend on how a recording is cut into calls.
        """
        length = q.shape[2]
        if not length:
            raise ValueError("stream was given 0 tokens; at least 1")
        with no_autocast(q):
            chunks = self._chunks(q, k, v, None)
            before = None if state is None else state.kv
            out, after = _pass(chunks, self._products(chunks), torch.zeros_like(chunks.v), before, reverse=False)
        return _heads(out, q), MemoryState(after, length + (0 if state is None else state.length))

    def _chunks(self, q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> Chunks:
        """Features and gates of [B, h, N, d_head], cut into chunks. Padding, and what fills the last chunk up, writes
        nothing and lets nothing fade."""
        if q.shape[1] * q.shape[3] != self.d_model:
            raise ValueError(
                f"{self.name} attention was made for d_model={self.d_model}, got {q.shape[1]} heads of {q.shape[3]}"
            )
        q, k, v = (at_least_float32(t).transpose(1, 2).flatten(2) for t in (q, k, v))
        write, log_keep = self.gate(k, v)
        if key_padding_mask is not None:
            write = write.masked_fill(key_padding_mask, 0)
            log_keep = None if log_keep is None else log_keep.masked_fill(key_padding_mask, 0)
        length = q.shape[1]
        chunk = max(1, min(CHUNK, length))
        missing = -length % chunk

        def cut(t: Tensor) -> Tensor:
            if missing:
                t = torch.cat((t, t.new_zeros(t.shape[0], missing, *t.shape[2:])), 1)
            return t.unflatten(1, (-1, chunk))

        return Chunks(
            q=cut(self.features(q)),
            k=cut(self.features(k)),
            v=cut(v),
            write=cut(write)[..., None],
            log_keep=None if log_keep is None else cut(log_keep),
        )

    def _products(self, chunks: Chunks) -> Products:
        """What both directions need."""
        columns = chunks.k.transpose(-2, -1)
        qk = chunks.q @ columns
        if not self.corrects:
            return Products(qk)
        kk = chunks.k @ columns
        if chunks.log_keep is None:
            return Products(qk, solved=_solved(kk, chunks.write, reverse=False))
        return Products(qk, kk)


class DeltaAttention(Memory):
    """The delta rule: what is written is the error of what the memory answers.

    Reference: Schlag et al. 2021, arXiv:2102.11174, equation 24; in chunks Yang et al. 2024, arXiv:2406.06484,
    equations 7 to 11; gated, Yang et al. 2024, arXiv:2412.06464, equation 10.
    Main idea: the memory of linear attention, trained at every token by one step of gradient descent on |S^T phi(k) -
    v|^2, whose rate w is learned.
    Cost in one direction: N (6 n_keys d_model + C (5 n_keys + 3 d_model)) operations, C = 64 tokens a chunk; memory
    O(N (n_keys + d_model)), and a state of n_keys d_model numbers. Not exact: it is another function than softmax
    attention, with no weights that sum to 1. Choose it where a long sequence must be remembered: what linear attention
    blurs, it recalls.
    Limits: as many queries as keys; it knows the order of its tokens. About n_keys keys can be told apart.
    gated: the memory also fades, at a rate that each token sets; for recordings whose past stops mattering.
    """

    corrects = True

    def __init__(
        self, d_model: int, n_keys: int = 256, *, gated: bool = False, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(d_model, n_keys, n_gates=2 if gated else 1, generator=generator)
        self.name = "gated_delta" if gated else "delta"

    def gate(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """w = sigmoid of the first gate; gated: a = sigmoid of 4 and the second, at first 0.98."""
        write, *fading = self.gate_logits(k, v)
        return write.sigmoid(), F.logsigmoid(fading[0] + 4) if fading else None


class StateSpace(Memory):
    """The selective state space of Mamba-2: linear attention that fades at a rate each token sets.

    Reference: Dao and Gu 2024, arXiv:2405.21060, section 6 (SSD): a_t = exp(-A t), w_t = t for a step t = softplus of
    the gate, A > 0 learned. The paper's B, C and x are phi(k), phi(q) and v; one decay for all heads.
    Main idea: one decay for a whole state makes the recurrence a product of matrices within a chunk.
    Cost: as DeltaAttention without the solve, N (4 n_keys d_model + C (4 n_keys + 2 d_model)) operations. Not exact,
    like it. Choose it where the recent past matters, at less cost; what is written cannot be replaced, only fade.
    """

    corrects = False
    name = "ssd"

    def __init__(self, d_model: int, n_keys: int = 256, *, generator: torch.Generator | None = None) -> None:
        super().__init__(d_model, n_keys, generator=generator)
        self.log_rate = nn.Parameter(torch.tensor(-3.0))

    def gate(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        """w = t and log a = -A t of each token."""
        step = F.softplus(self.gate_logits(k, v)[0])
        return step, -step * self.log_rate.to(step.dtype).exp()


def _pass(
    chunks: Chunks, products: Products, out: Tensor, state: Tensor | None, *, reverse: bool
) -> tuple[Tensor, Tensor]:
    """One direction: (out [B, n, C, d_model] plus what the queries read, the memory at the end [B, n_keys, d_model]).

    In a chunk that begins with the memory S, T (v - k S) is written, (I + L) T = diag(w), L the part of w k k^T that
    lies before each token: T is the same whatever S is, and found for all chunks at once. Where nothing fades, T of one
    direction is the other's transposed, as k k^T is symmetric.
    What fades: with g the logarithm of what is left at token i of the chunk's beginning, exp(g_i - g_j) is left of what
    token j wrote.
    Without autograd, `out` is changed in place.
    """
    q, k, v, write, log_keep = chunks
    qk, kk, solved = products
    asked, kept = k, None
    if log_keep is not None:
        g = log_keep.flip(-1).cumsum(-1).flip(-1) if reverse else log_keep.cumsum(-1)
        end = g[..., :1] if reverse else g[..., -1:]
        fade = (g[..., :, None] - g[..., None, :]).clamp(max=0).exp()  # clamped where it is not used
        qk, solved = qk * fade, None if kk is None else _solved(kk * fade, write, reverse=reverse)
        q, asked = q * g[..., None].exp(), k * g[..., None].exp()
        k, kept = k * (end - g)[..., None].exp(), end[..., None].exp().unbind(1)
    elif solved is not None and reverse:
        solved = solved.transpose(-2, -1)
    seen = (qk.triu() if reverse else qk.tril()).unbind(1)
    corrections = None if solved is None else solved.unbind(1)
    # unbind, not [:, i]: the gradient of each of those would be as large as the whole sequence.
    told = v if solved is not None else write * v
    queries, keys, values, asking = (t.unbind(1) for t in (q, k.transpose(-2, -1), told, asked))
    state = v.new_zeros(v.shape[0], k.shape[-1], v.shape[-1]) if state is None else state.clone()
    outs = list(out.unbind(1))
    for i in reversed(range(len(values))) if reverse else range(len(values)):
        written = values[i]
        if corrections is not None:
            written = corrections[i] @ torch.baddbmm(written, asking[i], state, alpha=-1)
        outs[i] = _plus(_plus(outs[i], queries[i], state), seen[i], written)
        if kept is not None:
            state = state * kept[i] if torch.is_grad_enabled() else state.mul_(kept[i])
        state = _plus(state, keys[i], written)
    return torch.stack(outs, 1) if torch.is_grad_enabled() else out, state


def _solved(kk: Tensor, write: Tensor, *, reverse: bool) -> Tensor:
    """T of `_pass`, [B, n, C, C]. Only one triangle of w k k^T is read, and ones are taken for its diagonal."""
    rates = write.squeeze(-1).diag_embed()
    return torch.linalg.solve_triangular(write * kk, rates, upper=reverse, unitriangular=True)


def _plus(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total + a b; in place where no gradient needs the old one."""
    return torch.baddbmm(total, a, b) if torch.is_grad_enabled() else total.baddbmm_(a, b)


def _heads(out: Tensor, q: Tensor) -> Tensor:
    """Chunks [B, n, C, d_model] as heads [B, h, N, d_head], N, h and dtype those of q."""
    rows = out.flatten(1, 2)[:, : q.shape[2]].to(q.dtype)
    return rows.unflatten(2, (q.shape[1], q.shape[3])).transpose(1, 2)

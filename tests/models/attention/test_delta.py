"""The delta rule, gated or not, and the state space: in chunks, against their recurrences written token by token."""

import pytest
import torch
from torch import Tensor

from models.attention import delta
from models.attention.spec import DeltaAttention, StateSpace
from tests.models.attention.attention_cases import DH, B, H, assert_equal_with_gradients, build, qkv

pytestmark = pytest.mark.usefixtures("seeded_float64")

D_MODEL = H * DH
NAMES = ("delta", "gated_delta", "ssd")
CUTS = ([150], [1] * 5 + [145], [64, 64, 22], [20, 63, 67])


def recurrent(mechanism: delta.Memory, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """S <- a S + w k (v - a S^T k)^T, out = S^T q, one token after the other; without the bracket's S for ssd."""
    shape = q.shape
    q, k, v = (t.transpose(1, 2).flatten(2) for t in (q, k, v))  # all heads side by side
    write, log_keep = mechanism.gate(k, v)
    keep = torch.ones_like(write) if log_keep is None else log_keep.exp()
    q, k = mechanism.features(q), mechanism.features(k)
    state, outs = q.new_zeros(len(q), q.shape[-1], v.shape[-1]), []
    for t in range(q.shape[1]):
        state = keep[:, t, None, None] * state
        known = torch.einsum("bmd,bm->bd", state, k[:, t]) if isinstance(mechanism, DeltaAttention) else 0
        state = state + torch.einsum("bm,bd->bmd", k[:, t], write[:, t, None] * (v[:, t] - known))
        outs.append(torch.einsum("bmd,bm->bd", state, q[:, t]))
    return torch.stack(outs, 1).unflatten(2, (shape[1], shape[3])).transpose(1, 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 63, 64, 150])
def test_chunks_equal_the_recurrence_with_their_gradients(name: str, causal: bool, length: int) -> None:
    mechanism = build(name)
    inputs = [t.requires_grad_() for t in qkv(length)]
    leaves = [*inputs, *mechanism.parameters()]
    expected = recurrent(mechanism, *inputs)
    if not causal:
        expected = expected + recurrent(mechanism, *(t.flip(2) for t in inputs)).flip(2)
    out = mechanism(*inputs, causal=causal)
    assert_equal_with_gradients(out, expected, leaves)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cuts", CUTS)
def test_streaming_does_not_depend_on_the_cuts(name: str, cuts: list[int]) -> None:
    mechanism, (q, k, v) = build(name), qkv(150)
    outs, state, start = [], None, 0
    for n in cuts:
        part = slice(start, start + n)
        out, state = mechanism.stream(q[:, :, part], k[:, :, part], v[:, :, part], state)
        outs.append(out)
        start += n
    assert state is not None
    assert state.length == 150
    torch.testing.assert_close(torch.cat(outs, 2), mechanism(q, k, v, causal=True), rtol=1e-10, atol=1e-10)
    assert state.kv.shape == (B, 20, D_MODEL)  # it does not grow with the recording
    assert state.n_numbers() == B * 20 * D_MODEL


def test_a_key_that_is_told_again_gets_its_new_value() -> None:
    """Written whole (w = 1), the memory answers the last value of a key, where linear attention mixes both."""
    mechanism = build("delta")
    torch.nn.init.zeros_(mechanism.gates.weight)
    torch.nn.init.constant_(mechanism.gates.bias, 50.0)
    key, other = torch.randn(2, DH)
    k = torch.stack((key, other, key)).expand(1, H, 3, DH)
    v = torch.randn(1, H, 3, DH)
    out = mechanism(k, k, v, causal=True)
    torch.testing.assert_close(out[:, :, 2], v[:, :, 2])


def test_a_memory_that_keeps_all_is_the_plain_delta_rule() -> None:
    plain, gated = build("delta"), build("gated_delta")
    gated.load_state_dict({name: p for name, p in plain.state_dict().items() if "gates" not in name}, strict=False)
    with torch.no_grad():
        gated.gates.weight.zero_()
        gated.gates.bias.copy_(torch.tensor([0.0, 1e3]))  # keeps all
        plain.gates.weight.zero_()
        plain.gates.bias.zero_()
    q, k, v = qkv()
    torch.testing.assert_close(gated(q, k, v), plain(q, k, v), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["gated_delta", "ssd"])
def test_a_memory_that_forgets_at_once_reads_its_own_token(name: str) -> None:
    """Rates of fading beyond what an exponential holds: finite, and so are the gradients."""
    mechanism = build(name)
    with torch.no_grad():
        mechanism.gates.weight.zero_()
        if name == "ssd":
            mechanism.gates.bias.fill_(1.0)
            mechanism.log_rate.fill_(9.0)
        else:
            mechanism.gates.bias.copy_(torch.tensor([0.0, -1e4]))
    inputs = [t.requires_grad_() for t in qkv(150)]
    out = mechanism(*inputs, causal=True)
    alone = torch.cat([mechanism(*(t[:, :, i : i + 1] for t in inputs), causal=True) for i in range(150)], 2)
    torch.testing.assert_close(out, alone, rtol=1e-12, atol=1e-12)
    for gradient in torch.autograd.grad(out.square().sum(), inputs):
        assert gradient.isfinite().all()


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="n_keys=0"):
        StateSpace(D_MODEL, 0)
    with pytest.raises(ValueError, match=r"made for d_model=15, got 2 heads of 5"):
        build("delta")(*(t[:, :2] for t in qkv()))
    with pytest.raises(ValueError, match="0 tokens"):
        build("delta").stream(*qkv(0))

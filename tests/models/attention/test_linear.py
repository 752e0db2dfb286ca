"""The linear family: its quadratic form, streaming, and what its feature maps promise."""

import math

import pytest
import torch
from torch import Tensor

from models.attention.linear import EluFeatures, elu_plus_one, orthogonal_gaussian
from models.attention.spec import CosineFeatures, FavorFeatures, LinearAttention
from tests.models.attention.attention_cases import DH, LINEAR, B, H, N, build, qkv, sizes_for, softmax

pytestmark = pytest.mark.usefixtures("seeded_float64", "no_sample_is_too_small")


def test_elu_plus_one_and_its_derivatives():
    x = torch.randn(4, 5, requires_grad=True)
    torch.testing.assert_close(elu_plus_one(x), torch.nn.functional.elu(x) + 1)
    with torch.no_grad():
        torch.testing.assert_close(elu_plus_one(x), torch.nn.functional.elu(x) + 1)
    assert torch.autograd.gradcheck(elu_plus_one, x)
    assert torch.autograd.gradgradcheck(elu_plus_one, x)


def test_linear_sums_do_not_overflow_float16():
    torch.set_default_dtype(torch.float32)
    q, k, v = (torch.full((1, 1, 65_536, 4), 1.0, dtype=torch.float16) for _ in range(3))
    torch.testing.assert_close(LinearAttention(EluFeatures())(q, k, v), v)


def quadratic(mechanism: LinearAttention, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """The same attention through its N x N table of scores, from the papers' formulas."""
    n = q.shape[2]
    if mechanism.name == "linear":
        scores = (torch.nn.functional.elu(q) + 1) @ (torch.nn.functional.elu(k) + 1).transpose(-2, -1)
    elif mechanism.name == "cosformer":
        i = torch.arange(n)
        scale = mechanism.features.length_scale or n
        scores = q.relu() @ k.relu().transpose(-2, -1) * torch.cos(math.pi / 2 * (i[:, None] - i[None]) / scale)
    else:
        w = mechanism.features.projection
        x, y = (t * DH**-0.25 for t in (q, k))
        phi_q, phi_k = (torch.exp(t @ w.T - t.square().sum(-1, keepdim=True) / 2) for t in (x, y))
        scores = phi_q @ phi_k.transpose(-2, -1) / len(w)
    scores = scores.tril() if causal else scores
    return scores @ v / scores.sum(-1, keepdim=True).clamp(min=1e-12)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 24, 128, 300])
def test_linear_equals_its_quadratic_form(name, causal, length):
    mechanism, (q, k, v) = build(name, **sizes_for(causal)), qkv(length)
    expected = quadratic(mechanism, q, k, v, causal=causal)
    torch.testing.assert_close(mechanism(q, k, v, causal=causal), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("cuts", [[300], [1] * 5 + [295], [128, 128, 44], [100, 130, 70]])
def test_streaming_does_not_depend_on_the_cuts(name, cuts):
    mechanism, (q, k, v) = build(name, length_scale=300), qkv(300)
    outs, state, start = [], None, 0
    for n in cuts:
        part = slice(start, start + n)
        out, state = mechanism.stream(q[:, :, part], k[:, :, part], v[:, :, part], state)
        outs.append(out)
        start += n
    assert state.length == 300
    expected = quadratic(mechanism, q, k, v, causal=True)
    torch.testing.assert_close(torch.cat(outs, 2), expected, rtol=1e-8, atol=1e-10)
    # The state does not grow with the recording.
    assert state.kv.shape == (B, H, mechanism.features.n_features(DH), DH)


@pytest.mark.parametrize("name", LINEAR)
def test_absorbing_in_parts_is_absorbing_at_once(name):
    mechanism, (q, k, v) = build(name, length_scale=N), qkv()
    k[:, :, 10:] *= 5  # FAVOR+'s running maximum must change
    scale = mechanism.length_scale(N, N)
    state = mechanism.absorb(None, k[:, :, :10], v[:, :, :10], scale=scale)
    state = mechanism.absorb(state, k[:, :, 10:], v[:, :, 10:], scale=scale)
    torch.testing.assert_close(mechanism.read(q, state, scale=scale), mechanism(q, k, v), rtol=1e-9, atol=1e-10)


def test_cosformer_cannot_stream_without_a_length():
    with pytest.raises(ValueError, match="fixed length_scale"):
        LinearAttention(CosineFeatures()).stream(*qkv())
    mechanism = LinearAttention(CosineFeatures(30))
    _, state = mechanism.stream(*qkv(20))
    with pytest.raises(ValueError, match="31 tokens, but length_scale=30"):
        mechanism.stream(*qkv(11), state)


def test_cosformer_without_any_positive_feature_is_zero_not_nan():
    q, k, v = qkv()
    out = build("cosformer")(-q.abs(), k, v)
    assert torch.equal(out, torch.zeros_like(out))


def test_cosformer_with_few_keys_seen_has_positive_weights_and_equals_its_truncation():
    """M is the number of keys seen: queries behind them must not get cosines of more than a right angle."""
    q, k, v = qkv()
    mask = torch.arange(N)[None].expand(B, -1) >= 5
    ones = torch.ones_like(v)
    torch.testing.assert_close(build("cosformer")(q.abs(), k.abs(), ones, mask), ones)
    mechanism, (many, _, _) = build("cosformer"), qkv(N + 6)
    short = mechanism(many, k[:, :, :5], v[:, :, :5])
    torch.testing.assert_close(mechanism(many, k, v, mask), short, rtol=1e-8, atol=1e-9)


def test_favor_causal_early_tokens_do_not_feel_a_quiet_rest_of_their_chunk():
    """Keys of size 6 lie some hundred in the exponent below keys of size 1, whose features set the chunk's scale."""
    torch.set_default_dtype(torch.float32)
    q, k, v = (t.float() for t in qkv(64))
    k[:, :, :32] *= 6 / k[:, :, :32].norm(dim=-1, keepdim=True)
    k[:, :, 32:] /= k[:, :, 32:].norm(dim=-1, keepdim=True)
    mechanism = build("favor").float()
    whole, state = mechanism.stream(q, k, v)
    torch.testing.assert_close(mechanism(q, k, torch.ones_like(v), causal=True), torch.ones_like(v))
    first, seen = mechanism.stream(q[:, :, :32], k[:, :, :32], v[:, :, :32])
    rest, _ = mechanism.stream(q[:, :, 32:], k[:, :, 32:], v[:, :, 32:], seen)
    torch.testing.assert_close(whole, torch.cat((first, rest), 2), rtol=1e-5, atol=1e-5)
    assert state.kv.dtype == state.z.dtype == torch.float32


def test_favor_does_not_overflow_where_its_features_would():
    torch.set_default_dtype(torch.float32)
    q, k, v = (t.float() for t in qkv(scale=30.0))  # |x|^2 / 2 is about 1,000: exp(-1,000) is 0 in float32 and float64
    mechanism = build("favor").float()
    for causal in (False, True):
        assert mechanism(q, k, v, causal=causal).isfinite().all()
    torch.testing.assert_close(mechanism(q, k, torch.ones_like(v)), torch.ones_like(v))


def test_favor_keeps_its_directions_until_redrawn():
    mechanism, inputs = build("favor"), qkv()
    mechanism.train()
    first = mechanism(*inputs)
    assert torch.equal(mechanism(*inputs), first)
    mechanism.features.redraw(torch.Generator().manual_seed(5))
    assert not torch.equal(mechanism(*inputs), first)
    again = build("favor")
    again.features.redraw(torch.Generator().manual_seed(5))
    assert torch.equal(again(*inputs), mechanism(*inputs))


def test_random_directions_are_orthogonal_in_blocks_and_gaussian_in_length():
    rows = orthogonal_gaussian(40, 16, torch.Generator().manual_seed(0))
    for block in (rows[:16], rows[16:32], rows[32:]):
        gram = block @ block.T
        torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-10, rtol=0)
    many = torch.cat([orthogonal_gaussian(16, 16, torch.Generator().manual_seed(s)) for s in range(500)])
    squares = many.square().sum(1)  # chi-square with 16 degrees: mean 16, variance 32
    assert abs(squares.mean() - 16) < 4 * math.sqrt(32 / len(squares))
    assert abs(squares.var() - 32) < 3


def test_the_first_direction_of_a_block_is_not_biased():
    """Without the sign of R's diagonal the first component of the first row of a block has mean -0.8."""
    first = torch.stack([orthogonal_gaussian(16, 16, torch.Generator().manual_seed(s))[0] for s in range(1500)])
    assert (first.mean(0).abs() < 4.5 / math.sqrt(1500)).all()


def test_favor_estimates_the_exponential_kernel_without_bias():
    """Mean over draws against exp(q . k / sqrt(d)), as a z-score; and the variance that theory gives for independent
    rows.
    """
    d, m, draws = 16, 16, 2000
    q, k = torch.randn(d), torch.randn(d)
    x = torch.stack((q, k))
    x = x / (x * d**-0.25).sum(0).norm() * math.sqrt(2.0)  # |q + k|^2 = 2 in scaled units
    exact = torch.exp((x[0] * x[1]).sum() / math.sqrt(d))
    generator = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(draws):
        phi = FavorFeatures(d, m, generator).log_features(x[:, :, None]).exp().squeeze(2)
        estimates.append((phi[0] * phi[1]).mean())
    values = torch.stack(estimates)
    assert abs(values.mean() - exact) < 4 * values.std() / math.sqrt(draws)
    relative_variance = (values.var() / exact**2).item()
    independent = (math.exp(2.0) - 1) / m  # orthogonal rows may only lower it
    assert 0.3 * independent < relative_variance < 1.15 * independent


def test_favor_approaches_softmax_with_features():
    q, k, v = qkv(scale=0.7)
    exact = softmax(q, k, v)

    def error(m: int) -> float:
        draws = [LinearAttention(FavorFeatures(DH, m, torch.Generator().manual_seed(s)))(q, k, v) for s in range(5)]
        return sum((out - exact).norm().item() for out in draws) / (5 * exact.norm().item())

    assert error(4096) < error(256) / 2 < error(16) / 2  # like 1 / sqrt(m), with room for luck
    assert error(4096) < 0.1

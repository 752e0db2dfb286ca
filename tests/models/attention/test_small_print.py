"""Inputs at the edge: NaN in padding, causal cosFormer, FAVOR+ and Nystrom at scales far beyond what is trained."""

import math

import pytest
import torch
from torch import Tensor

from models.attention.spec import CosineFeatures, LinearAttention
from tests.models.attention.attention_cases import CAUSAL, MASKABLE, B, H, N, block_of, build, qkv, sizes_for

pytestmark = pytest.mark.usefixtures("seeded_float64", "no_sample_is_too_small")


@pytest.mark.parametrize("name", [name for name in MASKABLE if name != "none"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_in_padding_reaches_no_token(name: str, causal: bool, bad: float) -> None:
    if causal and name not in CAUSAL:
        pytest.skip("no causal form")
    tensors, mask = qkv(), torch.arange(N)[None] >= torch.tensor([[N - 7], [N]])
    padding = mask[:, None, :, None]
    mechanism, seen = build(name, **sizes_for(causal)), ~padding.expand(-1, H, -1, tensors[0].shape[-1])
    expected = mechanism(*tensors, mask, causal=causal)
    q, k, v = (t.masked_fill(padding, bad) for t in tensors)
    assert torch.equal(mechanism(q, k, v, mask, causal=causal)[seen], expected[seen])
    inputs = [tensors[0].requires_grad_(), k.requires_grad_(), v.requires_grad_()]
    out = mechanism(*inputs, mask, causal=causal)
    for gradient in torch.autograd.grad(out[seen].square().sum(), inputs):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", MASKABLE)
@pytest.mark.parametrize("grad", [False, True])
def test_what_is_not_finite_in_padding_reaches_no_token_of_a_block(name: str, grad: bool) -> None:
    """On its shorter ways, too; and the weights of its maps keep finite gradients."""
    block, x = block_of(name), torch.randn(B, N, block_of(name).d_model)
    mask = torch.arange(N)[None] >= torch.tensor([[N - 7], [N]])
    with torch.set_grad_enabled(grad):
        expected = block(x.masked_fill(mask[..., None], 0), key_padding_mask=mask)[0]
        out = block(x.masked_fill(mask[..., None], math.nan), key_padding_mask=mask)[0]
    assert torch.equal(out[~mask], expected[~mask])
    if grad:
        out[~mask].square().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_tokens_do_not_depend_on_how_many_follow(name: str) -> None:
    mechanism, (q, k, v) = build(name, **sizes_for(True)), qkv()
    first = mechanism(*(t[:, :, :10] for t in (q, k, v)), causal=True)
    torch.testing.assert_close(mechanism(q, k, v, causal=True)[:, :, :10], first, rtol=1e-9, atol=1e-10)


def test_causal_cosformer_needs_a_fixed_length() -> None:
    with pytest.raises(ValueError, match="causal cosformer attention needs a fixed length_scale"):
        LinearAttention(CosineFeatures(), "cosformer")(*qkv(), causal=True)


def favor_by_logarithms(mechanism: LinearAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal FAVOR+ from the logarithms of its features: no number here can overflow."""
    log_q, log_k = (mechanism.features.log_features(t.transpose(-2, -1)) for t in (q, k))
    scores = (log_q[..., :, :, None] + log_k[..., :, None, :]).logsumexp(-3)  # [B, h, N_q, N_k]
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -math.inf).softmax(-1) @ v


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("front", [False, True])
def test_causal_favor_is_exact_at_any_scale(scale: float, front: bool) -> None:
    mechanism = build("favor")
    q, k, v = qkv(40)
    inputs = [t.requires_grad_() for t in (q * scale, k * scale, v)]
    mask = torch.arange(40)[None].expand(B, -1) < 3 if front else None
    skipped = 3 if front else 0
    out = mechanism(*inputs, mask, causal=True)
    expected = favor_by_logarithms(mechanism, *(t[:, :, skipped:] for t in inputs))
    torch.testing.assert_close(out[:, :, skipped:], expected, rtol=1e-7, atol=1e-9)
    weight = torch.randn_like(expected)
    got = torch.autograd.grad((out[:, :, skipped:] * weight).sum(), inputs)
    for gradient, wanted in zip(got, torch.autograd.grad((expected * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-8)


def test_favor_streams_at_a_great_scale() -> None:
    mechanism, (q, k, v) = build("favor"), qkv(40)
    q, k = q * 100, k * 100
    first, state = mechanism.stream(q[:, :, :17], k[:, :, :17], v[:, :, :17])
    second, _ = mechanism.stream(q[:, :, 17:], k[:, :, 17:], v[:, :, 17:], state)
    expected = favor_by_logarithms(mechanism, q, k, v)
    torch.testing.assert_close(torch.cat((first, second), 2), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("scale", [1, 10, 30, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_nystrom_in_half_precision_computes_in_float32(scale: int, dtype: torch.dtype) -> None:
    """Within the rounding of the output: the six steps of the iteration do not multiply that of 8 bits."""
    torch.set_default_dtype(torch.float32)
    for seed in range(5):
        torch.manual_seed(seed)
        q, k, v = (torch.randn(2, 3, N, 16).mul(s).to(dtype) for s in (scale, scale, 1))
        expected = build("nystrom")(q.double(), k.double(), v.double())
        out = build("nystrom")(q, k, v)
        assert out.dtype == dtype
        assert (out.double() - expected).norm() / expected.norm() < 0.004


def test_nystrom_under_autocast_computes_in_float32() -> None:
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, N, 16).mul(s) for s in (30, 30, 1))
    expected = build("nystrom")(q, k, v)
    with torch.autocast("cpu", torch.bfloat16):
        out = build("nystrom")(q, k, v)
    torch.testing.assert_close(out, expected)

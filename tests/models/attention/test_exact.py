"""Exact attention against its definition, and the two controls."""

import math

import pytest
import torch

from models.attention.spec import AttentionBlock, FourierMixing, NoMixing
from tests.models.attention.attention_cases import DH, B, H, N, block_of, qkv, softmax

pytestmark = pytest.mark.usefixtures("seeded_float64", "no_sample_is_too_small")


@pytest.mark.parametrize("backend", ["sdpa", "softmax"])
def test_exact_attention(backend):
    q, k, v = qkv()
    torch.testing.assert_close(AttentionBlock(backend)(q, k, v), softmax(q, k, v), rtol=1e-12, atol=1e-13)


def test_controls():
    q, k, v = qkv()
    assert torch.equal(NoMixing()(q, k, v), v)
    rows = v.transpose(1, 2).reshape(B, N, H * DH)
    dft = [torch.exp(-2j * math.pi * torch.outer(torch.arange(n), torch.arange(n)) / n) for n in (N, H * DH)]
    expected = (dft[0] @ rows.to(dft[0].dtype) @ dft[1]).real / math.sqrt(N * H * DH)
    torch.testing.assert_close(FourierMixing()(q, k, v).transpose(1, 2).flatten(2), expected)
    assert block_of("none").mechanism(q, k, v).norm() == v.norm()
    torch.testing.assert_close(FourierMixing()(q, k, v).norm() <= v.norm() + 1e-9, torch.tensor(True))


def test_weights_are_given_under_the_same_checks_as_outputs():
    block = block_of("softmax")
    x, memory = torch.randn(B, N, H * DH), torch.randn(B, N + 2, H * DH)
    for need_weights in (False, True):
        with pytest.raises(ValueError, match=f"as many queries as keys, got {N} and {N + 2}"):
            block(x, memory, causal=True, need_weights=need_weights)
        with pytest.raises(ValueError, match=rf"the keys need \[{B}, {N}\]"):
            block(x, key_padding_mask=torch.zeros(1, N, dtype=torch.bool), need_weights=need_weights)


@pytest.mark.parametrize("backend", ["sdpa", "softmax"])
def test_a_mask_of_whole_numbers_is_refused_not_added(backend):
    with pytest.raises(ValueError, match=r"attn_mask is torch.int64; it must be bool"):
        AttentionBlock(backend)(*qkv(), attn_mask=torch.ones(N, N, dtype=torch.int64).triu(1))

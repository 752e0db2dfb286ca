"""Exact attention against its definition, and the two controls."""

import math

import pytest
import torch

from models.attention import AttentionBlock, FourierMixing, NoMixing
from tests.models.attention_cases import DH, B, H, N, block_of, qkv, softmax

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

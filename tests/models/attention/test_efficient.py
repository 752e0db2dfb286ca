"""Linformer, Nystrom and the local window: their equations, and the limits in which they are softmax."""

import pytest
import torch

from models.attention.efficient import pseudo_inverse, segment_means
from models.attention.spec import AttentionBlock, Linformer, LocalWindow, Nystrom, attention_weights
from tests.models.attention.attention_cases import DH, B, H, N, build, qkv, softmax

pytestmark = pytest.mark.usefixtures("seeded_float64", "no_sample_is_too_small")


def test_nystrom_weights_nearly_sum_to_one():
    q, k, v = qkv()
    assert 0.9 < build("nystrom", n_landmarks=8)(q, k, torch.ones_like(v)).mean() < 1.1


def test_linformer_with_identities_is_softmax():
    mechanism = Linformer(N, N)
    with torch.no_grad():
        mechanism.project_k.copy_(torch.eye(N))
        mechanism.project_v.copy_(torch.eye(N))
    q, k, v = qkv()
    torch.testing.assert_close(mechanism(q, k, v), softmax(q, k, v), rtol=1e-12, atol=1e-13)


def test_linformer_is_its_equation():
    mechanism, (q, k, v) = Linformer(N + 3, 6), qkv()
    e, f = mechanism.project_k[:, :N], mechanism.project_v[:, :N]
    torch.testing.assert_close(mechanism(q, k, v), softmax(q, e @ k, f @ v), rtol=1e-10, atol=1e-12)


def test_nystrom_converges_to_softmax_when_every_token_is_a_landmark():
    q, k, v = qkv()
    errors = [(Nystrom(N, i)(q, k, v) - softmax(q, k, v)).abs().max().item() for i in (6, 12, 20, 30)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 1
    assert errors[-1] < 1e-8


def test_nystrom_is_its_equation():
    q, k, v = qkv()
    few_q, few_k = (t.view(B, H, 4, 6, DH).mean(3) for t in (q, k))
    left, right = attention_weights(q, few_k), attention_weights(few_q, k)
    inverse = torch.linalg.pinv(attention_weights(few_q, few_k))
    torch.testing.assert_close(Nystrom(4, 40)(q, k, v), left @ inverse @ right @ v, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("n", [24, 25, 27, 31])
@pytest.mark.parametrize("kept", [2, 9, 31])
def test_segment_means_are_means_of_consecutive_parts(n, kept):
    x, m, kept = torch.randn(1, 1, n, 2), 4, min(n, kept)
    mask = torch.arange(n)[None] >= kept
    means = segment_means(x, m, mask)
    parts = [[r for r in range(kept) if (r * m // kept if kept >= m else r) == s] for s in range(m)]
    assert sum(map(len, parts)) == kept
    for s, rows in enumerate(parts):
        expected = x[0, 0, rows].mean(0) if rows else torch.zeros(2)
        torch.testing.assert_close(means[0, 0, s], expected)
    if kept == n:
        torch.testing.assert_close(segment_means(x, m), means)


def test_pseudo_inverse():
    a = torch.rand(2, 2, 6, 6).softmax(-1)
    inverse = pseudo_inverse(a, 40)
    torch.testing.assert_close(inverse, torch.linalg.inv(a), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("length", [1, 3, 8, 9, 24, 61])
@pytest.mark.parametrize("window", [1, 3, 7, 47, 49, 121])
@pytest.mark.parametrize("causal", [False, True])
def test_local_window_is_softmax_in_a_band(length, window, causal):
    q, k, v = qkv(length)
    distance = torch.arange(length)[None] - torch.arange(length)[:, None]
    outside = (distance.abs() > window // 2) | (causal & (distance > 0))
    expected = AttentionBlock("softmax")(q, k, v, attn_mask=outside)
    torch.testing.assert_close(LocalWindow(window)(q, k, v, causal=causal), expected, rtol=1e-10, atol=1e-12)
    mask = torch.arange(length)[None] >= torch.tensor([[length], [max(1, length - 2)]])
    expected = AttentionBlock("softmax")(q, k, v, mask, attn_mask=outside)
    torch.testing.assert_close(LocalWindow(window)(q, k, v, mask, causal=causal), expected, rtol=1e-10, atol=1e-12)

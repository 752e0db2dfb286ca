"""Sizes, names and builders that the tests of attention share, and their oracle."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from models.attention.spec import MECHANISMS, AttentionSpec, build_attention
from models.transformer import MultiHeadAttentionBlock

B, H, N, DH = 2, 3, 24, 5
LINEAR = ("linear", "cosformer", "favor")
MEMORY = ("delta", "gated_delta", "ssd")
CAUSAL = ("sdpa", "softmax", *LINEAR, *MEMORY, "local", "none")
MASKABLE = tuple(name for name in MECHANISMS if name != "fourier")  # whose frequencies depend on the padded length


def spec_of(name: str, **sizes) -> AttentionSpec:
    return AttentionSpec(
        name,
        **({"max_len": N, "n_projected": 6, "n_features": 16, "n_keys": 20, "n_landmarks": 4, "window": 7} | sizes),
    )


def sizes_for(causal: bool) -> dict[str, int]:
    """Causal cosFormer needs a length that is not the sequence's own: at least that of the longest one here."""
    return {"length_scale": 300} if causal else {}


def build(name: str, **sizes) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)  # Linformer's projections: the same in every mechanism built
        return build_attention(spec_of(name, **sizes), DH, torch.Generator().manual_seed(1), n_heads=H).eval()


def qkv(length: int = N, batch: int = B, scale: float = 1.0) -> list[Tensor]:
    return [torch.randn(batch, H, length, DH) * scale for _ in range(3)]


def block_of(name: str, d_model: int = H * DH, **sizes) -> MultiHeadAttentionBlock:
    block = MultiHeadAttentionBlock(d_model, H, spec_of(name, **sizes), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        block.in_proj_bias.normal_()
    return block.eval()


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Equation 1, from its definition with loops over queries: the oracle of these tests."""
    out = torch.empty_like(q)
    for i in range(q.shape[2]):
        weight = (k @ q[:, :, i, :, None]).squeeze(-1).div(math.sqrt(q.shape[-1])).exp()
        out[:, :, i] = (weight[..., None] * v).sum(2) / weight.sum(-1, keepdim=True)
    return out


def assert_equal_with_gradients(out: Tensor, expected: Tensor, leaves: Sequence[Tensor]) -> None:
    """In float64 to 1e-10, with the gradients of a random sum of the outputs by all leaves."""
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(out)
    for got, wanted in zip(
        torch.autograd.grad((out * weight).sum(), leaves),
        torch.autograd.grad((expected * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)

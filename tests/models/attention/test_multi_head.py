"""Blocks with a mechanism: their shorter ways give what project, mechanism and merge give, gradients too."""

import pytest
import torch

from models.attention.spec import MECHANISMS, build_attention
from models.attention.tokens import takes_written_gradient
from models.transformer import EncoderLayer, MultiHeadAttentionBlock
from tests.models.attention.attention_cases import CAUSAL, DH, LINEAR, MASKABLE, B, H, N, block_of, sizes_for, spec_of

pytestmark = pytest.mark.usefixtures("seeded_float64", "no_sample_is_too_small")


@pytest.mark.parametrize("name", MASKABLE)
@pytest.mark.parametrize("grad", [False, True])
def test_padding_equals_truncation_in_a_block(name, grad):
    """Here with the biases of the linear maps, by which zero padding would come back."""
    block, x, length = block_of(name), torch.randn(B, N, H * DH), 17
    x[:, length:] = 50.0
    mask = torch.arange(N)[None].expand(B, -1) >= length
    with torch.set_grad_enabled(grad):
        out = block(x, key_padding_mask=mask)[0][:, :length]
        torch.testing.assert_close(out, block(x[:, :length])[0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("norm_first", [False, True])
def test_in_an_encoder_layer_every_parameter_learns(name, norm_first):
    layer = EncoderLayer(H * DH, H, 16, dropout=0.0, norm_first=norm_first, attention=spec_of(name))
    out, _ = layer(torch.randn(B, N, H * DH))
    (out * torch.randn_like(out)).sum().backward()
    for parameter_name, p in layer.named_parameters():
        assert p.grad is not None, parameter_name
        assert p.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_block_computes_its_mechanism(name, bias, masked):
    """The block's shorter ways (Linformer before the maps, linear attention by chunks) against project, mechanism,
    merge.
    """
    n = 300 if name in LINEAR else N  # linear attention cuts at 128 tokens and more
    x = torch.randn(B, n, H * DH)
    mask = torch.arange(n)[None] >= torch.tensor([[n], [n - 9]]) if masked else None
    for causal in (False, True) if name in CAUSAL else (False,):
        block = MultiHeadAttentionBlock(H * DH, H, spec_of(name, **sizes_for(causal)), bias=bias).eval()
        if bias:
            torch.nn.init.normal_(block.in_proj_bias)
        expected = block.merge(block.mechanism(*block.project(x, x, x), mask, causal=causal))
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                out, weights = block(x, key_padding_mask=mask, causal=causal)
            assert weights is None
            torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["linformer", *LINEAR])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_the_shorter_ways_of_a_block_have_the_gradients_of_its_mechanism(name, masked, cross):
    n = N if name == "linformer" else 140
    block = block_of(name)
    x, y = torch.randn(B, n, H * DH, requires_grad=True), torch.randn(B, n, H * DH, requires_grad=True)
    mask = torch.arange(n)[None] >= torch.tensor([[n], [n - 9]]) if masked else None
    key = y if cross else x
    leaves = [x, y, *block.parameters()] if cross else [x, *block.parameters()]
    weight = torch.randn(B, n, H * DH)
    expected = block.merge(block.mechanism(*block.project(x, key, key), mask))
    out = block(x, key, key, key_padding_mask=mask)[0]
    for got, wanted in zip(
        torch.autograd.grad((out * weight).sum(), leaves),
        torch.autograd.grad((expected * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("batch", "n"), [(1, 1), (1, 5), (1, 140), (3, 140)])
def test_the_written_gradient_of_linear_attention(batch, n, masked, bias):
    """Output and all gradients against autograd's through map, mechanism and map; the last of several samples is
    padding alone.
    """
    block = MultiHeadAttentionBlock(H * DH, H, "linear", bias=bias)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, weight = torch.randn(batch, n, H * DH, requires_grad=True), torch.randn(H * DH, batch, n).permute(1, 2, 0)
    seen = torch.tensor([n - n // 3, n, 0][:batch])
    mask = torch.arange(n)[None] >= seen[:, None] if masked else None
    assert takes_written_gradient(block.mechanism, x, x, x)
    leaves = [x, *block.parameters()]
    expected = block.merge(block.mechanism(*block.project(x, x, x), mask))
    out = block(x, key_padding_mask=mask)[0]
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-10)
    for got, wanted in zip(
        torch.autograd.grad((out * weight).sum(), leaves),
        torch.autograd.grad((expected * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-10)


def test_the_written_gradient_is_taken_for_what_it_is_written_for():
    elu, relu = build_attention("linear", DH), build_attention("cosformer", DH)
    x, y = torch.randn(1, 5, 32), torch.randn(1, 5, 32)
    assert takes_written_gradient(elu, x, x, x)
    assert not takes_written_gradient(relu, x, x, x)
    assert not takes_written_gradient(elu, x, y, y)
    assert not takes_written_gradient(elu, x.bfloat16(), x, x)
    assert takes_written_gradient(elu, batch := torch.randn(2, 32, 32), batch, batch)
    assert not takes_written_gradient(elu, batch := torch.randn(2, 31, 32), batch, batch)
    with torch.no_grad():
        assert not takes_written_gradient(elu, x, x, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not takes_written_gradient(elu, x, x, x)


@pytest.mark.parametrize("name", LINEAR)
def test_a_long_sample_of_padding_alone_in_a_block(name):
    """Its heads are 0, so the block gives the bias of its last map; and finite gradients."""
    block, x = block_of(name), torch.randn(B, 140, H * DH, requires_grad=True)
    mask = torch.zeros(B, 140, dtype=torch.bool)
    mask[1] = True
    out = block(x, key_padding_mask=mask)[0]
    torch.testing.assert_close(out[1], block.out_proj.bias.expand(140, -1))
    assert torch.autograd.grad(out.square().sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
def test_linformer_of_a_short_sequence_in_a_block(masked):
    block, x = block_of("linformer", n_projected=16), torch.randn(B, N, H * DH)
    mask = torch.arange(N)[None] >= torch.tensor([[N], [N - 9]]) if masked else None
    expected = block.merge(block.mechanism(*block.project(x, x, x), mask))
    torch.testing.assert_close(block(x, key_padding_mask=mask)[0], expected)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("case", ["self", "cross", "key and value", "causal", "padding"])
def test_linear_attention_by_chunks_in_a_block(name, case, monkeypatch):
    monkeypatch.setattr("models.attention.linear.CHUNK_NUMBERS", 1)  # the least, 128 tokens
    n, n_q = 300, 300 if case in ("self", "causal", "padding") else 170
    block = block_of(name, **sizes_for(case == "causal"))
    x, y, z = torch.randn(B, n_q, H * DH), torch.randn(B, n, H * DH), torch.randn(B, n, H * DH)
    inputs = {"cross": (x, y, y), "key and value": (x, y, z)}.get(case, (x, x, x))
    mask = torch.arange(n)[None] >= torch.tensor([[n - 150], [n - 3]]) if case == "padding" else None
    with torch.no_grad():
        out = block(*inputs, key_padding_mask=mask, causal=case == "causal")[0]
    expected = block.merge(block.mechanism(*block.project(*inputs), mask, causal=case == "causal"))
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["sdpa", "linear", "favor", "linformer", "nystrom", "local"])
def test_compiled_equals_eager(name):
    block, x = block_of(name), torch.randn(B, N, H * DH)
    compiled = torch.compile(block, backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], block(x)[0])

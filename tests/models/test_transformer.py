"""The written-out Transformer equals torch.nn's, with the same weights: outputs and gradients, in float64, masks
included.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from models.attention.spec import AttentionSpec
from models.transformer import (
    AttentionBlock,
    DecoderLayer,
    EncoderLayer,
    MultiHeadAttentionBlock,
    PositionalEncoding,
    Transformer,
    sinusoidal_encoding,
)

B, N, M, D, H = 3, 7, 5, 24, 4  # heads of 6 features: d_head != n_heads, N != d_head, so a swap of axes cannot pass
TIGHT = {"rtol": 1e-9, "atol": 1e-10}


@pytest.fixture(autouse=True)
def _seeded_float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def padding(batch: int, length: int) -> Tensor:
    """The last tokens of each sample but the first are padding, more of them in every sample."""
    kept = length - torch.arange(batch) * 2
    return torch.arange(length)[None] >= kept[:, None]


def randomise(module: nn.Module) -> nn.Module:
    """Biases and norms start as zeros and ones; a wrong one would not be noticed."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return module


def assert_same(
    ours: nn.Module, theirs: nn.Module, our_out: Tensor, their_out: Tensor, *, inputs: list[Tensor]
) -> None:
    """Outputs, gradients of the inputs and gradients of every parameter, for one random cotangent."""
    torch.testing.assert_close(our_out, their_out, **TIGHT)
    cotangent = torch.randn_like(our_out)
    ours_of, theirs_of = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert ours_of.keys() == theirs_of.keys()
    our_grads = torch.autograd.grad(our_out, inputs + list(ours_of.values()), cotangent)
    their_grads = torch.autograd.grad(their_out, inputs + [theirs_of[name] for name in ours_of], cotangent)
    for name, g, expected in zip(
        [f"input {i}" for i in range(len(inputs))] + list(ours_of), our_grads, their_grads, strict=True
    ):
        torch.testing.assert_close(g, expected, **TIGHT, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("backend", ["sdpa", "softmax"])
@pytest.mark.parametrize("mask", [None, "padding", "bool", "float", "causal", "padding+bool", "padding+causal"])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_multi_head_attention_equals_torch(backend, mask, cross, bias):
    if cross and mask is not None and "causal" in mask:
        pytest.skip("causal is for self-attention")
    theirs = randomise(nn.MultiheadAttention(D, H, bias=bias, batch_first=True))
    ours = MultiHeadAttentionBlock(D, H, backend, bias=bias)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(B, N, D, requires_grad=True)
    y = torch.randn(B, M, D, requires_grad=True) if cross else x
    n_keys = y.shape[1]
    later = torch.ones(N, N, dtype=torch.bool).triu(1)
    bool_mask = (torch.rand(N, n_keys) < 0.3).index_fill(1, torch.tensor([0]), False)
    mine: dict = {}
    torchs: dict = {}
    if mask is not None:
        if "padding" in mask:
            mine["key_padding_mask"] = torchs["key_padding_mask"] = padding(B, n_keys)
        if "bool" in mask:
            mine["attn_mask"] = torchs["attn_mask"] = bool_mask
        if "float" in mask:
            mine["attn_mask"] = torchs["attn_mask"] = torch.randn(N, n_keys).masked_fill(bool_mask, -math.inf)
        if "causal" in mask:
            mine["causal"], torchs["attn_mask"] = True, later
    out, weights = ours(x, y, y, need_weights=True, **mine)
    expected, expected_weights = theirs(x, y, y, average_attn_weights=False, **torchs)
    torch.testing.assert_close(weights, expected_weights, **TIGHT)
    torch.testing.assert_close(out, expected, **TIGHT)
    assert_same(ours, theirs, ours(x, y, y, **mine)[0], expected, inputs=[x, y] if cross else [x])


def test_value_differs_from_key():
    theirs = randomise(nn.MultiheadAttention(D, H, batch_first=True))
    ours = MultiHeadAttentionBlock(D, H)
    ours.load_state_dict(theirs.state_dict())
    q, k, v = torch.randn(B, N, D), torch.randn(B, M, D), torch.randn(B, M, D)
    torch.testing.assert_close(ours(q, k, v)[0], theirs(q, k, v, need_weights=False)[0], **TIGHT)


def test_weights_go_back_to_torch():
    ours = randomise(MultiHeadAttentionBlock(D, H))
    nn.MultiheadAttention(D, H, batch_first=True).load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("masked", [False, True])
def test_encoder_layer_equals_torch(norm_first, activation, masked):
    theirs = randomise(
        nn.TransformerEncoderLayer(
            D, H, 40, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
        )
    )
    ours = EncoderLayer(D, H, 40, dropout=0.0, activation=activation, norm_first=norm_first)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(B, N, D, requires_grad=True)
    mask = torch.ones(N, N, dtype=torch.bool).triu(2) if masked else None
    pad = padding(B, N) if masked else None
    theirs.train()  # in eval the fast path writes zeros into padded tokens
    assert_same(
        ours, theirs, ours(x, pad, attn_mask=mask)[0], theirs(x, src_mask=mask, src_key_padding_mask=pad), inputs=[x]
    )


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_decoder_layer_equals_torch(norm_first, causal):
    theirs = randomise(nn.TransformerDecoderLayer(D, H, 40, 0.0, batch_first=True, norm_first=norm_first))
    ours = DecoderLayer(D, H, 40, dropout=0.0, norm_first=norm_first)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, memory = torch.randn(B, M, D, requires_grad=True), torch.randn(B, N, D, requires_grad=True)
    later = torch.ones(M, M, dtype=torch.bool).triu(1)
    memory_mask = (torch.rand(M, N) < 0.3).index_fill(1, torch.tensor([0]), False)
    expected = theirs(
        x,
        memory,
        tgt_mask=later if causal else None,
        memory_mask=memory_mask,
        tgt_key_padding_mask=padding(B, M),
        memory_key_padding_mask=padding(B, N),
    )
    masks = {
        "key_padding_mask": padding(B, M),
        "memory_padding_mask": padding(B, N),
        "memory_mask": memory_mask,
        "causal": causal,
    }
    out, weights = ours(x, memory, **masks)
    assert weights is None
    assert_same(ours, theirs, out, expected, inputs=[x, memory])
    out, weights = ours(x, memory, **masks, need_weights=True)
    torch.testing.assert_close(out, expected, **TIGHT)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H, M))


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_equals_torch(norm_first):
    theirs = randomise(
        nn.Transformer(D, H, 2, 2, dim_feedforward=40, dropout=0.0, batch_first=True, norm_first=norm_first)
    )
    ours = Transformer(D, H, 2, 2, d_ff=40, dropout=0.0, norm_first=norm_first)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    src, tgt = torch.randn(B, N, D, requires_grad=True), torch.randn(B, M, D, requires_grad=True)
    theirs.train()
    expected = theirs(
        src,
        tgt,
        tgt_mask=torch.ones(M, M, dtype=torch.bool).triu(1),
        src_key_padding_mask=padding(B, N),
        memory_key_padding_mask=padding(B, N),
        tgt_key_padding_mask=padding(B, M),
    )
    out = ours(src, tgt, src_padding_mask=padding(B, N), tgt_padding_mask=padding(B, M), tgt_causal=True)
    assert_same(ours, theirs, out, expected, inputs=[src, tgt])
    # A target that is decoded causally does not depend on later ones.
    changed = tgt.detach().clone()
    changed[:, -1] += 1
    torch.testing.assert_close(ours(src, changed, tgt_causal=True)[:, :-1], ours(src, tgt, tgt_causal=True)[:, :-1])


def test_defaults_are_torchs():
    ours, theirs = Transformer(), nn.Transformer(batch_first=True)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert ours.encoder.layers[0].dropout.p == theirs.encoder.layers[0].dropout.p == 0.1
    assert ours.encoder.layers[0].norm1.eps == theirs.encoder.layers[0].norm1.eps
    assert not ours.encoder.layers[0].norm_first


@pytest.mark.parametrize("backend", ["sdpa", "softmax"])
def test_a_sample_of_padding_alone_gives_zeros_and_finite_gradients(backend):
    q, k, v = (torch.randn(2, H, N, 6, requires_grad=True) for _ in range(3))
    mask = torch.zeros(2, N, dtype=torch.bool)
    mask[1] = True
    out = AttentionBlock(backend)(q, k, v, mask)
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    for g in torch.autograd.grad(out.square().sum(), [q, k, v]):
        assert g.isfinite().all()
        assert torch.equal(g[1], torch.zeros_like(g[1]))
        assert g[0].abs().max() > 0


@pytest.mark.parametrize("backend", ["sdpa", "softmax"])
def test_gradcheck(backend):
    q, k, v = (torch.randn(1, 2, 4, 3, requires_grad=True) for _ in range(3))
    mask = torch.tensor([[False, False, True, False]])
    assert torch.autograd.gradcheck(lambda *t: AttentionBlock(backend)(*t, mask), (q, k, v))


@pytest.mark.parametrize("name", ["sdpa", "softmax", "local", "linformer"])
def test_dropout_of_weights_only_in_training(name):
    spec = AttentionSpec(name, max_len=N, n_projected=N, window=5, dropout=0.5)
    block = MultiHeadAttentionBlock(D, H, spec)
    x = torch.randn(B, N, D)
    assert not torch.equal(block(x)[0], block(x)[0])
    block.eval()
    assert torch.equal(block(x)[0], block(x)[0])


def test_dropout_of_weights_keeps_the_mean():
    block = AttentionBlock("softmax", dropout=0.5)
    q, k = torch.randn(1, 1, 400, 4), torch.randn(1, 1, 50, 4)
    _, weights = block.with_weights(q, k, torch.ones(1, 1, 50, 4))
    assert 0.4 < (weights == 0).double().mean() < 0.6
    assert abs(weights.sum(-1).mean() - 1) < 0.05


def test_layer_dropout_only_in_training():
    layer, x = EncoderLayer(D, H, 40, dropout=0.5), torch.randn(B, N, D)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


@pytest.mark.parametrize("d_model", [1, 2, 3, 7, 128])
def test_encoding_equals_the_closed_form(d_model):
    table = sinusoidal_encoding(50, d_model)
    for p in (0, 1, 3, 49):
        for j in range(d_model):
            angle = p / 10000 ** ((j - j % 2) / d_model)
            expected = math.cos(angle) if j % 2 else math.sin(angle)
            assert table[p, j].item() == pytest.approx(expected, abs=1e-7)


def test_encoding_at_known_values():
    torch.testing.assert_close(
        sinusoidal_encoding(4, 4)[3], torch.tensor([0.14112001, -0.98999250, 0.02999550, 0.99955003]).float()
    )
    torch.testing.assert_close(
        sinusoidal_encoding(2, 128)[1, :4], torch.tensor([0.84147098, 0.54030231, 0.76172041, 0.64790587]).float()
    )


def test_encoding_at_576000_positions():
    """An hour at 160 Hz. Angles in float32 would be off by 0.03 there."""
    table = sinusoidal_encoding(576_000, 8)
    assert table.shape == (576_000, 8)
    for p in (16383, 16384, 100_000, 575_999):
        for j in range(8):
            angle = math.fmod(p / 10000 ** ((j - j % 2) / 8), 2 * math.pi)
            assert table[p, j].item() == pytest.approx(math.cos(angle) if j % 2 else math.sin(angle), abs=1e-6)
    torch.testing.assert_close(sinusoidal_encoding(10, 8, start=575_990), table[-10:], rtol=0, atol=0)


def test_positional_encoding_grows_and_starts_anywhere():
    encode, x = PositionalEncoding(6), torch.zeros(2, 5, 6)
    short = encode(x)
    long = encode(torch.zeros(2, 40, 6))
    torch.testing.assert_close(long[:, :5], short)
    torch.testing.assert_close(encode(x, start=20), long[:, 20:25])
    torch.testing.assert_close(encode(x), short)
    assert encode.state_dict() == {}
    assert encode(x.float()).dtype == torch.float32


def test_bad_sizes_name_both_numbers():
    with pytest.raises(ValueError, match=r"d_model=10 .* n_heads=4"):
        MultiHeadAttentionBlock(10, 4)
    with pytest.raises(ValueError, match=r"20 and 20 features.*d_model=24"):
        MultiHeadAttentionBlock(24, 4)(torch.zeros(1, 2, 20))
    with pytest.raises(ValueError, match=r"20 features.*d_model=24"):
        PositionalEncoding(24)(torch.zeros(1, 2, 20))
    with pytest.raises(ValueError, match=r"activation='tanh'"):
        EncoderLayer(8, 2, activation="tanh")
    with pytest.raises(ValueError, match="cannot attend to memory"):
        DecoderLayer(8, 2, cross_attention="local")
    with pytest.raises(ValueError, match="never forms attention weights"):
        MultiHeadAttentionBlock(8, 2, "linear")(torch.zeros(1, 3, 8), need_weights=True)

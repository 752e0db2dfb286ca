"""What every mechanism must hold: masks, batches, lengths, dtypes; exact limits; and what each of them alone promises.

Faults that published implementations of these mechanisms have, or that PyTorch invites, and the tests that keep them out:

 1. Linformer ignores the padding mask; fails above its length     test_padding_equals_truncation(_in_a_block), test_bad_sizes
 2. Performer masks values, but leaves keys in the denominator     test_padding_equals_truncation, test_padding_in_the_middle
 3. the first random direction of a block is biased (sign of R)    test_the_first_direction_of_a_block, test_favor_estimates
 4. random directions do not travel with the weights; redraws      test_copy_state_and_determinism, test_favor_keeps_its_directions
 5. a maximum over all keys leaks the future                       test_causal_sees_no_later_token
 6. Nystrom scales by the batch; N not divisible; no bfloat16      test_a_sample_alone, test_any_length, test_bfloat16
 7. masks overwrite k and v; weights do not sum to one             test_inputs_stay, test_weights_sum_to_one
 8. packages that do not import in a current Python                models/ imports torch alone: tests/test_imports.py
 9. weights of torch.nn copied into the wrong heads                test_transformer.py: test_multi_head_attention_equals_torch
10. polarity of masks; a sample of padding alone gives NaN         test_a_sample_of_padding_alone, here and in test_transformer.py
11. dropout of weights stays on in eval                            test_transformer.py: test_dropout_of_weights_only_in_training
12. padded rows differ between training and eval                   test_padded_rows_in_training_and_in_eval
13. torch.nn's defaults                                            test_transformer.py: test_defaults_are_torchs
14. a LayerNorm of its own                                         test_transformer.py: test_encoder_layer_equals_torch
15. encodings: layout, odd widths, digits at great positions       test_transformer.py: test_encoding_...
16. order: who must not know it, and who must                      test_permutation_equivariance_where_it_holds
17. causal forms: equal to the quadratic one, or refused           test_linear_equals_its_quadratic_form, test_causal_is_refused
18. limits in which a mechanism is softmax                         "exact limits" below
19. bfloat16, float16: overflow of sums, 0 / 0                     test_bfloat16, test_linear_sums, test_cosformer_without_any
20. one token, batches, copies, determinism, gradients, compile    "every mechanism" below
"""

import copy
import math

import pytest
import torch
from torch import Tensor

from models.attention import (
    MECHANISMS,
    AttentionBlock,
    AttentionSpec,
    CosineFeatures,
    FavorFeatures,
    FourierMixing,
    LinearAttention,
    Linformer,
    LocalWindow,
    NoMixing,
    Nystrom,
    attention_weights,
    build_attention,
)
from models.attention_efficient import pseudo_inverse, segment_means
from models.attention_linear import EluFeatures, elu_plus_one, orthogonal_gaussian
from models.attention_tokens import takes_written_gradient
from models.transformer import EncoderLayer, MultiHeadAttentionBlock

B, H, N, DH = 2, 3, 24, 5
LINEAR = ("linear", "cosformer", "favor")
CAUSAL = ("sdpa", "softmax", *LINEAR, "local", "none")
MASKABLE = tuple(name for name in MECHANISMS if name != "fourier")  # whose frequencies depend on the padded length


@pytest.fixture(autouse=True)
def _seeded_float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def _no_sample_is_too_small(monkeypatch):
    """Blocks of the linear family take their shorter way from 128 tokens on, however few numbers these hold."""
    monkeypatch.setattr("models.attention_tokens.SAMPLE_NUMBERS", 1)


def spec_of(name: str, **sizes) -> AttentionSpec:
    return AttentionSpec(
        name, **({"max_len": N, "n_projected": 6, "n_features": 16, "n_landmarks": 4, "window": 7} | sizes)
    )


def build(name: str, **sizes) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)  # Linformer's projections: the same in every mechanism built
        return build_attention(spec_of(name, **sizes), DH, torch.Generator().manual_seed(1)).eval()


def qkv(length: int = N, batch: int = B, scale: float = 1.0) -> list[Tensor]:
    return [torch.randn(batch, H, length, DH) * scale for _ in range(3)]


def block_of(name: str, d_model: int = H * DH, **sizes) -> MultiHeadAttentionBlock:
    block = MultiHeadAttentionBlock(d_model, H, spec_of(name, **sizes), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        block.in_proj_bias.normal_()
    return block.eval()


# ---- every mechanism


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("length", [4, 5, 23, 24])
def test_any_length_shape_and_no_change_of_the_inputs(name, length):
    q, k, v = qkv(length)
    before = [t.clone() for t in (q, k, v)]
    sizes = {"n_projected": 4} if name == "linformer" else {}
    out = build(name, **sizes)(q, k, v)
    assert out.shape == q.shape
    assert out.isfinite().all()
    for t, was in zip((q, k, v), before, strict=True):
        assert torch.equal(t, was)


@pytest.mark.parametrize("name", MASKABLE)
def test_inputs_stay_as_they_are_under_a_mask(name):
    tensors = [*qkv(), torch.arange(N)[None] >= torch.tensor([[N], [N - 7]])]
    before = [t.clone() for t in tensors]
    build(name)(*tensors)
    block, x = block_of(name), torch.randn(B, N, H * DH)
    was = x.clone()
    with torch.no_grad():  # sums in place where autograd allows it
        build(name)(*tensors)
        block(x, key_padding_mask=tensors[3])
    for t, old in zip([*tensors, x], [*before, was], strict=True):
        assert torch.equal(t, old)


@pytest.mark.parametrize("name", MECHANISMS)
def test_padded_rows_in_training_and_in_eval(name):
    """Without dropout nothing differs, padded rows included: a mean over tokens is the same in both."""
    layer = EncoderLayer(H * DH, H, 16, 0.0, attention=spec_of(name), generator=torch.Generator().manual_seed(1))
    x, mask = torch.randn(B, N, H * DH), torch.arange(N)[None] >= torch.tensor([[N], [N - 7]])
    training = layer.train()(x, mask)[0]
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x, mask)[0], training, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", MECHANISMS)
def test_one_token_returns_a_multiple_of_its_value(name):
    q, k, v = qkv(1)
    q, k = q.abs(), k.abs()  # cosFormer's relu features of a pair may not meet at all, and the token then gets 0
    out = build(name, n_landmarks=1, max_len=1, n_projected=1)(q, k, v)
    if name in ("linformer", "fourier"):
        assert out.shape == v.shape
    elif name == "nystrom":
        torch.testing.assert_close(out, v)
    else:
        torch.testing.assert_close(out, v, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("padded", [False, True])
def test_a_sample_alone_is_a_sample_in_a_batch(name, padded):
    q, k, v = qkv(batch=3)
    q[1] *= 4  # a loud neighbour: anything normalised over the batch would show it
    mask = torch.arange(N)[None] >= torch.tensor([[N], [N - 7], [N - 2]]) if padded else None
    together = build(name)(q, k, v, mask)
    for i in range(3):
        alone = build(name)(q[i : i + 1], k[i : i + 1], v[i : i + 1], None if mask is None else mask[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", MASKABLE)
@pytest.mark.parametrize("filling", [0.0, 99.0])
def test_padding_equals_truncation(name, filling):
    q, k, v = qkv()
    length = 17
    mask = torch.arange(N)[None].expand(B, -1) >= length
    for t in (q, k, v):
        t[:, :, length:] = filling
    out = build(name)(q, k, v, mask)[:, :, :length]
    short = build(name)(*(t[:, :, :length] for t in (q, k, v)))
    torch.testing.assert_close(out, short, rtol=1e-8, atol=1e-9)


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


@pytest.mark.parametrize("name", ["sdpa", "softmax", "linear", "favor", "nystrom", "local"])
def test_padding_in_the_middle_is_ignored(name):
    q, k, v = qkv()
    mask = torch.zeros(B, N, dtype=torch.bool)
    mask[0, 3:6] = mask[1, 0] = True
    out = build(name)(q, k, v, mask)
    k, v, q = k.clone(), v.clone(), q.clone()
    for t in (q, k, v):
        t.masked_fill_(mask[:, None, :, None], 7.0)
    changed = build(name)(q, k, v, mask)
    keep = ~mask[:, None, :, None].expand_as(out)
    torch.testing.assert_close(out[keep], changed[keep], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", [n for n in MASKABLE if n != "none"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_sample_of_padding_alone_gives_zeros_and_finite_gradients(name, causal):
    if causal and name not in CAUSAL:
        pytest.skip("no causal form")
    q, k, v = (t.requires_grad_() for t in qkv())
    mask = torch.zeros(B, N, dtype=torch.bool)
    mask[1] = True
    out = build(name)(q, k, v, mask, causal=causal)
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    assert out[0].abs().max() > 0
    for g in torch.autograd.grad(out.square().sum(), [q, k, v]):
        assert g.isfinite().all()


@pytest.mark.parametrize("name", MECHANISMS)
def test_gradients(name):
    q, k, v = (torch.randn(1, 2, 6, 3, requires_grad=True) for _ in range(3))
    mechanism = build_attention(
        AttentionSpec(name, max_len=6, n_projected=3, n_features=5, n_landmarks=2, window=3), 3
    ).eval()
    mask = torch.tensor([[False] * 5 + [True]])
    assert torch.autograd.gradcheck(lambda q, k, v: mechanism(q, k, v, mask), (q, k, v))
    if mechanism.takes_causal:
        assert torch.autograd.gradcheck(lambda q, k, v: mechanism(q, k, v, mask, causal=True), (q, k, v))


@pytest.mark.parametrize("name", MECHANISMS)
def test_non_contiguous_inputs(name):
    x = torch.randn(B, N, 3, H, DH).permute(2, 0, 3, 1, 4)
    out = build(name)(*x.unbind(0))
    torch.testing.assert_close(out, build(name)(*x.contiguous().unbind(0)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", MECHANISMS)
def test_copy_state_and_determinism(name):
    block, x = block_of(name), torch.randn(B, N, H * DH)
    out = block(x)[0]
    assert torch.equal(out, block(x)[0])
    assert torch.equal(copy.deepcopy(block)(x)[0], out)
    fresh = MultiHeadAttentionBlock(H * DH, H, spec_of(name), generator=torch.Generator().manual_seed(9)).eval()
    fresh.load_state_dict(block.state_dict(), strict=True)  # the random directions travel with the weights
    assert torch.equal(fresh(x)[0], out)


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("norm_first", [False, True])
def test_in_an_encoder_layer_every_parameter_learns(name, norm_first):
    layer = EncoderLayer(H * DH, H, 16, 0.0, norm_first=norm_first, attention=spec_of(name))
    out, _ = layer(torch.randn(B, N, H * DH))
    (out * torch.randn_like(out)).sum().backward()
    for parameter_name, p in layer.named_parameters():
        assert p.grad is not None, parameter_name
        assert p.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_block_computes_its_mechanism(name, bias, masked):
    """The block's shorter ways (Linformer before the maps, linear attention by chunks) against project, mechanism, merge."""
    n = 300 if name in LINEAR else N  # linear attention cuts at 128 tokens and more
    block = MultiHeadAttentionBlock(H * DH, H, spec_of(name), bias).eval()
    if bias:
        torch.nn.init.normal_(block.in_proj_bias)
    x = torch.randn(B, n, H * DH)
    mask = torch.arange(n)[None] >= torch.tensor([[n], [n - 9]]) if masked else None
    for causal in (False, True) if name in CAUSAL else (False,):
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
    """Output and all gradients against autograd's through map, mechanism and map; the last of several samples is padding alone."""
    block = MultiHeadAttentionBlock(H * DH, H, "linear", bias)
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


def test_elu_plus_one_and_its_derivatives():
    x = torch.randn(4, 5, requires_grad=True)
    torch.testing.assert_close(elu_plus_one(x), torch.nn.functional.elu(x) + 1)
    with torch.no_grad():
        torch.testing.assert_close(elu_plus_one(x), torch.nn.functional.elu(x) + 1)
    assert torch.autograd.gradcheck(elu_plus_one, x)
    assert torch.autograd.gradgradcheck(elu_plus_one, x)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("case", ["self", "cross", "key and value", "causal", "padding"])
def test_linear_attention_by_chunks_in_a_block(name, case, monkeypatch):
    monkeypatch.setattr("models.attention_linear.CHUNK_NUMBERS", 1)  # the least, 128 tokens
    n, n_q = 300, 300 if case in ("self", "causal", "padding") else 170
    block = block_of(name)
    x, y, z = torch.randn(B, n_q, H * DH), torch.randn(B, n, H * DH), torch.randn(B, n, H * DH)
    inputs = {"cross": (x, y, y), "key and value": (x, y, z)}.get(case, (x, x, x))
    mask = torch.arange(n)[None] >= torch.tensor([[n - 150], [n - 3]]) if case == "padding" else None
    with torch.no_grad():
        out = block(*inputs, key_padding_mask=mask, causal=case == "causal")[0]
    expected = block.merge(block.mechanism(*block.project(*inputs), mask, causal=case == "causal"))
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16(name, autocast):
    """Within bf16's rounding of the same bf16 weights in float64; no NaN for strong scores."""
    torch.set_default_dtype(torch.float32)
    d_model = 48
    block = MultiHeadAttentionBlock(
        d_model, 3, spec_of(name, n_features=64), generator=torch.Generator().manual_seed(1)
    )
    x = torch.randn(B, N, d_model).bfloat16()
    block = block.eval().bfloat16()
    expected = copy.deepcopy(block).double()(x.double())[0]
    if autocast:
        block, x = block.float(), x.float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = block(x)[0]
    assert out.dtype == torch.bfloat16
    error = (out.double() - expected).norm() / expected.norm()
    assert error < 0.03
    loud = [t.bfloat16() * 4 for t in (torch.randn(B, H, N, 16) for _ in range(3))]
    mechanism = build_attention(spec_of(name), 16).eval().bfloat16()
    assert mechanism(*loud).isfinite().all()


def test_linear_sums_do_not_overflow_float16():
    torch.set_default_dtype(torch.float32)
    q, k, v = (torch.full((1, 1, 65_536, 4), 1.0, dtype=torch.float16) for _ in range(3))
    torch.testing.assert_close(LinearAttention(EluFeatures())(q, k, v), v)


@pytest.mark.parametrize("name", MECHANISMS)
def test_permutation_equivariance_where_it_holds(name):
    """Without encodings, exact attention and its kernels know no order; the others must show that they do."""
    q, k, v = qkv()
    order = torch.randperm(N)
    mechanism = build(name)
    error = (mechanism(q, k, v)[:, :, order] - mechanism(*(t[:, :, order] for t in (q, k, v)))).abs().max()
    if name in ("sdpa", "softmax", "linear", "favor", "none"):
        assert error < 1e-12
    else:
        assert error > 1e-2
    if name == "local":  # a window over everything is exact attention
        wide = build("local", window=2 * N - 1)
        assert (wide(q, k, v)[:, :, order] - wide(*(t[:, :, order] for t in (q, k, v)))).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["sdpa", "softmax", *LINEAR, "local", "none"])
@pytest.mark.parametrize("causal", [False, True])
def test_weights_sum_to_one(name, causal):
    q, k, v = qkv()
    if name == "cosformer":  # relu features of a random vector may all be 0, and then nothing is seen
        q, k = q.abs(), k.abs()
    torch.testing.assert_close(build(name)(q, k, torch.ones_like(v), causal=causal), torch.ones_like(v))


def test_nystrom_weights_nearly_sum_to_one():
    q, k, v = qkv()
    assert 0.9 < build("nystrom", n_landmarks=8)(q, k, torch.ones_like(v)).mean() < 1.1


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("padded", [False, True])
def test_causal_sees_no_later_token(name, padded):
    q, k, v = qkv()
    mask = torch.zeros(B, N, dtype=torch.bool)
    mask[0, 0] = mask[1, 4:7] = True
    args = (mask,) if padded else ()
    sizes = {"length_scale": N}
    out = build(name, **sizes)(q, k, v, *args, causal=True)
    k, v = k.clone(), v.clone()
    k[:, :, 15:] += 20
    v[:, :, 15:] += 20
    changed = build(name, **sizes)(q, k, v, *args, causal=True)
    torch.testing.assert_close(out[:, :, :15], changed[:, :, :15], rtol=1e-7, atol=1e-8)
    assert (out[:, :, 15:] - changed[:, :, 15:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", sorted(set(MECHANISMS) - set(CAUSAL)))
def test_causal_is_refused_where_it_cannot_hold(name):
    with pytest.raises(ValueError, match="causal=True cannot hold"):
        build(name)(*qkv(), causal=True)


@pytest.mark.parametrize("name", MECHANISMS)
def test_attn_mask_only_where_there_are_scores(name):
    q, k, v = qkv()
    mask = torch.zeros(N, N, dtype=torch.bool)
    if name in ("sdpa", "softmax"):
        torch.testing.assert_close(build(name)(q, k, v, None, mask), build(name)(q, k, v))
    else:
        with pytest.raises(ValueError, match="attn_mask cannot apply"):
            build(name)(q, k, v, None, mask)
        with pytest.raises(ValueError, match="attn_mask cannot apply"):
            block_of(name)(torch.randn(B, N, H * DH), attn_mask=mask)


@pytest.mark.parametrize("name", MECHANISMS)
def test_cross_attention(name):
    q, k, v = qkv()
    mechanism = build(name)
    if mechanism.takes_cross:
        out = mechanism(q[:, :, :5], k, v)
        assert out.shape == (B, H, 5, DH)
        # Which other queries there are makes no difference.
        torch.testing.assert_close(out, mechanism(q, k, v)[:, :, :5])
    else:
        with pytest.raises(ValueError, match=f"as many queries as keys, got 5 and {N}"):
            mechanism(q[:, :, :5], k, v)


@pytest.mark.parametrize("name", MECHANISMS)
def test_masks_of_a_wrong_shape_are_refused(name):
    for mask in (torch.zeros(B, N - 1, dtype=torch.bool), torch.zeros(N, dtype=torch.bool)):
        with pytest.raises(ValueError, match=rf"shape \[.*\], the keys need \[{B}, {N}\]"):
            build(name)(*qkv(), mask)
        with pytest.raises(ValueError, match=rf"shape \[.*\], the keys need \[{B}, {N}\]"):
            block_of(name)(torch.zeros(B, N, H * DH), key_padding_mask=mask)
    with pytest.raises(ValueError, match="must be bool"):
        build(name)(*qkv(), torch.zeros(B, N))


def test_bad_sizes_name_the_numbers():
    with pytest.raises(ValueError, match=r"n_projected=30 .* max_len=24"):
        Linformer(24, 30)
    with pytest.raises(ValueError, match=r"25 tokens.*max_len=24"):
        Linformer(24, 6)(*qkv(25))
    with pytest.raises(ValueError, match="needs max_len"):
        build_attention("linformer", 8)
    with pytest.raises(ValueError, match=r"n_landmarks=64 exceeds the sequence of 24 tokens"):
        Nystrom(64)(*qkv())
    with pytest.raises(ValueError, match=r"window=64 must be odd.*63 or 65"):
        LocalWindow(64)
    with pytest.raises(ValueError, match=r"24 tokens, but length_scale=23"):
        LinearAttention(CosineFeatures(23))(*qkv())
    with pytest.raises(ValueError, match=r"shape \[5, 24\], the scores are \[2, 3, 24, 24\]"):
        AttentionBlock()(*qkv(), None, torch.zeros(5, 24, dtype=torch.bool))
    with pytest.raises(ValueError, match="'performer': allowed are sdpa, softmax"):
        build_attention("performer", 8)
    with pytest.raises(ValueError, match=r"linear attention has no weights to drop: dropout=0.1"):
        build_attention(AttentionSpec("linear", dropout=0.1), 8)
    with pytest.raises(ValueError, match="n_features=0"):
        FavorFeatures(8, 0)


@pytest.mark.parametrize("name", ["sdpa", "linear", "favor", "linformer", "nystrom", "local"])
def test_compiled_equals_eager(name):
    block, x = block_of(name), torch.randn(B, N, H * DH)
    compiled = torch.compile(block, backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], block(x)[0])


# ---- exact limits


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Equation 1, from its definition with loops over queries: the oracle of this file."""
    out = torch.empty_like(q)
    for i in range(q.shape[2]):
        weight = (k @ q[:, :, i, :, None]).squeeze(-1).div(math.sqrt(q.shape[-1])).exp()
        out[:, :, i] = (weight[..., None] * v).sum(2) / weight.sum(-1, keepdim=True)
    return out


@pytest.mark.parametrize("backend", ["sdpa", "softmax"])
def test_exact_attention(backend):
    q, k, v = qkv()
    torch.testing.assert_close(AttentionBlock(backend)(q, k, v), softmax(q, k, v), rtol=1e-12, atol=1e-13)


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
    expected = AttentionBlock("softmax")(q, k, v, mask, outside)
    torch.testing.assert_close(LocalWindow(window)(q, k, v, mask, causal=causal), expected, rtol=1e-10, atol=1e-12)


def test_controls():
    q, k, v = qkv()
    assert torch.equal(NoMixing()(q, k, v), v)
    rows = v.transpose(1, 2).reshape(B, N, H * DH)
    dft = [torch.exp(-2j * math.pi * torch.outer(torch.arange(n), torch.arange(n)) / n) for n in (N, H * DH)]
    expected = (dft[0] @ rows.to(dft[0].dtype) @ dft[1]).real / math.sqrt(N * H * DH)
    torch.testing.assert_close(FourierMixing()(q, k, v).transpose(1, 2).flatten(2), expected)
    assert block_of("none").mechanism(q, k, v).norm() == v.norm()
    torch.testing.assert_close(FourierMixing()(q, k, v).norm() <= v.norm() + 1e-9, torch.tensor(True))


# ---- the linear family


def quadratic(name: str, mechanism: LinearAttention, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """The same attention through its N x N table of scores, from the papers' formulas."""
    n = q.shape[2]
    if name == "linear":
        scores = (torch.nn.functional.elu(q) + 1) @ (torch.nn.functional.elu(k) + 1).transpose(-2, -1)
    elif name == "cosformer":
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
    mechanism, (q, k, v) = build(name), qkv(length)
    expected = quadratic(name, mechanism, q, k, v, causal)
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
    expected = quadratic(name, mechanism, q, k, v, causal=True)
    torch.testing.assert_close(torch.cat(outs, 2), expected, rtol=1e-8, atol=1e-10)
    # The state does not grow with the recording.
    assert state.kv.shape == (B, H, mechanism.features.n_features(DH), DH)


@pytest.mark.parametrize("name", LINEAR)
def test_absorbing_in_parts_is_absorbing_at_once(name):
    mechanism, (q, k, v) = build(name, length_scale=N), qkv()
    k[:, :, 10:] *= 5  # FAVOR+'s running maximum must change
    scale = mechanism.length_scale(N)
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
    """Mean over draws against exp(q . k / sqrt(d)), as a z-score; and the variance that theory gives for independent rows."""
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

"""What every mechanism must hold: masks, batches, lengths, dtypes.

What each alone promises, exact limits among it, is in test_attention_exact.py, _efficient.py and _linear.py; the blocks
around them in test_multi_head_attention.py.

Faults that published implementations of these mechanisms have, or that PyTorch invites, and the tests that keep them
out:

 1. Linformer ignores the padding mask; fails above its length     test_padding_equals_truncation, test_bad_sizes
 2. Performer masks values, but leaves keys in the denominator     test_padding_equals_truncation,
 test_padding_in_the_middle
 3. the first random direction of a block is biased (sign of R)    _linear: test_the_first_direction,
 test_favor_estimates
 4. random directions do not travel with the weights; redraws      test_copy_state; _linear:
 test_favor_keeps_its_directions
 5. a maximum over all keys leaks the future                       test_causal_sees_no_later_token
 6. Nystrom scales by the batch; N not divisible; no bfloat16      test_a_sample_alone, test_any_length, test_bfloat16
 7. masks overwrite k and v; weights do not sum to one             test_inputs_stay, test_weights_sum_to_one
 8. packages that do not import in a current Python                models/ imports torch alone: tests/test_imports.py
 9. weights of torch.nn copied into the wrong heads                test_transformer.py:
 test_multi_head_attention_equals_torch
10. polarity of masks; a sample of padding alone gives NaN         test_a_sample_of_padding_alone, here and in
test_transformer.py
11. dropout of weights stays on in eval                            test_transformer.py:
test_dropout_of_weights_only_in_training
12. padded rows differ between training and eval                   test_padded_rows_in_training_and_in_eval
13. torch.nn's defaults                                            test_transformer.py: test_defaults_are_torchs
14. a LayerNorm of its own                                         test_transformer.py: test_encoder_layer_equals_torch
15. encodings: layout, odd widths, digits at great positions       test_transformer.py: test_encoding_...
16. order: who must not know it, and who must                      test_permutation_equivariance_where_it_holds
17. causal forms: equal to the quadratic one, or refused           _linear: test_linear_equals_its_quadratic;
test_causal_is_refused
18. limits in which a mechanism is softmax                         _efficient and _linear
19. bfloat16, float16: overflow of sums, 0 / 0                     test_bfloat16; _linear: test_linear_sums,
test_cosformer_without
20. one token, batches, copies, determinism, gradients, compile    here; compile in test_multi_head_attention.py
"""

import copy

import pytest
import torch

from models.attention.spec import (
    MECHANISMS,
    AttentionBlock,
    AttentionSpec,
    CosineFeatures,
    FavorFeatures,
    LinearAttention,
    Linformer,
    LocalWindow,
    Nystrom,
    build_attention,
)
from models.transformer import EncoderLayer, MultiHeadAttentionBlock
from tests.models.attention.attention_cases import (
    CAUSAL,
    DH,
    LINEAR,
    MASKABLE,
    MEMORY,
    B,
    H,
    N,
    block_of,
    build,
    qkv,
    sizes_for,
    spec_of,
)

pytestmark = pytest.mark.usefixtures("seeded_float64", "no_sample_is_too_small")


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
    layer = EncoderLayer(
        H * DH, H, 16, dropout=0.0, attention=spec_of(name), generator=torch.Generator().manual_seed(1)
    )
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
    elif name in MEMORY:  # all heads by one factor, of how much is written and how alike q and k are
        torch.testing.assert_close(out, v * (out / v).mean((1, 2, 3), keepdim=True))
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
    out = build(name, **sizes_for(causal))(q, k, v, mask, causal=causal)
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    assert out[0].abs().max() > 0
    for g in torch.autograd.grad(out.square().sum(), [q, k, v]):
        assert g.isfinite().all()


@pytest.mark.parametrize("name", MECHANISMS)
def test_gradients(name):
    q, k, v = (torch.randn(1, 2, 6, 3, requires_grad=True) for _ in range(3))
    sizes = {"max_len": 6, "n_projected": 3, "n_features": 5, "n_keys": 5, "n_landmarks": 2, "window": 3}
    mechanism = build_attention(AttentionSpec(name, **sizes, length_scale=6), 3, n_heads=2).eval()
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
    mechanism = build_attention(spec_of(name), 16, n_heads=H).eval().bfloat16()
    assert mechanism(*loud).isfinite().all()


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
    ones = torch.ones_like(v)
    torch.testing.assert_close(build(name, **sizes_for(causal))(q, k, ones, causal=causal), ones)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("padded", [False, True])
def test_causal_sees_no_later_token(name, padded):
    q, k, v = qkv()
    mask = torch.zeros(B, N, dtype=torch.bool)
    mask[0, 0] = mask[1, 4:7] = True
    args = (mask,) if padded else ()
    sizes = sizes_for(causal=True)
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
        torch.testing.assert_close(build(name)(q, k, v, attn_mask=mask), build(name)(q, k, v))
    else:
        with pytest.raises(ValueError, match="attn_mask cannot apply"):
            build(name)(q, k, v, attn_mask=mask)
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


def test_of_fewer_tokens_than_landmarks_each_is_a_landmark():
    padding = torch.zeros(B, N, dtype=torch.bool)
    padding[0, 20:] = True
    inputs = qkv()
    for mask in (None, padding):
        assert torch.equal(Nystrom(64)(*inputs, mask), Nystrom(N)(*inputs, mask))


def test_bad_sizes_name_the_numbers():
    with pytest.raises(ValueError, match=r"n_projected=30 .* max_len=24"):
        Linformer(24, 30)
    with pytest.raises(ValueError, match=r"25 tokens.*max_len=24"):
        Linformer(24, 6)(*qkv(25))
    with pytest.raises(ValueError, match="needs max_len"):
        build_attention("linformer", 8)
    with pytest.raises(ValueError, match=r"window=64 must be odd.*63 or 65"):
        LocalWindow(64)
    with pytest.raises(ValueError, match=r"24 tokens, but length_scale=23"):
        LinearAttention(CosineFeatures(23))(*qkv())
    with pytest.raises(ValueError, match=r"shape \[5, 24\], the scores are \[2, 3, 24, 24\]"):
        AttentionBlock()(*qkv(), attn_mask=torch.zeros(5, 24, dtype=torch.bool))
    with pytest.raises(ValueError, match="'performer': allowed are sdpa, softmax"):
        build_attention("performer", 8)
    with pytest.raises(ValueError, match=r"linear attention has no weights to drop: dropout=0.1"):
        build_attention(AttentionSpec("linear", dropout=0.1), 8)
    with pytest.raises(ValueError, match="n_features=0"):
        FavorFeatures(8, 0)

"""Labelling as samples come in equals labelling at once; what causal networks may see; and recall networks' shapes."""

import pytest
import torch

from data.recall import recall_sequences
from models.attention.spec import AttentionSpec
from models.eeg.sequence_labeller import RecallTransformer, RecordingTransformer
from models.transformer import EncoderLayer, MultiHeadAttentionBlock

N_CHANS, N_TIMES = 5, 400


def network(attention: str = "linear", causal: bool = True, patch_len: int = 7) -> RecordingTransformer:
    torch.manual_seed(0)
    spec = AttentionSpec(attention, max_len=N_TIMES, n_projected=4, n_landmarks=4, window=9, length_scale=N_TIMES)
    made = RecordingTransformer(
        N_CHANS,
        3,
        patch_len=patch_len,
        d_model=8,
        n_heads=2,
        n_layers=2,
        dropout=0.1,
        attention=spec,
        causal=causal,
        n_filters=4,
        filter_len=9,
        generator=torch.Generator().manual_seed(0),
    )
    return made.eval().double()


@pytest.mark.parametrize("attention", ["linear", "cosformer", "favor", "delta", "gated_delta", "ssd"])
@pytest.mark.parametrize(
    "cuts",
    [[1] * N_TIMES, [N_TIMES], [3, 200, 1, 6, 190], [160, 160, 80]],
    ids=["samples", "at once", "any", "seconds"],
)
def test_streaming_gives_the_labels_of_the_whole_recording(attention: str, cuts: list[int]) -> None:
    made, x = network(attention), torch.randn(1, N_CHANS, N_TIMES, dtype=torch.float64)
    with torch.no_grad():
        expected = made(x)
        state, labels, sizes = made.start(), [], []
        for piece in x.split(cuts, 2):
            logits, state = made.stream(piece, state)
            labels.append(logits)
            sizes.append(state.n_numbers())
    torch.testing.assert_close(torch.cat(labels, 1), expected, rtol=1e-9, atol=1e-10)
    assert expected.shape == (1, N_TIMES // 7, 3)
    assert state.position == N_TIMES // 7
    assert max(sizes) - min(sizes[len(sizes) // 4 :]) <= 4 * 6  # only the slice under way comes and goes


def test_causal_labels_do_not_look_ahead() -> None:
    x = torch.randn(1, N_CHANS, N_TIMES, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, 210:] += 3
    for causal in (True, False):
        made = network("linear", causal)
        before, after = made(x), made(changed)
        same = torch.equal(before[:, :30], after[:, :30])
        assert same == causal
        assert not torch.allclose(before[:, 30:], after[:, 30:])


def test_what_cannot_stream_says_so() -> None:
    x = torch.zeros(1, N_CHANS, 50, dtype=torch.float64)
    with pytest.raises(ValueError, match="needs causal=True"):
        network(causal=False).stream(x, network().start())
    sdpa = network("sdpa")
    with pytest.raises(ValueError, match="sdpa attention needs all tokens it has ever seen"):
        sdpa.stream(x, sdpa.start())
    with pytest.raises(ValueError, match="patch_len=7 is longer than the recording of 6 samples"):
        network()(x[:, :, :6])
    with pytest.raises(ValueError, match=r"patch_len=0"):
        network(patch_len=0)


@pytest.mark.parametrize("attention", ["linear", "delta"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_a_layer_streams(attention: str, norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(12, 3, 16, dropout=0.0, norm_first=norm_first, attention=attention).double().eval()
    x = torch.randn(2, 150, 12, dtype=torch.float64)
    expected, _ = layer(x, causal=True)
    first, state = layer.stream(x[:, :40], None)
    second, _ = layer.stream(x[:, 40:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), expected)
    with pytest.raises(ValueError, match="nystrom attention needs all tokens"):
        MultiHeadAttentionBlock(12, 3, "nystrom").stream(x.float(), None)


def test_recall_transformer() -> None:
    torch.manual_seed(0)
    made = RecallTransformer(6, 4, d_model=8, n_heads=2, n_layers=1, attention="sdpa")
    told = recall_sequences(3, 6, 4, torch.Generator().manual_seed(0))
    assert made(told.keys, told.values).shape == (3, 12, 4)

"""The networks as figure 4 of Mohsenvand et al. 2020 draws them: sizes, lengths, skips."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.eeg.simclr import (
    ChannelClassifier,
    ChannelEncoder,
    ConvolutionalEncoder,
    LinearProbe,
    Projector,
    RecurrentEncoder,
    SameConv,
    halve,
    pooled_features,
)


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_drawn_sizes() -> None:
    assert n_parameters(RecurrentEncoder()) == 518_724
    assert n_parameters(ConvolutionalEncoder()) == 16_338_754
    assert n_parameters(Projector()) == 943_264
    assert n_parameters(ChannelClassifier(nn.Identity(), 64).head) == 1_842_562


@pytest.mark.parametrize("length", [160, 97, 133])
@pytest.mark.parametrize("encoder", [RecurrentEncoder(widths=(8, 6, 4), d=8), ConvolutionalEncoder(width=0.04)])
def test_features_have_the_length_of_the_channel(encoder: nn.Module, length: int) -> None:
    assert encoder.eval()(torch.randn(3, length)).shape == (3, 4, length)


def test_signals_shorter_than_half_a_kernel_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel of 128 samples cannot mirror a signal of 64"):
        ConvolutionalEncoder(width=0.04)(torch.randn(2, 64))


def test_blocks_are_residual() -> None:
    """With the inner layers' outputs at zero, what enters the blocks leaves them."""
    net = ConvolutionalEncoder(width=0.04).eval()
    for conv in net.convs:
        nn.init.zeros_(conv.conv.weight)  # type: ignore[union-attr,arg-type]
        nn.init.zeros_(conv.conv.bias)  # type: ignore[union-attr,arg-type]
    x = torch.randn(2, 160)
    h = torch.cat([branch(x.unsqueeze(2)) for branch in net.branches], 2)
    normed = net.norms[4](h.relu().transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(net(x), net.out(normed).transpose(1, 2), atol=1e-6)


def test_the_residual_gru_sees_normalised_input_and_there_are_two() -> None:
    torch.manual_seed(0)  # some random weights leave a column nearly constant, where the norm's epsilon shows
    net = RecurrentEncoder(widths=(8, 6, 4), d=8)
    seen: list[torch.Tensor] = []
    for gru in net.residuals:
        gru.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(torch.randn(2, 40) * 50)
    assert len(seen) == 2
    for x in seen:
        assert x.mean(-1).abs().max() < 1e-4
        assert (x.std(-1, unbiased=False) - 1).abs().median() < 0.05


def test_same_convolution_and_halving() -> None:
    conv = SameConv(1, 1, 4)
    with torch.no_grad():
        conv.conv.weight.copy_(torch.tensor([[[0.0, 1, 0, 0]]]))
        conv.conv.bias.zero_()  # type: ignore[union-attr]
    x = torch.arange(6.0).view(1, 6, 1)
    assert torch.equal(conv(x), x)
    assert halve(torch.tensor([[[1.0, 3, 5, 7, 9]]])).tolist() == [[[2, 6, 9]]]


@pytest.mark.parametrize("kernel", [1, 2, 5, 8])
def test_same_convolution_is_torchs_of_a_mirrored_signal(kernel: int) -> None:
    conv = SameConv(3, 4, kernel).double()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    mirrored = F.pad(x.transpose(1, 2), ((kernel - 1) // 2, kernel // 2), mode="reflect")
    assert torch.allclose(conv(x).transpose(1, 2), conv.conv(mirrored), atol=1e-12)


def test_classifier_gives_log_probabilities_and_keeps_windows_apart() -> None:
    net = ChannelClassifier(ConvolutionalEncoder(width=0.04), 6, head_width=0.03).eval()
    x = torch.randn(3, 6, 160)
    log_p = net(x)
    assert torch.allclose(log_p.exp().sum(1), torch.ones(3), atol=1e-5)
    assert torch.allclose(net(x[1:2]), log_p[1:2], atol=1e-5)
    swapped = x.flip(1)
    assert not torch.allclose(net(swapped), log_p, atol=1e-4)  # the head knows which channel is which


def test_the_head_is_given_overlapping_means_of_the_features() -> None:
    net = ChannelClassifier(nn.Unflatten(1, (1, 11)), 2, n_features=1, head_width=0.03, pool=4).eval()
    x = torch.randn(3, 2, 11)
    means = torch.stack(
        [x[:, :, begin : begin + 4].mean(2) for begin in (0, 2, 4, 6)], 2
    )  # what is left over is not seen
    assert torch.allclose(net(x), net.head(means).log_softmax(-1), atol=1e-6)
    as_drawn = ChannelClassifier(nn.Unflatten(1, (1, 11)), 2, n_features=1, head_width=0.03).eval()
    as_drawn.load_state_dict(net.state_dict())
    assert torch.allclose(as_drawn(x), net.head(x).log_softmax(-1), atol=1e-6)
    with pytest.raises(ValueError, match="pool=0"):
        ChannelClassifier(nn.Identity(), 2, pool=0)


@pytest.mark.parametrize("kind", ["recurrent", "convolutional"])
def test_channel_encoder_reads_every_second_sample(kind: str) -> None:
    net = ChannelEncoder(kind, 0.03, (8, 4, 2, 4), n_features=3, decimate=2).eval()
    x = torch.randn(4, 160)
    y = x.clone()
    y[:, 1::2] = torch.randn(4, 80)
    assert net(x).shape == (4, 3, 80)
    assert torch.equal(net(x), net(y))
    assert torch.equal(net(x), net.encoder(x[:, ::2]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "transformer"}, "encoder='transformer'"),
        ({"width": 0.0}, "width=0.0"),
        ({"decimate": 0}, "decimate=0"),
    ],
)
def test_channel_encoders_that_cannot_be_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ChannelEncoder(**arguments)


def test_only_the_chosen_channels_are_looked_at() -> None:
    net = ChannelClassifier(
        ChannelEncoder("convolutional", 0.02, (8, 4, 2, 4)), 6, head_width=0.03, picks=[1, 4]
    ).eval()
    x = torch.randn(3, 6, 160)
    y = torch.randn(3, 6, 160)
    y[:, [1, 4]] = x[:, [1, 4]]
    assert torch.equal(net(x), net(y))
    y[:, 4] += 1
    assert not torch.allclose(net(x), net(y))


def test_pooled_features_are_means_and_log_variances_of_every_channel() -> None:
    class Double(nn.Module):
        """Two features of a channel: itself, and twice itself."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x, 2 * x], 1)

    x = torch.randn(5, 3, 50, dtype=torch.float64)
    found = pooled_features(Double(), x)
    mean, variance = x.mean(2), x.var(2, correction=0)
    expected = torch.cat(
        [
            torch.stack([mean, 2 * mean], 2).flatten(1),
            torch.stack([variance.log(), (4 * variance).log()], 2).flatten(1),
        ],
        1,
    )
    assert torch.allclose(found, expected)


def test_the_probe_is_linear_in_its_features() -> None:
    net = LinearProbe(ChannelEncoder("convolutional", 0.02, (8, 4, 2, 4)), 6, picks=[0, 2]).eval()
    x = torch.randn(4, 6, 160)
    features = net.features(x)
    assert features.shape == (4, 2 * 2 * 4)
    assert torch.allclose(net(x), net.linear(features).log_softmax(-1))
    assert not any(p.requires_grad for p in net.encoder.parameters())

"""The Transformer for EEG: shapes, lengths, which parts the output depends on, and the served classifier of raw
epochs.
"""

import numpy as np
import pytest
import scipy.signal
import torch

from models.attention.spec import MECHANISMS, AttentionSpec
from models.eeg.simclr import ChannelEncoder
from models.eeg.transformer import EMBEDDINGS, POOLS, EegTransformer, EpochClassifier


def network(**settings: object) -> EegTransformer:
    torch.manual_seed(0)
    return EegTransformer(**{"n_chans": 4, "d_model": 8, "n_heads": 2, "d_ff": 16, **settings}).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(("patch_len", "stride", "n_times"), [(16, 8, 160), (1, 1, 20), (7, 5, 33), (20, 20, 20)])
def test_windows_of_any_length_give_logits(pool: str, patch_len: int, stride: int, n_times: int) -> None:
    net = network(pool=pool, patch_len=patch_len, patch_stride=stride)
    x = torch.randn(3, 4, n_times)
    assert net(x).shape == (3, 2)
    assert net.encode(x).shape == (3, net.n_tokens(n_times) + (pool == "cls"), 8)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("pool", POOLS)
def test_every_parameter_takes_part_and_windows_do_not_mix(pool: str, embedding: str) -> None:
    net = network(pool=pool, embedding=embedding)
    x = torch.randn(5, 4, 160)
    net(x)[:, 0].sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
    assert torch.allclose(net(x)[2:3], net(x[2:3]), atol=1e-6)


@pytest.mark.parametrize("name", MECHANISMS)
def test_any_mechanism_fits_in(name: str) -> None:
    spec = AttentionSpec(name, max_len=19, n_projected=8, n_landmarks=8, window=5, n_features=16)
    assert network(attention=spec)(torch.randn(2, 4, 160)).isfinite().all()


def test_the_power_embedding_sees_ratios_of_power_and_not_sign() -> None:
    net = network(pool="mean")
    x = torch.randn(2, 4, 160)
    assert torch.allclose(net(x), net(-x), atol=1e-6)
    assert torch.allclose(net(x), net(3 * x), atol=1e-5)  # the common level of all filters is normalised away
    louder = x * torch.tensor([3.0, 1, 1, 1])[:, None]
    assert not torch.allclose(net(x), net(louder), atol=1e-2)
    assert not torch.allclose(
        network(pool="mean", embedding="linear")(x), network(pool="mean", embedding="linear")(-x), atol=1e-2
    )


def test_attention_over_time_is_a_distribution_over_slices() -> None:
    weights = network().attention_over_time(torch.randn(3, 4, 160))
    assert weights.shape == (3, 2, 19)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 2))
    weights = network(pool="cls").attention_over_time(torch.randn(3, 4, 160))
    assert weights.shape == (3, 1, 19)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 1))
    with pytest.raises(ValueError, match="pool='mean' has no class query"):
        network(pool="mean").attention_over_time(torch.randn(3, 4, 160))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pool": "max"}, "pool='max'"),
        ({"embedding": "deep"}, "embedding='deep'"),
        ({"filter_len": 32}, "filter_len=32"),
        ({"patch_len": 0}, "patch_len=0"),
        ({"d_model": 9}, "9.*2|2.*9"),
        ({"attention": "softer"}, "attention='softer'"),
    ],
)
def test_bad_sizes_name_the_numbers(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        network(**settings)


@pytest.mark.parametrize(("decimate", "n_times"), [(1, 160), (2, 160), (2, 167), (4, 161)])
def test_tokens_of_a_channel_encoder_are_as_many_as_said(decimate: int, n_times: int) -> None:
    encoder = ChannelEncoder("recurrent", width=0.02, decimate=decimate)
    net = network(channel_encoder=encoder, pool="mean")
    assert net.encode(torch.randn(2, 4, n_times)).shape[1] == net.n_tokens(n_times)


def test_patches_that_a_channel_encoder_cannot_cut_are_refused() -> None:
    with pytest.raises(
        ValueError, match="patch_len=10 and patch_stride=6 must be multiples of the encoder's decimate=4"
    ):
        network(channel_encoder=ChannelEncoder("recurrent", width=0.02, decimate=4), patch_len=10, patch_stride=6)


def test_a_patch_longer_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="patch_len=16 is longer than the window of 15"):
        network()(torch.randn(1, 4, 15))


def test_served_classifier_filters_windows_and_averages() -> None:
    """Against the same steps written with SciPy and NumPy."""
    kernel = scipy.signal.firwin(31, [7, 30], pass_zero=False, fs=160)
    net = network()
    served = EpochClassifier(net, torch.from_numpy(kernel), window=160, step=80).eval()
    x = np.random.default_rng(0).normal(0, 1e-5, (2, 4, 400))
    padded = np.pad(x, ((0, 0), (0, 0), (15, 15)), mode="reflect")
    filtered = scipy.signal.fftconvolve(padded, kernel[None, None], mode="valid", axes=2)
    parts = np.stack([filtered[:, :, s : s + 160] for s in (0, 80, 160, 240)], axis=1)
    parts = (parts - parts.mean((2, 3), keepdims=True)) / parts.std((2, 3), keepdims=True)
    with torch.no_grad():
        log_p = net(torch.from_numpy(parts.reshape(-1, 4, 160)).float()).log_softmax(1).view(2, 4, 2).mean(1)
        probabilities = served(torch.from_numpy(x).float())
    assert torch.allclose(probabilities, log_p.softmax(1), atol=1e-4)
    assert torch.allclose(probabilities.sum(1), torch.ones(2))
    with torch.no_grad():
        assert torch.allclose(served(torch.from_numpy(x).double()), probabilities)  # as MNE gives them
    with pytest.raises(ValueError, match="odd number of taps"):
        EpochClassifier(net, torch.zeros(30), window=160, step=80)


def test_served_classifier_aligns_the_epochs_of_a_call() -> None:
    """Against NumPy; and channels mixed by another person's head give nearly the answers of the unmixed ones with many
    epochs.
    """
    kernel = torch.zeros(3)
    kernel[1] = 1  # no filter
    net = network()
    reference = torch.eye(4, dtype=torch.float64) * 30
    served = EpochClassifier(net, kernel, window=160, step=80, reference=reference, shrinkage=0.1).eval()
    x = np.random.default_rng(0).normal(0, 1e-5, (7, 4, 160))
    micro = 1e6 * x
    covariance = (7 * np.mean([t @ t.T / 160 for t in micro], axis=0) + 5 * reference.numpy()) / 12
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / 4 * np.eye(4)
    aligned = np.linalg.inv(scipy.linalg.sqrtm(shrunk)) @ micro
    aligned = (aligned - aligned.mean((1, 2), keepdims=True)) / aligned.std((1, 2), keepdims=True)
    with torch.no_grad():
        expected = net(torch.from_numpy(aligned).float()).softmax(1)
        assert torch.allclose(served(torch.from_numpy(x).float()), expected, atol=1e-4)
        assert served(torch.from_numpy(x[:1]).float()).isfinite().all()

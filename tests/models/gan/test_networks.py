"""Generator and critic: shapes, refusals, what must not depend on what, and export."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from models.gan.networks import IMAGE_SIZES, Critic, Generator, pooled_kernel


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_shapes_and_ranges(size: int) -> None:
    images = Generator(size, 5, 16)(torch.randn(2, 5))
    assert images.shape == (2, 3, size, size)
    assert images.abs().max() < 1
    assert Critic(size, 16)(images).shape == (2, 1)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_pooled_kernel_is_convolution_then_average(c_in: int, c_out: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(c_out, c_in, 3, 3, dtype=torch.float64, generator=generator)
    x = torch.randn(2, c_in, 8, 6, dtype=torch.float64, generator=generator)
    expected = F.avg_pool2d(F.conv2d(x, weight, padding=1), 2)
    torch.testing.assert_close(F.conv2d(x, pooled_kernel(weight), stride=2, padding=1), expected)


def test_critic_judges_each_image_alone() -> None:
    D = Critic(32, 8).double()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(D(x)[1:2], D(x[1:2]))


def test_generator_in_eval_mode_makes_each_image_alone() -> None:
    G = Generator(32, 8, 8).double()
    z = torch.randn(4, 8, dtype=torch.float64)
    assert not torch.allclose(G(z)[1:2], G(z[1:])[0:1])  # batch norm in train mode mixes a batch
    G.eval()
    torch.testing.assert_close(G(z)[1:2], G(z[1:2]))


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_export_keeps_the_batch_size_free(size: int) -> None:
    for net, x in ((Generator(size, 5, 16), torch.randn(4, 5)), (Critic(size, 16), torch.randn(4, 3, size, size))):
        net.eval()
        program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
        torch.testing.assert_close(
            program.module()(x[:1].repeat(3, *[1] * (x.dim() - 1))), net(x[:1]).expand(3, *net(x[:1]).shape[1:])
        )


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Generator(65), "image_size=65.*32, 48, 64, 128"),
        (lambda: Critic(16), "image_size=16"),
        (lambda: Generator(64, ngf=24), "ngf=24.*multiple of 16"),
        (lambda: Critic(64, ndf=0), "ndf=0.*multiple of 16"),
        (lambda: Generator(64, nz=0, ngf=16), "nz=0"),
    ],
)
def test_bad_sizes_are_refused(build: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()  # type: ignore[operator]


def test_a_grey_generator_is_the_mean_of_the_channels_with_the_same_weights() -> None:
    torch.manual_seed(0)
    G, grey = Generator(32, 6, 16).eval(), Generator(32, 6, 16, grey=True).eval()
    grey.load_state_dict(G.state_dict())
    z = torch.randn(3, 6)
    x, before = grey(z), G(z).double().atanh()
    assert x.shape == (3, 3, 32, 32)
    assert torch.equal(x[:, :1].expand_as(x), x)
    assert torch.allclose(x.double(), before.mean(1, keepdim=True).expand_as(x).tanh(), atol=1e-5)

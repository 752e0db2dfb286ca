"""The fast steps against the plain definitions, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.gan import mimicry
from models.gan.losses import loss_D, loss_G, loss_GP
from models.gan.networks import CRITIC_PLANS, IMAGE_SIZES, Critic, Generator
from models.gan.step import critic_step_gradients, generator_step_gradients


def draw(n: int, size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_real, x_fake = torch.rand(2, n, 3, size, size, dtype=torch.float64, generator=generator) * 2 - 1
    return x_real, x_fake, torch.rand(n, dtype=torch.float64, generator=generator)


def plain(
    D: nn.Module, x_real: Tensor, x_fake: Tensor, alpha: Tensor, *, gp_scale: float
) -> tuple[Tensor, list[Tensor]]:
    loss = loss_D(D(x_fake), D(x_real)) + gp_scale * loss_GP(x_fake, x_real, D, alpha=alpha)
    return loss.detach(), list(torch.autograd.grad(loss, list(D.parameters())))


def assert_equal_to_plain(D: nn.Module, x_real: Tensor, x_fake: Tensor, alpha: Tensor, *, gp_scale: float) -> None:
    loss, expected = plain(D, x_real, x_fake, alpha, gp_scale=gp_scale)
    terms = critic_step_gradients(D, x_real, x_fake, alpha, gp_scale=gp_scale)
    torch.testing.assert_close(terms.loss, loss, atol=1e-10, rtol=1e-10)
    penalty = loss_GP(x_fake, x_real, D, alpha=alpha).detach()
    torch.testing.assert_close(terms.penalty, penalty, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(terms.loss, gp_scale * terms.penalty - terms.wasserstein, atol=1e-10, rtol=1e-10)
    scale = max(gradient.norm().item() for gradient in expected)
    for (name, parameter), gradient in zip(D.named_parameters(), expected, strict=True):
        assert parameter.grad is not None, name
        error = (parameter.grad - gradient).norm().item()
        assert error <= 1e-10 * max(gradient.norm().item(), 1e-3 * scale) + 1e-15, f"{name}: {error}"


@settings(deadline=None, max_examples=12)
@given(
    size=st.sampled_from(IMAGE_SIZES),
    width=st.integers(1, 2),
    n=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    gp_scale=st.sampled_from([0.0, 1.0, 10.0]),
)
def test_critic_step_is_the_plain_definition(size: int, width: int, n: int, seed: int, gp_scale: float) -> None:
    torch.manual_seed(seed)
    D = Critic(size, width << max(CRITIC_PLANS[size][1])).double()
    assert_equal_to_plain(D, *draw(n, size, seed), gp_scale=gp_scale)


def test_critic_step_where_the_gradient_norm_is_one_or_zero() -> None:
    torch.manual_seed(0)
    D = Critic(32, 4).double()
    x_real, x_fake, alpha = draw(3, 32, 0)
    norm = critic_step_gradients(D, x_real, x_fake, alpha, gp_scale=10.0).gradient_norm
    with torch.no_grad():
        D.linear.weight /= norm  # norms about 1, where |g| - 1 cancels
    assert_equal_to_plain(D, x_real, x_fake, alpha, gp_scale=10.0)
    with torch.no_grad():
        D.linear.weight.zero_()  # no gradient at all
    assert_equal_to_plain(D, x_real, x_fake, alpha, gp_scale=10.0)
    assert all(p.grad.isfinite().all() for p in D.parameters() if p.grad is not None)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("width", [8, 32])
def test_gradients_have_the_memory_layout_of_their_parameters(width: int, memory_format: torch.memory_format) -> None:
    """As autograd's have: fused optimisers rely on it without a look."""
    torch.manual_seed(0)
    D = Critic(32, width).to(memory_format=memory_format)
    x_real, x_fake, alpha = (x.float() for x in draw(4, 32, 0))
    critic_step_gradients(D, x_real, x_fake, alpha, gp_scale=10.0)
    for name, parameter in D.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride(), name


def test_critic_step_replaces_old_gradients_and_leaves_its_inputs_alone() -> None:
    torch.manual_seed(0)
    D = Critic(32, 4).double()
    x_real, x_fake, alpha = draw(2, 32, 1)
    before = x_real.clone(), x_fake.clone()
    first = critic_step_gradients(D, x_real, x_fake, alpha, gp_scale=10.0)
    again = critic_step_gradients(D, x_real, x_fake, alpha, gp_scale=10.0)
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert torch.equal(before[0], x_real)
    assert torch.equal(before[1], x_fake)
    assert_equal_to_plain(D, x_real, x_fake, alpha, gp_scale=10.0)


def test_other_critics_are_differentiated_twice() -> None:
    class Smooth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 1, bias=False))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    torch.manual_seed(0)
    assert_equal_to_plain(Smooth().double(), *draw(3, 4, 2), gp_scale=10.0)
    _, D = mimicry.build_networks(32, ngf=4, ndf=4)
    assert_equal_to_plain(D.double(), *draw(2, 32, 2), gp_scale=10.0)


def test_bf16_keeps_the_penalty_exact() -> None:
    torch.manual_seed(0)
    D = Critic(32, 16)
    x_real, x_fake, alpha = (x.float() for x in draw(8, 32, 3))
    exact = critic_step_gradients(D, x_real, x_fake, alpha, gp_scale=10.0)
    mixed = critic_step_gradients(D, x_real, x_fake, alpha, gp_scale=10.0, bf16=True)
    torch.testing.assert_close(mixed.penalty, exact.penalty, atol=0, rtol=1e-6)
    torch.testing.assert_close(mixed.wasserstein, exact.wasserstein, atol=0.02, rtol=0.05)
    assert mixed.wasserstein != exact.wasserstein  # it did compute in bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in D.parameters())


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_generator_step_is_the_plain_definition_and_spares_the_critic(size: int) -> None:
    torch.manual_seed(0)
    G, D = Generator(size, 6, 16).double(), Critic(size, 16).double()
    z = torch.randn(3, 6, dtype=torch.float64)
    loss = loss_G(D(G(z)))
    expected = torch.autograd.grad(loss, list(G.parameters()))
    returned = generator_step_gradients(G, D, z)
    torch.testing.assert_close(returned, loss.detach(), atol=1e-10, rtol=1e-10)
    for (name, parameter), gradient in zip(G.named_parameters(), expected, strict=True):
        torch.testing.assert_close(
            parameter.grad, gradient, atol=1e-10, rtol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert all(p.grad is None and p.requires_grad for p in D.parameters())


def test_generator_step_of_another_critic() -> None:
    G, D = (net.double() for net in mimicry.build_networks(32, nz=6, ngf=4, ndf=4))
    z = torch.randn(3, 6, dtype=torch.float64)
    expected = torch.autograd.grad(loss_G(D(G(z))), list(G.parameters()))
    generator_step_gradients(G, D, z)
    for parameter, gradient in zip(G.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-10, rtol=1e-8)
    assert all(p.grad is None and p.requires_grad for p in D.parameters())


def test_shapes_that_do_not_fit_are_refused() -> None:
    x = torch.zeros(2, 3, 32, 32)
    with pytest.raises(ValueError, match="alpha"):
        critic_step_gradients(Critic(32, 4), x, x, torch.zeros(3), gp_scale=10.0)

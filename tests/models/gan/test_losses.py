"""WGAN-GP's losses against closed forms."""

import pytest
import torch
from torch import Tensor, nn

from models.gan.losses import interpolate, loss_D, loss_G, loss_GP


class Linear(nn.Module):
    """D(x) = <w, x>: its gradient is w everywhere, so the penalty is (|w| - 1)^2."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.flatten()


class Quadratic(nn.Module):
    """D(x) = a |x|^2 / 2: its gradient is a x."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x.flatten(1).square().sum(1, keepdim=True) / 2


def test_losses_are_the_exercises() -> None:
    d_fake, d_real = torch.tensor([[1.0], [2.0]]), torch.tensor([[5.0], [9.0]])
    assert loss_D(d_fake, d_real).item() == 1.5 - 7.0
    assert loss_G(d_fake).item() == -1.5


def test_interpolation_takes_alpha_of_the_real_image() -> None:
    x = interpolate(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4), torch.tensor([0.25, 1.0]))
    assert x[0].unique().tolist() == [0.25]
    assert x[1].unique().tolist() == [1.0]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_penalty_of_a_linear_critic(scale: float) -> None:
    w = torch.randn(3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    D = Linear(scale * w / w.norm())
    x = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    penalty = loss_GP(x[0], x[1], D)
    assert penalty.item() == pytest.approx((scale - 1) ** 2, abs=1e-12)
    (gradient,) = torch.autograd.grad(penalty, D.w)
    # d/dw (|w| - 1)^2 = 2 (|w| - 1) w / |w|, and nothing where |w| = 0
    expected = 2 * (scale - 1) * w / w.norm() if scale else torch.zeros_like(w)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0)


def test_penalty_of_a_quadratic_critic_sees_each_image_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    x_fake, x_real = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64, generator=generator)
    alpha = torch.rand(4, dtype=torch.float64, generator=generator)
    D = Quadratic(0.7)
    norms = interpolate(x_fake, x_real, alpha).flatten(1).norm(dim=1)
    penalty = loss_GP(x_fake, x_real, D, alpha=alpha)
    torch.testing.assert_close(penalty, ((0.7 * norms - 1) ** 2).mean(), atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(penalty, D.a)
    torch.testing.assert_close(gradient, (2 * (0.7 * norms - 1) * norms).mean(), atol=1e-12, rtol=0)


def test_penalty_leaves_the_generator_alone_and_draws_alpha_from_its_generator() -> None:
    x_fake = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    x_real = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    D = Quadratic(1.0)
    first = loss_GP(x_fake, x_real, D, generator=torch.Generator().manual_seed(5))
    again = loss_GP(x_fake, x_real, D, generator=torch.Generator().manual_seed(5))
    other = loss_GP(x_fake, x_real, D, generator=torch.Generator().manual_seed(6))
    assert first.item() == again.item() != other.item()
    first.backward()
    assert x_fake.grad is None


def test_penalty_refuses_batches_of_different_shapes() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3, 4, 4\].*\[3, 3, 4, 4\]"):
        loss_GP(torch.zeros(2, 3, 4, 4), torch.zeros(3, 3, 4, 4), Quadratic(1.0))

"""The losses of WGAN-GP as the exercise names them (Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", eq.
3).

`loss_GP` is the plain definition by double backward: the reference that the fast step of `models/gan/step.py` is tested
against.
"""

import torch
from torch import Tensor, nn


def loss_D(d_fake: Tensor, d_real: Tensor) -> Tensor:
    """The critic's loss: mean of D(G(z)) minus mean of D(x). Both [N, 1] or [N]; returns a scalar.

    Its negative estimates the Wasserstein distance when D is nearly 1-Lipschitz.
    """
    return d_fake.mean() - d_real.mean()


def loss_G(d_fake: Tensor) -> Tensor:
    """The generator's loss: minus the mean of D(G(z)). [N, 1] or [N]; returns a scalar."""
    return -d_fake.mean()


def interpolate(x_fake: Tensor, x_real: Tensor, alpha: Tensor) -> Tensor:
    """alpha x_real + (1 - alpha) x_fake, image by image. Images [N, 3, H, W], alpha [N]; x_fake is detached."""
    alpha = alpha.to(x_real.dtype).view(-1, *[1] * (x_real.dim() - 1))
    return alpha * x_real.detach() + (1 - alpha) * x_fake.detach()


def gradient_norms(x_fake: Tensor, x_real: Tensor, D: nn.Module, alpha: Tensor) -> Tensor:
    """|grad D|_2 at each interpolated image, [N]; differentiable with respect to D's parameters.

    Args as of `loss_GP`.
    """
    x = interpolate(x_fake, x_real, alpha).requires_grad_(True)
    d = D(x)
    (gradient,) = torch.autograd.grad(d, x, torch.ones_like(d), create_graph=True)
    return gradient.flatten(1).norm(2, dim=1)


def loss_GP(
    x_fake: Tensor,
    x_real: Tensor,
    D: nn.Module,
    *,
    alpha: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The gradient penalty E (|grad D(x_interpolated)|_2 - 1)^2, unscaled; differentiable with respect to D's
    parameters.

    Args:
        x_fake, x_real: images [N, 3, H, W]; x_fake is detached.
        D: critic, [N, 3, H, W] -> [N, 1] or [N]; must treat the images of a batch separately (no batch norm).
        alpha: interpolation weights [N] in [0, 1]; drawn uniformly where not given (from `generator`, on its device).
    """
    if x_fake.shape != x_real.shape:
        raise ValueError(f"loss_GP: x_fake is {list(x_fake.shape)} and x_real {list(x_real.shape)}; they must be equal")
    n = x_real.shape[0]
    if alpha is None:
        alpha = torch.rand(n, generator=generator, device=generator.device if generator else x_real.device).to(
            x_real.device
        )
    return ((gradient_norms(x_fake, x_real, D, alpha) - 1) ** 2).mean()

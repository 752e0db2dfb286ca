"""Discriminator and critic on the plane, as GANs use them: training, estimates, gradients for theta.

The generator is G(x) = (x, theta), x ~ U(0, 1); real points are (x, theta_star). With `noise` both get Gaussian noise
of that standard deviation along y, and the latent code is z ~ N(0, I) in two dimensions: G(z) = (Phi(z_1), theta +
noise z_2).
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.gan.losses import loss_D, loss_G, loss_GP
from trainers.theory.config import TheoryConfig

Kind = Literal["discriminator", "critic"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GeneratorLoss = Callable[[Tensor], Tensor]


def saturating(logit: Tensor) -> Tensor:
    """E log(1 - D(G(z))), D the sigmoid of `logit`: the generator's loss in Goodfellow et al. 2014, equation 1."""
    return -F.softplus(logit).mean()


def non_saturating(logit: Tensor) -> Tensor:
    """-E log D(G(z)), which Goodfellow et al. 2014 minimise instead."""
    return F.softplus(-logit).mean()


GENERATOR_LOSSES: dict[str, tuple[Kind, GeneratorLoss]] = {
    "saturating": ("discriminator", saturating),
    "non_saturating": ("discriminator", non_saturating),
    "critic": ("critic", loss_G),
}
"""What a generator can minimise: {name: (the network it needs, loss of that network's values on generated points)}."""


def latent_codes(n: int, generator: torch.Generator) -> Tensor:
    """z ~ N(0, I), [n, 2]."""
    return torch.randn(n, 2, generator=generator)


def generate(z: Tensor, theta: Tensor | float, noise: float) -> Tensor:
    """G(z) = (Phi(z_1), theta + noise z_2) for codes [n, 2]: points [n, 2]."""
    return torch.stack([torch.special.ndtr(z[:, 0]), theta + noise * z[:, 1]], dim=1)


def penalised_slope(offset: float, gp_scale: float) -> float:
    """The slope along y of the best critic of y alone: it maximises s |offset| - gp_scale (s - 1)^2."""
    return 1 + abs(offset) / (2 * gp_scale)


class DiscriminatorOrCritic:
    """A discriminator or a critic of points [n, 2], with its optimiser and its randomness.

    Both are the same small network (`layers`) and differ in the loss alone. width: of the two hidden layers. gp_scale:
    weight of the critic's gradient penalty. Adam's betas are WGAN-GP's.
    """

    def __init__(self, kind: Kind, *, width: int, lr: float, batch_size: int, gp_scale: float, seed: int) -> None:
        self.kind, self.batch_size, self.gp_scale = kind, batch_size, gp_scale
        self.random = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
            )
        self.lr = lr
        self.optimizer = torch.optim.Adam(self.layers.parameters(), lr=lr, betas=(0.0, 0.9))

    def points(self, n: int, y: Tensor | float, noise: float) -> Tensor:
        """n fresh points of the distribution at height y, [n, 2]."""
        return generate(latent_codes(n, self.random), y, noise)

    def update(self, theta: float, theta_star: float, noise: float = 0.0) -> None:
        """One training step on fresh points."""
        fake = self.points(self.batch_size, theta, noise)
        real = self.points(self.batch_size, theta_star, noise)
        d_fake, d_real = self.layers(fake), self.layers(real)
        if self.kind == "critic":
            penalty = loss_GP(fake, real, self.layers, generator=self.random)
            loss = loss_D(d_fake, d_real) + self.gp_scale * penalty
        else:
            loss = (F.softplus(d_fake).mean() + F.softplus(-d_real).mean()) / 2  # binary cross-entropy
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def fit(self, steps: int, theta: float, theta_star: float, noise: float = 0.0) -> None:
        """`steps` updates with the learning rate falling linearly to zero."""
        for step in range(steps):
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * (1 - step / steps)
            self.update(theta, theta_star, noise)

    @torch.no_grad()
    def estimate(self, theta: float, theta_star: float, n: int = 4096) -> float:
        """The distance that the network's loss stands for, on n fresh points of each side.

        Discriminator: log 2 minus its cross-entropy, JS if it is optimal and less if not (Goodfellow et al. 2014,
        theorem 1).
        Critic: E D(real) - E D(fake), Wasserstein-1 if it is an optimal 1-Lipschitz function.
        """
        d_fake = self.layers(self.points(n, theta, 0.0))
        d_real = self.layers(self.points(n, theta_star, 0.0))
        if self.kind == "critic":
            return -loss_D(d_fake, d_real).item()
        entropy = (F.softplus(d_fake).mean() + F.softplus(-d_real).mean()) / 2
        return math.log(2) - entropy.item()

    def gradient(self, loss: GeneratorLoss, theta: float, n: int = 4096) -> float:
        """The derivative of a generator loss with respect to theta, the network held fixed."""
        leaf = torch.tensor(theta, requires_grad=True)
        value = loss(self.layers(self.points(n, leaf, 0.0)))
        (slope,) = torch.autograd.grad(value, leaf)
        return slope.item()


def build_network(config: TheoryConfig, kind: Kind) -> DiscriminatorOrCritic:
    """An untrained network with the settings of the config."""
    return DiscriminatorOrCritic(
        kind,
        width=config.width,
        lr=config.lr,
        batch_size=config.batch_size,
        gp_scale=config.gp_scale,
        seed=config.seed,
    )

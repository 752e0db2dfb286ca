"""Gradient descent on theta under every distance."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from evaluation import distances
from evaluation.distances import wasserstein_of_samples
from trainers.theory.config import TheoryConfig
from trainers.theory.networks import GENERATOR_LOSSES, build_network
from trainers.theory.segments import segment_sample

Slope = Callable[[float], float]
"""theta - theta_star -> the derivative of a distance with respect to theta."""


def distance_slopes(config: TheoryConfig) -> dict[str, Slope]:
    """{distance, how it is computed: its slope}. A network's slope trains that network further at every call."""
    return {
        **{f"KL, sigma {s:g}": partial(distances.smoothed_kl_slope, sigma=s) for s in config.sigmas},
        **{f"JS, sigma {s:g}": partial(distances.smoothed_js_slope, sigma=s) for s in config.sigmas},
        "JS, discriminator, saturating loss": network_slope(config, "saturating"),
        "JS, discriminator, non-saturating loss": network_slope(config, "non_saturating"),
        "Wasserstein, critic": network_slope(config, "critic"),
        "Wasserstein, transport of samples": transport_slope(config),
    }


def network_slope(config: TheoryConfig, loss_name: str) -> Slope:
    """The slope of a generator loss through a network that gets `n_dis` updates before each step."""
    kind, loss = GENERATOR_LOSSES[loss_name]
    network = build_network(config, kind)

    def slope(offset: float) -> float:
        for _ in range(config.n_dis):
            network.update(offset, 0.0)
        return network.gradient(loss, offset, config.batch_size)

    return slope


def transport_slope(config: TheoryConfig) -> Slope:
    """The slope of the Wasserstein distance of two fresh samples, by optimal transport."""
    rng = np.random.default_rng(config.seed)

    def slope(offset: float) -> float:
        a, b = segment_sample(rng, 200, offset), segment_sample(rng, 200, 0.0)
        difference = a - b[wasserstein_of_samples(a, b)[1]]
        length = np.maximum(np.linalg.norm(difference, axis=1), 1e-12)
        return float((difference[:, 1] / length).mean())

    return slope


def descend(config: TheoryConfig, slope: Slope) -> list[float]:
    """theta - theta_star at every step of gradient descent; it ends early where theta diverges."""
    path = [config.start]
    for _ in range(config.theta_steps):
        path.append(path[-1] - config.lr_theta * slope(path[-1]))
        if not abs(path[-1]) < 1000 * abs(config.start):
            break
    return path


def verdict(path: Sequence[float], config: TheoryConfig) -> str:
    """Where a descent ended, in words; `arrived` means that its last tenth lies within two steps of size lr_theta."""
    near = 2 * config.lr_theta
    swing, nearest = max(map(abs, path[-max(1, config.theta_steps // 10) :])), min(map(abs, path))
    if swing > 2 * abs(config.start):
        return "thrown out"
    if swing <= near:
        return "arrived"
    if nearest <= near:
        return f"reached, but still swings up to {swing:.2g} away"
    if max(abs(value - config.start) for value in path) < 0.05 * abs(config.start):
        return "stuck at the start"
    return f"comes no nearer than {nearest:.2g}"

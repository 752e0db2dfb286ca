"""Distances between two distributions on parallel segments of the plane: exact answers, and ways to compute them.

P is the law of (x, theta), Q that of (x, theta_star), x ~ U(0, 1); delta = theta - theta_star. docs/theory.md derives
the answers. Divergences are in nats; JS has weights 1/2 and 1/2.

"Smoothed" distributions have isotropic Gaussian noise of standard deviation sigma added to both coordinates: they have
densities, and the factor of x is common to both, so their KL and JS are those of N(theta, sigma^2) and N(theta_star,
sigma^2).
"""

import math

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import expit, log_ndtr

LOG_2 = math.log(2)


def segments_kl(delta: float) -> float:
    """KL(P || Q), and KL(Q || P): P's segment has probability 0 under Q unless it is the same segment."""
    return 0.0 if delta == 0 else math.inf


def segments_js(delta: float) -> float:
    """The Jensen-Shannon divergence of P and Q."""
    return 0.0 if delta == 0 else LOG_2


def segments_wasserstein(delta: float) -> float:
    """The Wasserstein-1 distance of P and Q (and every Wasserstein-p distance, p >= 1: all mass moves by the same
    vector).
    """
    return abs(delta)


def smoothed_kl(delta: float, sigma: float) -> float:
    """KL of the smoothed distributions: delta^2 / (2 sigma^2), in either direction."""
    return delta**2 / (2 * sigma**2)


def smoothed_kl_slope(delta: float, sigma: float) -> float:
    """The derivative of `smoothed_kl` with respect to theta."""
    return delta / sigma**2


def smoothed_js(delta: float, sigma: float) -> float:
    """JS of the smoothed distributions: log 2 - E log(1 + exp(u t - u^2 / 2)), t ~ N(0, 1), u = delta / sigma."""
    u = delta / sigma
    t, weight = _gaussian_rule()
    return max(0.0, LOG_2 - float(weight @ np.logaddexp(0, u * t - u**2 / 2)))  # rounding leaves -1e-16 at 0


def smoothed_js_slope(delta: float, sigma: float) -> float:
    """The derivative of `smoothed_js` with respect to theta; falls like exp(-delta^2 / (8 sigma^2))."""
    u = delta / sigma
    t, weight = _gaussian_rule()
    return -float(weight @ ((t - u) * expit(u * t - u**2 / 2))) / sigma


def _gaussian_rule() -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of the trapezoidal rule for E f(t), t ~ N(0, 1): exact to rounding for smooth f."""
    t = np.linspace(-12, 12, 4801)
    weight = np.exp(-(t**2) / 2)
    return t, weight / weight.sum()


def smoothed_divergences_on_grid(delta: float, sigma: float, points_per_sigma: float = 4.0) -> tuple[float, float]:
    """(KL, JS) of the smoothed distributions by summing their densities over a grid of the plane.

    An independent check of the formulas above: it knows nothing of the common factor, nor of any closed form.
    """
    step = sigma / points_per_sigma
    x = np.arange(-8 * sigma, 1 + 8 * sigma, step)
    y = np.arange(min(delta, 0) - 8 * sigma, max(delta, 0) + 8 * sigma, step)
    # log density of U(0, 1) + N(0, sigma^2), in the tails too: log(Phi(a) - Phi(b)), mirrored to where Phi is small
    centred = np.abs(x - 0.5)
    high, low = log_ndtr((0.5 - centred) / sigma), log_ndtr((-0.5 - centred) / sigma)
    log_x = high + np.log1p(-np.exp(low - high))
    log_y = [-((y - centre) ** 2) / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi)) for centre in (delta, 0)]
    log_p, log_q = (log_x[:, None] + part[None, :] for part in log_y)
    log_m = np.logaddexp(log_p, log_q) - LOG_2
    p, q, area = np.exp(log_p), np.exp(log_q), step**2
    kl = float((p * (log_p - log_q)).sum()) * area
    js = 0.5 * float((p * (log_p - log_m)).sum() + (q * (log_q - log_m)).sum()) * area
    return kl, js


def wasserstein_of_samples(a: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray]:
    """(Wasserstein-1 distance, partners) of two samples [n, d] of equal size, by the optimal assignment; exact, O(n^3).

    partners [n]: row i of `a` is carried to row partners[i] of `b`. Optimal transport between equal weights is an
    assignment (Birkhoff 1946), found by SciPy's modified Jonker-Volgenant algorithm (Crouse 2016).
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"wasserstein_of_samples: {list(a.shape)} and {list(b.shape)}; both must be the same [n, d]")
    cost = cdist(a, b)
    rows, partners = linear_sum_assignment(cost)
    return float(cost[rows, partners].mean()), partners

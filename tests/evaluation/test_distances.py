"""Distances of the parallel segments: closed forms, limits, derivatives, and SciPy's own optimal transport as an
oracle.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance, wasserstein_distance_nd

from evaluation.distances import (
    LOG_2,
    segments_js,
    segments_kl,
    segments_wasserstein,
    smoothed_divergences_on_grid,
    smoothed_js,
    smoothed_js_slope,
    smoothed_kl,
    smoothed_kl_slope,
    wasserstein_of_samples,
)


def test_the_exact_answers() -> None:
    assert [segments_kl(d) for d in (-1.0, 0.0, 1e-9)] == [math.inf, 0, math.inf]
    assert [segments_js(d) for d in (-1.0, 0.0, 1e-9)] == [math.log(2), 0, math.log(2)]
    assert [segments_wasserstein(d) for d in (-1.0, 0.0, 1e-9)] == [1, 0, 1e-9]


@pytest.mark.parametrize("sigma", [1.0, 0.1, 0.02])
@pytest.mark.parametrize("delta", [-0.7, 0.0, 0.03, 0.4])
def test_formulas_equal_sums_over_the_plane(delta: float, sigma: float) -> None:
    kl, js = smoothed_divergences_on_grid(delta, sigma)
    assert kl == pytest.approx(smoothed_kl(delta, sigma), rel=1e-9, abs=1e-12)
    assert js == pytest.approx(smoothed_js(delta, sigma), abs=1e-9)


def test_smoothed_divergences_tend_to_the_exact_ones() -> None:
    js = [smoothed_js(0.1, sigma) for sigma in (0.3, 0.1, 0.03, 0.01, 0.001)]
    assert js == sorted(js)
    assert js[-1] == pytest.approx(LOG_2, abs=1e-12)
    assert smoothed_js(0.0, 0.001) == pytest.approx(0, abs=1e-15)  # rounding of exp and log differs among processors
    # KL grows like sigma^-2, without bound
    assert smoothed_kl(0.1, 0.001) / smoothed_kl(0.1, 0.01) == pytest.approx(100)


@given(delta=st.floats(-2, 2), sigma=st.floats(0.05, 2))
@settings(max_examples=40, deadline=None)
def test_js_lies_between_its_bounds(delta: float, sigma: float) -> None:
    """0 <= JS <= min(log 2, KL / 4): half of KL(P | M) + KL(Q | M), and KL is convex in its second argument."""
    assert -1e-15 <= smoothed_js(delta, sigma) <= min(LOG_2, smoothed_kl(delta, sigma) / 2) + 1e-12
    assert smoothed_js(delta, sigma) == pytest.approx(smoothed_js(-delta, sigma), abs=1e-12)


@pytest.mark.parametrize(("value", "slope"), [(smoothed_kl, smoothed_kl_slope), (smoothed_js, smoothed_js_slope)])
def test_slopes_are_the_derivatives(value, slope) -> None:  # type: ignore[no-untyped-def]
    for delta, sigma in ((0.5, 0.3), (-0.2, 0.3), (1.0, 1.0), (0.0, 0.2)):
        difference = (value(delta + 1e-5, sigma) - value(delta - 1e-5, sigma)) / 2e-5
        assert slope(delta, sigma) == pytest.approx(difference, abs=1e-6)
    assert abs(smoothed_js_slope(1.0, 0.03)) < 1e-50  # vanishes like exp(-delta^2 / 8 sigma^2)


def test_transport_of_samples_is_optimal() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 2)), rng.normal(size=(40, 2)) + 1
    distance, partners = wasserstein_of_samples(a, b)
    assert sorted(partners) == list(range(40))
    assert distance == pytest.approx(np.linalg.norm(a - b[partners], axis=1).mean())
    assert distance == pytest.approx(wasserstein_distance_nd(a, b), rel=1e-6)  # SciPy's linear programme
    flat = np.zeros(40)
    along = wasserstein_of_samples(np.column_stack([a[:, 0], flat]), np.column_stack([b[:, 0], flat]))[0]
    assert along == pytest.approx(wasserstein_distance(a[:, 0], b[:, 0]))


def test_samples_of_the_segments_lie_between_the_bounds() -> None:
    """|delta| from below (f(x, y) = y is 1-Lipschitz), |delta| plus the transport along x from above."""
    rng = np.random.default_rng(1)
    x, x_star = rng.random(200), rng.random(200)
    for delta in (0.0, 0.1, -1.0):
        a, b = np.column_stack([x, np.full(200, delta)]), np.column_stack([x_star, np.zeros(200)])
        found = wasserstein_of_samples(a, b)[0]
        assert abs(delta) <= found + 1e-12
        assert found <= abs(delta) + wasserstein_distance(x, x_star) + 1e-12
    same = wasserstein_of_samples(np.column_stack([x, np.full(200, 0.3)]), np.column_stack([x, np.zeros(200)]))[0]
    assert same == pytest.approx(0.3, abs=1e-12)


def test_samples_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="must be the same"):
        wasserstein_of_samples(np.zeros((3, 2)), np.zeros((4, 2)))

"""Scores as log ratios, judged: closed forms of two Gaussians, scikit-learn's curve, and the words."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.calibration import calibration_curve

from evaluation.calibration import Calibration, calibration_of, in_words, plot_reliability

SHIFT = 1.5


def gaussian_scores(n: int = 40_000, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """log N(s, 1) / N(0, 1) = s x - s^2 / 2 of draws of both sides, times `scale`."""
    random = np.random.default_rng(0)
    real, fake = random.normal(SHIFT, 1, n), random.normal(0, 1, n)
    return scale * (SHIFT * real - SHIFT**2 / 2), scale * (SHIFT * fake - SHIFT**2 / 2)


def test_a_log_ratio_is_recognised() -> None:
    real, fake = gaussian_scores()
    found = calibration_of(real, fake, slope=1.0, offset=0.0)
    assert found.auc == pytest.approx(norm.cdf(SHIFT / math.sqrt(2)), abs=0.01)
    assert found.log_loss == found.scaled_log_loss
    assert sum(point.n for point in found.reliability) == 80_000
    for point in found.reliability:
        assert point.observed == pytest.approx(point.predicted, abs=0.03)


def test_the_reliability_curve_is_scikit_learns() -> None:
    real, fake = gaussian_scores(500)
    found = calibration_of(real, fake, slope=1.3, offset=-0.2).reliability
    p = 1 / (1 + np.exp(-(1.3 * np.r_[real, fake] - 0.2)))
    observed, predicted = calibration_curve(np.repeat([1, 0], 500), p, n_bins=10, strategy="quantile")
    assert [point.observed for point in found] == pytest.approx(list(observed))
    assert [point.predicted for point in found] == pytest.approx(list(predicted))


def test_sides_of_other_sizes_weigh_alike() -> None:
    real, fake = gaussian_scores(2000)
    few = calibration_of(real, fake[:200], slope=1.0, offset=0.0)
    assert few.log_loss == pytest.approx(0.5 * np.logaddexp(0, -real).mean() + 0.5 * np.logaddexp(0, fake[:200]).mean())


def test_huge_scores_overflow_nowhere() -> None:
    with np.errstate(all="raise", under="ignore"):
        found = calibration_of(np.array([900.0, -20.0]), np.array([-900.0, 20.0]), slope=1.0, offset=0.0)
    assert math.isfinite(found.log_loss)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"slope": -0.1, "auc": 0.4}, "above real ones: its weights lead away from the data"),
        ({"slope": 0.0, "auc": 0.5}, "above real ones: its weights lead away from the data"),
        ({"auc": 0.996}, "weights rest on coarse structure only"),
        ({"auc": 0.52}, "nothing to correct by"),
        ({"slope": 0.3}, "too sure"),
        ({"slope": 2.0}, "too timid"),
        ({}, "the slope of its scores is about that of a log ratio"),
    ],
)
def test_words(changes: dict[str, float], words: str) -> None:
    fair = Calibration(auc=0.8, slope=1.0, log_loss=0.5, scaled_log_loss=0.5, reliability=())
    assert words in in_words(replace(fair, **changes), "the critic")  # type: ignore[arg-type]


def test_the_curve_is_drawn() -> None:
    real, fake = gaussian_scores(100)
    curve = calibration_of(real, fake, slope=1.0, offset=0.0).reliability
    axis = plot_reliability({"head": curve}, "title").axes[0]
    assert len(axis.lines) == 2
    assert list(axis.lines[1].get_xdata()) == [point.predicted for point in curve]

"""The calibrated density ratio on Gaussians whose ratio is known, Platt scaling beside SciPy, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from models.gan.density_ratio import (
    CoarsePixels,
    LogRatio,
    RatioSettings,
    balanced_log_loss,
    fit_log_ratio,
    platt_scale,
)

SETTINGS = RatioSettings(noise=0.0, folds=3, width=32, dropout=0.1, epochs=8)


def gaussians(n: int, shift: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Reals of N((s, 0), I), and twice n fakes of N(0, I)."""
    g = torch.Generator().manual_seed(seed)
    real, fake, held_out = torch.randn(3, n, 2, generator=g)
    return real + torch.tensor([shift, 0.0]), fake, held_out


@pytest.mark.parametrize(("noise", "variance"), [(0.0, 1.0), (1.0, 2.0)])
def test_the_ratio_of_two_gaussians_is_found(noise: float, variance: float) -> None:
    """log N(s, v) / N(0, v) = (s x - s^2 / 2) / v; noise of variance 1 on both sides makes v = 2. Platt's scale is that
    of clean points, so that the noisy ratio's slope comes back to v = 1.
    """
    ratio = fit_log_ratio(*gaussians(2000, 1.0), settings=replace(SETTINGS, noise=noise))
    assert not ratio.training
    x = torch.linspace(-1, 2, 31)
    points = torch.stack([x, torch.zeros_like(x)], 1)
    found, truth = ratio(points)[:, 0], x - 0.5
    assert (found - truth).abs().max().item() < 0.35
    raw = (found - ratio.offset) / ratio.slope
    assert float((raw[-1] - raw[0]) / 3) == pytest.approx(1 / variance, rel=0.25)


def test_the_scale_holds_on_points_that_nothing_has_seen() -> None:
    ratio = fit_log_ratio(*gaussians(1500, 1.0), settings=SETTINGS)
    real, fake, _ = gaussians(4000, 1.0, seed=1)
    slope, offset = platt_scale(ratio(real)[:, 0], ratio(fake)[:, 0])
    assert slope == pytest.approx(1, abs=0.15)
    assert offset == pytest.approx(0, abs=0.1)


def test_sides_of_one_law_give_no_weight() -> None:
    ratio = fit_log_ratio(*gaussians(1000, 0.0), settings=SETTINGS)
    real, fake, _ = gaussians(4000, 0.0, seed=1)
    assert balanced_log_loss(ratio(real)[:, 0], ratio(fake)[:, 0]) == pytest.approx(math.log(2), abs=0.02)


def test_a_seed_gives_the_same_ratio_and_leaves_the_global_state_alone() -> None:
    sides = gaussians(200, 1.0)
    before = torch.get_rng_state()
    epochs: list[int] = []
    one = fit_log_ratio(*sides, settings=SETTINGS, seed=3, progress=epochs.append)
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(epochs) == SETTINGS.folds * SETTINGS.epochs
    torch.rand(5)
    again, other = (fit_log_ratio(*sides, settings=SETTINGS, seed=seed) for seed in (3, 4))
    x = torch.randn(20, 2)
    assert torch.equal(one(x), again(x))
    assert not torch.equal(one(x), other(x))


def test_it_can_be_fitted_where_gradients_are_off() -> None:
    with torch.no_grad():
        ratio = fit_log_ratio(*gaussians(50, 1.0), settings=replace(SETTINGS, epochs=2))
    assert not any(p.requires_grad for p in ratio.parameters())


def test_weights_rebuild_it() -> None:
    ratio = nn.Sequential(CoarsePixels(4), fit_log_ratio(*gaussians_of_images(), settings=replace(SETTINGS, epochs=2)))
    again = nn.Sequential(CoarsePixels(4), LogRatio(16, SETTINGS)).eval()
    again.load_state_dict(ratio.state_dict())
    x = torch.rand(3, 3, 8, 8)
    assert torch.equal(again(x), ratio(x))
    assert ratio(x).shape == (3, 1)


def gaussians_of_images() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return tuple(CoarsePixels(4)(torch.randn(40, 3, 8, 8, generator=g)) for _ in range(3))  # type: ignore[return-value]


@pytest.mark.parametrize("factor", [1.0, 300.0, -2.0])
def test_platts_scale_is_what_scipy_finds(factor: float) -> None:
    random = np.random.default_rng(0)
    real, fake = factor * random.normal(1, 1, 300) + 40, factor * random.normal(0, 1, 500) + 40
    y_real, y_fake = 301 / 302, 1 / 502

    def loss(theta: np.ndarray) -> float:
        r, f = theta[0] * (real - 40) / factor + theta[1], theta[0] * (fake - 40) / factor + theta[1]
        of_real = y_real * np.logaddexp(0, -r) + (1 - y_real) * np.logaddexp(0, r)
        of_fake = y_fake * np.logaddexp(0, -f) + (1 - y_fake) * np.logaddexp(0, f)
        return float(0.5 * of_real.mean() + 0.5 * of_fake.mean())

    theta = minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-9}).x
    slope, offset = platt_scale(torch.from_numpy(real), torch.from_numpy(fake))
    assert slope == pytest.approx(theta[0] / factor, rel=1e-4)
    assert offset == pytest.approx(theta[1] - 40 * theta[0] / factor, rel=1e-3, abs=1e-4)


def test_platts_scale_of_separated_and_of_constant_scores_is_finite() -> None:
    slope, offset = platt_scale(torch.arange(10.0) + 100, torch.arange(10.0))
    assert 0 < slope < 10
    assert math.isfinite(offset)
    assert platt_scale(torch.ones(5), torch.ones(7))[0] == 0


def test_coarse_pixels_are_means_of_cells() -> None:
    x = torch.randn(2, 3, 16, 16)
    means = x.view(2, 3, 4, 4, 4, 4).mean((3, 5))
    assert torch.allclose(CoarsePixels(4)(x), means.mean(1).flatten(1), atol=1e-6)
    assert torch.allclose(CoarsePixels(4, colour=True)(x), means.flatten(1), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r, f, h: (r[:5], f, h), "5 real images are too few for 3 folds: at least 6"),
        (lambda r, f, h: (r, f[:1], h), "fake [1, 2]: at least 2 rows of [2] features"),
        (lambda r, f, h: (r, f, h[:, :1]), "held_out [20, 1]: at least 2 rows of [2] features"),
        (lambda r, f, h: (r * math.nan, f, h), "NaN or infinite"),
        (lambda r, f, h: (r, f, h / 0), "NaN or infinite"),
        (lambda r, f, h: (r * 0 + 1, f * 0 + 1, h), "all images are equal"),
    ],
)
def test_what_no_ratio_can_be_fitted_to_is_refused(change: object, words: str) -> None:
    with pytest.raises(ValueError) as refusal:
        fit_log_ratio(*change(*gaussians(20, 1.0)), settings=SETTINGS)  # type: ignore[operator]
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"folds": 1}, "folds=1"),
        ({"epochs": 0}, "epochs=0"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"dropout": 1.0}, "1.0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RatioSettings(**settings)  # type: ignore[arg-type]


def test_scores_and_images_that_cannot_be_used() -> None:
    with pytest.raises(ValueError, match="at least 2 scores"):
        platt_scale(torch.ones(1), torch.ones(5))
    with pytest.raises(ValueError, match="NaN"):
        platt_scale(torch.ones(3), torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match="cells=0"):
        CoarsePixels(0)
    with pytest.raises(ValueError, match="smaller than 8 x 8"):
        CoarsePixels()(torch.zeros(1, 3, 4, 4))

"""Distances between sets of features, against closed forms and the definitions written out."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.fid import distance_without_roots
from evaluation.frechet import (
    Gaussian,
    Moments,
    Projected,
    authenticity,
    bootstrap_differences,
    covered,
    density_coverage,
    frechet_by_size,
    frechet_distance,
    frechet_of,
    inception_score,
    interval,
    kernel_distance,
    nearest,
    neighbour_radii,
    precision_recall,
    squared_mmd,
)


def draw(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(mean: Tensor, covariance: Tensor) -> Gaussian:
    return Gaussian.of(Moments(1001, mean.double(), covariance.double() * 1000))


# ----------------------------------------------------------------------------------------------------------------
# moments


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(1, 4))
@settings(deadline=None)
def test_streamed_moments_equal_numpys(sizes: list[int], d: int) -> None:
    x = draw(sum(sizes) + 1, d) * 3 + 1e4  # a large mean, which the plain sum of squares would drown in
    moments = Moments.of(x[:1])
    for part in x[1:].split(sizes):
        moments.update(part)
    assert moments.n == len(x)
    assert np.allclose(moments.mean, x.numpy().mean(0), rtol=1e-12)
    assert np.allclose(moments.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-8, atol=1e-8)


def test_merged_moments_are_those_of_all() -> None:
    x = draw(50, 3)
    merged = Moments.of(x[:20])
    merged.merge(Moments.of(x[20:]))
    assert torch.allclose(merged.covariance, Moments.of(x).covariance, atol=1e-12)


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        Moments.of(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(ValueError, match="at least 2 images, there is 1"):
        Gaussian.of(Moments.of(torch.zeros(1, 3)))
    with pytest.raises(ValueError, match=r"need \[n, d\]"):
        Moments.of(torch.zeros(0, 3))


# ----------------------------------------------------------------------------------------------------------------
# Fréchet


def test_isotropic_gaussians() -> None:
    """N(m, a^2 I) and N(0, b^2 I): |m|^2 + d (a - b)^2."""
    d, a, b = 5, 1.7, 0.4
    m = torch.arange(d).double()
    eye = torch.eye(d, dtype=torch.float64)
    distance = frechet_distance(gaussian(m, a**2 * eye), gaussian(torch.zeros(d), b**2 * eye))
    assert distance == pytest.approx(float(m.square().sum()) + d * (a - b) ** 2, abs=1e-8)


def test_commuting_covariances() -> None:
    """Same eigenvectors: sum of (sqrt l_i - sqrt k_i)^2."""
    q, _ = torch.linalg.qr(draw(6, 6))
    left, right = torch.rand(6, dtype=torch.float64) + 0.1, torch.rand(6, dtype=torch.float64) + 0.1
    distance = frechet_distance(gaussian(torch.zeros(6), q * left @ q.T), gaussian(torch.zeros(6), q * right @ q.T))
    assert distance == pytest.approx(float((left.sqrt() - right.sqrt()).square().sum()), abs=1e-8)


def test_any_covariances_against_the_matrix_square_root() -> None:
    a, b = Moments.of(draw(40, 6, 1)), Moments.of(draw(50, 6, 2) @ draw(6, 6, 3))
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy()).real
    expected = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * np.trace(root)
    assert frechet_distance(Gaussian.of(a), Gaussian.of(b)) == pytest.approx(float(expected), rel=1e-8)


def test_equal_shuffled_and_degenerate_inputs() -> None:
    x = draw(30, 4)
    reference = Gaussian.of(Moments.of(x))
    assert frechet_of(x, reference) == pytest.approx(0, abs=1e-8)
    assert frechet_of(x[torch.randperm(30)], reference) == pytest.approx(0, abs=1e-8)
    one_image = x[:1].repeat(10, 1)  # its covariance is zero
    expected = (x[0] - x.mean(0)).square().sum() + torch.cov(x.T).trace()
    assert frechet_of(one_image, reference) == pytest.approx(float(expected), abs=1e-8)
    assert frechet_of(one_image, Gaussian.of(Moments.of(one_image))) == 0
    # n = 2 in four dimensions: covariances of rank one along unit vectors u and v, tr (S_a S_b)^(1/2) = |u.v| s t
    a, b = torch.tensor([[0.0, 0, 0, 0], [2, 0, 0, 0]]), torch.tensor([[0.0, 0, 0, 0], [3, 4, 0, 0]])
    shift = (a.mean(0) - b.mean(0)).square().sum().item()
    assert frechet_of(a, Gaussian.of(Moments.of(b))) == pytest.approx(
        shift + 2 + 12.5 - 2 * 0.6 * math.sqrt(2 * 12.5), abs=1e-8
    )


def test_nearly_singular_covariances_give_numbers() -> None:
    x = draw(200, 20)
    x[:, 10:] = x[:, :10] * (1 + 1e-9) + 1e-12 * draw(200, 10, 5)
    y = x + 0.5
    assert frechet_of(y, Gaussian.of(Moments.of(x))) == pytest.approx(20 * 0.25, abs=1e-6)


@pytest.mark.parametrize("n", [20, 61, 300])
def test_fewer_images_than_dimensions_and_eigenvalues_of_rounding(n: int) -> None:
    """Against the nuclear norm of the features' products, at eigenvalues over sixteen decades, most of them rounding at
    small n.
    """
    scale = torch.logspace(0, -8, 60, dtype=torch.float64)
    q, _ = torch.linalg.qr(draw(60, 60, 3))
    x, y = draw(n, 60, 1) * scale @ q, draw(n, 60, 2) * scale.flip(0).roll(5) @ q + 0.01
    distance = frechet_distance(Gaussian.of(Moments.of(x)), Gaussian.of(Moments.of(y)))
    assert distance == pytest.approx(distance_without_roots([x, y]), rel=1e-8)


def test_extrapolation_finds_the_intercept() -> None:
    """Two draws from one Gaussian: true distance 0, but far from it at every finite size."""
    reference = gaussian(torch.zeros(8), torch.eye(8))
    sizes = [100, 200, 400, 800, 1600]
    distances, limit, slope = frechet_by_size(draw(1600, 8), reference, sizes, torch.Generator().manual_seed(0))
    assert distances[0] > 5 * distances[-1]
    assert abs(limit) < distances[-1] < 0.1
    line = np.polyfit(1 / np.array(sizes), distances, 1)
    assert [slope, limit] == pytest.approx(line.tolist())
    with pytest.raises(ValueError, match="two different"):
        frechet_by_size(draw(10, 2), reference, [10], torch.Generator())


# -------------------------------------------------------------------------------------------------------------
# uncertainty


@pytest.mark.parametrize(("n", "d", "n_reference"), [(60, 8, 50), (30, 40, 100), (60, 40, 30)])
def test_projected_features_have_the_same_distance(n: int, d: int, n_reference: int) -> None:
    """Resampled rows; fewer rows or fewer references than dimensions among them."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, d, generator=generator) * torch.linspace(0.01, 3, d) + 0.5
    reference = Gaussian.of(Moments.of(torch.randn(n_reference, d, generator=generator) @ torch.randn(d, d) + 1))
    projected = Projected.of(x, reference)
    for rows in (torch.arange(n), torch.randint(n, (n,), generator=generator)):
        assert projected.distance(rows) == pytest.approx(frechet_of(x[rows], reference), rel=1e-6)


def test_paired_bootstrap_sees_what_pairs_have_in_common() -> None:
    reference = gaussian(torch.zeros(3), torch.eye(3))
    a = draw(300, 3) + 0.3
    same = bootstrap_differences(a=a, b=a, reference=reference, draws=30, generator=torch.Generator().manual_seed(0))
    assert same == [0.0] * 30
    low, high = interval(
        bootstrap_differences(
            a=a, b=a - 0.3, reference=reference, draws=100, generator=torch.Generator().manual_seed(0)
        )
    )
    assert low < high < 0
    assert low < frechet_of(a - 0.3, reference) - frechet_of(a, reference) < high
    with pytest.raises(ValueError, match="as many rows"):
        bootstrap_differences(a=a, b=a[:5], reference=reference, draws=1, generator=torch.Generator())


def test_the_interval_lies_about_the_observed_difference_where_the_spreads_differ() -> None:
    """One side spreads too widely, the other too narrowly, by as much: the true difference is 0, the bootstrap's biases
    differ.
    """
    d, n, narrower = 64, 300, 0.35  # of n draws the mean difference is 0.005, found by trying
    reference = gaussian(torch.zeros(d), 0.85**2 * torch.eye(d))
    inside = zero_inside = 0
    for seed in range(10):
        a = draw(n, d, seed)
        b = a * (1 - narrower)
        low, high = interval(
            bootstrap_differences(
                a=a, b=b, reference=reference, draws=60, generator=torch.Generator().manual_seed(seed)
            )
        )
        inside += low < frechet_of(b, reference) - frechet_of(a, reference) < high
        zero_inside += low < 0 < high
    assert inside == 10
    assert zero_inside >= 8


def test_interval_is_central() -> None:
    assert interval([float(i) for i in range(101)], 0.9) == pytest.approx((5.0, 95.0))


# ------------------------------------------------------------------------------------------------------------------
# kernel


def test_squared_mmd_by_its_definition() -> None:
    x, y = draw(5, 3, 1), draw(7, 3, 2)

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within_x = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(7) for j in range(7) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    assert squared_mmd(x, y) == pytest.approx(within_x + within_y - 2 * across, abs=1e-12)


def test_kernel_distance_is_unbiased_and_its_error_honest() -> None:
    """Over many pairs of draws from one distribution, distance / error is about N(0, 1)."""
    ratios = []
    for seed in range(60):
        x, y = draw(400, 4, 2 * seed), draw(400, 4, 2 * seed + 1)
        distance, error = kernel_distance(x, y, torch.Generator().manual_seed(seed))
        ratios.append(distance / error)
    assert abs(np.mean(ratios)) < 4 * 1.2 / math.sqrt(60)
    assert 0.7 < np.std(ratios) < 1.5
    moved, error = kernel_distance(draw(400, 4, 1), draw(400, 4, 2) + 1, torch.Generator().manual_seed(0))
    assert moved > 10 * error
    with pytest.raises(ValueError, match="at least 20 images"):
        kernel_distance(draw(5, 2), draw(50, 2), torch.Generator())


# -------------------------------------------------------------------------------------------------------- precision,
# recall


def test_precision_and_recall_on_a_line() -> None:
    real = torch.tensor([[0.0], [1], [2], [3], [4]])
    assert neighbour_radii(real, k=1).tolist() == [1, 1, 1, 1, 1]
    fake = torch.tensor([[0.5], [10], [11], [12]])
    # one of four generated points is near a real one; real points 0..4 against radii 9.5, 1, 1, 1 around 0.5, 10, 11,
    # 12
    assert precision_recall(real, fake, k=1) == (0.25, 1.0)
    assert covered(real, fake[1:], neighbour_radii(fake[1:], k=1)) == 0


def test_precision_and_recall_of_extremes() -> None:
    x = draw(100, 3)
    assert precision_recall(x, x) == (1.0, 1.0)
    assert precision_recall(x, x + 100) == (0.0, 0.0)
    # All one image: it lies among the real ones, and covers nothing but its equals.
    assert precision_recall(x, x[:1].repeat(50, 1)) == (1.0, 0.01)
    with pytest.raises(ValueError, match="more than 3 images, there are 2"):
        precision_recall(x, x[:2])


def test_density_and_coverage_on_a_line() -> None:
    real = torch.tensor([[0.0], [1], [2], [3], [10]])  # radii 1, 1, 1, 1, 7
    fake = torch.tensor([[0.5], [20.0]])  # 0.5 lies in the neighbourhoods of 0 and 1; 20 in none
    assert density_coverage(real, fake, k=1) == (2 / 2, 2 / 5)
    assert density_coverage(real, fake, k=1, chunk=2) == (2 / 2, 2 / 5)


def test_density_and_coverage_of_equal_distributions() -> None:
    """Naeem et al.: 1, and 1 - (1 - 1/2)(1 - ...) which tends to 1 - 2^-k for many images."""
    found = np.array([density_coverage(draw(600, 4, 2 * seed), draw(600, 4, 2 * seed + 1), k=3) for seed in range(8)])
    density, coverage = found.mean(axis=0)
    assert abs(density - 1) < 0.06
    assert abs(coverage - (1 - 2**-3)) < 0.02


def test_one_outlier_spoils_recall_and_not_coverage() -> None:
    real, fake = draw(200, 2), draw(200, 2, 1) * 0.05
    fake[:4] *= 2000  # far apart: the neighbourhoods of these hold everything
    assert precision_recall(real, fake)[1] > 0.95
    assert density_coverage(real, fake)[1] < 0.5


def test_authenticity_tells_copies() -> None:
    train = draw(300, 3)
    assert authenticity(train, train[:50]) == 0.0
    assert authenticity(train, train[:50] + 1e-4) < 0.05
    for d, expected in ((1, 1 / 3), (2, 1 - 0.6215)):  # shares of mutual neighbours (Clark and Evans 1955)
        shares = [authenticity(draw(300, d, 2 * seed), draw(300, d, 2 * seed + 1)) for seed in range(12)]
        assert abs(np.mean(shares) - expected) < 0.04, d
    distance, index = nearest(train[:50] + 1e-4, train)
    assert torch.equal(index, torch.arange(50))
    assert float(distance.max()) < 1e-3


def test_chunks_do_not_matter() -> None:
    x, y = draw(50, 3), draw(40, 3, 1)
    assert torch.equal(neighbour_radii(x, chunk=7), neighbour_radii(x))
    assert covered(y, x, neighbour_radii(x), chunk=7) == covered(y, x, neighbour_radii(x))


# --------------------------------------------------------------------------------------------------------- Inception
# score


def test_inception_score_of_known_predictions() -> None:
    sure = 1000 * torch.eye(4).repeat(25, 1)  # each split has every class equally often
    assert inception_score(sure, splits=5) == pytest.approx((4.0, 0.0), abs=1e-6)
    assert inception_score(torch.zeros(30, 4), splits=3) == pytest.approx((1.0, 0.0), abs=1e-6)
    assert inception_score(draw(20, 4), splits=1)[1] == 0
    halves = torch.cat(
        [1000 * torch.eye(4), torch.zeros(4, 4)]
    )  # scores 4 and 1: mean 2.5, sd 1.5 over the two of them
    assert inception_score(halves, splits=2) == pytest.approx((2.5, 1.5), abs=1e-6)
    with pytest.raises(ValueError, match="as many images"):
        inception_score(torch.zeros(3, 4), splits=10)

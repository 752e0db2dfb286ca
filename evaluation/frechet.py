"""Distances between two sets of feature vectors: Fréchet, kernel, precision and recall, Inception score.

Also their uncertainty. Everything here is maths on tensors; evaluation/features.py turns images into features.
Conventions: features are [n, d]; moments are float64 with the unbiased covariance (divisor n - 1), as in torch-fidelity
and the TTUR code.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor


@dataclass
class Moments:
    """Count, mean [d] and scatter [d, d] (sum of outer products of deviations) of features seen so far, in float64.

    Batches are taken in by Chan's update, which does not subtract large sums from each other.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def of(features: Tensor, chunk: int = 4096) -> "Moments":
        """The moments of features [n, d]."""
        if features.ndim != 2 or not len(features):
            raise ValueError(f"features have shape {list(features.shape)}; moments need [n, d] with n of at least 1")
        d = features.shape[1]
        moments = Moments(0, features.new_zeros(d, dtype=torch.float64), features.new_zeros(d, d, dtype=torch.float64))
        for part in features.split(chunk):
            moments.update(part)
        return moments

    def update(self, features: Tensor) -> None:
        """Take a batch [m, d] in."""
        x = features.to(torch.float64)
        if not x.isfinite().all():
            raise ValueError("features are NaN or infinite; the images or the feature network are broken")
        mean = x.mean(0)
        x = x - mean
        self.merge(Moments(len(x), mean, x.T @ x))

    def merge(self, other: "Moments") -> None:
        """Take in the moments of other features (another process's, say)."""
        n = self.n + other.n
        shift = other.mean - self.mean
        self.scatter += other.scatter + torch.outer(shift, shift) * (self.n * other.n / n)
        self.mean = self.mean + shift * (other.n / n)
        self.n = n

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance [d, d]; needs n of at least 2."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 images, there is {self.n}")
        return self.scatter / (self.n - 1)


def covariance_factor(covariance: Tensor) -> Tensor:
    """A with A A^T = covariance. Negative eigenvalues, which only rounding makes, count as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt()


@dataclass(frozen=True)
class Gaussian:
    """Moments ready to be compared: mean [d], trace and factor of the covariance, which many comparisons share."""

    mean: Tensor
    trace: Tensor
    factor: Tensor

    @staticmethod
    def of(moments: Moments) -> "Gaussian":
        covariance = moments.covariance
        return Gaussian(moments.mean, covariance.trace(), covariance_factor(covariance))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017, eq. 6).

    With S_a = A A^T and S_b = B B^T the last trace is the sum of the singular values of A^T B: no matrix square root,
    no complex numbers, and full accuracy where a covariance is singular.
    """
    overlap = torch.linalg.svdvals(a.factor.T @ b.factor).sum()
    return max(float((a.mean - b.mean).square().sum() + a.trace + b.trace - 2 * overlap), 0.0)


def frechet_of(features: Tensor, reference: Gaussian) -> float:
    """The Fréchet distance of features [n, d] from `reference`."""
    return frechet_distance(Gaussian.of(Moments.of(features)), reference)


def frechet_by_size(
    features: Tensor, reference: Gaussian, sizes: Sequence[int], generator: torch.Generator
) -> tuple[list[float], float, float]:
    """(distance of a random subset of each size, its extrapolation to infinitely many images, slope of the line).

    By bias alone, the distance falls with n like 1/n (Chong and Forsyth 2020, "Effectively Unbiased FID", arXiv
    1911.07023): the extrapolation is the intercept of the least-squares line in 1/n. The reference keeps its own finite
    size.
    """
    if len(set(sizes)) < 2:
        raise ValueError(f"sizes {list(sizes)}: an extrapolation needs at least two different ones")
    distances = [
        frechet_of(features[torch.randperm(len(features), generator=generator)[:n].to(features.device)], reference)
        for n in sizes
    ]
    x = 1 / torch.tensor(sizes, dtype=torch.float64)
    y = torch.tensor(distances, dtype=torch.float64)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return distances, float(y.mean() - slope * x.mean()), float(slope)


@dataclass(frozen=True)
class Projected:
    """Features [n, d] and a reference, for the Fréchet distances of many choices of rows: several times as fast as
    `frechet_of` where d is large.

    along: features times the reference's factor B. Its covariance B^T S B has the eigenvalues of S B B^T, whose roots
    `frechet_distance` sums up as singular values; so one symmetric eigenvalue problem is left of each choice.
    """

    features: Tensor
    along: Tensor
    reference: Gaussian

    @staticmethod
    def of(features: Tensor, reference: Gaussian) -> "Projected":
        x = features.to(torch.float64)
        return Projected(x, x @ reference.factor, reference)

    def distance(self, rows: Tensor) -> float:
        """The Fréchet distance of the features of `rows` [m] (a row may come several times) from the reference."""
        x, along, reference = self.features[rows], self.along[rows], self.reference
        x_mean, along = x.mean(0), along - along.mean(0)
        gram = along.T @ along if len(along) > along.shape[1] else along @ along.T  # the same but for zeros
        overlap = torch.linalg.eigvalsh(gram / (len(x) - 1)).clamp_min(0).sqrt().sum()
        trace = (x - x_mean).square().sum() / (len(x) - 1)
        return max(float((x_mean - reference.mean).square().sum() + trace + reference.trace - 2 * overlap), 0.0)


def bootstrap_differences(
    a: Tensor, b: Tensor, reference: Gaussian, draws: int, generator: torch.Generator
) -> list[float]:
    """`draws` bootstrap values of FD(b) - FD(a), sorted, moved so that their mean is the difference observed.

    a, b: features [n, d] of the same n latent chains before and after. Row i of both is drawn together (paired), so
    what the two have in common cancels. The reference is held fixed.

    Resampling adds the bias of a distance at n images a second time, and if the spreads of the two sides differ, not
    equally to both. So only the spread of the draws is used: without the shift their interval may not contain the
    observed difference.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"a paired bootstrap needs as many rows on both sides, not {list(a.shape)} and {list(b.shape)}"
        )
    values = []
    before, after = Projected.of(a, reference), Projected.of(b, reference)
    for _ in range(draws):
        rows = torch.randint(len(a), (len(a),), generator=generator).to(a.device)
        values.append(after.distance(rows) - before.distance(rows))
    shift = frechet_of(b, reference) - frechet_of(a, reference) - fmean(values)
    return sorted(value + shift for value in values)


def interval(sorted_values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The central percentile interval of sorted values."""
    tail = (1 - level) / 2
    quantiles = torch.quantile(
        torch.tensor(sorted_values, dtype=torch.float64), torch.tensor([tail, 1 - tail], dtype=torch.float64)
    )
    return float(quantiles[0]), float(quantiles[1])


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / d + 1)^3, [n, d] and [m, d] -> [n, m]: the kernel of the Kernel Inception Distance."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def squared_mmd(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor] = cubic_kernel) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, eq. 3); may be negative."""
    m, n = len(x), len(y)
    if m < 2 or n < 2:
        raise ValueError(f"a kernel distance needs at least 2 images on each side, there are {m} and {n}")
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = (xx.sum() - xx.trace()) / (m * (m - 1)) + (yy.sum() - yy.trace()) / (n * (n - 1))
    return float(within - 2 * xy.mean())


def cmmd(x: Tensor, y: Tensor, sigma: float = 10.0, rows: int = 1000) -> float:
    """CMMD (Jayasumana et al. 2024) of unit-length CLIP embeddings [m, d] and [n, d]: 1,000 times the squared maximum
    mean discrepancy by a Gaussian kernel, in its biased estimate (Gretton et al. 2012, eq. 5), as published.

    rows: of a kernel matrix in memory at once.
    """

    def mean_kernel(a: Tensor, b: Tensor) -> float:
        sums = [(-(torch.cdist(part, b) ** 2) / (2 * sigma**2)).exp().sum() for part in a.split(rows)]
        return float(torch.stack(sums).sum()) / (len(a) * len(b))

    x, y = x.double(), y.double()
    return 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))


MIN_BLOCKS = 10
"""Blocks that a kernel distance is the mean of, at least."""

MIN_IMAGES = 2 * MIN_BLOCKS
"""Images on each side that a kernel distance needs: two in each block."""


def kernel_distance(
    x: Tensor, y: Tensor, generator: torch.Generator, block_size: int = 1000, min_blocks: int = MIN_BLOCKS
) -> tuple[float, float]:
    """The kernel distance (Binkowski et al. 2018, KID) of features [m, d] and [n, d], and its standard error.

    Mean of the unbiased squared MMD over disjoint random blocks of `block_size` images (smaller ones, if there would
    be fewer than `min_blocks`). The blocks are independent, so sd / sqrt(blocks) is a valid standard error. For the
    overlapping subsets that are often used it is not.
    """
    m = min(len(x), len(y))
    size = min(block_size, m // min_blocks)
    if size < 2:
        raise ValueError(f"a kernel distance needs at least {2 * min_blocks} images on each side, there are {m}")
    rows_x = torch.randperm(len(x), generator=generator).to(x.device)
    rows_y = torch.randperm(len(y), generator=generator).to(y.device)
    blocks = m // size
    values = torch.tensor(
        [
            squared_mmd(x[rows_x[i : i + size]].double(), y[rows_y[i : i + size]].double())
            for i in range(0, blocks * size, size)
        ],
        dtype=torch.float64,
    )
    return float(values.mean()), float(values.std() / blocks**0.5)


def neighbour_radii(x: Tensor, k: int = 3, chunk: int = 1024, rows: Tensor | None = None) -> Tensor:
    """The distance of each row of x [n, d] (or of those that `rows` names) to its k-th nearest other row, [n]."""
    if len(x) <= k:
        raise ValueError(f"a neighbourhood of k={k} needs more than {k} images, there are {len(x)}")
    asked = x if rows is None else x[rows]
    return torch.cat([_distances(part, x).kthvalue(k + 1, dim=1).values for part in asked.split(chunk)])


def covered(x: Tensor, y: Tensor, radii: Tensor, chunk: int = 1024) -> float:
    """The share of the rows of x that lie within the radius of at least one row of y."""
    inside = [(_distances(part, y) <= radii).any(dim=1) for part in x.split(chunk)]
    return float(torch.cat(inside).double().mean())


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991): what share of the generated images
    lies in the neighbourhoods of real ones, and what share of the real ones in those of generated ones."""
    return covered(fake, real, neighbour_radii(real, k)), covered(real, fake, neighbour_radii(fake, k))


def density_coverage(real: Tensor, fake: Tensor, k: int = 5, chunk: int = 1024) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020, arXiv 2002.09797, equations 3 and 4).

    Density: how many neighbourhoods of real images a generated one lies in, on average, over k; about 1 where both are
    alike, and not bounded by 1. Coverage: the share of real images with a generated one in their neighbourhood; about
    1 - 2^-k where both are alike. Neighbourhoods are of real images only, so that outliers among the generated ones
    don't cover everything, as they do for recall.
    """
    radii = neighbour_radii(real, k)
    inside, reached = 0, 0
    for part, radius in zip(real.split(chunk), radii.split(chunk), strict=True):
        held = _distances(part, fake) <= radius[:, None]
        inside += int(held.sum())
        reached += int(held.any(dim=1).sum())
    return inside / (k * len(fake)), reached / len(real)


def nearest(x: Tensor, y: Tensor, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """(distance [n], index [n]) of the row of y [m, d] that is nearest to each row of x [n, d]."""
    found = [_distances(part, y).min(dim=1) for part in x.split(chunk)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def authenticity(train: Tensor, fake: Tensor) -> float:
    """The share of generated images that are no copies of training images (Alaa et al. 2022, arXiv 2102.08921, section
    3.3).

    A generated image is a copy where it is nearer to its nearest training image than any other training image is. Of
    new images drawn like the training ones it is the share of points that are not the nearest neighbour of their own
    nearest neighbour: 1/3 in one dimension, 0.38 in two, more in many; held-out images tell the value to compare
    with. It falls to 0 where images are learnt by heart.
    """
    distance, index = nearest(fake, train)
    return float((distance > neighbour_radii(train, 1, rows=index)).double().mean())


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # Differences, not the faster |x|^2 + |y|^2 - 2 x.y: that leaves equal rows at a distance of rounding size, and
    # copies of an image would lie outside their own neighbourhood.
    return torch.cdist(x.float(), y.float(), compute_mode="donot_use_mm_for_euclid_dist")


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL divergence of p(class | image) from p(class) (Salimans et al. 2016): mean and sd over `splits`
    parts.

    logits: [n, classes]. The sd divides by `splits`, not splits - 1, as that paper's code and torch-fidelity do.
    """
    if len(logits) < splits:
        raise ValueError(f"an Inception score over {splits} splits needs as many images, there are {len(logits)}")
    scores = torch.stack([_exp_mean_kl(part) for part in _even_parts(logits.double(), splits)])
    return float(scores.mean()), float(scores.std(correction=0))


def _exp_mean_kl(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(1)
    log_marginal = log_p.logsumexp(0) - torch.log(torch.tensor(float(len(logits)), dtype=torch.float64))
    return (log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp()


def _even_parts(x: Tensor, parts: int) -> Iterator[Tensor]:
    edges = [i * len(x) // parts for i in range(parts + 1)]
    return (x[start:stop] for start, stop in pairwise(edges))

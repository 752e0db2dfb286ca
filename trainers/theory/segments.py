"""The distances of two parallel segments: each by its formula, and by one way of computing it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation import distances
from evaluation.distances import wasserstein_of_samples
from trainers.theory.config import TheoryConfig
from trainers.theory.networks import GENERATOR_LOSSES, Kind, build_network, penalised_slope


@dataclass
class DistanceRow:
    """A line of the table: a distance at one offset theta - theta_star, computed in one way.

    exact: the distance of the bare segments, which the exercise asks for. formula: that of exactly what was computed
    (the smoothed distributions, the penalised critic); the same as `exact` where nothing is smoothed or penalised.
    """

    distance: str
    way: str
    offset: float
    exact: float
    formula: float
    computed: float

    @property
    def error(self) -> float:
        """|computed - formula|; for KL, which has no bound, relative to the formula where that is above 1."""
        size = max(1.0, self.formula) if self.distance == "KL" else 1.0
        return abs(self.computed - self.formula) / size


def smoothed_rows(config: TheoryConfig) -> list[DistanceRow]:
    """KL and JS of the segments with Gaussian noise: formula against a sum over a grid of the plane."""
    rows = []
    for sigma in config.sigmas:
        for offset in config.offsets:
            kl, js = distances.smoothed_divergences_on_grid(offset, sigma)
            way = f"smoothed, sigma {sigma:g}"
            rows += [
                DistanceRow(
                    distance="KL",
                    way=way,
                    offset=offset,
                    exact=distances.segments_kl(offset),
                    formula=distances.smoothed_kl(offset, sigma),
                    computed=kl,
                ),
                DistanceRow(
                    distance="JS",
                    way=way,
                    offset=offset,
                    exact=distances.segments_js(offset),
                    formula=distances.smoothed_js(offset, sigma),
                    computed=js,
                ),
            ]
    return rows


def transport_rows(config: TheoryConfig) -> list[DistanceRow]:
    """Wasserstein distance of two samples by exact optimal transport."""
    rng = np.random.default_rng(config.seed)
    rows = []
    for offset in config.offsets:
        a, b = segment_sample(rng, config.n_samples, offset), segment_sample(rng, config.n_samples, 0.0)
        exact = distances.segments_wasserstein(offset)
        rows.append(
            DistanceRow(
                distance="Wasserstein",
                way="transport of samples",
                offset=offset,
                exact=exact,
                formula=exact,
                computed=wasserstein_of_samples(a, b)[0],
            )
        )
    return rows


def segment_sample(rng: np.random.Generator, n: int, y: float) -> np.ndarray:
    """n points (x, y), x ~ U(0, 1): [n, 2]."""
    return np.column_stack([rng.random(n), np.full(n, y)])


def network_row(config: TheoryConfig, kind: Kind, offset: float) -> tuple[DistanceRow, dict[str, float]]:
    """Train a discriminator, which estimates JS, or a critic, which estimates Wasserstein.

    Returns the estimate, and {generator loss: its derivative with respect to theta through this network}.
    """
    network = build_network(config, kind)
    network.fit(config.steps, offset, 0.0)
    computed = network.estimate(offset, 0.0)
    if kind == "discriminator":
        js = distances.segments_js(offset)
        row = DistanceRow(
            distance="JS", way="trained discriminator", offset=offset, exact=js, formula=js, computed=computed
        )
    else:
        wasserstein = distances.segments_wasserstein(offset)
        row = DistanceRow(
            distance="Wasserstein",
            way="trained critic",
            offset=offset,
            exact=wasserstein,
            formula=wasserstein * penalised_slope(offset, config.gp_scale),
            computed=computed,
        )
    losses = {name: loss for name, (needed, loss) in GENERATOR_LOSSES.items() if needed == kind}
    return row, {name: network.gradient(loss, offset) for name, loss in losses.items()}


def largest_errors(rows: Sequence[DistanceRow]) -> dict[str, tuple[float, float]]:
    """{way of computing: (largest error, the offset where it is)}; all smoothings of one distance are one way."""
    worst: dict[str, tuple[float, float]] = {}
    for row in rows:
        way = f"{row.distance}, {row.way.split(',')[0]}"
        worst[way] = max(worst.get(way, (-1.0, 0.0)), (row.error, row.offset))
    return worst

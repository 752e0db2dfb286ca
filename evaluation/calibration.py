"""How good scores of images are as log ratios of real and generated ones: AUC, slope, log loss, reliability.

Both sides are weighted alike throughout, so that a score that says nothing has probability one half everywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import log_loss, roc_auc_score

SEPARATED = 0.99
"""AUC above which two sides count as separated."""


@dataclass(frozen=True)
class ReliabilityPoint:
    """A bin of the reliability curve: mean probability of being real, share of reals (sides weighted alike), images."""

    predicted: float
    observed: float
    n: int


@dataclass(frozen=True)
class Calibration:
    """Scores of images that they were not made from, judged as log ratios.

    auc: probability that a real image is rated above a generated one; 0.5: no information. slope: what logistic
    regression multiplies the score by; 1: it is a log ratio up to a constant, <= 0: it rates generated images above
    real ones. log_loss: of the score as it is, in nats; scaled_log_loss: with slope and offset; log 2 = 0.693: no
    information. reliability: of the scaled score.
    """

    auc: float
    slope: float
    log_loss: float
    scaled_log_loss: float
    reliability: tuple[ReliabilityPoint, ...]


def calibration_of(real: np.ndarray, fake: np.ndarray, slope: float, offset: float, bins: int = 10) -> Calibration:
    """Judge scores [n] of real and [m] of generated images; slope, offset: of their logistic regression."""
    label = np.r_[np.ones(len(real)), np.zeros(len(fake))]
    weight = np.r_[np.full(len(real), 0.5 / len(real)), np.full(len(fake), 0.5 / len(fake))]
    scores = np.r_[real, fake].astype(float)
    raw, scaled = (sigmoid(x) for x in (scores, slope * scores + offset))
    return Calibration(
        auc=float(roc_auc_score(label, scores)),
        slope=slope,
        log_loss=float(log_loss(label, raw, sample_weight=weight)),
        scaled_log_loss=float(log_loss(label, scaled, sample_weight=weight)),
        reliability=reliability(label, scaled, weight, bins),
    )


def reliability(label: np.ndarray, p: np.ndarray, weight: np.ndarray, bins: int) -> tuple[ReliabilityPoint, ...]:
    """The reliability curve in bins of equally many images (Niculescu-Mizil and Caruana 2005)."""
    parts = [rows for rows in np.array_split(np.argsort(p, kind="stable"), bins) if len(rows)]
    return tuple(
        ReliabilityPoint(
            predicted=float(np.average(p[rows], weights=weight[rows])),
            observed=float(np.average(label[rows], weights=weight[rows])),
            n=len(rows),
        )
        for rows in parts
    )


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -x))


def in_words(found: Calibration, who: str) -> str:
    """What the figures say about the scores of `who` as weights, in a sentence."""
    if found.slope <= 0:
        return f"{who} rates generated images above real ones: its weights lead away from the data"
    if found.auc > SEPARATED:
        return (
            f"{who} separates real from generated images almost perfectly: its weights rest on coarse structure only, "
            "and say little about which generated image is closest to a real one"
        )
    if found.auc < 0.55:
        return f"{who} hardly tells real from generated images: its weights have nothing to correct by"
    if not 0.67 < found.slope < 1.5:
        doubt = (
            "too sure: its weights decide too much" if found.slope < 1 else "too timid: its weights decide too little"
        )
        return f"{who} tells real from generated images, and is {doubt}"
    # Needed, not enough: critics with a slope of 1.02 and an AUC of 0.90 made images worse (docs/isir_fid.md).
    return f"{who} tells real from generated images, and the slope of its scores is about that of a log ratio"


def plot_reliability(curves: Mapping[str, Sequence[ReliabilityPoint]], title: str) -> Figure:
    """The share of reals against the probability of being real, a line for each entry; the diagonal is calibrated."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], ":", color="grey")
    for name, points in curves.items():
        axis.plot([p.predicted for p in points], [p.observed for p in points], marker="o", label=name, linewidth=1.2)
    axis.set_xlabel("probability of being real")
    axis.set_ylabel("share of real images")
    axis.set_title(title, fontsize=8)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure

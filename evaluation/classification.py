"""Scores of a two-class classifier of trials, per window and per trial, with intervals over subjects.

Conventions: class 0 = left fist, 1 = right fist; `log_p` are log-probabilities [n, 2]; a trial's is the mean of its
windows'. The scores are scikit-learn's and torchmetrics', not ours.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    roc_auc_score,
)
from torchmetrics.functional.classification import binary_calibration_error

CLASSES = ("left", "right")


def trial_means(log_p: np.ndarray, trial: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the trials' numbers [n_trials] ascending, the mean log-probabilities of their windows [n_trials, 2])."""
    numbers, row = np.unique(trial, return_inverse=True)
    sums = np.zeros((len(numbers), log_p.shape[1]))
    np.add.at(sums, row, log_p)
    return numbers, sums / np.bincount(row)[:, None]


def probability_of_right(log_p: np.ndarray) -> np.ndarray:
    """P(right) [n] from log-probabilities [n, 2] that need not be normalised (means of them are not)."""
    return 1 / (1 + np.exp(np.clip(log_p[:, 0] - log_p[:, 1], -700, 700)))


def classification_scores(label: np.ndarray, p_right: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, F1 of "right", macro F1, ROC AUC, kappa, expected calibration error (10 bins).

    label: 0 or 1 [n]; p_right: probabilities [n]. ROC AUC is NaN where one class is missing.
    """
    if len(label) != len(p_right) or not len(label):
        raise ValueError(
            f"{len(label)} labels and {len(p_right)} probabilities; as many of both are needed, at least one"
        )
    if not np.isfinite(p_right).all():
        raise ValueError(f"{(~np.isfinite(p_right)).sum()} of {len(p_right)} probabilities are NaN or infinite")
    guess = (p_right > 0.5).astype(int)
    both = len(np.unique(label)) == 2
    return {
        "accuracy": float(accuracy_score(label, guess)),
        "balanced_accuracy": balanced_accuracy(label, guess),
        "f1": float(f1_score(label, guess, zero_division=0.0)),
        "f1_macro": float(f1_score(label, guess, average="macro", labels=[0, 1], zero_division=0.0)),
        "roc_auc": float(roc_auc_score(label, p_right)) if both else math.nan,
        "kappa": float(cohen_kappa_score(label, guess, labels=[0, 1])) if both else 0.0,
        "calibration_error": float(
            binary_calibration_error(torch.from_numpy(p_right).float(), torch.from_numpy(np.asarray(label)), n_bins=10)
        ),
    }


def balanced_accuracy(label: np.ndarray, guess: np.ndarray) -> float:
    """Mean of the shares of right answers among the left and among the right, [0, 1]; of one class, if only one is
    there. With as many of both it is the accuracy, to the last bit. label, guess: 0 or 1 [n].
    """
    n = [int((label == c).sum()) for c in (0, 1)]
    right = [int(((label == c) & (guess == c)).sum()) for c in (0, 1)]
    if 0 in n:
        return sum(right) / sum(n)
    return (right[0] * n[1] + right[1] * n[0]) / (2 * n[0] * n[1])  # one division, so that equal shares stay equal


def confusion(label: np.ndarray, p_right: np.ndarray) -> np.ndarray:
    """Counts [2, 2]: rows are the true classes, columns the predicted ones."""
    return np.asarray(confusion_matrix(label, (p_right > 0.5).astype(int), labels=[0, 1]))


def accuracy_by_subject(label: np.ndarray, p_right: np.ndarray, subject: np.ndarray) -> dict[int, float]:
    """{subject: accuracy}."""
    right = (p_right > 0.5) == label
    return {int(s): float(right[subject == s].mean()) for s in np.unique(subject)}


def accuracy_by_position(label: np.ndarray, p_right: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Accuracy of the windows at each position in the trial, [n_positions]."""
    right = (p_right > 0.5) == label
    return np.array([right[position == k].mean() for k in np.unique(position)])


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high): Student's t interval of the mean of independent values, one per subject.

    The bounds are NaN for a single value.
    """
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return float(x.mean()), math.nan, math.nan
    half = stats.t.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return float(x.mean()), float(x.mean() - half), float(x.mean() + half)


def paired_interval(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[float, float, float]:
    """(mean, low, high) of a - b over the subjects that both have."""
    return mean_interval([a[s] - b[s] for s in sorted(a.keys() & b.keys())])


def sign_flip_p(differences: Sequence[float], n_resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value that the mean of paired differences, one per subject, is 0: their signs flipped at random.

    Exact where there are fewer sign patterns than resamples; 1.0 where all differences are 0.
    """
    found = stats.permutation_test(
        (np.asarray(differences, dtype=float),),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def class_counts(label: np.ndarray) -> tuple[int, int]:
    """(left, right): how many of each class `label` holds, 0 or 1 [n]."""
    return int((label == 0).sum()), int((label == 1).sum())


def chance_bounds(counts: tuple[int, int], level: float = 0.95) -> tuple[float, float]:
    """(low, high): the balanced accuracy of guessing in (left, right) independent trials lies between them with
    probability `level`, whatever share of the guesses is "right".

    The distribution is that of a fair coin, whose spread is the largest; a constant answer has exactly 0.5. With as
    many trials of both classes the balanced accuracy is the accuracy, and the bounds are the binomial distribution's.
    With one class alone a constant answer reaches everything: 0 and 1.
    """
    n_left, n_right = counts
    if not n_left or not n_right:
        return 0.0, 1.0
    # Numerators over 2 * n_left * n_right, so that the sums that are equal are equal.
    sums = np.add.outer(np.arange(n_left + 1) * n_right, np.arange(n_right + 1) * n_left)
    chance = np.multiply.outer(
        stats.binom.pmf(np.arange(n_left + 1), n_left, 0.5), stats.binom.pmf(np.arange(n_right + 1), n_right, 0.5)
    )
    values, place = np.unique(sums, return_inverse=True)
    below = np.cumsum(np.bincount(place.ravel(), chance.ravel()))
    tail = (1 - level) / 2
    low, high = (values[np.searchsorted(below, share)] for share in (tail, 1 - tail))
    return float(low / (2 * n_left * n_right)), float(high / (2 * n_left * n_right))


def accuracy_bounds(counts: tuple[int, int], level: float = 0.95) -> tuple[float, float]:
    """(low, high): the accuracy of guessing in (left, right) independent trials lies between them with probability
    `level`, whatever share of the guesses is "right": always the same class reaches that class's share.
    """
    n, tail = sum(counts), (1 - level) / 2
    low, high = (float(stats.binom.ppf(share, n, 0.5) / n) for share in (tail, 1 - tail))
    return min(low, min(counts) / n), max(high, max(counts) / n)


# ------------------------------------------------------------------------------------------------------------------
# figures


def plot_confusion(counts: np.ndarray, title: str) -> Figure:
    """The confusion matrix with counts and row shares."""
    figure = Figure(figsize=(3.8, 3.6), layout="constrained")
    axis = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i in range(2):
        for j in range(2):
            colour = "white" if shares[i, j] > 0.6 else "black"
            axis.text(j, i, f"{counts[i, j]}\n{100 * shares[i, j]:.0f} %", ha="center", va="center", color=colour)
    axis.set_xticks([0, 1], CLASSES)
    axis.set_yticks([0, 1], CLASSES)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(title, fontsize=9)
    return figure


def plot_subjects(tables: Mapping[str, Mapping[int, float]], counts: tuple[int, int], title: str) -> Figure:
    """Accuracy of each subject under each classifier; the band is that of guessing in `counts` (left, right) trials."""
    subjects = sorted(next(iter(tables.values())))
    figure = Figure(figsize=(max(5.0, 0.35 * len(subjects) + 2.5), 3.8), layout="constrained")
    axis = figure.subplots()
    low, high = accuracy_bounds(counts)
    axis.axhspan(low, high, color="grey", alpha=0.2, label=f"chance, {sum(counts)} trials")
    for i, (name, table) in enumerate(tables.items()):
        offset = (i - (len(tables) - 1) / 2) * 0.12
        values = [table.get(s, math.nan) for s in subjects]
        axis.plot(np.arange(len(subjects)) + offset, values, "o", markersize=5, label=name)
    axis.set_xticks(np.arange(len(subjects)), [str(s) for s in subjects], fontsize=7)
    axis.set_xlabel("subject")
    axis.set_ylabel("accuracy per trial")
    axis.set_ylim(0, 1.02)
    axis.set_title(title, fontsize=9)
    axis.legend(fontsize=7, frameon=False, loc="lower left", ncols=2)
    return figure


def plot_positions(centres: Sequence[float], curves: Mapping[str, np.ndarray], title: str) -> Figure:
    """Accuracy of windows against the time of their middle from the cue."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, values in curves.items():
        axis.plot(centres, values, marker="o", label=name)
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.axhline(0.5, color="grey", linestyle=":", linewidth=0.8)
    axis.set_xlabel("middle of the window, seconds from the cue")
    axis.set_ylabel("accuracy per window")
    axis.set_title(title, fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    return figure


def plot_calibration(label: np.ndarray, p_right: np.ndarray, title: str, bins: int = 10) -> Figure:
    """Share of "right" among trials against the predicted probability; the diagonal is perfect."""
    figure = Figure(figsize=(4, 3.8), layout="constrained")
    axis = figure.subplots()
    number = np.minimum((p_right * bins).astype(int), bins - 1)
    shown = np.unique(number)
    axis.plot([0, 1], [0, 1], ":", color="grey")
    axis.plot([p_right[number == k].mean() for k in shown], [label[number == k].mean() for k in shown], marker="o")
    for k in shown:
        axis.annotate(str((number == k).sum()), (p_right[number == k].mean(), label[number == k].mean()), fontsize=7)
    axis.set_xlabel("predicted probability of right")
    axis.set_ylabel("share of right (beside: trials)")
    axis.set_xlim(0, 1)
    axis.set_ylim(-0.03, 1.03)
    axis.set_title(title, fontsize=9)
    return figure

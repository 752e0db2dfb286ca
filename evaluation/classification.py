"""Scores of a classifier of trials, per window and per trial, with intervals over subjects.

Conventions: `log_p` are log-probabilities [n, n_classes]; a trial's is the mean of its windows'. `p` are probabilities:
of two classes that of class 1 alone, [n] (of EEGMMI: 0 = left fist, 1 = right fist), of more [n, n_classes]. The scores
are scikit-learn's and torchmetrics', not ours.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import scipy.special
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
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

LEFT_RIGHT = ("left", "right")
N_DRAWN = 100_000
"""Draws of guessing among more than two classes: bounds to about 0.001."""


def trial_means(log_p: np.ndarray, trial: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the trials' numbers [n_trials] ascending, mean log-probabilities of their windows [n_trials, n_classes])."""
    numbers, row = np.unique(trial, return_inverse=True)
    sums = np.zeros((len(numbers), log_p.shape[1]))
    np.add.at(sums, row, log_p)
    return numbers, sums / np.bincount(row)[:, None]


def probability_of_right(log_p: np.ndarray) -> np.ndarray:
    """P(right) [n] from log-probabilities [n, 2] that need not be normalised (means of them are not)."""
    return 1 / (1 + np.exp(np.clip(log_p[:, 0] - log_p[:, 1], -700, 700)))


def probabilities(log_p: np.ndarray) -> np.ndarray:
    """`p` of log-probabilities [n, n_classes] that need not be normalised."""
    return probability_of_right(log_p) if log_p.shape[1] == 2 else np.asarray(scipy.special.softmax(log_p, axis=1))


def guesses(p: np.ndarray) -> np.ndarray:
    """The most probable class of each row, int64 [n]."""
    return (p > 0.5).astype(int) if p.ndim == 1 else p.argmax(axis=1)


def n_classes_of(p: np.ndarray) -> int:
    return 2 if p.ndim == 1 else p.shape[1]


def classification_scores(label: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, F1, macro F1, ROC AUC, kappa, expected calibration error (10 bins).

    F1 is that of class 1 of two, and of more classes their mean, weighted by their trials. ROC AUC is the mean over
    classes of one against the rest, NaN where a class is missing. The mean over classes of macro F1 is over those that
    are there or were answered.
    """
    if len(label) != len(p) or not len(label):
        raise ValueError(f"{len(label)} labels and {len(p)} probabilities; as many of both are needed, at least one")
    if not np.isfinite(p).all():
        raise ValueError(f"{(~np.isfinite(p)).sum()} of {p.size} probabilities are NaN or infinite")
    guess, classes = guesses(p), list(range(n_classes_of(p)))
    binary, whole = p.ndim == 1, len(np.unique(label)) == len(classes)
    average, target = ("binary" if binary else "weighted"), torch.from_numpy(np.asarray(label))
    return {
        "accuracy": float(accuracy_score(label, guess)),
        "balanced_accuracy": balanced_accuracy(label, guess),
        "f1": float(f1_score(label, guess, average=average, labels=None if binary else classes, zero_division=0.0)),
        "f1_macro": float(f1_score(label, guess, average="macro", labels=classes, zero_division=np.nan)),
        "roc_auc": float(roc_auc_score(label, p, multi_class="ovr")) if whole else math.nan,
        "kappa": float(cohen_kappa_score(label, guess, labels=classes)) if len(np.unique(label)) > 1 else 0.0,
        "calibration_error": float(
            binary_calibration_error(torch.from_numpy(p).float(), target, n_bins=10)
            if binary
            else multiclass_calibration_error(torch.from_numpy(p).float(), target, len(classes), n_bins=10)
        ),
    }


def balanced_accuracy(label: np.ndarray, guess: np.ndarray) -> float:
    """Mean over the classes that are there of the share of right answers, [0, 1]. With as many of each it is the
    accuracy, to the last bit. label, guess: classes [n].
    """
    shares = [Fraction(int((guess[label == c] == c).sum()), int((label == c).sum())) for c in np.unique(label)]
    return float(sum(shares) / len(shares))  # rounded once, so that equal shares stay equal


def confusion(label: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Counts [n_classes, n_classes]: rows are the true classes, columns the predicted ones."""
    return np.asarray(confusion_matrix(label, guesses(p), labels=list(range(n_classes_of(p)))))


def accuracy_by_subject(label: np.ndarray, p: np.ndarray, subject: np.ndarray) -> dict[int, float]:
    """{subject: accuracy}."""
    right = guesses(p) == label
    return {int(s): float(right[subject == s].mean()) for s in np.unique(subject)}


def accuracy_by_position(label: np.ndarray, p: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Accuracy of the windows at each position in the trial, [n_positions]."""
    right = guesses(p) == label
    return np.array([right[position == k].mean() for k in np.unique(position)])


def mean_interval(values: Sequence[float], level: float = 0.95, least: float = 0.0) -> tuple[float, float, float]:
    """(mean, low, high): Student's t interval of the mean of independent values from `least` to 1, accuracies or other
    shares, one per subject.

    What of it lies outside that range is cut off: no mean can lie there, so it holds the true mean as often as before.
    The bounds are NaN for a single value.
    """
    x = np.asarray(values, dtype=float)
    mean = float(x.mean())
    if len(x) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return mean, max(mean - half, least), min(mean + half, 1.0)


def paired_interval(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[float, float, float]:
    """(mean, low, high) of a - b, from -1 to 1, over the subjects that both have."""
    return mean_interval([a[s] - b[s] for s in sorted(a.keys() & b.keys())], least=-1.0)


def sign_flip_p(differences: Sequence[float], n_resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value that the mean of paired differences, one per subject, is 0: their signs flipped at random.

    Exact where there are fewer sign patterns than resamples; 1.0 where all differences are 0, and for a single one.
    """
    if len(differences) < 2:
        return 1.0
    found = stats.permutation_test(
        (np.asarray(differences, dtype=float),),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def least_sign_flip_p(n: int) -> float:
    """The smallest p-value that `sign_flip_p` can give for n differences: all of one sign, two patterns of 2^n."""
    return 2.0 ** (1 - n)


def class_counts(label: np.ndarray, n_classes: int = 2) -> tuple[int, ...]:
    """How many of each class `label` [n] holds."""
    return tuple(int((label == c).sum()) for c in range(n_classes))


def chance_bounds(counts: Sequence[int], level: float = 0.95) -> tuple[float, float]:
    """(low, high): the balanced accuracy of guessing in so many independent trials of each class lies between them with
    probability `level`, whatever share of the guesses each class gets.

    The distribution is that of a fair die over the classes, whose spread is the largest; a constant answer has exactly
    one over their number. Of two classes it is exact (with as many trials of both, the binomial distribution), of more
    it is drawn N_DRAWN times. With one class alone a constant answer reaches everything: 0 and 1. Classes without a
    trial do not count.
    """
    there, tail = [n for n in counts if n], (1 - level) / 2
    if len(there) < 2:
        return 0.0, 1.0
    if len(counts) > 2:
        rng = np.random.default_rng(0)
        drawn = np.mean([rng.binomial(n, 1 / len(counts), N_DRAWN) / n for n in there], axis=0)
        low, high = np.quantile(drawn, [tail, 1 - tail], method="inverted_cdf")
        return float(low), float(high)
    n_left, n_right = counts
    # Numerators over 2 * n_left * n_right, so that the sums that are equal are equal.
    sums = np.add.outer(np.arange(n_left + 1) * n_right, np.arange(n_right + 1) * n_left)
    chance = np.multiply.outer(
        stats.binom.pmf(np.arange(n_left + 1), n_left, 0.5), stats.binom.pmf(np.arange(n_right + 1), n_right, 0.5)
    )
    values, place = np.unique(sums, return_inverse=True)
    below = np.cumsum(np.bincount(place.ravel(), chance.ravel()))
    low, high = (values[np.searchsorted(below, share)] for share in (tail, 1 - tail))
    return float(low / (2 * n_left * n_right)), float(high / (2 * n_left * n_right))


def accuracy_bounds(counts: Sequence[int], level: float = 0.95) -> tuple[float, float]:
    """(low, high): the accuracy of guessing in so many independent trials of each class lies between them with
    probability `level`, whatever share of the guesses each class gets: always the same class reaches its share.
    """
    n, tail = sum(counts), (1 - level) / 2
    low, high = (float(stats.binom.ppf(share, n, 1 / len(counts)) / n) for share in (tail, 1 - tail))
    return min(low, min(counts) / n), max(high, max(counts) / n)


# ------------------------------------------------------------------------------------------------------------------
# figures


def plot_confusion(counts: np.ndarray, title: str, classes: Sequence[str] = LEFT_RIGHT) -> Figure:
    """The confusion matrix with counts and row shares."""
    side = 0.9 * max(0, len(classes) - 2)
    figure = Figure(figsize=(3.8 + side, 3.6 + side), layout="constrained")
    axis = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i in range(len(classes)):
        for j in range(len(classes)):
            colour = "white" if shares[i, j] > 0.6 else "black"
            axis.text(j, i, f"{counts[i, j]}\n{100 * shares[i, j]:.0f} %", ha="center", va="center", color=colour)
    axis.set_xticks(range(len(classes)), classes)
    axis.set_yticks(range(len(classes)), classes)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(title, fontsize=9)
    return figure


def plot_subjects(
    tables: Mapping[str, Mapping[int, float]],
    counts: Sequence[int],
    title: str,
    names: Mapping[int, str] | None = None,
) -> Figure:
    """Accuracy of each subject under each classifier; the band is that of guessing in `counts` trials of each class.

    names: of the subjects, where they are called otherwise than by their numbers.
    """
    subjects = sorted(next(iter(tables.values())))
    step = min(0.12, 0.8 / len(tables))  # so that a subject's points stay within its tick
    width = max(5.0, max(0.35, 0.09 * len(tables)) * len(subjects) + 2.5)
    figure = Figure(figsize=(min(width, 40.0), 4.2), layout="constrained")
    axis = figure.subplots()
    low, high = accuracy_bounds(counts)
    axis.axhspan(low, high, color="grey", alpha=0.2, label=f"chance, {sum(counts)} trials")
    for i, (name, table) in enumerate(tables.items()):
        offset = (i - (len(tables) - 1) / 2) * step
        values = [table.get(s, math.nan) for s in subjects]
        axis.plot(np.arange(len(subjects)) + offset, values, "o", markersize=4, label=name)
    for border in np.arange(len(subjects) - 1) + 0.5:
        axis.axvline(border, color="lightgrey", linewidth=0.5)
    axis.set_xticks(np.arange(len(subjects)), [(names or {}).get(s, str(s)) for s in subjects], fontsize=7)
    axis.set_xlabel("subject")
    axis.set_ylabel("accuracy per trial")
    axis.set_ylim(0, 1.02)
    axis.set_title(title, fontsize=9)
    axis.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=6)
    return figure


def plot_positions(
    centres: Sequence[float], curves: Mapping[str, np.ndarray], title: str, n_classes: int = 2
) -> Figure:
    """Accuracy of windows against the time of their middle from the cue."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, values in curves.items():
        axis.plot(centres, values, marker="o", label=name)
    axis.axvline(0, color="grey", linewidth=0.8)
    axis.axhline(1 / n_classes, color="grey", linestyle=":", linewidth=0.8)
    axis.set_xlabel("middle of the window, seconds from the cue")
    axis.set_ylabel("accuracy per window")
    axis.set_title(title, fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    return figure


def plot_calibration(
    label: np.ndarray, p: np.ndarray, title: str, bins: int = 10, classes: Sequence[str] = LEFT_RIGHT
) -> Figure:
    """Share of class 1 among trials against its predicted probability; of more than two classes, share of right answers
    against the probability of the class answered. The diagonal is perfect.
    """
    if p.ndim == 1:
        sure, true, what, share = p, label, f"predicted probability of {classes[1]}", f"share of {classes[1]}"
    else:
        sure, true = p.max(axis=1), (guesses(p) == label).astype(int)
        what, share = "predicted probability of the answer", "share of right answers"
    figure = Figure(figsize=(4, 3.8), layout="constrained")
    axis = figure.subplots()
    number = np.minimum((sure * bins).astype(int), bins - 1)
    shown = np.unique(number)
    axis.plot([0, 1], [0, 1], ":", color="grey")
    axis.plot([sure[number == k].mean() for k in shown], [true[number == k].mean() for k in shown], marker="o")
    for k in shown:
        axis.annotate(str((number == k).sum()), (sure[number == k].mean(), true[number == k].mean()), fontsize=7)
    axis.set_xlabel(what)
    axis.set_ylabel(f"{share} (beside: trials)")
    axis.set_xlim(0, 1)
    axis.set_ylim(-0.03, 1.03)
    axis.set_title(title, fontsize=9)
    return figure

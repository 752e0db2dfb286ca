"""The evaluation that the EEG trainers share: predictions per window and trial, figures, comparisons, leakage."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.eeg.load import EegData
from data.eeg.splits import Fold
from data.eeg.windows import Windows
from evaluation.classification import (
    LEFT_RIGHT,
    accuracy_by_position,
    accuracy_by_subject,
    balanced_accuracy,
    chance_bounds,
    class_counts,
    classification_scores,
    guesses,
    mean_interval,
    paired_interval,
    probabilities,
    probability_of_right,
    sign_flip_p,
    trial_means,
)


@dataclass
class Predictions:
    """A classifier's log-probabilities of all test windows (or, without windows, of all test trials), in the order of
    folds.

    label, subject, trial: of each row; position: of the window in its trial, None where the rows are trials.
    """

    log_p: np.ndarray
    label: np.ndarray
    subject: np.ndarray
    trial: np.ndarray
    position: np.ndarray | None

    def per_trial(self) -> "Predictions":
        """Mean log-probability over the windows of each trial."""
        trials, log_p = trial_means(self.log_p, self.trial)
        first = np.array([np.flatnonzero(self.trial == t)[0] for t in trials])
        return Predictions(log_p, self.label[first], subject=self.subject[first], trial=trials, position=None)

    @property
    def p(self) -> np.ndarray:
        """Probability of class 1 of two [n], of more classes of each [n, n_classes]."""
        return probabilities(self.log_p)

    @property
    def p_right(self) -> np.ndarray:
        """Probability of class 1 [n], where there are two classes."""
        return probability_of_right(self.log_p)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many rows each class has."""
        return class_counts(self.label, self.log_p.shape[1])


def window_predictions(log_p: Sequence[np.ndarray], windows: Windows, folds: Sequence[Fold]) -> Predictions:
    """Predictions of the test windows of several folds."""
    test = np.concatenate([fold.test for fold in folds])
    return Predictions(
        np.concatenate(log_p),
        windows.label[test],
        subject=windows.subject[test],
        trial=windows.trial[test],
        position=windows.position[test],
    )


def trial_predictions(
    log_p: Sequence[np.ndarray], data: EegData, windows: Windows, folds: Sequence[Fold]
) -> Predictions:
    """Predictions of the test trials of several folds."""
    test = np.concatenate([np.unique(windows.trial[fold.test]) for fold in folds])
    return Predictions(np.concatenate(log_p), data.label[test], subject=data.subject[test], trial=test, position=None)


@dataclass(frozen=True)
class Result:
    """One classifier's figures. by_subject: accuracy per trial; interval: (mean, low, high) over subjects; seconds: of
    a fold's training, on average; NaN where that was not measured.
    """

    trial: dict[str, float]
    window: dict[str, float] | None
    by_subject: dict[int, float]
    interval: tuple[float, float, float]
    by_position: np.ndarray | None
    trials: Predictions
    seconds: float = math.nan

    def metrics(self, name: str) -> dict[str, float]:
        """Flat, for the run: NaN (an AUC of one class, an interval of one subject) is left out."""
        mean, low, high = self.interval
        flat = {f"{name}_trial_{key}": value for key, value in self.trial.items()}
        flat |= {f"{name}_window_{key}": value for key, value in (self.window or {}).items()}
        flat |= {f"{name}_subject_mean": mean, f"{name}_subject_low": low, f"{name}_subject_high": high}
        return {key: value for key, value in flat.items() if math.isfinite(value)}


def evaluate(predictions: Predictions, seconds: float = math.nan) -> Result:
    """All figures of one classifier. seconds: of a fold's training, on average."""
    trials = predictions.per_trial()
    by_subject = accuracy_by_subject(trials.label, trials.p, trials.subject)
    windows = by_position = None
    if predictions.position is not None:
        windows = classification_scores(predictions.label, predictions.p)
        by_position = accuracy_by_position(predictions.label, predictions.p, predictions.position)
    return Result(
        classification_scores(trials.label, trials.p),
        windows,
        by_subject=by_subject,
        interval=mean_interval(list(by_subject.values())),
        by_position=by_position,
        trials=trials,
        seconds=seconds,
    )


def mean_seconds(fits: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of training of the finished fits, on average; NaN where they were not measured."""
    return float(np.mean([fit.get("seconds", math.nan) for fit in fits]))


MOABB_TABLE = "moabb.csv"
MOABB_COLUMNS = ("score", "time", "samples", "subject", "session", "channels", "n_sessions", "dataset", "pipeline")


def moabb_table(data: EegData, results: Mapping[str, Result]) -> str:
    """CSV with the columns of MOABB's results: a row for each classifier, test subject and session.

    score: accuracy per trial. time: seconds of a fold's training, on average; empty where it was not measured.
    samples: tested trials of this subject and session. session: its name; a number where it has none.
    """
    rows: list[Sequence[object]] = [MOABB_COLUMNS]
    sessions, session_names = data.session, data.session_names
    n_sessions = len(np.unique(sessions)) if len(sessions) else 1
    for name, result in results.items():
        own = result.trials
        right, session = guesses(own.p) == own.label, sessions[own.trial]
        seconds = f"{result.seconds:.3f}" if math.isfinite(result.seconds) else ""
        for subject, number in sorted({*zip(own.subject.tolist(), session.tolist(), strict=True)}):
            chosen = (own.subject == subject) & (session == number)
            scored = (f"{right[chosen].mean():.6f}", seconds, chosen.sum())
            who = (data.names.of_subject(subject), session_names[number] or number)
            rows.append((*scored, *who, len(data.ch_names), n_sessions, data.dataset, name))
    return csv_text(rows)


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """The rows as CSV: a name with a comma in it is in quotation marks."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def subjects_table(results: Mapping[str, Result], names: Mapping[int, str] | None = None) -> str:
    """CSV: a row for each test subject, its number of trials, and the accuracy per trial of each classifier.

    names: of the subjects, where they are called otherwise than by their numbers.
    """
    rows: list[Sequence[object]] = [("subject", "n_trials", *results)]
    first = next(iter(results.values()))
    for subject in first.by_subject:
        accuracies = [f"{result.by_subject[subject]:.4f}" for result in results.values()]
        name, n_trials = (names or {}).get(subject, subject), int((first.trials.subject == subject).sum())
        rows.append((name, n_trials, *accuracies))
    return csv_text(rows)


def chance_verdict(result: Result, classes: Sequence[str] = LEFT_RIGHT) -> str:
    """How the balanced accuracy per trial stands to what guessing reaches in as many trials, in words.

    Of the accuracy itself a constant answer reaches the larger class's share. With as many of all classes it is the
    balanced accuracy.
    """
    counts, accuracy = result.trials.counts, result.trial["balanced_accuracy"]
    low, high = chance_bounds(counts)
    verdict = "above" if accuracy > high else "below" if accuracy < low else "within"
    guess = "a coin" if len(counts) == 2 else f"a die of {len(counts)}"
    text = f"{verdict} what {guess} reaches in {sum(counts)} trials ({low:.3f} to {high:.3f})"
    if len(set(counts)) == 1:
        return text
    each = [f"{n} {name}" for n, name in zip(counts, classes, strict=True)]
    return f"balanced {accuracy:.3f} of {', '.join(each[:-1])} and {each[-1]}, {text}"


def comparisons(results: Mapping[str, Result], own: str) -> list[str]:
    """A sentence for each other classifier: the difference to it, paired by subject, and who is better."""
    lines = []
    for name, result in results.items():
        if name == own:
            continue
        mean, low, high = paired_interval(results[own].by_subject, result.by_subject)
        if not math.isfinite(low):
            lines.append(f"Against {name}: {mean:+z.3f}; with one subject there is no interval.")
            continue
        no_difference = "no difference that these subjects show"
        outcome = f"{own} is better" if low > 0 else f"{name} is better" if high < 0 else no_difference
        lines.append(f"Against {name}: {mean:+z.3f} ({low:+z.3f} to {high:+z.3f}), paired by subject: {outcome}.")
    return lines


@dataclass(frozen=True)
class Leakage:
    """The balanced accuracy of a network that was trained on shuffled labels; low, high: what a coin reaches
    (99.9 %).
    """

    accuracy: float
    n_trials: int
    low: float
    high: float

    @property
    def leaks(self) -> bool:
        """Whether it is not at chance: then test trials were seen in training, and no figure is to be trusted."""
        return not self.low <= self.accuracy <= self.high


def check_leakage(fit: Mapping[str, Any] | None, windows: Windows, fold: Fold, dealt: np.ndarray) -> Leakage | None:
    """What the network reached whose finished `fit` on `fold` was made with the labels `dealt`, of all windows; None
    without one.
    """
    if fit is None:
        return None
    _, mean = trial_means(fit["log_p"].numpy(), windows.trial[fold.test])
    first = np.unique(windows.trial[fold.test], return_index=True)[1]
    return leakage_of(mean, dealt[fold.test][first])


def leakage_of(log_p: np.ndarray, dealt: np.ndarray) -> Leakage:
    """The same from log-probabilities [n_trials, n_classes] and the labels dealt to these trials."""
    accuracy = balanced_accuracy(dealt, log_p.argmax(1))
    return Leakage(accuracy, len(dealt), *chance_bounds(class_counts(dealt, log_p.shape[1]), 0.999))


def sign_tests(results: Mapping[str, Result], own: str) -> dict[str, float]:
    """{other classifier: p-value of its paired difference to `own` over subjects, by flipping signs}."""
    mine = results[own].by_subject
    return {
        name: sign_flip_p([mine[s] - result.by_subject[s] for s in mine])
        for name, result in results.items()
        if name != own
    }


def network_results(
    fits: Mapping[str, Sequence[Mapping[str, Any]]], windows: Windows, folds: Sequence[Fold]
) -> dict[str, Result]:
    """All figures of every network. fits: {name: its finished fit on each fold}."""
    return {
        name: evaluate(window_predictions([fit["log_p"].numpy() for fit in found], windows, folds), mean_seconds(found))
        for name, found in fits.items()
    }

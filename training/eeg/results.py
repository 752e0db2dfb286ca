"""The honest evaluation that the EEG trainers share: predictions per window and per trial, a classifier's figures, the
report.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.eeg.load import EegData
from data.eeg.splits import Fold
from data.eeg.windows import Windows
from evaluation.classification import (
    accuracy_by_position,
    accuracy_by_subject,
    chance_bounds,
    classification_scores,
    mean_interval,
    paired_interval,
    probability_of_right,
    trial_means,
)
from training.eeg.config import EegConfig


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
        return Predictions(log_p, self.label[first], self.subject[first], trials, None)

    @property
    def p_right(self) -> np.ndarray:
        return probability_of_right(self.log_p)


def window_predictions(log_p: Sequence[np.ndarray], windows: Windows, folds: Sequence[Fold]) -> Predictions:
    """Predictions of the test windows of several folds."""
    test = np.concatenate([fold.test for fold in folds])
    return Predictions(
        np.concatenate(log_p), windows.label[test], windows.subject[test], windows.trial[test], windows.position[test]
    )


def trial_predictions(
    log_p: Sequence[np.ndarray], data: EegData, windows: Windows, folds: Sequence[Fold]
) -> Predictions:
    """Predictions of the test trials of several folds."""
    test = np.concatenate([np.unique(windows.trial[fold.test]) for fold in folds])
    return Predictions(np.concatenate(log_p), data.label[test], data.subject[test], test, None)


@dataclass(frozen=True)
class Result:
    """One classifier's figures. by_subject: accuracy per trial; interval: (mean, low, high) over subjects."""

    trial: dict[str, float]
    window: dict[str, float] | None
    by_subject: dict[int, float]
    interval: tuple[float, float, float]
    by_position: np.ndarray | None
    trials: Predictions

    def metrics(self, name: str) -> dict[str, float]:
        """Flat, for the run: NaN (an AUC of one class, an interval of one subject) is left out."""
        mean, low, high = self.interval
        flat = {f"{name}_trial_{key}": value for key, value in self.trial.items()}
        flat |= {f"{name}_window_{key}": value for key, value in (self.window or {}).items()}
        flat |= {f"{name}_subject_mean": mean, f"{name}_subject_low": low, f"{name}_subject_high": high}
        return {key: value for key, value in flat.items() if math.isfinite(value)}


def evaluate(predictions: Predictions) -> Result:
    """All figures of one classifier."""
    trials = predictions.per_trial()
    by_subject = accuracy_by_subject(trials.label, trials.p_right, trials.subject)
    windows = by_position = None
    if predictions.position is not None:
        windows = classification_scores(predictions.label, predictions.p_right)
        by_position = accuracy_by_position(predictions.label, predictions.p_right, predictions.position)
    return Result(
        classification_scores(trials.label, trials.p_right),
        windows,
        by_subject,
        mean_interval(list(by_subject.values())),
        by_position,
        trials,
    )


def subjects_table(results: Mapping[str, Result]) -> str:
    """CSV: a row for each test subject, its number of trials, and the accuracy per trial of each classifier."""
    rows = ["subject,n_trials," + ",".join(results)]
    first = next(iter(results.values()))
    for subject in first.by_subject:
        accuracies = ",".join(f"{result.by_subject[subject]:.4f}" for result in results.values())
        rows.append(f"{subject},{int((first.trials.subject == subject).sum())},{accuracies}")
    return "\n".join(rows) + "\n"


def report(
    config: EegConfig, data: EegData, own: str, results: Mapping[str, Result], leakage: tuple[float, int] | None
) -> str:
    """The written report on what was obtained, in Markdown, made from the figures alone; it says if the baselines
    won.
    """
    what = "simulated subjects" if config.dataset == "simulated" else "people of EEGMMI"
    n_subjects, n_trials = len(results[own].by_subject), len(results[own].trials.label)
    text = [
        f"# Left or right fist: {own}, {n_subjects} {what}, {n_trials} test trials, split {config.split}",
        "",
        "Accuracy per trial; intervals are 95 %, over subjects (Student's t).",
        "",
        "| classifier | accuracy | mean over subjects | balanced | F1 | macro F1 | ROC AUC | kappa | calibration error "
        "| accuracy per window |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        t = result.trial
        mean, low, high = result.interval
        bounds = f" ({low:.3f} to {high:.3f})" if math.isfinite(low) else ""
        window = f"{result.window['accuracy']:.3f}" if result.window else ""
        text.append(
            f"| {name} | {t['accuracy']:.3f} | {mean:.3f}{bounds} | {t['balanced_accuracy']:.3f} | {t['f1']:.3f} | "
            f"{t['f1_macro']:.3f} | {t['roc_auc']:.3f} | {t['kappa']:.3f} | {t['calibration_error']:.3f} | {window} |"
        )
    text += ["", "## What was obtained", ""]
    low, high = chance_bounds(n_trials)
    accuracy = results[own].trial["accuracy"]
    verdict = "above" if accuracy > high else "below" if accuracy < low else "within"
    text.append(
        f"- {own}: {accuracy:.3f} per trial, {verdict} what a coin reaches in {n_trials} trials ({low:.3f} to "
        f"{high:.3f})."
    )
    for name, result in results.items():
        if name == own:
            continue
        mean, low, high = paired_interval(results[own].by_subject, result.by_subject)
        if not math.isfinite(low):
            text.append(f"- Against {name}: {mean:+.3f}; with one subject there is no interval.")
            continue
        outcome = (
            f"{own} is better"
            if low > 0
            else f"{name} is better"
            if high < 0
            else "no difference that these subjects show"
        )
        text.append(f"- Against {name}: {mean:+.3f} ({low:+.3f} to {high:+.3f}), paired by subject: {outcome}.")
    best = max(results, key=lambda name: results[name].interval[0])
    if best != own:
        text.append(
            f"- **{own} did not win**: the highest mean over subjects is {best}'s, {results[best].interval[0]:.3f}."
        )
    by_position = results[own].by_position
    if by_position is not None:
        text.append("- Accuracy by window, first to last: " + ", ".join(f"{value:.3f}" for value in by_position) + ".")
    if leakage is not None:
        value, n = leakage
        low, high = chance_bounds(n, 0.999)
        state = "at chance, as it must be" if low <= value <= high else "NOT AT CHANCE: do not trust the figures above"
        text.append(
            f"- Leakage check: trained on shuffled labels, {value:.3f} of {n} trials ({low:.3f} to {high:.3f}): "
            f"{state}."
        )
    if config.dataset == "simulated":
        text.append(
            "- The subjects are simulated: these figures say that the method works, not how well it would on people."
        )
    if data.excluded:
        text.append(f"- Left out: {'; '.join(f'subject {e.subject}: {e.reason}' for e in data.excluded)}.")
    return "\n".join(text) + "\n"

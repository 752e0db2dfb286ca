"""What a run with pretext=neighbour found: accuracy over the number of labelled trials; tables, metrics, figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data.eeg.load import EegData
from evaluation.classification import (
    accuracy_by_subject,
    least_sign_flip_p,
    mean_interval,
    paired_interval,
    sign_flip_p,
)
from evaluation.figures import plot_step_curves
from tracking.run import AnyRun
from trainers.eeg_simclr.config import OWN
from trainers.eeg_simclr.neighbour import ALL_LABELS, Curve
from training.eeg.results import Predictions, Result, evaluate

ByPerson = dict[int, float]
Accuracies = dict[str, dict[str, ByPerson]]
"""{classifier: {number of labelled trials, or "all": {person: accuracy, mean over draws}}}."""
Interval = tuple[float, float, float]

MEANING = {
    "simclr": "fine-tuned from the pre-trained direction",
    "scratch": "the same classifier from zero",
    "probe": "one weight on the pre-trained z",
    "random_probe": "linear, on untrained features",
    "tangent": "tangent space with mirror, 0 to 1 s",
    "no_label": "pre-trained z, no label at all",
    "rule": "C3 against C4, no label, no training",
}
PAIRED = ("scratch", "random_probe", "tangent", "rule")
LINES = {
    "simclr": ("C0", "-"),
    "scratch": ("C1", "-"),
    "probe": ("C2", "--"),
    "random_probe": ("C7", "--"),
    "tangent": ("C4", "-"),
    "no_label": ("C2", ":"),
    "rule": ("black", ":"),
}


@dataclass(frozen=True)
class Found:
    """The figures of one set of electrodes.

    against: {rival: {number of labelled trials: simclr less it (mean, low, high)}}, paired by person; a rival without
    labels has one accuracy, which stands against every number. p: of the same differences, by flipping signs.
    """

    accuracies: Accuracies
    means: dict[str, dict[str, Interval]]
    against: dict[str, dict[str, Interval]]
    p: dict[str, dict[str, float]]

    @property
    def least_p(self) -> float:
        """The smallest p-value that this number of people can give."""
        return least_sign_flip_p(len(next(iter(self.accuracies[OWN].values()))))

    @property
    def budgets(self) -> list[str]:
        """Numbers of labelled trials, ascending, "all" last."""
        return list(self.means[OWN])


def found_of(curves: Sequence[Curve], data: EegData, tests: Sequence[np.ndarray]) -> Found:
    """The figures of all folds' curves; tests: each fold's test trials. Numbers that a fold lacks are left out."""
    accuracies: Accuracies = {}
    for name in (name for name in MEANING if name in curves[0]):
        accuracies[name] = {}
        for n in curves[0][name]:
            if all(n in curve[name] for curve in curves):
                accuracies[name][n] = _by_person([curve[name][n].numpy() for curve in curves], data, tests)
    means = {
        name: {n: mean_interval(list(people.values())) for n, people in by_n.items()}
        for name, by_n in accuracies.items()
    }
    pairs = {
        rival: {n: (own, accuracies[rival].get(n, accuracies[rival][ALL_LABELS])) for n, own in accuracies[OWN].items()}
        for rival in PAIRED
        if rival in accuracies
    }
    against = {
        rival: {n: paired_interval(own, other) for n, (own, other) in by_n.items()} for rival, by_n in pairs.items()
    }
    p = {
        rival: {n: sign_flip_p([own[person] - other[person] for person in own]) for n, (own, other) in by_n.items()}
        for rival, by_n in pairs.items()
    }
    return Found(accuracies, means, against, p)


def _by_person(logits: Sequence[np.ndarray], data: EegData, tests: Sequence[np.ndarray]) -> ByPerson:
    """{person: accuracy, mean over draws}. logits: of every fold, [n_draws, n_test]."""
    draws = []
    for draw in range(len(logits[0])):
        logit, test = np.concatenate([of_fold[draw] for of_fold in logits]), np.concatenate(tests)
        draws.append(accuracy_by_subject(data.label[test], (logit > 0) + 0.0, data.subject[test]))
    return {person: float(np.mean([found[person] for found in draws])) for person in draws[0]}


def results_with_all_labels(curves: Sequence[Curve], data: EegData, tests: Sequence[np.ndarray]) -> dict[str, Result]:
    """All figures of every classifier with all labels, and of those without any."""
    test, results = np.concatenate(tests), {}
    for name in (name for name in MEANING if name in curves[0]):
        logit = np.concatenate([curve[name][ALL_LABELS][0].double().numpy() for curve in curves])
        log_p = np.stack([-np.logaddexp(0, logit), -np.logaddexp(0, -logit)], axis=1)
        results[name] = evaluate(Predictions(log_p, data.label[test], data.subject[test], trial=test, position=None))
    return results


def record_curves(
    run: AnyRun, found: Mapping[str, Found], losses: Mapping[str, Sequence[float]], title: str, best: str
) -> None:
    """Metrics, tables and figures. found: by set of electrodes, of which `best` has all classifiers; losses: of every
    pre-training, by its name.
    """
    metrics: dict[str, float] = {}
    for electrodes, one in found.items():
        prefix = "" if electrodes == best else f"{electrodes}_"
        for name, by_n in one.means.items():
            metrics |= {f"{prefix}{name}_{n}_trials_subject_mean": mean for n, (mean, _, _) in by_n.items()}
        for rival, by_n in one.against.items():
            metrics |= {f"{prefix}{OWN}_less_{rival}_{n}_trials": mean for n, (mean, _, _) in by_n.items()}
    run.log_metrics({key: value for key, value in metrics.items() if math.isfinite(value)}, step=1)
    people: dict[str, Any] = {electrodes: one.accuracies for electrodes, one in found.items()}
    run.log_dict(people, "learning_curves.json")
    run.log_figure(plot_learning_curves(found[best], title), "figures/learning_curves.png")
    run.log_figure(plot_electrodes(found, title), "figures/electrodes.png")
    n_updates = range(1, len(next(iter(losses.values()))) + 1)
    panels = {"contrast of neighbours": dict(losses)}
    figure = plot_step_curves(n_updates, panels, f"Pre-training: {title}", "update")
    run.log_figure(figure, "figures/pretraining.png")


def plot_learning_curves(found: Found, title: str) -> Figure:
    """Left: accuracy over the number of labelled trials. Right: simclr less each rival, paired by person."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(len(found.budgets))
    for i, (name, by_n) in enumerate(found.means.items()):
        colour, style = LINES[name]
        label = f"{name}: {MEANING[name]}"
        if set(by_n) == {ALL_LABELS} and len(places) > 1:
            left.axhline(by_n[ALL_LABELS][0], color=colour, linestyle=style, label=label)
            continue
        _bars(left, places + 0.05 * (i - 2), list(by_n.values()), color=colour, linestyle=style, label=label)
    left.axhline(0.5, color="red", linewidth=0.6)
    left.set_ylabel("accuracy per trial, 95 % interval")
    left.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    for i, (rival, by_n) in enumerate(found.against.items()):
        colour = LINES[rival][0]
        _bars(right, places + 0.05 * (i - 1), list(by_n.values()), color=colour, linestyle="-", label=f"less {rival}")
    right.axhline(0, color="red", linewidth=0.6)
    right.set_ylabel("fine-tuned less the other, 95 % interval")
    right.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    for axis in (left, right):
        axis.set_xticks(places, found.budgets)
        axis.set_xlabel("labelled trials of the training people")
    figure.suptitle(title, fontsize=10)
    return figure


def plot_electrodes(found: Mapping[str, Found], title: str) -> Figure:
    """Fine-tuned, from scratch and without labels, for each set of electrodes."""
    figure = Figure(figsize=(4 * len(found), 4), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axis, (electrodes, one) in zip(axes, found.items(), strict=True):
        places = np.arange(len(one.budgets))
        for name in (OWN, "scratch"):
            _bars(axis, places, list(one.means[name].values()), color=LINES[name][0], linestyle="-", label=name)
        axis.axhline(one.means["no_label"][ALL_LABELS][0], color="C2", linestyle=":", label="no_label")
        axis.axhline(0.5, color="red", linewidth=0.6)
        axis.set_xticks(places, one.budgets)
        axis.set_xlabel("labelled trials")
        axis.set_title(electrodes, fontsize=9)
    axes[0].set_ylabel("accuracy per trial, mean over people")
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def _bars(
    axis: Axes, places: np.ndarray, intervals: Sequence[Interval], *, color: str, linestyle: str, label: str
) -> None:
    """A line with 95 % intervals; places: where on the axis."""
    mean, low, high = np.array(intervals).T
    bars = np.nan_to_num(np.stack([mean - low, high - mean]))
    axis.errorbar(
        places,
        mean,
        bars,
        marker="o",
        markersize=3,
        capsize=2,
        linewidth=1.2,
        color=color,
        linestyle=linestyle,
        label=label,
    )

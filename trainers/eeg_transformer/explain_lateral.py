"""What network=lateral uses: which slices it trusts, where they lie on the scalp, and whether order matters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import mne
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from data.eeg.load import EegData
from evaluation.classification import chance_bounds, guesses, mean_interval
from evaluation.figures import plot_step_curves
from models.eeg.lateral import OddTangent, Slice
from tracking.run import AnyRun
from trainers.eeg_transformer.config import OWN, EegTransformerConfig
from trainers.eeg_transformer.lateral import SLICES
from training.eeg.baselines import CLASSICAL
from training.eeg.deep_baselines import NETWORKS
from training.eeg.load import recording_of
from training.eeg.results import Result
from training.eeg.slices import ALL, electrode_sets, lateral_mirror


@dataclass(frozen=True)
class SliceFacts:
    """One slice: accuracy by its evidence alone (mean, low, high over people), and its attention weight."""

    name: str
    accuracy: tuple[float, float, float]
    weight: float
    weight_sd_people: float
    weight_sd_trials: float


@dataclass(frozen=True)
class Order:
    """Whether the order of trials could be used: share of trials whose label differs from the one before, and a
    classifier's accuracy in trials after the other and after the same label.
    """

    alternation: float
    after_other: float
    after_same: float


@dataclass(frozen=True)
class Explanation:
    """orders: of every classifier. patterns [n_slices, n_chans]: log power of each (aligned) channel that goes with
    evidence for "right".
    """

    slices: list[SliceFacts]
    orders: dict[str, Order]
    patterns: np.ndarray


def name_of(s: Slice) -> str:
    """A slice in words."""
    return f"{s.start:g}-{s.stop:g} s, {s.low:g}-{s.high:g} Hz"


def order_facts(label: np.ndarray, recording: np.ndarray, right: np.ndarray, trial: np.ndarray) -> Order:
    """label, recording (of each trial in the data, in the order of time); right: whether the trials `trial` were."""
    follows = np.concatenate([[False], recording[1:] == recording[:-1]])
    other = np.concatenate([[False], label[1:] != label[:-1]])
    tested, after_other = follows[trial], other[trial]
    return Order(
        alternation=float(other[follows].mean()),
        after_other=float(right[tested & after_other].mean()),
        after_same=float(right[tested & ~after_other].mean()),
    )


def patterns_of(vectors: Tensor, evidence: Tensor, mirror: Tensor) -> np.ndarray:
    """How each channel's log power goes with the evidence: [n_slices, n_chans], of unit evidence.

    The activation pattern of a linear readout (Haufe et al. 2014, NeuroImage 87): the covariance of its input with its
    output. The readout's weights themselves also hold what cancels noise, and say nothing of where a source lies. Of
    the matrix that the vectors stand for, the diagonal: covariances between channels are left out. mirror: see
    `mirror_of`.
    """
    tangent = OddTangent(mirror)
    moved = torch.einsum("ntd,nt->td", vectors, evidence) / evidence.square().sum(0).clamp_min(1e-12)[:, None]
    return tangent.matrix(moved).diagonal(dim1=-2, dim2=-1).numpy()


def explain(
    data: EegData,
    vectors: Tensor,
    *,
    parts: Sequence[Any],
    fits: Sequence[Mapping[str, Any]],
    results: Mapping[str, Result],
) -> Explanation:
    """From what the Transformer said of the test trials of every fold. vectors: of all trials."""
    test = np.concatenate([part.test for part in parts])
    mirror = lateral_mirror(data, "give network=windows")
    evidence, weights = (torch.cat([fit[what] for fit in fits]) for what in ("evidence", "attention"))
    label, subject = data.label[test], data.subject[test]
    people = np.unique(subject)
    slices = []
    for k, s in enumerate(SLICES):
        right = (evidence[:, k] > 0).numpy() == (label == 1)
        by_person = torch.tensor([float(weights[torch.from_numpy(subject == p), k].mean()) for p in people])
        slices.append(
            SliceFacts(
                name_of(s),
                mean_interval([float(right[subject == p].mean()) for p in people]),
                float(weights[:, k].mean()),
                weight_sd_people=float(by_person.std(correction=0)),
                weight_sd_trials=float(weights[:, k].std(correction=0)),
            )
        )
    recording = recording_of(data)
    orders = {
        name: order_facts(data.label, recording, guesses(r.trials.p) == r.trials.label, r.trials.trial)
        for name, r in results.items()
    }
    return Explanation(slices, orders, patterns_of(vectors[torch.from_numpy(test)], evidence, mirror))


def plot_people(
    results: Mapping[str, Result], n_trials: int, title: str, names: Mapping[int, str] | None = None
) -> Figure:
    """Accuracy of every person under the Transformer, ascending, beside the baselines'; grey: guessing."""
    own = results[OWN].by_subject
    people = sorted(own, key=lambda p: (own[p], p))
    figure = Figure(figsize=(max(6.0, 0.16 * len(people) + 2), 4), layout="constrained")
    axis = figure.subplots()
    axis.axhspan(
        *chance_bounds((n_trials // 2, n_trials - n_trials // 2)),
        color="grey",
        alpha=0.2,
        label=f"guessing in {n_trials} trials",
    )
    shown = [name for name in (*CLASSICAL, "tangent_slices", *NETWORKS) if name in results]
    for name, marker in zip(shown, "vsd^*x+1", strict=False):
        values = [results[name].by_subject[p] for p in people]
        axis.plot(values, marker, markersize=4, alpha=0.6, label=name)
    axis.plot([own[p] for p in people], "k.-", linewidth=1.5, label=OWN)
    axis.set_xticks(range(len(people)), [(names or {}).get(p, str(p)) for p in people], fontsize=6, rotation=90)
    axis.set_xlabel("person, by the Transformer's accuracy")
    axis.set_ylabel("accuracy per trial")
    axis.set_title(title, fontsize=9)
    axis.legend(fontsize=7, frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def plot_slices(slices: Sequence[SliceFacts], title: str) -> Figure:
    """Of each slice: accuracy by it alone, and its weight (thick: SD over people; thin: over trials)."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(slices))
    for row, s in enumerate(slices):
        mean, low, high = s.accuracy
        left.plot([low, high], [row, row], color="C0")
        left.plot(mean, row, "o", color="C0")
        for sd, width in ((s.weight_sd_trials, 1), (s.weight_sd_people, 4)):
            right.plot([s.weight - sd, s.weight + sd], [row, row], color="C1", linewidth=width)
        right.plot(s.weight, row, "o", color="black")
    left.axvline(0.5, color="grey", linestyle=":")
    right.axvline(1 / len(slices), color="grey", linestyle=":")
    left.set_yticks(rows, [s.name for s in slices], fontsize=8)
    left.invert_yaxis()
    left.set_xlabel("accuracy by this slice alone (95 % over people)")
    right.set_xlabel("attention weight, test trials (dotted: evenly)")
    figure.suptitle(title, fontsize=10)
    return figure


def plot_patterns(patterns: np.ndarray, data: EegData, title: str) -> Figure:
    """A map for each slice: red where more power goes with evidence for the right. Each has a scale of its own."""
    info = data.info()
    names = [f"{c}\n" if c in ("C3", "C4", "F7", "F8") else "" for c in data.ch_names]
    figure, axes = plt.subplots(2, 5, figsize=(12, 5.4), layout="constrained")
    for axis, values, s in zip(axes.flat, patterns, SLICES, strict=False):
        limit = float(np.abs(values).max()) or 1.0
        mne.viz.plot_topomap(values, info, axes=axis, cmap="RdBu_r", vlim=(-limit, limit), names=names, show=False)
        for name in axis.texts:  # black letters cannot be read on the dark ends of the scale
            name.set_path_effects([withStroke(linewidth=2, foreground="white")])
        axis.set_title(f"{name_of(s)}\n±{limit:.2g}", fontsize=8)
    for axis in axes.flat[len(patterns) :]:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=10)
    plt.close(figure)
    return figure


def record_explanation(
    run: AnyRun,
    config: EegTransformerConfig,
    data: EegData,
    explanation: Explanation,
    electrodes: Mapping[str, Result],
    results: Mapping[str, Result],
    fits: Sequence[Mapping[str, Any]],
) -> None:
    """The figures, and the figures' numbers as metrics and JSON."""
    what = f"{config.dataset}, {config.split}"
    own, right = results[OWN], data.classes[1] if data.is_own else "the right fist"
    n_trials = len(own.trials.label) // len(own.by_subject)
    figure = plot_people(results, n_trials, f"Accuracy per trial: {what}", data.names.subject)
    run.log_figure(figure, "figures/people.png")
    run.log_figure(plot_slices(explanation.slices, f"{what}: where the information is"), "figures/attention.png")
    title = f"{what}: log power that goes with evidence for {right} (aligned channels)"
    run.log_figure(plot_patterns(explanation.patterns, data, title), "figures/patterns.png")
    curves = {"loss": {f"fold {k}": list(fit["curve"]) for k, fit in enumerate(fits, 1)}}
    steps = range(1, len(fits[0]["curve"]) + 1)
    run.log_figure(plot_step_curves(steps, curves, f"transformer: {what}", "update"), "figures/training_loss.png")
    order, sets = explanation.orders[OWN], electrode_sets(data)
    called = {name: f"all_{len(data.ch_names)}" if name == ALL else name for name in electrodes}
    metrics = {f"electrodes_{called[name]}_subject_mean": r.interval[0] for name, r in electrodes.items()}
    metrics |= {"label_alternation": order.alternation}
    metrics |= {"accuracy_after_other_label": order.after_other, "accuracy_after_same_label": order.after_same}
    run.log_metrics({k: v for k, v in metrics.items() if np.isfinite(v)}, step=config.n_updates)
    run.log_dict(
        {
            "slices": {s.name: {"accuracy": s.accuracy[0], "weight": s.weight} for s in explanation.slices},
            "electrodes": {called[name]: list(sets[name]) for name in electrodes},
            "patterns": {name_of(s): row.tolist() for s, row in zip(SLICES, explanation.patterns, strict=True)},
        },
        "explanation.json",
    )

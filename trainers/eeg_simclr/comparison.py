"""Did contrastive pre-training help? Figures, metrics and text from the finished fits of a run with pretext=channel."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import nn

from common.figures import legend_name
from data.eeg.load import EegData
from data.eeg.splits import Fold
from data.eeg.windows import Windows
from evaluation.classification import paired_interval
from evaluation.figures import plot_lines, plot_step_curves
from models.eeg.simclr import Chosen, pooled_features
from tracking.run import Run
from tracking.silent_run import SilentRun
from training.eeg.config import EegConfig
from training.eeg.results import Result, evaluate, window_predictions
from training.summary import render_text

NAMES = ("simclr", "scratch", "frozen", "probe", "random_probe")
MEANING = {
    "simclr": "pre-trained, fine-tuned",
    "scratch": "the same network, not pre-trained",
    "frozen": "pre-trained encoder kept, head trained",
    "probe": "pre-trained encoder kept, linear",
    "random_probe": "untrained encoder kept, linear",
}
QUESTIONS = (
    ("simclr", "scratch", "fine-tuning from the pre-trained encoder, against from scratch"),
    ("probe", "random_probe", "a linear probe of the pre-trained encoder, against of an untrained one"),
    ("frozen", "scratch", "the head on the frozen encoder, against the whole network from scratch"),
)
EMBEDDED = 900
"""Test windows in the figure of embeddings: t-SNE of 900 takes a few seconds."""

Table = dict[float, dict[str, Result]]
"""{share of the labels: {network: its figures}}."""


def percent(share: float) -> str:
    """0.01 -> "1", 0.125 -> "12.5": for keys and tables, in percent."""
    return f"{100 * share:g}"


Fits = Mapping[str, Sequence[Mapping[str, Any]]]
"""{network: its finished fit on each fold}."""


def results_by_share(
    fits: Mapping[float, Fits], results: Mapping[str, Result], windows: Windows, folds: Sequence[Fold]
) -> Table:
    """The figures of every network at every share of the labels, largest share first. results: of all labels."""
    table: Table = {}
    for share in sorted(fits, reverse=True):
        table[share] = {}
        for name in NAMES:
            if share == 1:
                table[share][name] = results[name]
                continue
            log_p = [fit["log_p"].numpy() for fit in fits[share][name]]
            table[share][name] = evaluate(window_predictions(log_p, windows, folds))
    return table


def verdict(low: float, high: float) -> str:
    if not math.isfinite(low):
        return "with one subject there is no interval"
    return "it helped" if low > 0 else "it did harm" if high < 0 else "no difference that these subjects show"


def comparison_text(table: Table, taus: Mapping[float, Mapping[str, float]]) -> str:
    """The comparison as Markdown, from the figures alone: the template comparison.md.j2."""
    shares = sorted(table)
    answers = [
        (
            what,
            [
                (share, paired_interval(table[share][ours].by_subject, table[share][other].by_subject))
                for share in shares
            ],
        )
        for ours, other, what in QUESTIONS
    ]
    return render_text(
        Path(__file__).parent / "comparison.md.j2",
        table=table,
        shares=shares,
        names=NAMES,
        meaning=MEANING,
        answers=answers,
        helped=[percent(share) for share, (_, low, _) in answers[0][1] if low > 0],
        one_subject=not math.isfinite(table[1.0]["simclr"].interval[1]),
        taus=dict(sorted(taus.items())),
        percent=percent,
        verdict=verdict,
        isfinite=math.isfinite,
    )


def plot_label_shares(table: Table, baselines: Mapping[str, Result], title: str, n_classes: int) -> Figure:
    """Accuracy per trial, mean over subjects with its interval, over the share of the labels; baselines with all
    labels; what guessing has, in red.
    """
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axis = figure.subplots()
    shares = sorted(table)
    for i, name in enumerate(NAMES):
        x = [100 * share * (1 + 0.04 * (i - 2)) for share in shares]  # side by side, so that bars can be told apart
        mean, low, high = np.array([table[share][name].interval for share in shares]).T
        bars = np.nan_to_num(np.stack([mean - low, high - mean]))
        style = "--" if name in ("scratch", "random_probe") else "-"
        axis.errorbar(x, mean, bars, marker="o", capsize=3, linestyle=style, linewidth=1.2, label=name)
    for name, colour in zip(baselines, ("black", "dimgrey", "darkgrey"), strict=False):
        mean = baselines[name].interval[0]
        axis.axhline(mean, color=colour, linestyle=":", linewidth=1)
        axis.annotate(f"{name}, all labels", (100 * shares[0], mean), fontsize=7, va="bottom", color=colour)
    axis.axhline(1 / n_classes, color="red", linewidth=0.6)
    axis.set_xscale("log")
    axis.set_xticks([100 * share for share in shares], [f"{percent(share)} %" for share in shares])
    axis.minorticks_off()
    axis.set_xlabel("share of the training people's labels")
    axis.set_ylabel("accuracy per trial, mean over subjects, 95 % interval")
    axis.set_title(title, fontsize=9)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_pretraining(curves: Mapping[str, Sequence[Mapping[str, float]]], title: str) -> Figure:
    """Loss, alignment and uniformity over the epochs of every pre-training."""
    longest = max(len(curve) for curve in curves.values())

    def padded(curve: Sequence[Mapping[str, float]], key: str) -> list[float]:
        return [point[key] for point in curve] + [math.nan] * (longest - len(curve))

    losses = {
        f"{name} {part}": padded(curve, f"{part}_loss")
        for name, curve in curves.items()
        for part in ("train", "validation")
    }
    panels = {"NT-Xent": losses}
    for key in ("alignment", "uniformity"):
        panels[f"{key}, validation"] = {name: padded(curve, key) for name, curve in curves.items()}
    return plot_step_curves(range(1, longest + 1), panels, title, "epoch")


@torch.no_grad()
def embedded_features(network: nn.Module, windows: Windows, chosen: np.ndarray, device: torch.device) -> np.ndarray:
    """Pooled features of the network's encoder, each scaled to deviation 1, [n, d]."""
    network.eval()
    choose, encoder = network.choose, network.encoder
    assert isinstance(choose, Chosen)
    assert isinstance(encoder, nn.Module)
    parts = [
        pooled_features(encoder, choose(windows.gather(part).to(device))).float().cpu()
        for part in np.array_split(chosen, -(-len(chosen) // 128))
    ]
    x = torch.cat(parts).numpy()
    return np.asarray((x - x.mean(0)) / np.maximum(x.std(0), 1e-6))


def plot_embeddings(
    networks: Mapping[str, nn.Module],
    data: EegData,
    windows: Windows,
    fold: Fold,
    *,
    device: torch.device,
    seed: int,
    title: str,
) -> Figure:
    """Test windows in the plane (t-SNE of the encoder's pooled features): a row for each network, by class and by
    subject.
    """
    chosen = fold.test[np.linspace(0, len(fold.test) - 1, min(EMBEDDED, len(fold.test))).astype(int)]
    figure = Figure(figsize=(9, 4.2 * len(networks)), layout="constrained")
    for (name, network), axes in zip(networks.items(), figure.subplots(len(networks), 2, squeeze=False), strict=True):
        features = embedded_features(network, windows, chosen, device)
        reduced = PCA(min(30, *features.shape), random_state=seed).fit_transform(features)
        perplexity = min(30.0, (len(chosen) - 1) / 3)
        plane = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
        subjects = [f"subject {data.names.of_subject(s)}" for s in np.unique(windows.subject[chosen])]
        groups = (
            ("class", windows.label[chosen], data.classes),
            ("subject", np.unique(windows.subject[chosen], return_inverse=True)[1], subjects),
        )
        for axis, (what, number, labels) in zip(axes, groups, strict=True):
            for k, label in enumerate(labels):
                axis.scatter(*plane[number == k].T, s=7, alpha=0.6, label=legend_name(label))
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(f"{name}, by {what}", fontsize=9)
            axis.legend(frameon=False, fontsize=7, markerscale=2)
    figure.suptitle(title, fontsize=10)
    return figure


def tau_rows(done: Mapping[str, Mapping[str, Any]], windows: Windows, fold: Fold) -> dict[float, dict[str, float]]:
    """{tau: alignment and uniformity after pre-training, accuracy of the probe on the validation windows}."""
    rows = {}
    for key, fit in done.items():
        if not key.startswith("probe_tau_"):
            continue
        best = min(fit["curve"], key=lambda point: point["validation_loss"])
        right = fit["log_p"].numpy().argmax(1) == windows.label[fold.validation]
        rows[float(key.removeprefix("probe_tau_"))] = {
            "alignment": best["alignment"],
            "uniformity": best["uniformity"],
            "accuracy": float(right.mean()),
        }
    return rows


def record_comparison(
    run: Run | SilentRun,
    config: EegConfig,
    data: EegData,
    windows: Windows,
    folds: Sequence[Fold],
    *,
    fits: Mapping[float, Fits],
    results: Mapping[str, Result],
    done: Mapping[str, Mapping[str, Any]],
    shown: Mapping[str, nn.Module],
    device: torch.device,
) -> str:
    """Log figures and metrics of the comparison; its text for the summary.

    fits: of each share of the labels. done: all that is finished, with the pre-trainings under "pretrain_<fold>" and
    the probes of the temperatures. shown: networks of the last fold whose embeddings are drawn.
    """
    what = f"{config.dataset}, {config.split}"
    table = results_by_share(fits, results, windows, folds)
    baselines = {name: result for name, result in results.items() if name not in NAMES}
    figure = plot_label_shares(table, baselines, f"Does pre-training help? {what}", len(data.classes))
    run.log_figure(figure, "figures/label_fractions.png")
    starts = {key: fit for key, fit in done.items() if key.startswith("pretrain_")}
    plain = {key.removeprefix("pretrain_"): fit["curve"] for key, fit in starts.items() if "_tau_" not in key}
    run.log_figure(plot_pretraining(plain, f"pre-training: {what}"), "figures/pretraining.png")
    taus = tau_rows(done, windows, folds[0])
    if taus:
        x = sorted(taus)
        panels = {
            name: ("tau", x, {name: [taus[tau][name] for tau in x]}) for name in ("alignment", "uniformity", "accuracy")
        }
        run.log_figure(
            plot_lines(panels, f"Temperature of NT-Xent, first fold's validation: {what}"), "figures/tau_sweep.png"
        )
    fold = folds[-1]
    figure = plot_embeddings(
        shown, data, windows, fold, device=device, seed=config.seed, title=f"Test windows of the last fold: {what}"
    )
    run.log_figure(figure, "figures/embeddings.png")
    metrics: dict[str, float] = {}
    for share in (share for share in table if share < 1):
        for name, result in table[share].items():
            of = f"{name}_{percent(share)}_percent"
            found = result.metrics(of)
            metrics |= {key: value for key, value in found.items() if key.startswith(f"{of}_subject")}
    metrics |= {f"tau_{tau:g}_{key}": value for tau, row in taus.items() for key, value in row.items()}
    run.log_metrics(metrics, step=config.epochs)
    run.log_dict(
        {percent(share): {name: result.by_subject for name, result in row.items()} for share, row in table.items()},
        "label_fractions.json",
    )
    return comparison_text(table, taus)

"""The figures of the theory entry point."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation import distances
from trainers.theory.correction import Correction
from trainers.theory.networks import penalised_slope
from trainers.theory.segments import DistanceRow
from trainers.theory.toys import ToyResult


def plot_distances(rows: Sequence[DistanceRow], sigmas: Sequence[float], gp_scale: float) -> Figure:
    """KL, JS and Wasserstein against theta - theta_star, a panel each: formulas as lines, computed values as marks."""
    offsets = [row.offset for row in rows]
    span = max(max(map(abs, offsets)), 1e-3)
    fine = np.linspace(-1.1 * span, 1.1 * span, 441)
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    kl, js, wasserstein = figure.subplots(1, 3)
    _plot_smoothed(kl, "KL", rows=rows, offsets=fine, sigmas=sigmas)
    _plot_smoothed(js, "JS", rows=rows, offsets=fine, sigmas=sigmas)
    _plot_computed(js, rows, "trained discriminator", marker="^")
    _plot_computed(wasserstein, rows, "transport of samples", marker="s")
    _plot_computed(wasserstein, rows, "trained critic", marker="x")

    kl.set_yscale("symlog", linthresh=0.1)
    kl.set_title("KL: infinite, 0 at theta_star")
    js.plot(fine, [math.log(2)] * len(fine), "--", color="tab:red", label="exact: log 2, 0 at theta_star")
    js.plot([0], [0], "o", color="tab:red", fillstyle="none", markersize=10)
    js.set_title("Jensen-Shannon")
    penalised = [abs(d) * penalised_slope(d, gp_scale) for d in fine]
    wasserstein.plot(fine, np.abs(fine), "--", color="tab:red", label="exact: |theta - theta_star|")
    wasserstein.plot(fine, penalised, ":", color="black", label="penalised critic")
    wasserstein.set_title("Wasserstein")
    for axis in (kl, js, wasserstein):
        axis.set_xlabel("theta - theta_star")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, framealpha=0.9, edgecolor="none")
    figure.suptitle("Distances of two parallel segments: formulas (lines) and computed values (marks)")
    return figure


def _plot_smoothed(
    axis: Axes, distance: Literal["KL", "JS"], rows: Sequence[DistanceRow], offsets: np.ndarray, sigmas: Sequence[float]
) -> None:
    """The smoothed distance for every sigma: its formula over `offsets`, and the values computed on a grid."""
    formula = {"KL": distances.smoothed_kl, "JS": distances.smoothed_js}[distance]
    for sigma, colour in zip(sigmas, _colours(len(sigmas)), strict=True):
        way = f"smoothed, sigma {sigma:g}"
        computed = [row for row in rows if (row.distance, row.way) == (distance, way)]
        axis.plot(offsets, [formula(d, sigma) for d in offsets], color=colour, label=way)
        axis.plot([r.offset for r in computed], [r.computed for r in computed], "o", color=colour, markersize=4)


def _plot_computed(axis: Axes, rows: Sequence[DistanceRow], way: str, marker: str) -> None:
    computed = [row for row in rows if row.way == way]
    x, y = [row.offset for row in computed], [row.computed for row in computed]
    axis.plot(x, y, marker, color="black", markersize=7, fillstyle="none", label=way)


def plot_gradients(gradients: Mapping[float, Mapping[str, float]]) -> Figure:
    """What each generator loss gives theta, against theta - theta_star; signed logarithmic scale."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    names = {
        "saturating": "log(1 - D), saturating",
        "non_saturating": "-log D, non-saturating",
        "critic": "WGAN-GP's critic",
    }
    for (name, label), marker in zip(names.items(), "^vo", strict=True):
        axis.plot(
            list(gradients), [slopes[name] for slopes in gradients.values()], marker=marker, label=label, linewidth=1
        )
    axis.set_yscale("symlog", linthresh=1e-8)
    axis.set_yticks([-1e2, -1, -1e-4, -1e-8, 0, 1e-8, 1e-4, 1, 1e2])
    axis.set_xlabel("theta - theta_star")
    axis.set_ylabel("derivative with respect to theta")
    axis.set_title("Gradient through the trained network", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    return figure


def plot_descents(paths: Mapping[str, Sequence[float]], start: float) -> Figure:
    """Gradient descent on theta under every distance, a panel each for KL, JS and Wasserstein."""
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axis, distance in zip(panels, ("KL", "JS", "Wasserstein"), strict=True):
        for name, path in reversed(list(paths.items())):  # the widest smoothing on top
            if name.startswith(distance):
                axis.plot(
                    path,
                    label=name.removeprefix(f"{distance}, "),
                    linewidth=0.7 if max(map(abs, path)) > 1.6 * abs(start) else 1.4,
                )
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xlabel("step")
        axis.set_title(distance)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, framealpha=0.9, edgecolor="none")
    low, high = sorted((1.6 * start, -1.6 * start))
    panels[0].set_ylim(low, high)
    panels[0].set_ylabel("theta - theta_star")
    figure.suptitle("Gradient descent on theta, the same step size everywhere")
    return figure


def plot_corrections(corrected: Sequence[Correction], start: float, noise: float) -> Figure:
    """Histograms of y after I-SIR with the density that theory gives, beside generated and real."""
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    span = abs(start) + 3.5 * noise
    y = np.linspace(-span, span, 400)

    def density(mean: float, variance: float) -> np.ndarray:
        return np.exp(-((y - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    for axis, c in zip(axes.flat, corrected, strict=True):
        mean, variance = c.theory
        axis.hist(c.y, bins=70, range=(-span, span), density=True, alpha=0.35, color="tab:blue", label="after I-SIR")
        axis.plot(y, density(mean, variance), color="tab:blue", label=f"theory: N({mean:.3g}, {variance:.3g})")
        axis.plot(y, density(start, noise**2), ":", color="grey", label="generated")
        axis.plot(y, density(0, noise**2), "--", color="tab:red", label="real")
        axis.set_title(f"{c.network}, {c.weights}", fontsize=10)
        axis.legend(frameon=False, fontsize=8)
    for axis in axes[1]:
        axis.set_xlabel("y - theta_star")
    figure.suptitle("The latent distribution corrected by a discriminator's logit and by a critic, with either weight")
    return figure


def plot_toys(toys: Sequence[ToyResult]) -> Figure:
    """The points of each sampler, a row for each toy; what was not sampled stays empty."""
    samplers = list(dict.fromkeys(name for found in toys for name in found.points))
    figure = Figure(figsize=(2.4 * len(samplers), 2.7 * len(toys)), layout="constrained")
    for row, found in zip(figure.subplots(len(toys), len(samplers), squeeze=False), toys, strict=True):
        low, high = found.toy.anchors.min(0).values - 0.5, found.toy.anchors.max(0).values + 0.5
        for axis, name in zip(row, samplers, strict=True):
            if name not in found.points:
                axis.set_axis_off()
                continue
            axis.plot(*found.points[name].T.numpy(), ",", color="black", alpha=0.6)
            axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[], aspect="equal")
            quality = found.qualities[name]
            axis.set_title(f"{name}\n{100 * quality.near:.0f} % near, W1 {quality.wasserstein:.3f}", fontsize=8)
        row[0].set_ylabel(found.toy.name)
    figure.suptitle("I-SIR by the critic, by the critic with a fitted scale, by a density ratio", fontsize=10)
    return figure


def _colours(n: int) -> list[tuple[float, ...]]:
    return [tuple(colormaps["viridis"](0.1 + 0.75 * i / max(n - 1, 1))) for i in range(n)]

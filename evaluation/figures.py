"""Figures that several trainers plot: curves against the step and grids of images."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure  # without pyplot: it needs no display, and leaves a notebook's backend alone


def plot_step_curves(
    steps: Sequence[int], curves: Mapping[str, Mapping[str, Sequence[float]]], title: str, unit: str = "step"
) -> Figure:
    """One panel for each entry of `curves`: {panel title: {curve name: values, one per step}}; one step is a dot."""
    marker = "o" if len(steps) == 1 else None
    figure = Figure(figsize=(5.5 * len(curves), 3.8), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for axis, (panel, lines) in zip(axes, curves.items(), strict=True):
        for name, values in lines.items():
            axis.plot(steps, values, label=name, linewidth=1.2, marker=marker)
        axis.set_title(panel)
        axis.set_xlabel(unit)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(frameon=False)
    figure.suptitle(title)
    return figure


def plot_lines(
    panels: Mapping[str, tuple[str, Sequence[float], Mapping[str, Sequence[float]]]], title: str, columns: int = 3
) -> Figure:
    """A panel of marked lines for each entry of `panels`: {panel title: (x label, x values, {line name: y values})}."""
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows), layout="constrained")
    for axis, (panel, (x_label, x, ys)) in zip(
        figure.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=False
    ):
        for name, y in ys.items():
            axis.plot(x, y, marker="o", label=name, linewidth=1.2)
        axis.set_title(panel, fontsize=10)
        axis.set_xlabel(x_label)
        axis.grid(alpha=0.3)
        if len(ys) > 1:
            axis.legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def image_grid(images: np.ndarray, columns: int | None = None, padding: int = 2) -> np.ndarray:
    """Tile uint8 images [n, 3, h, w] into one uint8 picture [H, W, 3] on a white ground.

    `columns` defaults to the smallest square that holds n.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"image_grid takes uint8 [n, 3, h, w], got {images.dtype} {list(images.shape)}")
    n, _, h, w = images.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    grid = np.full((rows * (h + padding) + padding, columns * (w + padding) + padding, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top = padding + (i // columns) * (h + padding)
        left = padding + (i % columns) * (w + padding)
        grid[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    return grid


def plot_image(image: np.ndarray, title: str) -> Figure:
    """An image [H, W, 3] uint8 under a title, pixel edges kept sharp."""
    height, width = image.shape[:2]
    figure = Figure(figsize=(6, 6 * height / width + 0.4), layout="constrained")
    axis = figure.subplots()
    axis.imshow(image, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title, fontsize=8)
    return figure

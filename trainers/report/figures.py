"""Pictures of the report: charts drawn from metric histories, and the runs' own pictures made small enough for one
file.
"""

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from common.figures import legend_name, show_as_written

POINTS = 400
"""Points of a line at most: more than a chart of this size shows."""

INFINITE = 1e308
"""MLflow stores infinity as 1.8e308."""

PICTURE_PIXELS = 20_000_000
"""Pixels of a picture that is shown, at most: it needs 16 bytes for each while it is made smaller."""

Points = Sequence[tuple[int, float]]


def thinned(points: Points, most: int = POINTS) -> list[tuple[int, float]]:
    """At most about `most` of the points: the lowest and the highest of each stretch, so that no spike and no gap is
    lost.
    """
    if len(points) <= most:
        return list(points)
    kept: set[int] = {0, len(points) - 1}
    values = np.array([value for _, value in points])
    for part in np.array_split(np.arange(len(points)), most // 2):
        finite = part[np.isfinite(values[part])]
        if len(finite):
            kept |= {int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])}
        if len(finite) < len(part):
            kept.add(int(part[~np.isfinite(values[part])][0]))
    return [points[i] for i in sorted(kept)]


def plot_lines(title: str, x_label: str, lines: Mapping[str, Points], logarithmic: bool = False) -> Figure:
    """Lines over steps. NaN and infinity are gaps; of a logarithmic chart, what is not above zero too."""
    figure = Figure(figsize=(5.2, 3.5), layout="constrained")
    axis = figure.subplots()
    many = len(lines) > 6
    for name, points in lines.items():
        shown = thinned(points)
        x = [step for step, _ in shown]
        y = [v if abs(v) < INFINITE and (v > 0 or not logarithmic) else math.nan for _, v in shown]
        axis.plot(x, y, label=_as_label(name), linewidth=1.2, marker="." if len(shown) <= 20 else None)
    if logarithmic:
        axis.set_xscale("log")
        axis.set_yscale("log")
    else:
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x_label)
    axis.grid(alpha=0.3)
    if len(lines) > 1:
        axis.legend(frameon=False, fontsize=6.5 if many else 8, ncols=2 if many else 1)
    show_as_written(figure)
    return figure


def _as_label(name: str) -> str:
    """A name for the legend, not too long."""
    return legend_name(name if len(name) <= 40 else f"{name[:28]}...{name[-9:]}")


def as_svg(figure: Figure) -> bytes:
    """The figure as SVG, text as text, equal bytes for equal figures."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def as_png(figure: Figure) -> bytes:
    """The figure as PNG of at most 256 colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _palette_png(Image.open(buffer))


def small_picture(data: bytes, widest: int = 900) -> bytes | None:
    """A picture of any format as a PNG of at most 256 colours and `widest` pixels, or None if it is none or too large.

    It is decoded and encoded anew: nothing of the original file but its pixels gets into the report.
    """
    try:
        opened = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
        if opened.width * opened.height > PICTURE_PIXELS:
            return None
        opened.load()
    except Exception:  # Pillow's readers raise a dozen kinds for damaged data
        return None
    image = opened.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.width > widest:
        image = image.resize((widest, max(1, round(image.height * widest / image.width))), Image.Resampling.LANCZOS)
    return _palette_png(image)


def _palette_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()

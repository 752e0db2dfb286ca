"""Names with dollars or a leading underscore stand in a figure as they were written."""

import io
import re

import matplotlib
from matplotlib.figure import Figure

from common.figures import legend_name, show_as_written


def drawn(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg")
    return buffer.getvalue()


def test_names_are_no_formulas() -> None:
    figure = Figure()
    axis = figure.subplots()
    axis.plot([1, 2], [1, 2], label="$5$ of legend")
    axis.plot([1, 2], [1, 2], label=legend_name("_rest"))
    axis.set_xticks([1, 2], ["$5$ of tick", r"$\frac{$ of tick"])
    axis.set_title(r"$\frac{$ of title")
    axis.set_ylabel("$a_b$ of axis")
    axis.annotate("$5$ of note", (1, 1))
    figure.suptitle("$5$ of figure")
    axis.legend()
    show_as_written(figure)
    text = drawn(figure)
    for name in ("legend", "tick", "figure", "note"):
        assert f">$5$ of {name}<" in text
    assert r"$\frac{$ of title" in text
    assert "$a_b$ of axis" in text
    assert r"$\frac{$ of tick" in text
    assert ">_rest<" in text or "> _rest<" in text


def test_numbers_of_logarithmic_axes_stay() -> None:
    figure = Figure()
    axis = figure.subplots()
    axis.loglog([1, 1e6], [1, 1e6])
    show_as_written(figure)
    assert not re.search(r">\$", drawn(figure))

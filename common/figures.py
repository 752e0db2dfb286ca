"""Names in figures, as their owners wrote them."""

from typing import Any


def show_as_written(figure: Any) -> None:
    """Show every text of a matplotlib figure as it stands: names of classes, people, folders or runs may hold dollars,
    between which matplotlib reads a formula, or fails. The numbers of logarithmic axes are formulas, and stay.
    """
    from matplotlib.text import Text  # takes a second that training need not wait for
    from matplotlib.ticker import LogFormatter, LogitFormatter, ScalarFormatter

    numbers: set[Text] = set()
    for each in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(each.get_major_formatter(), LogFormatter | LogitFormatter | ScalarFormatter):
            numbers.update(each.get_majorticklabels())
        numbers.update(each.get_minorticklabels())
    for text in figure.findobj(Text):
        if text not in numbers:
            text.set_parse_math(False)


def legend_name(name: str) -> str:
    """A name that a legend shows: matplotlib leaves out those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name

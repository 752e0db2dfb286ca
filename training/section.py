"""What the report shows of a trainer's runs. The trainer's folder exports it as `SECTION` in its `section.py`.

Metrics and artifacts are named there by regular expressions for whole names, so that what a trainer records and what is
shown of it stand side by side.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """A chart over the steps of a run.

    metrics: a regular expression; its group `line`, if it has one, is what a line is called.
    """

    title: str
    metrics: str
    x: str = "step"
    logarithmic: bool = False


@dataclass(frozen=True)
class Scores:
    """A table of the metrics `<row>_<column>`: what the rows are, and regular expressions for both, in the order of
    showing.
    """

    what: str
    columns: tuple[str, ...]
    rows: tuple[str, ...] = (r".+",)


@dataclass(frozen=True)
class Pictures:
    """Image artifacts under one heading: `paths` is a regular expression.

    captions: pairs of a file's name without its suffix and its caption, in the order of showing; others follow under
    their own names.
    """

    title: str
    paths: str
    captions: tuple[tuple[str, str], ...] = ()


FIGURES = Pictures("Figures", r"figures/.*")
CONFUSION_MATRICES = Pictures("Confusion matrices", r"figures/.*confusion_[^/]*")


@dataclass(frozen=True, kw_only=True)
class Section:
    """One entry point's part of the report.

    place: sections are shown in the order of this number. params: always in the table of runs, beside those that differ
    between its runs. metrics: regular expressions, in the order of columns. steps: regular expression of the
    time-stepped images. texts: the run's summary, and other texts that it wrote about itself. sweeps: the JSON artifact
    whose key `sweeps` has tables. tables: CSV artifacts and their titles. settings: the JSON artifact with the best
    configuration, {"params": {name: value}, "seed": ...}. drawn_anew: figures of the run that the report draws from the
    metrics instead.
    """

    title: str
    place: int
    params: tuple[str, ...] = ()
    metrics: tuple[str, ...] = (r".*",)
    scores: Scores | None = None
    panels: tuple[Panel, ...] = ()
    pictures: tuple[Pictures, ...] = (FIGURES,)
    steps: str = r".*"
    texts: tuple[str, ...] = (r"[^/]*\.md",)
    sweeps: str | None = None
    tables: tuple[tuple[str, str], ...] = ()
    settings: str | None = None
    drawn_anew: tuple[str, ...] = ()

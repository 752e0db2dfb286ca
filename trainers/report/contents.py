"""What the report holds: gathered from the store into plain data, which trainers/report/page.py makes pages of."""

import importlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from tracking.reading import Reader, RecordedRun, resolved_params
from trainers.report.figures import PICTURE_PIXELS, Points, plot_lines, small_picture
from trainers.report.tables import Table, benchmark_tables, csv_table, number, settings_table, sweep_tables
from training.section import CONFUSION_MATRICES, FIGURES, Panel, Scores, Section

OVERLAID = 4
"""Runs whose lines share a chart."""

STEPS_SHOWN = 4
"""Time-stepped images shown of a run."""

MOST_COLUMNS = 14
"""Metrics in the table of runs at most; all of them are on the run's page."""

GENERAL = Section(title="", place=0, pictures=(CONFUSION_MATRICES, FIGURES))
"""Runs of entry points without a section: all that they recorded, in the order of names."""


def load_sections() -> dict[str, Section]:
    """{entry point: what its folder exports for the report}, in the order of showing."""
    names = sorted(path.parent.name for path in Path(__file__).parents[1].glob("*/section.py"))
    found = {name: importlib.import_module(f"trainers.{name}.section").SECTION for name in names}
    return dict(sorted(found.items(), key=lambda item: item[1].place))


@dataclass(frozen=True)
class Picture:
    """A PNG of the run `run`."""

    name: str
    caption: str
    data: bytes
    run: RecordedRun


@dataclass(frozen=True)
class Chart:
    """A figure drawn from the histories of `runs`."""

    name: str
    title: str
    figure: Figure
    runs: Sequence[RecordedRun]


@dataclass
class Detail:
    """One run in full: its parameters, what it wrote about itself (Markdown), score tables, charts and pictures."""

    run: RecordedRun
    params: dict[str, str]
    texts: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    pictures: list[tuple[str, list[Picture]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Chapter:
    """One entry point: the table of its runs, charts that lay several runs over each other, and some runs in full."""

    entry_point: str
    title: str
    table: Table
    left_out: int
    charts: list[Chart] = field(default_factory=list)
    details: list[Detail] = field(default_factory=list)


@dataclass
class Contents:
    """The whole report. missing: entry points without a finished run."""

    title: str
    store: str
    made: str
    n_runs: int
    chapters: list[Chapter]
    missing: list[str]
    benchmarks: list[Table]
    addresses: Mapping[str, str]


# ---------------------------------------------------------------------------------------------------------------------
# words


def duration(seconds: float | None) -> str:
    """`12 s`, `3 min 05 s`, `2 h 07 min`; empty while the run is not over."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def when(seconds: float) -> str:
    """A time in UTC."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def code_of(run: RecordedRun) -> str:
    """The commit that the run's code was at."""
    commit = run.tags.get("git.commit", "")[:9]
    return f"{commit} with changes" if commit and run.tags.get("git.dirty") == "true" else commit


# ------------------------------------------------------------------------------------------------------------------
# gathering


def table_of_runs(section: Section, runs: Sequence[RecordedRun]) -> Table:
    """A row for each run: figures, parameters (the section's, and those that differ), when, how long, code."""
    resolved = [resolved_params(run) for run in runs]
    names = {name for params in resolved for name in params}
    differing = {
        name
        for name in names
        if len({params.get(name) for params in resolved}) > 1 and name not in ("run_name", "resume")
    }
    params = [name for name in section.params if name in names]
    params += sorted(name for name in differing if name not in params and _short(name, resolved))
    recorded = sorted({name for run in runs for name in run.metrics})
    metrics = list(dict.fromkeys(n for pattern in section.metrics for n in recorded if re.fullmatch(pattern, n)))
    metrics = metrics[:MOST_COLUMNS]
    rows = [
        [
            run.name,
            run.status.lower(),
            *(number(run.metrics[name]) if name in run.metrics else "" for name in metrics),
            *(p.get(name, "") for name in params),
            when(run.started),
            duration(run.seconds),
            code_of(run),
        ]
        for run, p in zip(runs, resolved, strict=True)
    ]
    return Table(["run", "status", *metrics, *params, "started (UTC)", "took", "code"], rows, runs)


def _short(name: str, resolved: Iterable[Mapping[str, str]]) -> bool:
    return all(len(params.get(name, "")) <= 60 for params in resolved)


def score_table(scores: Scores, run: RecordedRun) -> Table | None:
    """The run's metrics that `scores` names, a row for each of what is compared."""
    pattern = f"(?P<row>{'|'.join(scores.rows)})_(?P<column>{'|'.join(scores.columns)})"
    found: dict[str, dict[str, float]] = {}
    for name, value in run.metrics.items():
        if match := re.fullmatch(pattern, name):
            found.setdefault(match["row"], {})[match["column"]] = value
    if not found:
        return None
    columns = sorted({c for row in found.values() for c in row}, key=lambda c: (_place(scores.columns, c), c))
    rows = [
        [name, *(number(found[name][c]) if c in found[name] else "" for c in columns)]
        for name in sorted(found, key=lambda n: (_place(scores.rows, n), n))
    ]
    return Table([scores.what, *(c.replace("_", " ") for c in columns)], rows)


def _place(patterns: Sequence[str], name: str) -> int:
    return next((i for i, pattern in enumerate(patterns) if re.fullmatch(pattern, name)), len(patterns))


def lines_of(reader: Reader, run: RecordedRun, panel: Panel) -> dict[str, Points]:
    """{line: its points} of the run's metrics in the panel that have more than one point."""
    lines: dict[str, Points] = {}
    for name in sorted(run.metrics):
        match = re.fullmatch(panel.metrics, name)
        if match and run.last_steps.get(name, 0) > 0:
            points = reader.history(run.run_id, name)
            if len(points) > 1:
                lines[(match.groupdict().get("line") or name).replace("_", " ")] = points
    return lines


def general_panels(run: RecordedRun) -> list[Panel]:
    """A chart for each of the first metrics with steps, for runs whose entry point has no section."""
    names = [name for name in sorted(run.metrics) if run.last_steps.get(name, 0) > 0]
    return [Panel(name, re.escape(name)) for name in names[:12]]


def plot_panels(
    reader: Reader, entry_point: str, panels: Sequence[Panel], runs: Sequence[RecordedRun]
) -> tuple[list[Chart], list[Chart]]:
    """(charts of the first run alone, charts that lay the runs over each other: those of panels with one line a
    run).
    """
    own, shared = [], []
    for i, panel in enumerate(panels):
        name = f"{entry_point}_curve{i + 1}"
        lines = lines_of(reader, runs[0], panel)
        if not lines:
            continue
        if len(lines) == 1 and len(runs) > 1:
            drawn = [(run, found) for run in runs if (found := lines_of(reader, run, panel))]
            labels = {f"{run.name} ({run.run_id[:6]})": next(iter(found.values())) for run, found in drawn}
            figure = plot_lines(panel.title, panel.x, labels, panel.logarithmic)
            shared.append(Chart(name, panel.title, figure, [run for run, _ in drawn]))
        else:
            own.append(Chart(name, panel.title, plot_lines(panel.title, panel.x, lines, panel.logarithmic), runs[:1]))
    return own, shared


def pictures_of(
    reader: Reader, section: Section, entry_point: str, run: RecordedRun, *, paths: Sequence[str]
) -> tuple[list[tuple[str, list[Picture]]], list[str]]:
    """(the run's pictures by heading, notes on what cannot be shown); each file is shown once."""
    shown: list[tuple[str, list[Picture]]] = []
    notes: list[str] = []
    for heading, entries in picture_groups(section, paths):
        found = [
            load_picture(reader, run, path, name=f"{entry_point}_{name}", caption=caption)
            for path, name, caption in entries
        ]
        notes += [note for note in found if isinstance(note, str)]
        if pictures := [picture for picture in found if isinstance(picture, Picture)]:
            shown.append((heading, pictures))
    return shown, notes


def picture_groups(section: Section, paths: Sequence[str]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """[(heading, [(path, name, caption)])] of the image files among `paths`: the section's groups, then what was logged
    against steps.
    """
    left = [p for p in paths if p.endswith((".png", ".jpg", ".jpeg", ".webp")) and p not in section.drawn_anew]
    groups = []
    for group in section.pictures:
        chosen = [path for path in left if re.fullmatch(group.paths, path) and not path.startswith("images/")]
        left = [path for path in left if path not in chosen]
        captions = dict(group.captions)
        order = {name: i for i, name in enumerate(captions)}
        chosen = sorted(chosen, key=lambda path: (order.get(Path(path).stem, len(order)), path))
        named = [(path, Path(path).stem) for path in chosen]
        groups.append((group.title, [(p, name, captions.get(name, name.replace("_", " "))) for p, name in named]))
    for name, by_step in _stepped_images(section, left).items():
        steps = _spread(sorted(by_step), STEPS_SHOWN)
        heading = f"{name.replace('_', ' ').capitalize()} against step"
        groups.append((heading, [(by_step[step], f"{name}_{step}", f"step {step}") for step in steps]))
    return groups


def _spread(values: Sequence[int], most: int) -> list[int]:
    """At most `most` of the values, evenly spread, with the first and the last."""
    n = min(most, len(values))
    return [values[round(i * (len(values) - 1) / max(1, n - 1))] for i in range(n)]


def _stepped_images(section: Section, paths: Iterable[str]) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for path in paths:
        match = re.fullmatch(r"images/(.+)\+step\+(\d+)\+timestamp\+.*\.png", path)
        if match and re.fullmatch(section.steps, match[1]):
            found.setdefault(match[1].replace("~", "/"), {})[int(match[2])] = path
    return found


def load_picture(reader: Reader, run: RecordedRun, path: str, *, name: str, caption: str) -> Picture | str:
    """The picture at `path` of the run's artifacts, or a note on why it cannot be shown."""
    data = reader.read(run.run_id, path)
    if data is None:
        return f"{path} can't be shown: it is too large, or not in the artifact store any more"
    picture = small_picture(data)
    if picture is None:
        return f"{path} can't be shown: it is no picture, or one of more than {PICTURE_PIXELS / 1e6:.0f} million pixels"
    return Picture(re.sub(r"[^A-Za-z0-9_]", "_", name), caption, picture, run)


def detail_of(reader: Reader, section: Section, entry_point: str, run: RecordedRun) -> Detail:
    """One run in full, without its charts."""
    detail = Detail(run, dict(sorted(resolved_params(run).items())))
    paths = reader.artifacts(run.run_id)
    if not paths:
        detail.notes.append("Its artifacts can't be reached, or it has none: no pictures, no texts.")
    if run.status != "FINISHED":
        why = run.tags.get("error")
        detail.notes.append(f"This run is not finished ({run.status.lower()})" + (f": {why}" if why else "."))
    if warning := run.tags.get("warning"):
        detail.notes.append(f"Warning: {warning}.")
    for path in paths:
        if any(re.fullmatch(pattern, path) for pattern in section.texts) and (text := reader.text(run.run_id, path)):
            detail.texts.append((path, text))
    if section.scores and (table := score_table(section.scores, run)):
        detail.tables.append(table)
    if section.sweeps in paths:
        detail.tables += sweep_tables(reader.text(run.run_id, str(section.sweeps)))
    if section.settings in paths:
        best = settings_table(reader.text(run.run_id, str(section.settings)), "Best configuration")
        detail.tables += [best] if best else []
    for path, title in section.tables:
        if path in paths and (table := csv_table(reader.text(run.run_id, path), title, ("run_id",))):
            detail.tables.append(table)
    if run.children:
        detail.notes.append(f"{run.children} runs belong to this one; the tracking UI shows them under it.")
    detail.pictures, notes = pictures_of(reader, section, entry_point, run, paths=paths)
    detail.notes += notes
    return detail


def chapter_of(
    reader: Reader,
    section: Section,
    entry_point: str,
    runs: Sequence[RecordedRun],
    *,
    most: int,
    n_details: int,
) -> Chapter:
    """One entry point's runs, newest first: a table of `most` of them, the newest finished in full."""
    finished = [run for run in runs if run.status == "FINISHED"] or list(runs)
    title = section.title or (entry_point if entry_point else "Runs without an entry point")
    chapter = Chapter(entry_point, title, table_of_runs(section, runs[:most]), max(0, len(runs) - most))
    panels = section.panels or general_panels(finished[0])
    own, chapter.charts = plot_panels(reader, entry_point or "other", panels, finished[:OVERLAID])
    for i, run in enumerate(finished[:n_details]):
        detail = detail_of(reader, section, f"{entry_point or 'other'}{i + 1 if i else ''}", run)
        detail.charts = own if i == 0 else plot_panels(reader, f"{entry_point or 'other'}{i + 1}", panels, [run])[0]
        chapter.details.append(detail)
    return chapter


# -----------------------------------------------------------------------------------------------------------------
# everything


def gather(
    reader: Reader,
    runs: Sequence[RecordedRun],
    title: str,
    *,
    most: int,
    n_details: int,
    named: bool,
    benchmarks: Path | None,
    local_address: str,
    advance: Callable[[str], None],
) -> Contents:
    """Everything the report says about `runs` (newest first). named: the user chose them, so all of them are shown in
    full.

    local_address: where `mlflow ui` serves a store that has no server of its own.
    """
    ours = [run for run in runs if run.entry_point != "report" and run.parent is None] if not named else list(runs)
    by_entry_point: dict[str, list[RecordedRun]] = {}
    for run in ours:
        by_entry_point.setdefault(run.entry_point, []).append(run)
    sections = load_sections()
    order = [*sections, *sorted(name for name in by_entry_point if name not in sections)]
    chapters = []
    for name in order:
        if name in by_entry_point:
            chosen = by_entry_point[name]
            shown = len(chosen) if named else n_details
            section = sections.get(name, GENERAL)
            chapters.append(chapter_of(reader, section, name, chosen, most=most, n_details=shown))
            advance(name or "other")
    finished = {run.entry_point for run in ours if run.status == "FINISHED"}
    base = reader.uri if reader.uri.startswith("http") else local_address
    return Contents(
        title=title,
        store=_shown_store(reader.uri),
        made=when(time.time()),
        n_runs=len(ours),
        chapters=chapters,
        missing=[] if named else [name for name in sections if name not in finished],
        benchmarks=benchmark_tables(benchmarks) if benchmarks else [],
        addresses={run.run_id: f"{base.rstrip('/')}/{run.page}" for run in ours},
    )


def _shown_store(uri: str) -> str:
    """The store without a password, and without the folders of a file on this machine."""
    uri = re.sub(r"//[^/@]*@", "//", uri)
    return f"sqlite:///{Path(uri).name}" if uri.startswith("sqlite:") else uri

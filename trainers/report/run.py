"""Gather the runs of an experiment into one page: `mlflow run . -e report`, or `python -m trainers.report --help`.

Config -> the runs -> for each entry point its table, curves, pictures, comments -> an HTML page and Markdown ->
artifacts of this run, and files in the current folder. trainers/NAME/section.py says what is shown of an entry point,
contents.py gathers it, page.py writes it; docs/report.md explains.
"""

import sys
import tempfile
from pathlib import Path

from common.errors import InputError
from common.files import atomic_file
from common.progress import Progress
from tracking.environment import usual_experiment
from tracking.reading import Reader, RecordedRun
from tracking.run import start_run
from trainers.report.config import ReportConfig
from trainers.report.contents import gather
from trainers.report.page import html_page, markdown_page
from training.config import as_params, parse_config


def usual() -> tuple[str, ...]:
    """Where runs are if nobody says: `make` and `python -m` record into the first, a bare `mlflow run` into the
    second.
    """
    return tuple(dict.fromkeys((usual_experiment(), "Default")))


def chosen_runs(reader: Reader, config: ReportConfig) -> tuple[list[RecordedRun], str]:
    """(the runs to report on, newest first, what they are called)."""
    if config.runs:
        ids = dict.fromkeys(part.strip() for part in config.runs.split(",") if part.strip())
        runs = [reader.run(run_id) for run_id in ids]
        return sorted(runs, key=lambda run: -run.started), f"{len(runs)} chosen run{'s' if len(runs) > 1 else ''}"
    if config.experiment is not None:
        return reader.runs(config.experiment), f"Experiment {config.experiment}"
    own = reader.surrounding_experiment()
    there = [name for name in (usual() if own in (None, *usual()) else (own,)) if name in reader.experiments()]
    runs = sorted((run for name in there for run in reader.runs(name)), key=lambda run: -run.started)
    used = [name for name in there if any(r.experiment == name and r.entry_point != "report" for r in runs)]
    return runs, f"Experiment {' and '.join(used or usual()[:1])}"


def write_pages(config: ReportConfig, page: str, text: str, figures: dict[str, bytes]) -> None:
    """The page, the Markdown and its figures, each whole or not there."""
    folder = config.markdown.with_name(f"{config.markdown.stem}_figures")
    for path, data in {
        config.html: page.encode(),
        config.markdown: text.encode(),
        **{folder / name: data for name, data in figures.items()},
    }.items():
        try:
            with atomic_file(path) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            raise InputError(f"{path} can't be written: {error.strerror}; give another html and markdown") from None


def run_report(config: ReportConfig) -> int:
    """Gather, write, record, print; the exit status."""
    reader = Reader()
    runs, title = chosen_runs(reader, config)
    progress = Progress(len({run.entry_point for run in runs}), unit="entry point")
    contents = gather(
        reader,
        runs,
        title,
        most=config.n_rows,
        n_details=config.n_details,
        named=bool(config.runs),
        benchmarks=config.benchmarks,
        local_address=config.ui,
        advance=lambda note: progress.advance(note=note),
    )
    progress.close()
    page = html_page(contents)
    text, figures = markdown_page(contents, f"{config.markdown.stem}_figures")
    write_pages(config, page, text, figures)

    run = start_run(
        "report",
        as_params(config),
        tags={"reported_runs": contents.n_runs},
        output_dir=config.output_dir,
        experiment=config.experiment,
        run_name=config.run_name,
    )
    with run, tempfile.TemporaryDirectory() as folder:
        run.log_text(page, "report.html")
        run.log_text(markdown_page(contents, "report_figures")[0], "report.md")
        for name, data in figures.items():
            (Path(folder) / name).write_bytes(data)
            run.log_artifact(Path(folder) / name, "report_figures")
        run.log_metrics({"runs": contents.n_runs, "entry_points": len(contents.chapters), "bytes": len(page)}, step=0)
        run.finish()
    shown = ", ".join(
        f"{len(chapter.table.rows) + chapter.left_out} {chapter.entry_point or 'other'}"
        for chapter in contents.chapters
    )
    print(f"\n{title}: {shown or f'no runs yet in {reader.uri}; the page lists the commands that make some'}")
    if contents.missing and contents.chapters:
        print(f"  without a finished run: {', '.join(contents.missing)}")
    print(
        f"  page {config.html.absolute()} ({len(page) / 1e6:.1f} MB), Markdown {config.markdown.absolute()}\n"
        f"  run {run.run_id}\n  open it: {run.url()}"
    )
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_report(parse_config(ReportConfig, {}, sys.argv[1:] if argv is None else argv, "report"))

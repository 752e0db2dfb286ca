"""The parameters of `report`."""

from pathlib import Path

from pydantic.dataclasses import dataclass

from training.config import CONFIG, OptionalPath, OptionalStr, RecordConfig, option


@dataclass(frozen=True, config=CONFIG)
class ReportConfig(RecordConfig):
    """Gather the runs of an experiment into one self-contained HTML page and a Markdown file."""

    experiment: OptionalStr = option(
        None,
        "the experiment to report on; not given: that of `mlflow run`, else MLFLOW_EXPERIMENT_NAME (without one "
        "wgan-eeg) and Default",
    )
    runs: OptionalStr = option(None, "run ids, separated by commas: these runs alone, all in full")
    n_details: int = option(1, "runs of each entry point shown in full, the newest finished ones", ge=1, le=20)
    n_rows: int = option(30, "runs in the table of each entry point at most, the newest ones", ge=1)
    benchmarks: OptionalPath = option(None, "folder with the output of `python -m benchmarks.NAME`, a file each")
    ui: str = option("http://127.0.0.1:5000", "address that links to runs begin with, for a store without a server")
    html: Path = option(Path("report.html"), "where to write the page")
    markdown: Path = option(
        Path("report.md"), "where to write the Markdown; its figures go to report_figures/ beside it"
    )

"""The report: gathered from a real store, shown in a real browser."""

import base64
import html.parser
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from common.errors import InputError
from tests.browser import chromium, open_browser
from tests.conftest import PATIENCE, ROOT
from tests.running import client, environment, runs
from tests.tracking.servers import Server, free_port
from tracking.reading import Reader
from trainers.report.config import ReportConfig
from trainers.report.figures import small_picture
from trainers.report.run import run_report
from trainers.report.tables import benchmark_table, benchmark_tables
from training.config import parse_config

EVIL = """<script>document.title='owned'</script><img src=x onerror="document.title='owned'">"""


def png(width: int = 60, height: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def make_run(
    store: MlflowClient,
    entry_point: str | None,
    name: str,
    *,
    experiment: str = "wgan-eeg",
    status: str = "FINISHED",
    params: dict[str, str] | None = None,
    metrics: dict[str, list[float]] | None = None,
    files: dict[str, bytes] | None = None,
    tags: dict[str, str] | None = None,
) -> str:
    """A run as a trainer leaves it; metrics: {name: value at step 0, 1, ...}."""
    found = store.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else store.create_experiment(experiment)
    run_id: str = store.create_run(
        experiment_id, run_name=name, tags={**({"entry_point": entry_point} if entry_point else {}), **(tags or {})}
    ).info.run_id
    for key, value in (params or {}).items():
        store.log_param(run_id, key, value)
    for key, values in (metrics or {}).items():
        for step, number_ in enumerate(values):
            store.log_metric(run_id, key, number_, step=step)
    for path, data in (files or {}).items():
        folder, _, file = path.rpartition("/")
        local = Path(os.environ["PYTEST_REPORT_FILES"]) / file
        local.write_bytes(data)
        store.log_artifact(run_id, str(local), folder or None)
    if status != "RUNNING":
        store.set_terminated(run_id, status)
    return run_id


@pytest.fixture
def store(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    """A client of an empty store, in whose folder the test works."""
    (tmp_path / "files").mkdir()
    monkeypatch.setenv("PYTEST_REPORT_FILES", str(tmp_path / "files"))
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")  # a process has one at a time
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(folder)
    yield client(folder)
    mlflow.set_tracking_uri(None)


def report(*argv: str) -> tuple[str, str]:
    """(page, Markdown) of `python -m trainers.report argv` in this folder."""
    assert run_report(parse_config(ReportConfig, {}, argv, "report")) == 0
    return Path("report.html").read_text(), Path("report.md").read_text()


class Reading(html.parser.HTMLParser):
    """Text, tags, and the addresses of everything a browser would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster") or (tag == "link" and name == "href"):
                self.fetched.append(value or "")
            if tag == "a" and name == "href":
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.text += data


FULL = {
    "wgan": {
        "critic_loss": [-1.0, -0.5, math.nan, -0.25],
        "generator_loss": [0.0, 1.0, 2.0],
        "wasserstein_estimate": [3.0, 2.0],
    },
    "isir_fid": {
        "plain_fd_digits": [4.5],
        "importance_fd_digits": [4.25],
        "importance_difference": [-0.25],
        "importance_ess": [5.0, 6.0],
        "plain_precision": [0.125],
    },
    "eeg_transformer": {
        "transformer_trial_f1": [0.625],
        "transformer_subject_mean": [0.5625],
        "csp_lda_trial_f1": [0.75],
        "transformer_fold1_train_loss": [0.75, 0.5],
        "transformer_fold1_validation_loss": [0.875, 1.0],
    },
}


@pytest.fixture
def filled(store: MlflowClient) -> dict[str, str]:
    """{entry point: run id} of one whole run of three entry points."""
    sweeps = {"n_iterations": [{"n_iterations": 5.0, "fd_digits": 3.5}, {"n_iterations": 0.0, "fd_digits": 4.5}]}
    files = {
        "wgan": {"figures/samples_ema.png": png(), "figures/loss_curves.png": png()},
        "isir_fid": {
            "figures/samples_plain.png": png(),
            "figures/samples_importance.png": png(),
            "figures/samples_rated_highest.png": png(),
            "comment.md": b"# Gain\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nIt **did not help**.\n",
            "scores.json": json.dumps({"sweeps": sweeps}).encode(),
        },
        "eeg_transformer": {
            "figures/confusion_transformer.png": png(),
            "figures/attention.png": png(),
            "report.md": b"csp_lda won",
        },
    }
    return {
        name: make_run(
            store, name, f"run of {name}", params={"preset": "quick", "seed": "3"}, metrics=metrics, files=files[name]
        )
        for name, metrics in FULL.items()
    }


def test_everything_recorded_stands_in_page_and_markdown(
    store: MlflowClient, filled: dict[str, str], folder: Path
) -> None:
    page, text = report()
    read = Reading(page)
    for run_id in filled.values():
        assert run_id[:8] in read.text
        assert run_id[:8] in text
        assert any(link.endswith(f"/runs/{run_id}") for link in read.links)
    for value in ("-0.25", "4.25", "4.5", "0.125", "0.625", "0.75", "0.5625"):  # figures of the three runs
        assert value in read.text
        assert value in text
    for words in (
        "It did not help.",
        "csp_lda won",
        "Sweep over n_iterations",
        "before: plain samples",
        "after: importance weights",
    ):
        assert words in read.text
    for words in ("It **did not help**.", "csp_lda won", "Sweep over n\\_iterations", "before: plain samples"):
        assert words.replace("\\_", "_") in text
    assert (
        read.text.index("before: plain")
        < read.text.index("after: importance")
        < read.text.index("plain, rated highest")
    )
    # figures: 2 charts and 1 picture of wgan (its own loss curves are drawn anew), 1 and 3 of isir_fid, 1 and 2 of
    # eeg_transformer
    assert len(read.fetched) == 3 + 4 + 3
    linked = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(linked) == len(read.fetched)
    for path in linked:
        assert small_picture((folder / path).read_bytes()) is not None
    # of the eight that are known, these have no run, and the page says how to make one
    for name in ("fid", "efficient_attention"):
        assert f"mlflow run . -e {name}" in read.text
    assert "mlflow run . -e wgan" not in read.text
    # and it is all recorded
    [made] = [run for run in runs(folder) if run.data.tags.get("entry_point") == "report"]
    names = {file.path for file in store.list_artifacts(made.info.run_id)}
    assert {"report.html", "report.md", "report_figures"} <= names
    assert made.data.metrics["runs"] == 3


def test_page_fetches_nothing_and_runs_nothing_of_what_runs_say(store: MlflowClient, folder: Path) -> None:
    """Names, parameters, metrics, texts and pictures of an unfriendly run stay text."""
    make_run(
        store,
        "wgan",
        EVIL,
        params={"dataset": EVIL, "preset": "a|b\n# c"},
        metrics={"critic_loss": [1.0, 2.0]},
        tags={"error": EVIL, "warning": EVIL, "git.commit": EVIL},
        status="FAILED",
        files={
            "notes.md": f"# {EVIL}\n\n{EVIL}\n\n![x](http://evil.invalid/x.png) [y](javascript:alert(1)) <http://evil.invalid>".encode(),
            "figures/a.png": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        },
    )
    make_run(store, EVIL, "run of a foreign entry point", metrics={"some value": [1.0]})
    for entry_point in ("../../outside", "/tmp/outside", "a/b", "a_b", "é" * 300):  # named after it: a chart's file
        make_run(store, entry_point, "[x](javascript:alert(1))", metrics={"some value": [1.0, 2.0]})
    before = {*folder.parent.rglob("*"), *Path("/tmp").glob("outside*")}
    page, text = report()
    written = {*folder.parent.rglob("*"), *Path("/tmp").glob("outside*")} - before
    figures = {path for path in written if path.parent == folder / "report_figures"}
    names = ("report.html", "report.md", "report_figures", "runs", "mlruns", "mlflow.db.lock")  # the last: the store's
    ours = {folder / name for name in names}
    assert all(path in ours | figures or ours & set(path.parents) for path in written), written - ours
    assert len(figures) >= 5  # a/b and a_b have one each
    named = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert {folder / name.replace("\\", "") for name in named} == figures  # Markdown's own escapes, as of _
    assert not re.search(r"(?<!\\)\]\(javascript", text)
    read = Reading(page)
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(read.tags)
    assert not read.handlers
    assert all(source.startswith("data:image/") for source in read.fetched)
    assert all(re.match(r"#|http://127\.0\.0\.1:5000/#", link) for link in read.links), read.links
    assert "owned" in read.text  # it is there to be read
    assert "figures/a.png can't be shown: it is no picture, or one of more than 20 million pixels" in read.text
    assert "url(" not in page
    assert "@import" not in page
    assert "<script" not in text
    assert "<img" not in text
    assert not re.search(r"(?<!\\)!\[[^\]]*\]\(http", text)
    row = next(line for line in text.splitlines() if "a\\|b" in line)
    assert row.startswith("| ")  # a line break in a parameter does not end the row
    assert "# c" in row
    if chromium():
        with open_browser() as tab:
            tab.open(f"file://{folder}/report.html", 1000)
            assert tab.evaluate("document.title") == "Experiment wgan-eeg"
            assert not [address for address in tab.requests if not address.startswith(("file:", "data:"))]


@pytest.fixture(scope="module")
def chromium_only() -> None:
    if not chromium():
        pytest.skip("no Chromium on the path (Debian: make services, or apt-get install chromium)")


@pytest.mark.usefixtures("chromium_only")
def test_a_phone_and_a_desk_show_it_and_a_printer_prints_it(
    store: MlflowClient, filled: dict[str, str], tmp_path: Path
) -> None:
    long = "x" * 300
    make_run(
        store,
        "wgan",
        long,
        params={"dataset": long, **{f"p{i}": "value" for i in range(40)}},
        metrics={"critic_loss": [1, 2]},
    )
    report("--runs", ",".join(run.info.run_id for run in runs(tmp_path) if run.info.run_name))
    with open_browser() as tab:
        for width, dark in ((360, False), (390, True), (1280, False)):
            tab.open(f"file://{tmp_path}/report.html", width, dark=dark)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
            assert tab.evaluate("document.images.length") > 5
            ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(255, 255, 255)") is not dark
            tab.screenshot(tmp_path / "page.png")
            seen = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
            assert seen.shape[1] == width
            assert seen.shape[0] > 1000
            assert len(np.unique(seen.reshape(-1, 3), axis=0)) > 100
        assert not [address for address in tab.requests if not address.startswith(("file:", "data:"))]
        printed = tab.pdf()
    assert printed.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 30


@pytest.mark.usefixtures("chromium_only")
def test_the_browser_would_notice_overflow_and_requests(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<meta name=viewport content='width=device-width'><div style='width:900px'>x</div><img src='http://127.0.0.1:9/x.png'>"
    )
    with open_browser() as tab:
        tab.open(f"file://{page}", 390)
        assert tab.evaluate("document.documentElement.scrollWidth") > 390
        assert "http://127.0.0.1:9/x.png" in tab.requests


def test_no_runs_yet_makes_a_page_of_the_commands_that_make_some(
    store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    page, text = report()
    assert "no runs yet" in capsys.readouterr().out
    for name in ("theory", "wgan", "fid", "isir_fid", "eeg_simclr", "eeg_transformer", "efficient_attention"):
        assert f"mlflow run . -e {name}" in Reading(page).text
        assert f"mlflow run . -e {name}" in text
    report()  # the report's own runs are not reported on
    assert "no runs yet" in capsys.readouterr().out


def test_unknown_experiment_run_and_folder_are_named(store: MlflowClient, tmp_path: Path) -> None:
    make_run(store, "wgan", "one")
    for argv, words in (
        (["--experiment", "wgan-egg"], ["'wgan-egg'", "wgan-eeg"]),
        (["--runs", "0" * 32], ["0" * 32, "is not in"]),
        (["--runs", "../etc"], ["'../etc'", "not a run id"]),
        (["--benchmarks", str(tmp_path / "none")], ["benchmarks", "none is not a folder"]),
        (["--benchmarks", str(tmp_path / "files")], ["no file in", "python -m benchmarks.isir"]),
    ):
        with pytest.raises(InputError) as error:
            report(*argv)
        for word in words:
            assert word in str(error.value), error.value
    made = [run for run in runs(tmp_path) if run.data.tags.get("entry_point") == "report"]
    assert not made  # refused before a run of its own


def test_a_server_that_does_not_answer_is_one_line_and_status_2(tmp_path: Path) -> None:
    variables = {**environment(tmp_path), "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    done = subprocess.run(
        [sys.executable, "-m", "trainers.report"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("error: tracking store http://127.0.0.1:")
    assert "start it, or correct MLFLOW_TRACKING_URI" in line
    assert not list(tmp_path.glob("report*"))


def test_unfinished_foreign_and_child_runs(store: MlflowClient) -> None:
    warned = {"warning": "the critic lost its hold"}
    older = make_run(store, "wgan", "whole", metrics={"critic_loss": [1.0, 2.0]}, tags=warned)
    newer = make_run(store, "wgan", "under way", status="RUNNING", metrics={"critic_loss": [math.inf, math.nan]})
    alone = make_run(store, "fid", "broken", status="FAILED", tags={"error": "no reference"})
    foreign = make_run(store, None, "typed in a notebook", metrics={"loss": [3.0, 2.0, 1.0]})
    study = make_run(store, "tune", "study")
    child = make_run(store, "tune", "trial", tags={"mlflow.parentRunId": study})
    page, _ = report()
    read = Reading(page)
    # the newest finished run is shown in full, though a newer one is under way
    assert re.search(rf"<h3>.*?{older[:8]}", page)
    assert not re.search(rf"<h3>[^\n]*{newer[:8]}", page)
    assert re.search(rf"{newer[:8]}.*running", page)
    assert "NaN" in read.text
    assert "Warning: the critic lost its hold." in read.text
    assert "This run is not finished (failed): no reference" in read.text
    assert re.search(rf"<h3>.*?{alone[:8]}", page)
    assert "Runs without an entry point" in read.text
    assert foreign[:8] in read.text
    assert child[:8] not in read.text
    assert "1 runs belong to this one" in read.text
    assert "mlflow run . -e fid" in read.text  # none of its runs is finished
    # named, a child is shown
    assert child[:8] in Reading(report("--runs", child)[0]).text


def test_runs_of_the_bare_mlflow_run_and_of_make_stand_together(store: MlflowClient) -> None:
    one = make_run(store, "wgan", "by make")
    other = make_run(store, "fid", "bare", experiment="Default")
    third = make_run(store, "fid", "elsewhere", experiment="else")
    text = Reading(report()[0]).text
    assert one[:8] in text
    assert other[:8] in text
    assert third[:8] not in text
    text = Reading(report("--experiment", "else")[0]).text
    assert third[:8] in text
    assert one[:8] not in text


def test_curves_lay_runs_over_each_other(store: MlflowClient) -> None:
    for i in range(3):
        make_run(store, "wgan", f"number {i}", metrics={"wasserstein_estimate": [3.0, 2.0, 1.0 + i]})
    make_run(store, "wgan", r"_$\frac{$ of a hostile name " + "x" * 100, metrics={"wasserstein_estimate": [3.0, 2.0]})
    page, _ = report()
    chart = next(source for source in Reading(page).fetched if "svg" in source)
    drawn = base64.b64decode(chart.split(",", 1)[1]).decode()
    assert all(f"number {i}" in drawn for i in range(3))
    assert r"_$\frac{$ of a hostile" in drawn


def test_thousands_of_runs_and_more_than_a_page_of_them(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracking.reading.RUNS_PER_REQUEST", 10)
    ids = [make_run(store, "wgan", f"n{i}") for i in range(25)]
    assert [run.run_id for run in Reader().runs("wgan-eeg")] == ids[::-1]
    page, text = report("--n_rows", "7")
    assert "18 older runs are left out." in page
    assert "18 older runs are left out." in text
    assert sum(f"/runs/{run_id}" in page for run_id in ids) == 7


def test_pictures_beyond_the_limit_are_named_not_shown(
    store: MlflowClient, filled: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.report.page.PICTURES_LIMIT", 60_000)
    page, _ = report()
    assert len(page) < 130_000
    assert "left out, the page is full" in page
    assert Reading(page).fetched


def test_lost_artifacts_are_said(store: MlflowClient, filled: dict[str, str], folder: Path) -> None:
    import shutil

    artifacts = Path(store.get_run(filled["wgan"]).info.artifact_uri.removeprefix("file://"))
    shutil.rmtree(artifacts)
    text = Reading(report()[0]).text
    assert "Its artifacts can't be reached, or it has none" in text
    assert "before: plain samples" in text  # the others are not lost


@pytest.mark.slow
def test_over_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    monkeypatch.setenv("PYTEST_REPORT_FILES", str(tmp_path / "files"))
    server = Server(tmp_path).start()
    try:
        mlflow.set_tracking_uri(server.uri)
        monkeypatch.chdir(tmp_path)
        run_id = make_run(
            MlflowClient(server.uri),
            "isir_fid",
            "served",
            metrics={"importance_ess": [1.0, 2.0]},
            files={"figures/samples_plain.png": png(), "comment.md": b"no gain"},
        )
        page, text = report()
        read = Reading(page)
        assert any(link.startswith(f"{server.uri}/#/experiments/") and link.endswith(run_id) for link in read.links)
        assert f"]({server.uri}/#/experiments/" in text
        assert "no gain" in read.text
        assert len(read.fetched) == 2
    finally:
        mlflow.set_tracking_uri(None)
        server.kill()


# ----------------------------------------------------------------------------------------------------------------
# beside the runs


TRIALS = """trial,state,repeats_trial,kernel_distance,gp_scale,n_dis,seed,steps_reported,run_id,note
0,COMPLETE,,0.123456,10.0,1,1000,8,abc,
1,PRUNED,,,0.25,2,1001,3,def,
"""


def test_a_study_is_shown_with_trials_winner_and_figures_in_their_order(store: MlflowClient) -> None:
    best = {"params": {"gp_scale": 12.3456, "n_dis": 2}, "seed": 7, "command": "python -m trainers.wgan"}
    study = make_run(
        store,
        "tune",
        "wgan-quick",
        params={"target": "wgan", "n_trials": "2"},
        metrics={"winner_kernel_distance": [0.0625], "best_kernel_distance": [0.5, 0.25]},
        files={
            "trials.csv": TRIALS.encode(),
            "repeats.csv": b"trial,state\n0,COMPLETE\n",
            "best.json": json.dumps(best).encode(),
            "summary.md": b"# Study\n\nThe defaults lost.\n",
            **{f"figures/{name}.png": png() for name in ("slices", "history", "importances", "pareto_front")},
        },
    )
    make_run(store, "wgan", "trial 0", tags={"mlflow.parentRunId": study}, metrics={"critic_loss": [1.0]})
    page, text = report()
    read = Reading(page)
    for shown in (read.text, text):
        words = ["0.0625", "12.35", "0.1235", "PRUNED", "The defaults lost.", "1 runs belong to this one"]
        assert all(word in shown for word in words), [word for word in words if word not in shown]
        order = [
            "Best configuration",
            "All trials, one seed each",
            "The best few, repeated",
            "History of the search",
            "What mattered",
            "Accuracy against cost",
        ]
        places = [shown.index(heading) for heading in order]
        assert places == sorted(places), order
        assert "trial 0" not in shown
    assert len(read.fetched) == 5  # a chart of the best figure so far, and the four pictures
    assert re.search(r"<th[^>]*>steps_reported</th>", page)
    assert '<th scope="col">run_id</th>' not in page


def test_benchmarks_are_read_from_their_output(tmp_path: Path, store: MlflowClient) -> None:
    result = {
        "name": "isir",
        "ratios": {"pseudo-code / ours": 2.2},
        "spread": {"pseudo-code / ours": [1.5, 2.75]},
        "conditions": {"N_p": 10},
    }
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "isir.txt").write_text(f"ours 1 samples/s\n{json.dumps(result)}\n")
    (folder / "same.json").write_text(json.dumps(result, indent=1))
    (folder / "notes.txt").write_text("nothing of the kind")
    tables = benchmark_tables(folder)
    assert len(tables) == 2
    for table in tables:
        assert table.title == "isir (N_p 10)"
        assert [list(row) for row in table.rows] == [["pseudo-code / ours", "2.2", "1.5 to 2.75"]]
    assert benchmark_table('{"name": "x"}') is None
    page, text = report("--benchmarks", str(folder))
    assert "1.5 to 2.75" in page
    assert "1.5 to 2.75" in text


def test_under_mlflow_run_it_reports_on_that_experiment(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make_run(store, "wgan", "there", experiment="mine")
    make_run(store, "wgan", "elsewhere")
    own = make_run(
        store, None, "report", experiment="mine", status="RUNNING", tags={"mlflow.project.entryPoint": "report"}
    )
    monkeypatch.setenv("MLFLOW_RUN_ID", own)
    text = Reading(report()[0]).text
    assert one[:8] in text
    assert "elsewhere" not in text
    assert "report" not in store.get_run(one).data.tags
    assert store.get_run(own).data.tags["entry_point"] == "report"
    assert {file.path for file in store.list_artifacts(own)} >= {"report.html", "report.md"}


def test_the_templates_travel_with_the_code() -> None:
    assert {path.name for path in (ROOT / "trainers" / "report" / "templates").iterdir()} == {
        "report.html.j2",
        "report.md.j2",
    }

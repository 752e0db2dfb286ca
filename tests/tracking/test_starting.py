"""How a run starts: in which store and experiment, what is refused before anything is recorded, what is kept secret."""

import contextlib
import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import tracking
from common.errors import InputError
from tests.tracking.servers import Proxy, Server
from tracking import __main__ as commands
from tracking import starting, store
from tracking.reading import Reader


@pytest.fixture
def usual(database: str, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return MlflowClient(database)


def experiment_of(client: MlflowClient, run_id: str) -> str:
    return client.get_experiment(client.get_run(run_id).info.experiment_id).name


def test_the_experiment_is_that_of_the_environment(usual: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking.start_run("toy", {}) as first:
        pass
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "my own")
    with tracking.start_run("toy", {}) as second:
        pass
    with tracking.start_run("toy", {}, experiment="given") as third:
        pass
    found = [experiment_of(usual, run.run_id) for run in (first, second, third)]
    assert found == ["wgan-eeg", "my own", "given"]


def test_an_artifact_folder_that_cannot_be_written_is_said_at_the_start(usual: MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    experiment = usual.create_experiment("elsewhere", artifact_location=str(tmp_path / "file" / "artifacts"))
    with pytest.raises(InputError, match=r"artifacts '.*/file/artifacts.*' cannot be written .Not a directory"):
        tracking.start_run("toy", {}, experiment="elsewhere")
    assert usual.search_runs([experiment]) == []


def test_the_artifact_folder_of_a_resumed_run_is_looked_at_before_it_goes_on(usual: MlflowClient) -> None:
    with tracking.start_run("toy", {}) as run:
        pass
    artifacts = store.local_artifacts(usual.get_run(run.run_id).info.artifact_uri)
    assert artifacts is not None
    shutil.rmtree(artifacts)
    artifacts.touch()  # a folder that cannot be written, also for the superuser
    before = usual.get_run(run.run_id).to_dictionary()
    with pytest.raises(InputError, match=r"artifacts '.*' cannot be written"):
        tracking.start_run("toy", {}, resume=run.run_id)
    assert usual.get_run(run.run_id).to_dictionary() == before


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("/a/b", "/a/b"),
        ("file:///a/b", "/a/b"),
        ("mlflow-artifacts:/1/x/artifacts", None),
        ("s3://bucket/1", None),
        ("dbfs:/x", None),
        (None, None),
    ],
)
def test_which_artifacts_lie_on_this_machine(uri: str | None, folder: str | None) -> None:
    assert store.local_artifacts(uri) == (None if folder is None else Path(folder))


def test_a_locked_database_is_no_absent_server(
    usual: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db?timeout=0.1")  # SQLite's own patience
    monkeypatch.setattr(starting, "START_PATIENCE", 0.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("begin exclusive")
        with pytest.raises(
            InputError, match=r"mlflow.db.*: database is locked; another process is writing to it: wait"
        ):
            tracking.start_run("toy", {})
    with tracking.start_run("toy", {}):  # it is free
        pass


def test_what_a_killed_process_left_is_swept_when_the_run_goes_on(usual: MlflowClient) -> None:
    with tracking.start_run("toy", {}) as run:
        run.log_text("whole", "notes/a.txt")
    artifacts = store.local_artifacts(usual.get_run(run.run_id).info.artifact_uri)
    assert artifacts is not None
    (artifacts / "notes" / ".artifact.uploading.x1").write_text("ha")
    before = {path.name for path in run.folder.iterdir()}
    (run.folder / ".run.json.x1.tmp").write_text("{")
    (run.folder / "models" / "critic-1").mkdir(parents=True)
    (run.folder / "models" / "critic-1" / "MLmodel").touch()
    with tracking.start_run("toy", {}, resume=run.run_id):
        pass
    assert [path.name for path in (artifacts / "notes").iterdir()] == ["a.txt"]
    assert {path.name for path in run.folder.iterdir()} == before


def test_a_hanging_server_holds_the_start_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    patience = []

    def hang(*_: object) -> str:
        patience.append(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
        return "hang"

    proxy = Proxy(server.uri, hang)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    monkeypatch.setattr(starting, "START_PATIENCE", 1.0)
    try:
        opening = starting.open_run(
            "toy", tmp_path / "runs", {}, experiment="toys", run_name=None, resume=None, inherited=None
        )
    finally:
        proxy.stop()
    assert opening.facts["run_id"] is None
    assert len(proxy.requests) <= 2
    assert set(patience) == {"1"}  # seconds, of a minute while the run goes on
    assert "does not answer" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:hunter2@host:5000/x", "http://host:5000/x"),
        ("https://token@host", "https://host"),
        ("postgresql://me:hunt@er2@host/db", "postgresql://me@host/db"),
        ("postgresql://host/db?user=me&password=hunter2", "postgresql://host/db?user=me&password=***"),
        (
            "postgresql://host/db?sslPassword=hunter2&sslmode=require",
            "postgresql://host/db?sslPassword=***&sslmode=require",
        ),
        ("mysql+pymysql://host/db?passwd=hunter2", "mysql+pymysql://host/db?passwd=***"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dhunter2", "mssql+pyodbc:///?odbc_connect=***"),
        ("https://host/?access_token=hunter2&x=1", "https://host/?access_token=***&x=1"),
        ("mysql+pymysql://me@host/db", "mysql+pymysql://me@host/db"),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
        ("to http://me:hunter2@host/a failed, ask a@b.c", "to http://host/a failed, ask a@b.c"),
    ],
)
def test_addresses_without_secrets(uri: str, shown: str) -> None:
    assert store.without_secrets(uri) == shown


@pytest.fixture
def secret(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLFLOW_TRACKING_URI with user and password, which the server does not ask for."""
    uri = server.uri.replace("http://", "http://me:hunter2@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def test_a_password_in_the_address_is_nowhere_to_be_read(
    server: Server, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_TOKEN", "POSTGRES_PASSWORD"):
        monkeypatch.setenv(name, "hunter2")
    run = tracking.start_run("toy", {"n": 1})
    run.log_metrics({"loss": 1.0}, 1)
    assert run.deliver()
    server.kill()
    run.log_metrics({"loss": 0.5}, 2)
    run.finish("KILLED")
    print(run.url())
    assert commands.main(["sync", "runs"]) == 1
    server.start()
    assert commands.main(["sync", "runs"]) == 0
    client = MlflowClient(server.uri)
    stored = client.get_run(run.run_id)
    assert stored.data.metrics == {"loss": 0.5}
    artifacts = Path(client.download_artifacts(run.run_id, "", str(tmp_path)))
    assert (artifacts / "environment.json").is_file()
    with pytest.raises(InputError, match="experiment 'nope' is not in http") as refused:
        Reader().runs("nope")
    print(refused.value, Reader().uri)
    seen = capsys.readouterr()
    kept = [path for folder in (Path("runs"), artifacts) for path in folder.rglob("*") if path.is_file()]
    files = [path.read_text(errors="replace") for path in kept]
    for text in (seen.out, seen.err, str(stored.to_dictionary()), *files):
        assert "hunter2" not in text
    assert json.loads((run.folder / "run.json").read_text())["tracking_uri"] == server.uri


def test_a_password_that_an_older_version_kept_is_used_and_removed(
    server: Server, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tracking.start_run("toy", {})
    run.finish()
    facts = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps({**facts, "tracking_uri": secret}))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    assert commands.main(["sync", "runs"]) == 0
    assert "hunter2" not in (run.folder / "run.json").read_text()


def test_a_relative_database_is_kept_as_an_absolute_one(
    usual: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with tracking.start_run("toy", {}) as run:
        pass
    facts = json.loads((run.folder / "run.json").read_text())
    assert facts["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"


def test_under_mlflow_run_a_relative_database_is_not_made_in_the_project(
    usual: MlflowClient, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = usual.create_run("0").info.run_id
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///my.db")

    def start(**changes: Any) -> None:
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        tracking.start_run("toy", {}, **changes)

    with pytest.raises(InputError, match=r"sqlite:///my.db is a relative path, .* starts trainers in .*/project"):
        start()
    assert list(project.iterdir()) == []
    (project / "my.db").write_bytes(empty_database.read_bytes())  # another database of that name
    with pytest.raises(InputError, match=f"run {run_id}, which `mlflow run` made for this command, is not in"):
        start()

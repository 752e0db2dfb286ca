"""The SQLite store: made whole or not at all."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from common.errors import InputError
from tests.conftest import PATIENCE, ROOT
from tracking import __main__ as commands
from tracking import store


def test_a_database_that_was_not_made_to_its_end_is_made_anew(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making it takes seconds, in which the process may be killed: here before anything has its final name."""
    made = []

    def half(uri: str) -> None:
        made.append(Path(uri.removeprefix("sqlite:///")))
        made[-1].write_bytes(empty_database.read_bytes()[:8192])
        raise KeyboardInterrupt

    path = tmp_path / "folder" / "mlflow.db"
    with monkeypatch.context() as context:
        context.setattr(store, "_opened", half)
        with pytest.raises(KeyboardInterrupt):
            store.connect(f"sqlite:///{path}")
    assert made[0].exists()
    assert not path.exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    assert commands.main(["init"]) == 0
    assert MlflowClient(f"sqlite:///{path}").create_run("0").info.status == "RUNNING"
    assert sorted(file.name for file in path.parent.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_a_half_made_database_is_recognised(empty_database: Path, tmp_path: Path) -> None:
    """`mlflow ui` and `mlflow run` make theirs in place."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_database.read_bytes())
    with sqlite3.connect(path) as database:
        # The state between two migrations: the last tables are there, what is done is not noted.
        database.execute("drop table webhook_events")
        database.execute("update alembic_version set version_num = 'cbc13b556ace'")
    uri = f"sqlite:///{path}"
    with pytest.raises(InputError, match=f"half made, .* holds no run: remove the file .rm {path}."):
        store.connect(uri)


@pytest.mark.slow
def test_kill_9_while_the_database_is_made(tmp_path: Path) -> None:
    for number, size in enumerate((1, 100_000, 300_000, 600_000)):
        path = tmp_path / f"{number}.db"
        code = f"from tracking import store; store.connect('sqlite:///{path}')"
        process = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path
        )
        making, deadline = tmp_path / f".{number}.db.making", time.monotonic() + PATIENCE
        while not (making.exists() and making.stat().st_size >= size) and not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        store.connect(f"sqlite:///{path}").create_run("0")

"""Reading other runs from the store: what a resumed run says, and one line if nobody answers."""

import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from common.errors import InputError
from tests.tracking.servers import free_port
from tracking import children
from tracking.reading import Reader


def test_a_resumed_run_has_no_duration_while_it_runs(database: str) -> None:
    client = MlflowClient(database)
    run_id = client.create_run("0").info.run_id
    client.set_terminated(run_id, "KILLED")
    assert Reader(database).run(run_id).seconds is not None
    client.update_run(run_id, status="RUNNING")
    assert Reader(database).run(run_id).seconds is None


@pytest.mark.parametrize(
    "question",
    [
        children.experiment_of,
        children.metrics_of,
        children.end_killed,
        lambda run_id: children.end_orphans(run_id, []),
        lambda run_id: children.alias_models(run_id, "champion"),
    ],
)
def test_a_server_that_is_away_is_one_line(monkeypatch: pytest.MonkeyPatch, question: Callable[[str], Any]) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    with pytest.raises(InputError, match=f"tracking store {uri}: .*Connection refused; start it"):
        question("0123456789abcdef0123456789abcdef")


def test_a_database_of_another_mlflow_gets_the_whole_hint(database: str) -> None:
    file = database.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("update alembic_version set version_num = 'abc123'")
    expected = r"another version of MLflow \(schema abc123, that of MLflow .*`mlflow db upgrade`.*of a newer MLflow"
    with pytest.raises(InputError, match=expected):
        Reader(database)

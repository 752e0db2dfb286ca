"""The SQLite store: made whole or not at all."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from common.errors import InputError
from tests.conftest import PATIENCE, ROOT
from tests.tracking.servers import Proxy
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


@pytest.mark.parametrize(
    ("status", "code", "final", "too_large"),
    [
        (403, "AccessDenied", True, False),
        (404, "NoSuchBucket", True, False),
        (400, "EntityTooLarge", True, True),
        (400, "ExpiredToken", False, False),
        (403, "InvalidAccessKeyId", False, False),
        (403, "SignatureDoesNotMatch", False, False),
        (409, "OperationAborted", False, False),
    ],
)
def test_an_upload_that_s3_refuses(tmp_path: Path, status: int, code: str, final: bool, too_large: bool) -> None:
    """boto's own error for an upload does not hold the answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "a.txt").write_text("hello")
    s3 = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{server.server_address[1]}",
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    with pytest.raises(Exception, match=code) as refused:
        s3.upload_file(str(tmp_path / "a.txt"), "bucket", "a.txt")
    server.shutdown()
    server.server_close()
    assert store.is_final(refused.value) == final
    assert store.is_too_large(refused.value) == too_large
    line = store.trouble("http://127.0.0.1:5000", refused.value)
    assert code in line
    assert line.endswith("look at that storage's bucket and your credentials for it (AWS_ACCESS_KEY_ID and the like)")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "; sign in: set MLFLOW_TRACKING_USERNAME and"),
        (403, "of an account that may do this, and an address at which the server may be called"),
        (404, "start it, or correct MLFLOW_TRACKING_URI"),
    ],
)
def test_a_server_with_accounts_is_told_from_one_that_is_away(status: int, words: str) -> None:
    """As `mlflow server --app-name basic-auth` answers, and a gateway before it."""
    error = MlflowException(
        f"API request to endpoint /api/2.0/mlflow/experiments/get-by-name failed with error code {status} != 200. "
        "Response body: 'You are not authenticated.'"
    )
    line = store.trouble("http://127.0.0.1:5000", error)
    assert line.startswith("tracking store http://127.0.0.1:5000: ")
    assert "You are not authenticated." in line
    assert words in line


def test_which_answers_are_final(monkeypatch: pytest.MonkeyPatch) -> None:
    status = 0
    gateway = Proxy("http://127.0.0.1:1", lambda *_: status)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    final = (400, 402, 403, 404, 405, 406, 410, 411, 413, 414, 415, 422, 431, 451, 501)
    for status in (*final, 401, 407, 408, 409, 423, 425, 429, 499, 500, 502, 503, 504, 507, 511):
        with pytest.raises(Exception, match=str(status)) as asked:
            MlflowClient(gateway.uri).get_run("a")
        with pytest.raises(requests.HTTPError) as uploaded:
            requests.put(gateway.uri, b"x", timeout=PATIENCE).raise_for_status()
        assert [store.is_final(error.value) for error in (asked, uploaded)] == [status in final] * 2, status
    gateway.stop()
    with pytest.raises(Exception) as away:
        MlflowClient(gateway.uri).get_run("a")
    assert not store.is_final(away.value)


@pytest.mark.parametrize(
    "address", ["postgresql://me:hunter2@db/x", "http://me:hunter2@host", "mysql://h/x?password=hunter2"]
)
def test_no_reason_holds_a_password(address: str) -> None:
    """Drivers and MLflow put the whole address into their messages."""
    error = MlflowException(f"cannot connect to {address} now")
    assert "hunter2" not in store.reason(error)
    assert "hunter2" not in store.trouble("http://host", error)
    assert "cannot connect to" in store.reason(error)

"""A real `mlflow server` on loopback that a test can kill and start again; and `mlflow models serve`."""

import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.conftest import PATIENCE


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`mlflow server` as a process of its own, over SQLite and files in `folder` unless told otherwise.

    `kill` and `start` as often as a test likes, on the same port and database.
    """

    def __init__(
        self,
        folder: Path,
        database: str | None = None,
        artifacts: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = database or f"sqlite:///{folder}/server.db"
        self.artifacts = artifacts or str(folder / "artifacts")
        self.environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Server":
        """Start it, unless it runs, and wait until it answers."""
        if self._process is not None and self._process.poll() is None:
            return self
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        command += [
            "--backend-store-uri",
            self.database,
            "--artifacts-destination",
            self.artifacts,
        ]
        log = open(self.folder / "server.log", "ab")  # noqa: SIM115 (the process keeps it)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        environment |= {
            **self.environment,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return self
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError((self.folder / "server.log").read_text()[-3000:]) from None
                time.sleep(0.2)

    def kill(self) -> None:
        """kill -9 the server and its workers (its own process group)."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None


Fate = str | int | tuple[int, list[tuple[str, str]], bytes] | None

PAGE = b"<!doctype html><title>Sign in</title><form>"

NOT_MLFLOW: dict[str, Fate] = {
    "a redirect to a login page": (302, [("Location", "/login?next=secret")], b""),
    "a login page": (200, [("Content-Type", "text/html; charset=utf-8")], PAGE),
    "nothing": (200, [("Content-Type", "text/plain")], b""),
    "no content": (204, [], b""),
    "OK": (200, [("Content-Type", "text/plain")], b"200 OK"),
    "JSON of a portal": (200, [("Content-Type", "application/json")], b'{"status": "login", "url": "https://sso"}'),
    "half an answer": (200, [("Content-Type", "application/json")], b'{"run": {"info": '),
}
"""Answers of gateways that stand for the server, and don't say that anything went wrong."""


class Proxy:
    """A gateway before a server. `decide(method, path, body)` says what becomes of a request: None: it is passed on;
    "lose": it is passed on, and the connection closed without the answer; "hang": nothing ever comes back; a number, or
    (a number, headers, content): that status is the answer, and the server hears nothing.
    """

    def __init__(self, target: str, decide: Callable[[str, str, bytes], Fate]) -> None:
        self.requests: list[tuple[str, str]] = []
        self.ending = threading.Event()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.read_body()
                proxy.requests.append((self.command, self.path))
                fate = decide(self.command, self.path, body)
                if fate == "hang":
                    proxy.ending.wait()
                if isinstance(fate, tuple):
                    self.answer(fate[0], [*fate[1], ("Connection", "close")], fate[2])
                elif isinstance(fate, int):
                    self.answer(fate, [("Connection", "close")], b"<html>refused by the gateway</html>")
                elif fate != "hang":
                    status, headers, content = self.forward(body)
                    if fate != "lose":
                        self.answer(status, headers, content)
                self.close_connection = fate is not None

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any

            def read_body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                connection = http.client.HTTPConnection(target.removeprefix("http://"), timeout=PATIENCE)
                dropped = ("host", "content-length", "transfer-encoding", "connection")
                headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in dropped]
                return answer.status, kept, answer.read()

            def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()


class ModelServer:
    """`mlflow models serve` of one registered model, as its users start it, in a folder where this project is not."""

    def __init__(self, folder: Path, tracking_uri: str, model_uri: str) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}/invocations"
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model_uri, "--env-manager", "local"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=serving_environment(tracking_uri),
            stdout=open(folder / "serve.log", "ab"),  # noqa: SIM115
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                    return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.stop()
                    raise RuntimeError(self.log()[-3000:]) from None
                time.sleep(0.2)

    def post(self, body: object) -> tuple[int, Any]:
        """(status, parsed answer) of a request; `body`: JSON text, or a value to be made JSON."""
        text = body if isinstance(body, str) else json.dumps(body)
        request = urllib.request.Request(self.url, text.encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def log(self) -> str:
        """What the server has printed."""
        return (self.folder / "serve.log").read_text()

    def stop(self) -> None:
        """SIGTERM, as `docker stop` or Ctrl-C in `make serve` would."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()


def serving_environment(tracking_uri: str) -> dict[str, str]:
    """The environment of a machine that serves: no path to this project, and nothing may be unpickled."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_") and key != "PYTHONPATH"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"  # MLflow starts `uvicorn` from the path
    return kept | {
        "PATH": path,
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "UVICORN_LOG_LEVEL": "warning",
    }

"""`make serve`, as README.md says it, by the real Makefile."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, ROOT
from tests.tracking.servers import free_port, serving_environment


def make_serve(folder: Path, *variables: str) -> subprocess.Popen[str]:
    """The process, with this Python's environment in the place of .venv."""
    command = ["make", "-o", f"{sys.prefix}/.ready", f"VENV={sys.prefix}", "serve", *variables]
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=serving_environment(f"sqlite:///{folder}/mlflow.db") | {"MLFLOW_EXPERIMENT_NAME": "imported"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    process = make_serve(tmp_path, "MODEL=pretrained/digits23", f"PORT={free_port()}")
    assert process.communicate(timeout=PATIENCE)[0] == ""
    assert process.returncode == 2
    line, of_make = (tmp_path / "log").read_text().splitlines()
    assert line.startswith("error: model pretrained/digits23: no folder of an MLflow model; give ")
    assert of_make.startswith("make: ***")


@pytest.mark.slow
def test_published_weights_are_registered_and_served(tmp_path: Path) -> None:
    port = free_port()
    process = make_serve(tmp_path, "MODEL=pretrained/digits32", f"PORT={port}")
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == (
            f"serving models:/digits32-generator/1 on http://127.0.0.1:{port}: GET /health answers when it is ready; "
            "Ctrl-C ends it\n"
        )
        body = {"inputs": {"n": 3}, "params": {"output": "png", "seed": 1, "sampler": "calibrated"}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert len(json.loads(answer.read())["predictions"]) == 3
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.5)
    finally:
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
        process.wait(PATIENCE)

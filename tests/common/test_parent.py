"""A process stops when the one that started it was killed; Ctrl-C leaves no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, ROOT

PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(3600)
"""

CHILD = """
import os, sys, time
from pathlib import Path
from common.errors import run_main

def main():
    Path("started").write_text(str(os.getpid()))
    try:
        time.sleep(3600)
    except SystemExit as ended:
        Path("ended").write_text(str(ended.code))
        raise

run_main(main)
"""


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.05)
    return path.read_text()


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TORCHELASTIC", "MLFLOW_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RUN_ID", "MLFLOW_RUN_ID"])
def test_what_works_for_another_stops_when_that_is_killed(tmp_path: Path, variable: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], cwd=tmp_path, env=environment(**{variable: "1"}))
    wait_for(tmp_path / "started")
    parent.kill()
    parent.wait()
    assert wait_for(tmp_path / "ended") == "143"


def test_what_works_for_nobody_lives_on(tmp_path: Path) -> None:
    """`nohup python -m trainers.wgan &` in a shell that ends."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], cwd=tmp_path, env=environment())
    child = int(wait_for(tmp_path / "started"))
    parent.kill()
    parent.wait()
    time.sleep(2.5)  # two looks at the parent
    os.kill(child, 0)  # it is there
    os.kill(child, signal.SIGTERM)
    assert wait_for(tmp_path / "ended") == "143"


def test_ctrl_c_is_status_130_without_a_traceback(tmp_path: Path) -> None:
    code = """
import os, signal
from common.errors import run_main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background inherits that it is ignored

def main():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    finally:
        raise KeyboardInterrupt  # and once more, while the first is handled

run_main(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")

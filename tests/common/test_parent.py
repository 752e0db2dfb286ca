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
subprocess.Popen([sys.executable, "-c", "from common.errors import run_module; run_module('child')"])
time.sleep(3600)
"""

CHILD = """
import os, time
from pathlib import Path

def main():
    Path("started").write_text(str(os.getpid()))
    try:
        time.sleep(3600)
    except SystemExit as ended:
        Path("ended").write_text(str(ended.code))
        raise
"""


def start_parent(folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    (folder / "child.py").write_text(CHILD)
    return subprocess.Popen([sys.executable, "-c", PARENT], cwd=folder, env=environment(**variables))


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
    parent = start_parent(tmp_path, **{variable: "1"})
    wait_for(tmp_path / "started")
    parent.kill()
    parent.wait()
    assert wait_for(tmp_path / "ended") == "143"


LATE_CHILD = """
import os, sys, time
from common.errors import run_module

while os.getppid() == int(sys.argv[1]):
    time.sleep(0.05)
run_module("child")
"""

BRIEF_PARENT = """
import os, subprocess, sys
os.environ["TORCHRUN_ID"] = str(os.getpid())
own_session = sys.argv[2] == "True"
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], start_new_session=own_session)
"""


@pytest.mark.parametrize(
    ("variable", "own_session"),
    [("TORCHELASTIC_RUN_ID", True), ("TORCHELASTIC_RUN_ID", False), ("MLFLOW_RUN_ID", False)],
)
def test_what_lost_its_launcher_before_it_could_look_does_not_begin(
    tmp_path: Path, variable: str, own_session: bool
) -> None:
    """Python takes a while to start, and the launcher may be killed meanwhile. torchrun gives each worker a session."""
    (tmp_path / "child.py").write_text(CHILD)
    arguments = [sys.executable, "-c", BRIEF_PARENT, LATE_CHILD, str(own_session)]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            arguments,
            cwd=tmp_path,
            env=environment(**{variable: "1"}),
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    try:
        printed, _ = process.communicate(timeout=PATIENCE)  # until the child has ended, too
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        if (tmp_path / "started").exists():
            os.kill(int((tmp_path / "started").read_text()), signal.SIGKILL)
        raise
    assert (printed, (tmp_path / "log").read_bytes()) == (b"", b"")
    if (tmp_path / "started").exists():
        assert (tmp_path / "ended").read_text() == "143"


def test_what_leads_a_session_of_its_own_is_no_orphan(tmp_path: Path) -> None:
    """As under SLURM, cron, docker: who started it is of another session, and lives."""
    (tmp_path / "child.py").write_text(CHILD)
    code = "from common.errors import run_module; run_module('child')"
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(MLFLOW_RUN_ID="1"), start_new_session=True
    )
    wait_for(tmp_path / "started")
    time.sleep(2.5)
    assert child.poll() is None
    child.terminate()
    assert child.wait() == 143


def test_what_works_for_nobody_lives_on(tmp_path: Path) -> None:
    """`nohup python -m trainers.wgan &` in a shell that ends."""
    parent = start_parent(tmp_path)
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

"""The image's health check, as the container runs it: a process of its own in the working directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import ROOT
from tracking.outbox.spool import Spool


def check(folder: Path, minutes: float = 30) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docker" / "health.py")]
    environment = {**os.environ, "WGAN_EEG_SILENT_MINUTES": str(minutes)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def make_old(folder: Path, minutes: float) -> None:
    for path in folder.iterdir():
        then = path.stat().st_mtime - 60 * minutes
        os.utime(path, (then, then))


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "runs" / "a1")
    spool.add("tags", values={"a": "b"})
    return spool


def test_a_live_run_that_went_silent_fails_the_check(tmp_path: Path, spool: Spool) -> None:
    assert check(tmp_path).returncode == 0
    make_old(spool.folder, 45)
    done = check(tmp_path)
    assert done.returncode == 1
    assert "nothing recorded for 30 minutes: a1" in done.stderr
    assert check(tmp_path, minutes=60).returncode == 0
    spool.add("tags", values={"a": "c"})
    assert check(tmp_path).returncode == 0


def test_runs_that_nobody_writes_do_not_count_and_the_check_leaves_them_free(tmp_path: Path, spool: Spool) -> None:
    spool.close()
    make_old(spool.folder, 45)
    assert check(tmp_path).returncode == 0
    with FileLock(spool.folder / "lock").acquire(timeout=0):
        pass


def test_no_runs_yet_is_healthy(tmp_path: Path) -> None:
    assert check(tmp_path).returncode == 0

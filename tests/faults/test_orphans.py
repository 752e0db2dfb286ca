"""kill -9 to what started trainings (torchrun, `mlflow run`, tune), at any moment: nothing trains on."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.conftest import PATIENCE, ROOT
from tests.faults.fuzzing import CASES, run_cases
from tests.running import command, environment, runs
from tests.trainers.tune.test_run import TINY as STUDY
from tests.trainers.wgan.test_run import TINY

ENDLESS: dict[str, object] = {**TINY, "steps": 100_000, "checkpoint_every": 20, "sample_every": 100_000}
MARK = "FAULT_FOLDER"
"""A variable that all processes of a case have."""


def launcher_of(kind: str, folder: Path) -> list[str]:
    if kind == "torchrun":
        return command("wgan", **ENDLESS, nproc=2)
    if kind == "tune":
        return command("tune", **STUDY)
    places = {"output_dir": folder / "runs", "cache_dir": folder / "cache", "preset": "quick", "dataset": "digits"}
    options = [word for name, value in {**ENDLESS, **places}.items() for word in ("-P", f"{name}={value}")]
    return [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "wgan", "--env-manager", "local", *options]


def marked(folder: Path) -> list[psutil.Process]:
    """The processes of this case that are alive."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def variables(folder: Path) -> Mapping[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**environment(folder), "PATH": path, "GIT_DIR": "/dev/null", MARK: str(folder)}


def launched_and_killed(folder: Path, chance: random.Random) -> str:
    """Kill the launcher when it has as many processes as drawn, and a moment later."""
    kind, n_processes, moment = (
        chance.choice(("torchrun", "mlflow run", "tune")),
        chance.randrange(1, 4),
        chance.random(),
    )
    with open(folder / "log", "wb") as log:
        launcher = subprocess.Popen(
            launcher_of(kind, folder), cwd=folder, env=variables(folder), stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + PATIENCE
    while len(marked(folder)) < n_processes and launcher.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        if kind == "mlflow run" and n_processes == 3:
            n_processes = 2  # it has one trainer
    time.sleep(moment**3 * 15)  # most trainers are being imported, some have begun
    where = f"{kind}, {n_processes} processes and {moment**3 * 15:.2f} s: {[p.cmdline()[:4] for p in marked(folder)]}"
    launcher.kill()
    launcher.wait()
    while left := marked(folder):
        assert time.monotonic() < deadline, (where, left, (folder / "log").read_text())
        time.sleep(0.1)
    printed = (folder / "log").read_text()
    assert "Traceback" not in printed, (where, printed)
    open_runs = [run for run in runs(folder) if run.info.status == "RUNNING"]
    # Between the making of a study's run and the note of it in the journal, its workers do not know it.
    if kind != "tune" or any("led_run" in path.read_text() for path in folder.glob("runs/studies/*.journal")):
        assert not [run for run in open_runs if "heartbeat" in run.data.tags], (where, printed)
    return "a run left for reap" if open_runs else "nothing left"


@pytest.mark.parametrize(
    "n", [pytest.param(1, marks=pytest.mark.slow), pytest.param(max(1, CASES // 150), marks=pytest.mark.fault)]
)
def test_nothing_trains_on_without_its_launcher(tmp_path: Path, empty_store: Path, n: int) -> None:
    def case(chance: random.Random) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
        try:
            return launched_and_killed(folder, chance)
        finally:
            for process in marked(folder):
                process.kill()

    run_cases(
        "kill -9 to launchers",
        case,
        n,
        allowed=("nothing left", "a run left for reap"),
        shown="nothing: the workers stop as after SIGTERM, and do not begin if they were being started. A run that "
        "`mlflow run` or tune had only just made is ended by `python -m tracking reap`",
    )

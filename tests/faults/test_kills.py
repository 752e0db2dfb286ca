"""kill -9 at calls that write: the run goes on, ends with the same weights, with nothing twice or left over."""

import os
import random
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.fuzzing import CASES, run_cases
from tests.running import client, environment, history, runs, start_trainer
from tests.trainers.wgan.test_run import TINY, assert_same_weights, checkpoint_of
from trainers.wgan.loop import METRICS

SETTINGS = {**TINY, "steps": 6, "checkpoint_every": 2, "log_every": 1, "sample_every": 3}
DYING = Path(__file__).parent / "dying"


def start(folder: Path, resume: bool, **variables: str) -> subprocess.CompletedProcess[str]:
    """Train in `folder` by a process of its own that the `variables` may kill."""
    path = os.pathsep.join([str(DYING), environment(folder)["PYTHONPATH"]])
    settings = {**SETTINGS, "resume": "latest"} if resume else SETTINGS
    return start_trainer(folder, "wgan", {"PYTHONPATH": path, **variables}, **settings)


@dataclass(frozen=True)
class Undisturbed:
    """A run that was left alone: its folder, its id, and how many calls of it write."""

    folder: Path
    run_id: str
    calls: int


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(empty_store, folder / "mlflow.db")
    count = tmp_path_factory.mktemp("count") / "calls"
    done = start(folder, resume=False, COUNT_INTO=str(count))
    assert done.returncode == 0, done.stdout
    [run] = runs(folder)
    calls = int(count.read_text())
    assert calls > 100
    return Undisturbed(folder, run.info.run_id, calls)


def files_of(folder: Path) -> list[str]:
    """All files below the folder, sorted, with one word for what is another in every run: ids, times, hashes."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(
        re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8,}|\d{10,}", "#", name) for name in names
    )


def killed_and_resumed(folder: Path, undisturbed: Undisturbed, chance: random.Random) -> str:
    """Kill a training at a call that writes, go on with it, and look at what is there in the end."""
    call, when = chance.randrange(1, undisturbed.calls + 1), chance.choice(("before", "after"))
    where = f"call {call} of {undisturbed.calls}, {when} it"
    killed = start(folder, resume=False, DIE_AT=str(call), DIE_WHEN=when)
    if killed.returncode == 0:  # threads: the calls of one run are not those of another
        return "it came to its end"
    assert killed.returncode == -signal.SIGKILL, f"{where}: {killed.stdout}"
    resumed = start(folder, resume=True)
    outcome = "went on"
    if resumed.returncode == 2:
        assert "resume" in resumed.stdout.splitlines()[-1], f"{where}: {resumed.stdout}"
        assert "Traceback" not in resumed.stdout, f"{where}: {resumed.stdout}"
        outcome = "began anew"
        resumed = start(folder, resume=False)
    assert resumed.returncode == 0, f"{where}: {resumed.stdout}"
    finished = [run for run in runs(folder) if run.info.status == "FINISHED"]
    assert len(finished) == 1, f"{where}: {[run.info.status for run in runs(folder)]}"
    [run_id] = [run.info.run_id for run in finished]
    assert_same_weights(checkpoint_of(folder, run_id), checkpoint_of(undisturbed.folder, undisturbed.run_id))
    for metric in METRICS:
        assert history(folder, run_id, metric) == history(undisturbed.folder, undisturbed.run_id, metric), (
            where,
            metric,
        )
    for model in ("wgan-generator", "wgan-generator-raw", "wgan-critic"):
        assert len(client(folder).search_model_versions(f"name = '{model}'")) == 1, f"{where}: {model}"
    if len(runs(folder)) == 1:
        assert files_of(folder) == files_of(undisturbed.folder), where
        return outcome
    return f"{outcome}, a run left for reap"


@pytest.mark.parametrize(
    "n", [pytest.param(2, marks=pytest.mark.slow), pytest.param(max(1, CASES // 50), marks=pytest.mark.fault)]
)
def test_killed_where_it_writes(undisturbed: Undisturbed, tmp_path: Path, empty_store: Path, n: int) -> None:
    def case(chance: random.Random) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
        return killed_and_resumed(folder, undisturbed, chance)

    outcomes = ("went on", "began anew", "it came to its end", "began anew, a run left for reap")
    run_cases(
        "kill -9 where a training writes",
        case,
        n,
        allowed=outcomes,
        shown="`resume=latest` goes on, or says that there is nothing to go on with; `python -m tracking reap` ends "
        "what stands RUNNING",
    )

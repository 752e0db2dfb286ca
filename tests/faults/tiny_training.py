"""A training of a few seconds, to be disturbed: how it is started, and that it ends as one that was left alone."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.running import client, environment, history, runs, start_trainer
from tests.trainers.wgan.test_run import TINY, assert_same_weights, checkpoint_of
from tracking.resuming import undelivered
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
    """A run that was left alone: its folder, its id, how many calls of it write, and how long it took."""

    folder: Path
    run_id: str
    calls: int
    seconds: float


def files_of(folder: Path) -> list[str]:
    """All files below the folder, sorted, with one word for what is another in every run: ids, times, hashes."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(
        re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8,}|\d{10,}", "#", name) for name in names
    )


def is_complete(folder: Path) -> bool:
    """Whether the training came to its end, and all of it is delivered: `resume=latest` would begin another."""
    finished = [run.info.run_id for run in runs(folder) if run.info.status == "FINISHED"]
    return len(finished) == 1 and undelivered(folder / "runs", finished[0], "latest") is None


def went_on(folder: Path, undisturbed: Undisturbed, where: str) -> str:
    """Go on with the training that something ended in `folder`; it ends as one that was left alone."""
    if is_complete(folder):
        assert_as_undisturbed(folder, runs(folder)[0].info.run_id, undisturbed, where)
        return "it came to its end"
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
    assert_as_undisturbed(folder, finished[0].info.run_id, undisturbed, where)
    if len(runs(folder)) == 1:
        assert files_of(folder) == files_of(undisturbed.folder), where
        return outcome
    outcome = "began anew"  # there was no checkpoint yet
    if all(run.info.status in ("FINISHED", "KILLED") for run in runs(folder)):
        return outcome
    return f"{outcome}, a run left for reap"


def assert_as_undisturbed(folder: Path, run_id: str, undisturbed: Undisturbed, where: str) -> None:
    """The same weights and histories, each model registered once."""
    assert_same_weights(checkpoint_of(folder, run_id), checkpoint_of(undisturbed.folder, undisturbed.run_id))
    for metric in METRICS:
        assert history(folder, run_id, metric) == history(undisturbed.folder, undisturbed.run_id, metric), (
            where,
            metric,
        )
    for model in ("wgan-generator", "wgan-generator-raw", "wgan-critic"):
        assert len(client(folder).search_model_versions(f"name = '{model}'")) == 1, f"{where}: {model}"

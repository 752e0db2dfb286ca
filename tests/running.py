"""Runs trainers as their users do: a process of their own, in an empty folder, with a store of its own."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from tests.conftest import PATIENCE, ROOT
from tests.warm import Warm


def environment(folder: Path) -> dict[str, str]:
    """The process's environment: the code on the path, one thread, and a store in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TORCHELASTIC"))}
    kept |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    return kept


def command(entry_point: str, **parameters: object) -> list[str]:
    """`python -m trainers.<entry_point> --name value ...`."""
    options = [word for name, value in parameters.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", f"trainers.{entry_point}", *options]


def begin_trainer(folder: Path, entry_point: str, **parameters: object) -> subprocess.Popen[str]:
    """Begin it in `folder`, and do not wait; stdout has stderr, too."""
    return subprocess.Popen(
        command(entry_point, **parameters),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def begin_warm(folder: Path, entry_point: str, **parameters: object) -> Warm:
    """Begin it in `folder`, in a process that has its imports already (tests/warm.py), and do not wait."""
    return Warm(f"trainers.{entry_point}", command(entry_point, **parameters)[3:], folder, environment(folder))


def start_trainer(
    folder: Path, entry_point: str, variables: Mapping[str, str] | None = None, **parameters: object
) -> subprocess.CompletedProcess[str]:
    """Run it to its end in `folder`, with `variables` beside its environment; stdout has stderr, too."""
    return subprocess.run(
        command(entry_point, **parameters),
        cwd=folder,
        env={**environment(folder), **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )


def run_trainer(folder: Path, entry_point: str, status: int = 0, **parameters: object) -> str:
    """Run it to its end in `folder`, in a process that has its imports already (tests/warm.py), unless it is to become
    several; asserts the exit status, returns stdout and stderr together.
    """
    if "nproc" in parameters:
        done = start_trainer(folder, entry_point, **parameters)
        found, text = done.returncode, done.stdout
    else:
        found, text = begin_warm(folder, entry_point, **parameters).end()
    assert found == status, text
    return text


@contextlib.contextmanager
def small_file_system(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of that size in `folder`, which is made; the test is skipped where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def client(folder: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")


def runs(folder: Path) -> list[Run]:
    """All runs in the folder's store, oldest first."""
    found = client(folder).search_runs([e.experiment_id for e in client(folder).search_experiments()])
    return sorted(found, key=lambda run: run.info.start_time)


def history(folder: Path, run_id: str, metric: str) -> list[tuple[int, float]]:
    """(step, value) of every stored point, in order of steps; a doubled point appears twice."""
    return sorted((point.step, point.value) for point in client(folder).get_metric_history(run_id, metric))


def read_json(folder: Path, run_id: str, path: str) -> Any:
    """A JSON file among the run's artifacts."""
    uri = f"sqlite:///{folder}/mlflow.db"
    return json.loads(Path(download_artifacts(run_id=run_id, artifact_path=path, tracking_uri=uri)).read_text())


def artifacts(folder: Path, run_id: str) -> set[str]:
    """The run's files, and those of its folder `figures`."""
    return {file.path for path in ("", "figures") for file in client(folder).list_artifacts(run_id, path)}


def config_class_of(module: ModuleType) -> Any:
    """The config of an entry point, named after it: trainers.eeg_simclr has EegSimclrConfig. None: not an entry
    point.
    """
    words = module.__name__.split(".")[1].split("_")
    return getattr(module, "".join(word.capitalize() for word in words) + "Config", None)

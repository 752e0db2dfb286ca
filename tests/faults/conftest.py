"""A training that was left alone, with which the disturbed ones are compared."""

import shutil
import time
from pathlib import Path

import pytest

from tests.faults.tiny_training import Undisturbed, start
from tests.running import runs


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Undisturbed:
    """A training that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(empty_store, folder / "mlflow.db")
    count = tmp_path_factory.mktemp("count") / "calls"
    begun = time.monotonic()
    done = start(folder, resume=False, COUNT_INTO=str(count))
    seconds = time.monotonic() - begun
    assert done.returncode == 0, done.stdout
    [run] = runs(folder)
    calls = int(count.read_text())
    assert calls > 100
    return Undisturbed(folder, run.info.run_id, calls, seconds)

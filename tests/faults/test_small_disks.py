"""Trainings on file systems of any size: they end, or one line says what is missing; no run is left open."""

import random
import shutil
from pathlib import Path

import pytest

from tests.faults.fuzzing import CASES, run_cases
from tests.faults.tiny_training import SETTINGS
from tests.running import runs, small_file_system, start_trainer


@pytest.mark.parametrize(
    "n", [pytest.param(2, marks=pytest.mark.slow), pytest.param(max(1, CASES // 80), marks=pytest.mark.fault)]
)
def test_a_training_on_a_small_disk(tmp_path: Path, empty_store: Path, n: int) -> None:
    def case(chance: random.Random) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
        kilobytes = int(4 * 2 ** chance.uniform(0, 14))  # 4 kB to 64 MB
        with small_file_system(folder / "disk", kilobytes) as disk:
            done = start_trainer(folder, "wgan", **SETTINGS, output_dir=disk / "runs")
        assert "Traceback" not in done.stdout, done.stdout
        states = {run.info.status for run in runs(folder)}
        if done.returncode == 0:
            assert states == {"FINISHED"}, done.stdout
            return "finished"
        assert done.returncode in (1, 2), done.stdout
        last = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
        assert len(last) == 1, done.stdout
        assert "space" in last[0] or "No space left" in last[0], done.stdout
        assert states <= {"FAILED"}, (states, done.stdout)
        return "ended as FAILED" if states else "refused"

    run_cases(
        "file systems that fill up",
        case,
        n,
        allowed=("finished", "ended as FAILED", "refused"),
        shown="`no space is left for FOLDER ...: make room for at least 67.1 MB; the run is ended as FAILED`",
    )

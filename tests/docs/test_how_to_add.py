"""The code in docs/how_to_add.md runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, ROOT
from tests.running import environment, runs

pytestmark = pytest.mark.timeout(900)  # of a busy machine

CODE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "how_to_add.md").read_text(), flags=re.DOTALL)


def test_an_array_of_trials_becomes_windows_and_folds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE[0]],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "torch.Size([16, 22, 125]) torch.Size([16])\n"


def test_the_entry_point_runs_records_and_refuses(folder: Path) -> None:
    (folder / "image_spread").mkdir()
    (folder / "image_spread" / "run.py").write_text(CODE[1])
    (folder / "image_spread" / "__main__.py").write_text(CODE[2].replace("trainers.", ""))
    environ = environment(folder)
    refused, done = (
        subprocess.run(
            [sys.executable, "-m", "image_spread", *argv],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        for argv in (["--n_images", "1"], ["--n_images", "50"])
    )
    assert refused.returncode == 2
    assert "n_images: '1' is not allowed" in refused.stderr
    assert done.returncode == 0, done.stderr
    (run,) = runs(folder)
    assert run.info.status == "FINISHED"
    assert 0.1 < run.data.metrics["spread"] < 0.5

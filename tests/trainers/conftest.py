"""What the tests of several trainers start from."""

import shutil
from pathlib import Path

import pytest

from tests.running import run_trainer

GENERATOR = {"image_size": 32, "ngf": 16, "ndf": 16, "nz": 8, "batch_size": 8, "steps": 3, "n_samples": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A folder whose registry holds a generator trained on digits for a moment, and its critic."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(empty_store, folder / "mlflow.db")
    run_trainer(folder, "wgan", **GENERATOR)
    return folder

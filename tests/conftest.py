"""Fixtures shared by every test folder."""

import os
import shutil
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PATIENCE = 1500.0
"""Seconds until a process counts as hanging. No test measures time: a busy machine may take many times as long."""

# Under nohup or in the background of a shell these are ignored, and so they would be in every process of a test.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# `make test` tells its children that they are part of it; a `make` that a test starts would then print other lines.
for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Trainings first: a long file at the end would run alone, while the other processes wait."""
    items.sort(
        key=lambda item: item.path.relative_to(ROOT / "tests").parts[0] not in ("trainers", "training", "tracking")
    )


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings and photographs (`eegmmi/`, `cifar10/`); the test is skipped without it."""
    folder = Path(os.environ.get("WGAN_EEG_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set WGAN_EEG_DATA to the folder)")
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose tables exist already, copied for each test: MLflow takes seconds to make them."""
    from tests.running import client  # MLflow takes seconds to import

    folder = tmp_path_factory.mktemp("store")
    client(folder).search_experiments()
    client(folder).search_registered_models()
    return folder / "mlflow.db"


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    """An empty working folder with an empty store."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path

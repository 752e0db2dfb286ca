"""A store whose tables exist already, copied for each test: MLflow takes seconds to make them."""

import shutil
from pathlib import Path

import pytest

from tests.trainers.running import client


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    client(folder).search_experiments()
    client(folder).search_registered_models()
    return folder / "mlflow.db"


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    """An empty working folder with an empty store."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path

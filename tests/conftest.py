"""Fixtures shared by every test folder."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings and photographs (`eegmmi/`, `cifar10/`); the test is skipped without it."""
    folder = Path(os.environ.get("WGAN_EEG_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist (set WGAN_EEG_DATA to the folder)")
    return folder

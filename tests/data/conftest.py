"""Simulated recordings shared by the EEG tests: written once a session, read-only."""

from pathlib import Path

import pytest

from data.eeg.load import EegData, load_eeg
from data.eeg.physionet import recording_path
from data.eeg.simulated import simulated_folder


@pytest.fixture(scope="session")
def eeg_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that the tests share."""
    return tmp_path_factory.mktemp("eeg")


@pytest.fixture(scope="session")
def simulated(eeg_cache: Path) -> EegData:
    """Four simulated subjects with three runs each: 180 trials."""
    return load_eeg("simulated", eeg_cache, subjects="1-4", quiet=True)


@pytest.fixture(scope="session")
def edf_file(simulated: EegData, eeg_cache: Path) -> Path:
    """One of their recordings (subject 1, run 4); copy it before you change it."""
    return recording_path(simulated_folder(eeg_cache, seed=0), 1, 4)

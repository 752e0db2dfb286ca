"""What the data sets of EEG say of themselves is what their modules and `load_eeg` do."""

from pathlib import Path

import pytest

from common.errors import InputError
from data.eeg.load import load_eeg
from data.eeg.sources import EEG_SOURCES


def test_the_data_sets() -> None:
    real, simulated = EEG_SOURCES["physionet"], EEG_SOURCES["simulated"]
    assert (real.is_simulated, real.n_subjects, sorted(real.known_bad)) == (False, 109, [88, 89, 92, 100, 104])
    assert (simulated.is_simulated, simulated.n_subjects, simulated.known_bad) == (True, 999, {})
    assert (real.people, simulated.people) == ("people of EEGMMI", "simulated subjects")


@pytest.mark.parametrize("name", EEG_SOURCES)
def test_subjects_are_numbered_up_to_n_subjects(name: str, tmp_path: Path) -> None:
    highest = EEG_SOURCES[name].n_subjects
    with pytest.raises(InputError, match=f"from 1 to {highest}"):
        load_eeg(name, tmp_path, subjects=str(highest + 1))  # type: ignore[arg-type]


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose physionet, simulated, recordings or moabb:NAME"):
        load_eeg("bci", tmp_path)  # type: ignore[arg-type]

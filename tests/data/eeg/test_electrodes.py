"""Names of channels in the spellings that files have, and what they mean."""

import mne
import numpy as np
import pytest

from common.errors import InputError
from data.eeg.electrodes import channels_of, electrode_info, standard_name, standard_positions
from data.eeg.recording import CHANNELS


@pytest.mark.parametrize(
    ("name", "electrode"),
    [
        ("Fc5.", "FC5"),
        ("EEG C3-REF", "C3"),
        ("EEG T3-LE", "T7"),
        ("t5", "P7"),
        ("FP1", "Fp1"),
        ("CZ", "Cz"),
        ("POz", "POz"),
        ("EOG1", None),
        ("STATUS", None),
        ("EMG left", None),
    ],
)
def test_a_name_means_an_electrode_or_none(name: str, electrode: str | None) -> None:
    assert standard_name(name) == electrode


def info_of(*names: str) -> mne.Info:
    return mne.create_info(list(names), 100.0, "eeg", verbose="ERROR")


def test_channels_that_are_no_electrode_are_named() -> None:
    found = channels_of(info_of("C3", "EOG1", "T4"), None)
    assert (found.names, found.others, found.from_file) == ({"C3": "C3", "T4": "T8"}, ("EOG1",), False)
    assert found.positions[0, 0] < 0 < found.positions[1, 0]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("T3", "T7"), "channels T3 and T7 are both electrode T7"),
        (("E1", "E2"), "none of its channels is an electrode"),
    ],
)
def test_unclear_channels_are_refused(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        channels_of(info_of(*names), None)


def test_another_montage_has_other_names() -> None:
    found = channels_of(info_of("E36", "E104"), "GSN-HydroCel-128")
    assert list(found.names.values()) == ["E36", "E104"]


def test_positions_come_back_from_the_description_of_the_electrodes() -> None:
    standard = standard_positions(CHANNELS)
    moved = standard + 0.002
    for positions in (standard, moved):
        info = electrode_info(CHANNELS, positions, 160.0, "colin27_1005")
        np.testing.assert_allclose([channel["loc"][:3] for channel in info["chs"]], positions, atol=1e-6)

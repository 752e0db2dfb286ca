"""The figures name their data and are drawn from it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.eeg.figures import contralateral_map, recording_figures
from data.eeg.load import EegData, load_eeg
from data.eeg.recording import CHANNELS, Preprocessing
from data.eeg.survey import OwnFiles
from tests.data.eeg.own_files import own_raw, write_own, write_recording

MAPS = {"spectrum_topomaps", "contralateral_topomap"}


def texts(figure) -> str:  # type: ignore[no-untyped-def]
    suptitle = figure.get_suptitle()
    return " ".join([suptitle, *(axis.get_title() for axis in figure.axes)])


def test_every_figure_says_that_the_data_is_simulated(simulated: EegData) -> None:
    figures = recording_figures(simulated, recording=4)
    assert set(figures) == {"raw_traces", "spectrum", "spectrum_topomaps", "contralateral_topomap"}
    for name, figure in figures.items():
        assert "simulated" in texts(figure), name
    assert "subject 2 run 8" in texts(figures["raw_traces"])


def test_unlabelled_data_has_no_figures_of_events(tmp_path: Path) -> None:
    data = load_eeg("simulated", tmp_path, subjects="1", runs="4", labelled=False, quiet=True)
    assert set(recording_figures(data)) == {"raw_traces", "spectrum"}


@pytest.mark.filterwarnings("error::RuntimeWarning")  # numpy's, at the mean of nothing
@pytest.mark.parametrize(
    ("tmin", "tmax", "maps"),
    [
        (0.5, 3.5, {"spectrum_topomaps", "contralateral_topomap"}),
        (-3.0, -1.0, {"spectrum_topomaps"}),  # no sample after the cue
        (0.5, 2.5, {"spectrum_topomaps"}),  # the map's title says 0.5-3.5 s
        (0.0, 0.4, set()),
        (0.6, 0.75, set()),  # too short for the filter, and for MNE's lowest band
    ],
)
def test_maps_are_left_out_where_the_trial_is_elsewhere_or_too_short(
    eeg_cache: Path, simulated: EegData, tmin: float, tmax: float, maps: set[str]
) -> None:
    cut = Preprocessing(tmin=tmin, tmax=tmax)
    data = load_eeg("simulated", eeg_cache, subjects="1", runs="4,8", preprocessing=cut, quiet=True)
    assert set(recording_figures(data)) == {"raw_traces", "spectrum", *maps}


@pytest.mark.filterwarnings("error::RuntimeWarning")  # numpy's, at the mean of nothing
def test_there_is_no_map_where_nobody_has_both_classes(simulated: EegData) -> None:
    kept = (simulated.subject == 1) & (simulated.label == 0) | (simulated.subject == 2) & (simulated.label == 1)
    columns = {name: getattr(simulated, name)[kept] for name in ("trials", "label", "subject", "run", "trial")}
    assert "contralateral_topomap" not in recording_figures(replace(simulated, **columns))


@pytest.mark.parametrize(
    ("picks", "maps"),
    [(("C3",), set()), (("C3", "C4"), MAPS), (("Fz", "Cz", "Pz"), MAPS)],  # two and three lie on a line
)
def test_few_electrodes_have_the_maps_that_can_be_drawn(picks: tuple[str, ...], maps: set[str], tmp_path: Path) -> None:
    own = OwnFiles(classes=("left_hand", "right_hand"), picks=picks)
    folder = write_own(tmp_path, ".edf", subjects=1, runs=1, n_trials=6)
    data = load_eeg("recordings", tmp_path, folder, subjects="all", runs="all", own=own, quiet=True)
    assert set(recording_figures(data)) == {"raw_traces", *maps}


def test_a_first_recording_without_trials_gives_way_to_the_next(tmp_path: Path) -> None:
    write_recording(own_raw(1, 1, n_trials=2).crop(0, 3.5), tmp_path / "anna_1.fif")
    write_recording(own_raw(2, 1, n_trials=6), tmp_path / "ben_1.fif")
    own = OwnFiles(classes=("left_hand", "right_hand"))
    data = load_eeg("recordings", tmp_path, tmp_path, subjects="all", runs="all", own=own, quiet=True)
    assert [report.n_trials for report in data.recordings] == [0, 5]
    figures = recording_figures(data)
    assert set(figures) == {"raw_traces", *MAPS}
    assert "subject ben run 1" in texts(figures["raw_traces"])


def test_the_map_is_the_difference_of_log_power() -> None:
    """A 10 Hz wave ten times as strong in right-fist trials at one electrode: +20 dB there, 0 elsewhere."""
    rng = np.random.default_rng(0)
    times = (np.arange(801) - 160) / 160
    label, subject = np.arange(40) % 2, np.arange(40) // 20
    trials = 1e-9 * rng.normal(size=(40, 64, 801)) + 1e-5 * np.sin(2 * np.pi * 10 * times)
    trials[label == 1, 7] *= 10
    data = type("Data", (), {"trials": trials, "label": label, "subject": subject, "times": times, "sfreq": 160.0})()
    expected = np.zeros(64)
    expected[7] = 20.0
    np.testing.assert_allclose(contralateral_map(data), expected, atol=0.05)
    assert CHANNELS[7] == "C5"

"""Simulated recordings are EDF+ files that look like EEGMMI's, with labels that can be decoded."""

from pathlib import Path

import mne
import numpy as np
import scipy.stats

from data.eeg.figures import contralateral_map
from data.eeg.load import EegData
from data.eeg.physionet import recording_path
from data.eeg.recording import CHANNELS, electrode_positions
from data.eeg.simulated import (
    ALTERNATION,
    draw_subject,
    simulate_recording,
    simulated_folder,
    write_edf,
    write_simulated,
)


def test_the_file_is_edf_plus_in_eegmmis_own_terms(edf_file: Path, real_data: Path) -> None:
    ours = mne.io.read_raw_edf(edf_file, verbose="ERROR")
    real = mne.io.read_raw_edf(recording_path(real_data / "eegmmi", 1, 4), verbose="ERROR")
    assert edf_file.read_bytes()[192:197] == b"EDF+C"
    assert ours.ch_names == real.ch_names
    assert (ours.n_times, ours.info["sfreq"]) == (real.n_times, real.info["sfreq"])
    np.testing.assert_allclose(ours.annotations.onset, real.annotations.onset, atol=1e-3)
    np.testing.assert_allclose(ours.annotations.duration, real.annotations.duration, atol=1e-3)
    assert set(ours.annotations.description) == {"T0", "T1", "T2"}


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_edf(simulate_recording(3, 5, 8), tmp_path / f"{name}.edf")
    assert (tmp_path / "one.edf").read_bytes() == (tmp_path / "two.edf").read_bytes()
    assert not np.array_equal(simulate_recording(3, 5, 8).get_data(), simulate_recording(4, 5, 8).get_data())
    assert not np.array_equal(simulate_recording(3, 5, 8).get_data(), simulate_recording(3, 5, 12).get_data())


def test_writing_loses_a_quarter_of_a_microvolt_at_most(tmp_path: Path) -> None:
    raw = simulate_recording(0, 1, 4)
    write_edf(raw, tmp_path / "recording.edf")
    again = mne.io.read_raw_edf(tmp_path / "recording.edf", verbose="ERROR")
    assert np.abs(again.get_data() - raw.get_data()).max() < 0.25e-6


def test_only_missing_recordings_are_written(tmp_path: Path) -> None:
    folder = write_simulated(tmp_path, 0, [(1, 4)], n_workers=1, quiet=True)
    assert folder == simulated_folder(tmp_path, 0) != simulated_folder(tmp_path, 1)
    before = recording_path(folder, 1, 4).stat().st_mtime_ns
    write_simulated(tmp_path, 0, [(1, 4), (1, 8)], n_workers=1, quiet=True)
    assert recording_path(folder, 1, 4).stat().st_mtime_ns == before
    assert recording_path(folder, 1, 8).exists()


def test_the_spectrum_has_what_it_should(edf_file: Path) -> None:
    raw = mne.io.read_raw_edf(edf_file, preload=True, verbose="ERROR")
    spectrum = raw.compute_psd(fmin=1, fmax=79, verbose="ERROR")
    power, hz = spectrum.get_data(), spectrum.freqs
    who = draw_subject(0, 1)

    def level(channel: str, low: float, high: float) -> float:
        return 10 * np.log10(power[CHANNELS.index(channel), (hz >= low) & (hz <= high)].mean())

    assert level("Oz", who.alpha_hz - 0.5, who.alpha_hz + 0.5) > level("Oz", 14, 18) + 8  # occipital alpha
    assert level("Fz", 2, 4) > level("Fz", 30, 40) + 8  # 1/f
    assert level("Cz", 59.5, 60.5) > level("Cz", 62, 70) + 5  # line noise
    front, back = scipy.stats.skew(raw.get_data(picks=["Fp1.", "O1.."]), axis=1)  # blinks point one way
    assert front > 0.4
    assert abs(back) < 0.1


def test_mu_weakens_opposite_to_the_hand(simulated: EegData) -> None:
    difference = contralateral_map(simulated)
    c3, c4 = difference[CHANNELS.index("C3")], difference[CHANNELS.index("C4")]
    assert c3 < -0.3
    assert c4 > 0.3
    assert abs(difference[CHANNELS.index("Oz")]) < 0.3


def test_sides_mostly_alternate_and_are_balanced() -> None:
    runs = [is_right_trials(simulate_recording(0, subject, 4)) for subject in range(1, 31)]
    assert {int(run.sum()) for run in runs} == {7, 8}
    share = np.mean([(run[1:] != run[:-1]).mean() for run in runs])
    assert abs(share - ALTERNATION) < 0.06  # balance makes it a little larger; SD 0.02


def test_far_electrodes_share_a_part_of_the_signal() -> None:
    place = np.stack([electrode_positions("colin27_1005").get_positions()["ch_pos"][name] for name in CHANNELS])
    far = np.linalg.norm(place[:, None] - place, axis=-1) > 0.12
    x = [simulate_recording(0, subject, 4).filter(7, 30, verbose="ERROR").get_data() for subject in range(1, 5)]
    assert 0.25 < np.mean([np.corrcoef(of_one)[far].mean() for of_one in x]) < 0.6


def test_eyes_turn_to_the_target_after_the_cue() -> None:
    raw = simulate_recording(0, 2, 4).filter(0.5, 10, verbose="ERROR")
    between = np.subtract(*raw.get_data(picks=["F8..", "F7.."]))
    cues = (raw.annotations.onset[1::2] * raw.info["sfreq"]).round().astype(int)
    step = np.array([between[cue + 50 : cue + 90].mean() - between[cue - 40 : cue].mean() for cue in cues])
    is_right = is_right_trials(raw)
    assert step[is_right].mean() > step[~is_right].mean() + 20e-6


def is_right_trials(raw: mne.io.BaseRaw) -> np.ndarray:
    """Of every trial whether it is of the right fist."""
    return raw.annotations.description[1::2] == "T2"

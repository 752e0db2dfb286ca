"""Simulated recordings are EDF+ files that look like EEGMMI's, with labels that can be decoded."""

from pathlib import Path

import mne
import numpy as np
import pytest
import scipy.stats
from mne.decoding import CSP
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline

from data.eeg.figures import contralateral_map
from data.eeg.load import EegData, load_eeg
from data.eeg.physionet import recording_path
from data.eeg.recording import CHANNELS
from data.eeg.simulated import draw_subject, simulate_recording, simulated_folder, write_edf, write_simulated


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
    assert c3 < -0.5
    assert c4 > 0.5
    assert abs(difference[CHANNELS.index("Oz")]) < 0.5


@pytest.mark.slow
def test_csp_and_lda_find_the_label_in_most_subjects_and_not_in_all(tmp_path: Path) -> None:
    data = load_eeg("simulated", tmp_path, subjects="1-12", quiet=True)
    task = data.trials[:, :, 240:720].astype(np.float64)

    def accuracies(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
        model = make_pipeline(CSP(6, reg="ledoit_wolf"), LinearDiscriminantAnalysis())
        with mne.utils.use_log_level("ERROR"):
            return cross_val_score(model, task[rows], data.label[rows], groups=groups[rows], cv=LeaveOneGroupOut())

    across = accuracies(np.arange(len(task)), data.subject)
    assert across.mean() > 0.7
    assert (across > 0.65).mean() > 0.5  # 0.65 is the 97.5 % point of guessing on 45 trials
    within = np.array([accuracies(np.flatnonzero(data.subject == s), data.run).mean() for s in range(1, 13)])
    assert 0.6 < within.mean() < 0.85
    assert within.min() < 0.6

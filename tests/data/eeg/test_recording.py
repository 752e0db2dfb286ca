"""One recording: equal to the exercise's pipeline, and every fault named."""

import contextlib
import shutil
from pathlib import Path

import mne
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from data.eeg.physionet import recording_path
from data.eeg.recording import (
    CHANNELS,
    BadRecording,
    Preprocessing,
    check_edf_bytes,
    find_faulty_channels,
    read_epochs,
    read_raw,
    read_trials,
)
from data.eeg.simulated import simulate_recording, write_edf


def exercise_epochs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The exercise's own lines, with the montage's new name."""
    raw = mne.io.read_raw_edf(path, preload=True, stim_channel="auto", verbose="ERROR")
    mne.datasets.eegbci.standardize(raw)
    raw.set_montage(mne.channels.make_standard_montage("colin27_1005"), verbose="ERROR")
    raw.filter(7.0, 30.0, fir_design="firwin", skip_by_annotation="edge", verbose="ERROR")
    events, _ = mne.events_from_annotations(raw, event_id=dict(T1=2, T2=3), verbose="ERROR")
    picks = mne.pick_types(raw.info, meg=False, eeg=True, stim=False, eog=False, exclude="bads")
    epochs = mne.Epochs(
        raw, events, dict(left=2, right=3), tmin=-1.0, tmax=4.0, proj=True, picks=picks, verbose="ERROR"
    )
    return epochs.get_data(verbose="ERROR"), epochs.events[:, 2] - 2


@pytest.mark.parametrize("run", [4, 8, 12])
def test_real_trials_are_the_exercises_bit_for_bit(real_data: Path, run: int) -> None:
    path = recording_path(real_data / "eegmmi", 1, run)
    expected, labels = exercise_epochs(path)
    trials, label, report = read_trials(path, 1, run, Preprocessing())
    assert trials.shape == (15, 64, 801)
    np.testing.assert_array_equal(trials, expected.astype(np.float32))
    np.testing.assert_array_equal(label, labels)
    assert (report.n_trials, report.n_lost, report.seconds, report.notes) == (15, 0, 125.0, "")


def test_simulated_trials_are_the_exercises(edf_file: Path) -> None:
    expected, labels = exercise_epochs(edf_file)
    trials, label, _ = read_trials(edf_file, 1, 4, Preprocessing())
    np.testing.assert_allclose(trials, expected, rtol=0, atol=1e-9 * np.abs(expected).max() + 2e-11)
    np.testing.assert_array_equal(label, labels)


@pytest.mark.parametrize(
    "settings_",
    [
        Preprocessing(l_freq=8.0, h_freq=13.0, tmin=-0.5, tmax=3.0),
        Preprocessing(tmin=0.5, tmax=2.5),
        Preprocessing(baseline=False),
        Preprocessing(tmin=-6.0, tmax=4.0),  # the first trial would start before the recording
        Preprocessing(tmin=-1.0, tmax=5.0),  # the last would end after it
        Preprocessing(tmin=-3.0, tmax=-1.0),  # a control: the trial ends before the cue, and is its own baseline
        Preprocessing(tmin=-1.0, tmax=0.0),
    ],
)
def test_other_settings_follow_mne(edf_file: Path, settings_: Preprocessing) -> None:
    epochs = read_epochs(edf_file, settings_)
    trials, label, report = read_trials(edf_file, 1, 4, settings_)
    expected = epochs.get_data(verbose="ERROR")
    assert report.n_trials + report.n_lost == 15
    np.testing.assert_allclose(trials, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(label, epochs.events[:, 2] - 2)


def test_unlabelled_stretches_cover_the_recording_from_its_start(edf_file: Path) -> None:
    preprocessing = Preprocessing()
    trials, label, _ = read_trials(edf_file, 1, 4, preprocessing, labelled=False)
    raw = read_raw(edf_file).filter(7.0, 30.0, fir_design="firwin", verbose="ERROR")
    assert trials.shape == (20000 // 801, 64, 801)
    assert (label == -1).all()
    expected = raw.get_data()[:, : 24 * 801].reshape(64, 24, 801).transpose(1, 0, 2)
    np.testing.assert_allclose(trials, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_channels_are_put_in_order(tmp_path: Path) -> None:
    raw = simulate_recording(0, 1, 4)
    write_edf(raw, tmp_path / "in_order.edf")
    write_edf(raw.copy().reorder_channels(raw.ch_names[::-1]), tmp_path / "reversed.edf")
    one, _, _ = read_trials(tmp_path / "in_order.edf", 1, 4, Preprocessing())
    other, _, _ = read_trials(tmp_path / "reversed.edf", 1, 4, Preprocessing())
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("l_freq", "h_freq"), [(0.0, 30.0), (30.0, 7.0), (7.0, 80.0), (float("nan"), 30.0)])
def test_impossible_bands_are_refused(l_freq: float, h_freq: float) -> None:
    with pytest.raises(InputError, match="band-pass needs"):
        Preprocessing(l_freq=l_freq, h_freq=h_freq)


# Damage to the file


def reason(payload: bytes) -> str:
    with pytest.raises(BadRecording) as caught:
        check_edf_bytes(payload)
    return str(caught.value)


def test_a_whole_file_passes(edf_file: Path) -> None:
    check_edf_bytes(edf_file.read_bytes())


def test_real_files_pass(real_data: Path) -> None:
    for run in (4, 8, 12):
        check_edf_bytes(recording_path(real_data / "eegmmi", 1, run).read_bytes())


def test_a_file_cut_short_says_how_short(edf_file: Path) -> None:
    whole = edf_file.read_bytes()
    assert "promises 125 data records, the file holds 62" in reason(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"\n", b"\r\n"), (b"\r", b"\n"), (b"\n", b"\r"), (b"\n", b""), (b"\r", b"")],
)
def test_rewritten_line_feeds_are_named(edf_file: Path, old: bytes, new: bytes) -> None:
    whole = edf_file.read_bytes()
    assert whole.replace(old, new) != whole
    assert "line feeds were rewritten" in reason(whole.replace(old, new))


def test_line_feeds_rewritten_from_dos_to_unix_are_named(edf_file: Path) -> None:
    whole = bytearray(edf_file.read_bytes())
    for at in (20_000, 30_000, 500_000):  # the sample 2573, if the recording happens to hold none
        whole[at : at + 2] = b"\r\n"
    assert "line feeds were rewritten" in reason(bytes(whole).replace(b"\r\n", b"\n"))


@pytest.mark.parametrize(("old", "new"), [(b"\n", b"\r\n"), (b"\r", b"\n"), (b"\n", b"\r")])
def test_rewritten_line_feeds_are_named_in_real_files(real_data: Path, old: bytes, new: bytes) -> None:
    whole = recording_path(real_data / "eegmmi", 1, 4).read_bytes()
    assert "line feeds were rewritten" in reason(whole.replace(old, new))


def test_trailing_bytes_and_other_formats_are_named(edf_file: Path) -> None:
    whole = edf_file.read_bytes()
    assert "follow the last data record" in reason(whole + b"\0\1\2")
    assert "never closed" in reason(whole[:236] + b"-1      " + whole[244:])
    for other in (b"", b"<html>not found</html>", whole[:100], whole[1000:]):
        assert "not an EDF file" in reason(other)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 16639), value=st.integers(0, 255))
def test_any_header_byte_may_be_wrong(edf_file: Path, at: int, value: int) -> None:
    """Whatever a byte of the header becomes, the reader accepts it or raises BadRecording, nothing else."""
    payload = bytearray(edf_file.read_bytes())
    payload[at] = value
    with contextlib.suppress(BadRecording):
        check_edf_bytes(bytes(payload))


# Recordings that are whole but not what they should be


def changed(tmp_path: Path, change) -> Path:  # type: ignore[no-untyped-def]
    raw = simulate_recording(0, 1, 4)
    path = tmp_path / "changed.edf"
    write_edf(change(raw) or raw, path)
    return path


def refuse(path: Path) -> str:
    with pytest.raises(BadRecording) as caught:
        read_trials(path, 1, 4, Preprocessing())
    return str(caught.value)


def test_128_hz_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda raw: raw.resample(128, verbose="ERROR"))
    assert refuse(path) == "sampled at 128 Hz instead of 160 Hz"


def test_missing_channels_are_named(tmp_path: Path) -> None:
    assert "2 of the 64 EEG channels are missing: C3 C4" in refuse(
        changed(tmp_path, lambda raw: raw.drop_channels(["C3..", "C4.."]))
    )


def test_a_recording_without_tasks_is_refused(tmp_path: Path) -> None:
    assert "no T1 or T2 event" in refuse(changed(tmp_path, lambda raw: raw.set_annotations(None)))


def test_too_many_tasks_are_refused(tmp_path: Path) -> None:
    notes = mne.Annotations(4.0 * np.arange(22) + 4, [4.1] * 22, ["T1", "T2"] * 11)
    assert "22 T1 and T2 events" in refuse(changed(tmp_path, lambda raw: raw.set_annotations(notes)))


def test_tasks_of_a_wrong_length_are_refused(tmp_path: Path) -> None:
    notes = mne.Annotations(10.25 * np.arange(11) + 5, [5.125] * 11, ["T1", "T2"] * 5 + ["T1"])
    message = refuse(changed(tmp_path, lambda raw: raw.set_annotations(notes)))
    assert "tasks last 5.125 to 5.125 s where the protocol has 4.1 s" in message


def test_a_recording_that_stops_early_keeps_its_whole_trials(tmp_path: Path) -> None:
    """As subject 104's run 8: 106 s, the last task cut by the end."""
    path = changed(tmp_path, lambda raw: raw.crop(tmax=106 - 1 / 160))
    trials, _, report = read_trials(path, 104, 8, Preprocessing())
    assert (report.n_trials, report.n_lost) == (12, 1)
    assert len(trials) == 12
    assert report.notes == "13 events instead of 15; 1 trials run past the end"


def test_flat_and_clipped_channels_are_noted() -> None:
    rng = np.random.default_rng(0)
    signal = rng.normal(0, 3e-5, (64, 8000))
    assert find_faulty_channels(signal, 160.0) == ((), ())
    signal[5, 1600:4000] = 0.0  # 15 of 50 seconds
    signal[9, 7920:] = 0.0  # the zeros that end every genuine file
    signal[11] = np.clip(signal[11], -6e-5, 6e-5)  # beyond two deviations: 2.3 % on each side
    assert find_faulty_channels(signal, 160.0) == ((CHANNELS[5],), (CHANNELS[11],))


def test_a_dead_recording_is_refused(tmp_path: Path) -> None:
    def unplug(raw: mne.io.BaseRaw) -> None:
        raw._data[:20] = 0.0

    assert "20 flat and 0 clipped channels of 64" in refuse(changed(tmp_path, unplug))


def test_a_file_mne_cannot_read_is_refused(edf_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.edf"
    shutil.copy(edf_file, copy)
    payload = bytearray(copy.read_bytes())
    at = 256 + 65 * (16 + 80 + 8)  # the first channel's physical minimum
    payload[at : at + 8] = b"minus 80"
    copy.write_bytes(bytes(payload))
    assert "MNE cannot read it" in refuse(copy)

"""One recording: equal to the exercise's pipeline, and every fault named."""

import contextlib
import functools
import re
from collections.abc import Sequence
from pathlib import Path

import mne
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from data.eeg.edf import (
    ANNOTATIONS,
    BDF_VERSION,
    EDF_VERSION,
    BadRecording,
    check_bdf_bytes,
    check_edf_bytes,
    edf_header,
)
from data.eeg.physionet import recording_path
from data.eeg.recording import (
    CHANNELS,
    Preprocessing,
    marked_bad,
    read_epochs,
    read_raw,
    read_trials,
    try_read_trials,
)
from data.eeg.simulated import simulate_recording, write_edf
from tests.data.eeg.own_files import write_recording


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


def test_a_file_rewritten_in_text_mode_and_cut_to_the_right_size_is_named(edf_file: Path) -> None:
    whole = edf_file.read_bytes()
    assert "line feeds were rewritten" in reason(whole.replace(b"\n", b"\r\n")[: len(whole)])


def test_an_all_zero_recording_is_not_called_rewritten(edf_file: Path, tmp_path: Path) -> None:
    """It holds neither line feeds nor carriage returns, but no other bytes either."""
    payload = bytearray(edf_file.read_bytes())
    header = edf_header(payload)
    for start in range(header.n_header_bytes, len(payload), header.record_bytes):
        payload[start : start + header.stamp_offset] = bytes(header.stamp_offset)
    (tmp_path / "zero.edf").write_bytes(payload)
    assert b"\n" not in payload[header.n_header_bytes :]
    assert "64 flat and 0 clipped channels" in refuse(tmp_path / "zero.edf")


def with_stamps(payload: bytes, stamps: Sequence[float]) -> bytes:
    """The same data records under other time stamps, without annotations, for which a longer stamp leaves no room."""
    header, changed = edf_header(payload, EDF_VERSION if payload[:1] == b"0" else BDF_VERSION), bytearray(payload)
    size = header.record_bytes - header.stamp_offset
    for number, stamp in enumerate(stamps):
        at = header.n_header_bytes + number * header.record_bytes + header.stamp_offset
        changed[at : at + size] = f"+{stamp:g}\x14\x14".encode().ljust(size, b"\0")
    return bytes(changed)


@pytest.mark.parametrize("kind", [b"EDF+C", b"EDF+D"])
def test_a_recording_with_a_gap_is_refused(edf_file: Path, kind: bytes) -> None:
    whole = edf_file.read_bytes()
    whole = whole[:192] + kind + whole[197:]
    check_edf_bytes(with_stamps(whole, range(125)))
    check_edf_bytes(with_stamps(whole, [k + 0.25 for k in range(125)]))  # a start within a second is EDF+'s own
    refused = reason(with_stamps(whole, [*range(60), *range(70, 135)]))
    assert "it has a gap: data record 61 starts at 70 s where the one before it ends at 60 s" in refused
    assert "data record 61 starts at 50 s" in reason(with_stamps(whole, [*range(60), *range(50, 115)]))
    assert "data record 61 starts at 60.01 s" in reason(with_stamps(whole, [*range(60), *np.arange(60.01, 125)]))
    drifting = [1.001 * k for k in range(125)]  # a sixth of a sample each second
    assert "it has a gap: data record 5 " in reason(with_stamps(whole, drifting))


@pytest.mark.parametrize("kind", [b"BDF+C", b"BDF+D"])
def test_a_bdf_recording_with_a_gap_is_refused(tmp_path: Path, kind: bytes) -> None:
    raw = mne.io.RawArray(1e-5 * np.ones((2, 1600)), mne.create_info(["C3", "C4"], 160.0, "eeg"), verbose="ERROR")
    raw.set_annotations(mne.Annotations([1.0], [1.0], ["left"]), verbose="ERROR")
    whole = write_recording(raw, tmp_path / "a.bdf").read_bytes()
    whole = whole[:192] + kind + whole[197:]
    check_bdf_bytes(whole)
    check_bdf_bytes(with_stamps(whole, range(10)))
    with pytest.raises(BadRecording, match="data record 7 starts at 30 s where the one before it ends at 6"):
        check_bdf_bytes(with_stamps(whole, [*range(6), *range(30, 34)]))


def test_gaps_without_time_stamps_are_refused(edf_file: Path) -> None:
    payload = edf_file.read_bytes()
    assert payload.count(ANNOTATIONS) == 1
    plain = payload.replace(ANNOTATIONS, b"Status".ljust(len(ANNOTATIONS)))
    check_edf_bytes(plain[:192] + b"     " + plain[197:])  # EDF as it was before EDF+
    assert "it has gaps (its header says so) and no time stamps" in reason(plain[:192] + b"EDF+D" + plain[197:])


def test_a_data_record_without_a_time_stamp_is_refused(edf_file: Path) -> None:
    payload = bytearray(edf_file.read_bytes())
    header = edf_header(payload)
    payload[header.n_header_bytes + 7 * header.record_bytes + header.stamp_offset] = ord("x")
    assert reason(bytes(payload)) == "data record 8 of 125 has no time stamp"


LIMITS = {"physical minimum": 104, "physical maximum": 112, "digital minimum": 120, "digital maximum": 128}


@pytest.mark.parametrize("field", LIMITS)
@pytest.mark.parametrize("value", [b"nan", b"inf", b"-inf", b"1e999", b"minus 80", b""])
def test_limits_that_are_no_numbers_are_refused(edf_file: Path, field: str, value: bytes) -> None:
    payload = bytearray(edf_file.read_bytes())
    at = 256 + 65 * LIMITS[field] + 8 * 5  # the sixth channel's
    payload[at : at + 8] = value.ljust(8)
    assert f"limits of channel {CHANNELS[5]} in its header are not numbers".lower() in reason(bytes(payload)).lower()


def test_limits_without_a_range_are_refused(edf_file: Path) -> None:
    payload = bytearray(edf_file.read_bytes())
    at = 256 + 65 * LIMITS["physical maximum"]
    payload[at : at + 8] = b"-8092   "
    assert "leave no range (-8092 to -8092, digital" in reason(bytes(payload))


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


@functools.cache
def original() -> mne.io.BaseRaw:
    return simulate_recording(0, 1, 4)


def changed(tmp_path: Path, change) -> Path:  # type: ignore[no-untyped-def]
    raw = original().copy()
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
    refused = refuse(changed(tmp_path, lambda raw: raw.rename_channels({"C3..": "E17", "C4..": "E54"})))
    assert refused == "2 of the 64 EEG channels are missing: C3 C4; names in it that are not EEGMMI's: E17 E54"
    refused = refuse(changed(tmp_path, lambda raw: raw.drop_channels(["C3.."])))
    assert refused == "1 of the 64 EEG channels are missing: C3; names in it that are not EEGMMI's: none"


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


def test_a_dead_recording_is_refused(tmp_path: Path) -> None:
    def unplug(raw: mne.io.BaseRaw) -> None:
        raw._data[:20] = 0.0

    assert "20 flat and 0 clipped channels of 64" in refuse(changed(tmp_path, unplug))


def test_values_over_a_tenth_of_a_volt_are_refused(edf_file: Path, tmp_path: Path) -> None:
    payload = bytearray(edf_file.read_bytes())
    at = 256 + 65 * LIMITS["physical maximum"] + 8 * 5
    payload[at : at + 8] = b"8092e+03"
    (tmp_path / "high.edf").write_bytes(payload)
    assert f"channel {CHANNELS[5]} reaches " in refuse(tmp_path / "high.edf")


def test_dead_stretches_are_flagged(tmp_path: Path) -> None:
    def unplug(raw: mne.io.BaseRaw) -> None:
        raw._data[:, 50 * 160 : 61 * 160] = 1e-5
        raw._data[:5, 50 * 160 : 61 * 160] += 1e-4 * np.random.default_rng(0).normal(size=(5, 11 * 160))
        raw._data[:, 124 * 160 :] = 0.0  # as every genuine file ends

    _, _, report = read_trials(changed(tmp_path, unplug), 1, 4, Preprocessing())
    assert report.dead == ("50-61 s",)
    assert report.notes == "no signal at 50-61 s"


def test_the_amplitude_of_constant_channels_is_zero(tmp_path: Path) -> None:
    """Their variance is rounding noise, on either side of zero."""

    def hold(raw: mne.io.BaseRaw) -> None:
        raw._data[:] = 0.00123 * np.arange(1, 65)[:, None] / 64

    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("data.eeg.signal_checks.FAULTY_SHARE", 1.0)
        _, _, report = read_trials(changed(tmp_path, hold), 1, 4, Preprocessing())
    assert report.median_sd_uv == pytest.approx(0.0, abs=0.01)


def annotated(tmp_path: Path, *more: tuple[float, float, str]) -> Path:
    def note(raw: mne.io.BaseRaw) -> None:
        for onset, duration, description in more:
            raw.annotations.append(onset, duration, description)

    return changed(tmp_path, note)


def test_trials_marked_bad_are_dropped_as_mne_drops_them(tmp_path: Path) -> None:
    """The cues lie at 4.2, 12.5, 20.8 s, ...; a trial reaches from 1 s before to 4 s after."""
    path = annotated(tmp_path, (12.0, 0.5, "BAD_blink"), (24.9, 0.0, "bad"), (40.0, 20.0, "Bad segment"))
    trials, label, report = read_trials(path, 1, 4, Preprocessing())
    epochs = read_epochs(path, Preprocessing())
    expected = epochs.get_data(verbose="ERROR")
    assert report.n_bad == 15 - len(expected) - report.n_lost >= 4
    assert report.notes == f"{report.n_bad} trials dropped: marked bad in the recording"
    np.testing.assert_allclose(trials, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(label, epochs.events[:, 2] - 2)
    stretches, _, report = read_trials(path, 1, 4, Preprocessing(), labelled=False)
    assert report.n_bad == 24 - len(stretches) >= 5


CUES = np.arange(672, 19_000, 1328)
AT_AN_EDGE = st.builds(
    lambda cue, before, off, duration: (int(cue) - 160 + off + (-duration if before else 801), duration),
    st.sampled_from(CUES),
    st.booleans(),
    st.integers(-1, 1),
    st.integers(0, 5),
)
"""(onset, duration) in samples of what ends where a trial begins, or begins where it ends, or next to it."""


@settings(max_examples=60, deadline=None)
@given(st.lists(AT_AN_EDGE | st.tuples(st.integers(0, 19_000), st.integers(0, 800)), min_size=1, max_size=4))
@example([(511, 1)])
@example([(1313, 1)])
@example([(9807, 1)])  # its end in seconds is above that of 9808 samples, or not, by how it is rounded
def test_the_samples_that_mark_a_trial_bad_are_mnes(notes: list[tuple[int, int]]) -> None:
    raw = mne.io.RawArray(np.zeros((1, 20_000)), mne.create_info(["C3"], 160.0, "eeg"), verbose="ERROR")
    onset, duration = np.array(notes).T / 160
    raw.set_annotations(mne.Annotations(onset, duration, ["BAD_x"] * len(notes)), verbose="ERROR")
    events = np.stack([CUES, np.zeros_like(CUES), np.ones_like(CUES)], axis=1)
    epochs = mne.Epochs(raw, events, tmin=-1.0, tmax=4.0, preload=True, verbose="ERROR", on_missing="ignore")
    kept = ~marked_bad(raw.annotations, CUES - 160, Preprocessing())
    np.testing.assert_array_equal(np.flatnonzero(kept), epochs.selection)


def test_a_recording_joined_from_pieces_is_refused(tmp_path: Path) -> None:
    assert "it is joined from pieces ('EDGE boundary' at 50 s)" in refuse(
        annotated(tmp_path, (50.0, 0.0, "EDGE boundary"))
    )


@pytest.mark.parametrize("onset", [4.2, 4.2 + 1 / 160, 6.0])
def test_two_tasks_at_once_are_refused(tmp_path: Path, onset: float) -> None:
    def note(raw: mne.io.BaseRaw) -> None:
        raw.annotations.delete(-1)
        first = next(n for n in raw.annotations if n["description"] in ("T1", "T2"))
        raw.annotations.append(onset, 4.1, "T2" if first["description"] == "T1" else "T1")

    refused = refuse(changed(tmp_path, note))
    assert re.match(
        r"T[12] at 4\.2 s and T[12] at \d\.\d+ s overlap: one signal under two labels|T[12] at 4.2", refused
    )


@pytest.mark.parametrize("error", [Exception, ZeroDivisionError, OverflowError, KeyError, ValueError])
def test_whatever_mne_raises_is_one_line(
    edf_file: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("two\nlines")

    monkeypatch.setattr(mne.io, "read_raw_edf", fail)
    refused = refuse(edf_file)
    assert refused.startswith(f"MNE cannot read it ({error.__name__}: ")
    assert "\n" not in refused


def test_a_latin_1_comment_is_named(tmp_path: Path) -> None:
    path = annotated(tmp_path, (50.0, 0.0, "fatigue?"))
    payload = path.read_bytes()
    assert payload.count(b"fatigue?") == 1
    path.write_bytes(payload.replace(b"fatigue?", "fatigué?".encode("latin-1")))
    assert "an annotation is not UTF-8 text" in refuse(path)


def test_wrong_bytes_come_before_the_fault_they_cause(edf_file: Path, tmp_path: Path) -> None:
    whole = edf_file.read_bytes()
    (tmp_path / "text.edf").write_bytes(whole.replace(b"\n", b"\r\n")[: len(whole)])
    found = try_read_trials(tmp_path / "text.edf", 1, 4, Preprocessing(), labelled=True, is_genuine=False)
    assert isinstance(found, str)
    assert re.match(r"its bytes are not PhysioNet's \(SHA-256 differs\), and its line feeds were rewritten", found)


# Whatever a byte becomes


@pytest.fixture(scope="module")
def short_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 20 s with two trials."""
    path = tmp_path_factory.mktemp("short") / "short.edf"
    write_edf(simulate_recording(0, 1, 4).crop(tmax=20 - 1 / 160), path)
    return path


FLIPS = st.lists(st.tuples(st.integers(0, 2**22), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(in_header=FLIPS, in_annotations=FLIPS, anywhere=FLIPS, where=st.sampled_from("haw"), labelled=st.booleans())
def test_no_byte_gives_a_traceback_or_trials_that_are_not_numbers(
    short_file: Path,
    tmp_path: Path,
    in_header: list[tuple[int, int]],
    in_annotations: list[tuple[int, int]],
    anywhere: list[tuple[int, int]],
    where: str,
    labelled: bool,
) -> None:
    payload = bytearray(short_file.read_bytes())
    header = edf_header(payload)
    size = header.record_bytes - header.stamp_offset
    if where == "h":
        for at, value in in_header:
            payload[at % header.n_header_bytes] = value
    elif where == "a":
        for at, value in in_annotations:
            record = header.n_header_bytes + at // size % header.n_records * header.record_bytes
            payload[record + header.stamp_offset + at % size] = value
    else:
        for at, value in anywhere:
            payload[at % len(payload)] = value
    path = tmp_path / "flipped.edf"
    path.write_bytes(payload)
    found = try_read_trials(path, 1, 4, Preprocessing(), labelled=labelled, is_genuine=True)
    if isinstance(found, str):
        assert "\n" not in found
    else:
        trials, label, report = found
        assert np.isfinite(trials).all()
        assert len(trials) == len(label) == report.n_trials
        assert np.isfinite(report.median_sd_uv)

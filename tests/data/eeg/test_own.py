"""Recordings of one's own: one data set in four formats gives the same trials, and bad input one clear line."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pytest
import scipy.signal

from common.errors import InputError
from data.eeg.load import EegData, load_eeg
from data.eeg.recording import Preprocessing
from data.eeg.survey import OwnFiles, survey
from tests.data.eeg.own_files import NAMES_32, SFREQ, own_raw, write_own, write_recording

GOOD = [0, 2, 3, 4, 5, 6, 8, 9, 10, 11]
HANDS = ("left_hand", "right_hand")
FORMATS = (".fif", ".bdf", ".vhdr", ".edf", ".set", ".gdf")


def load(folder: Path, cache: Path, *, classes: tuple[str, ...] = HANDS, **changes: object) -> EegData:
    own = {name: changes.pop(name) for name in list(changes) if name in OwnFiles.__dataclass_fields__}
    settings = {"subjects": "all", "runs": "all", "quiet": True, **changes}
    return load_eeg("recordings", cache, folder, own=OwnFiles(classes=classes, **own), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same two people, one run each of 6 trials, in every format."""
    top = tmp_path_factory.mktemp("own")
    return {suffix: write_own(top / suffix[1:], suffix, subjects=2, runs=1, n_trials=6) for suffix in FORMATS}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_trials(suffix: str, folders: dict[str, Path], cache: Path) -> None:
    if suffix == ".gdf":  # events are codes, and nothing is marked bad
        data = load(folders[suffix], cache, classes=("left_hand:769", "right_hand:770"))
        data = replace(data, trials=data.trials[GOOD], label=data.label[GOOD])
    else:
        data = load(folders[suffix], cache)
    reference = load(folders[".fif"], cache)
    assert data.trials.shape == (10, 32, 801)  # six cues a person, of which the second is marked bad
    assert (data.classes, data.sfreq, data.ch_names[11], data.ch_names[22]) == (HANDS, 160.0, "T7", "P7")
    np.testing.assert_array_equal(data.label, reference.label)
    np.testing.assert_allclose(data.trials, reference.trials, atol=2e-8)  # half a step of 16 bits over 1 mV
    table = data.table()
    dropped = "" if suffix == ".gdf" else "; 1 trials dropped: marked bad in the recording"
    assert f"resampled from 250 to 160 Hz{dropped}\n" in table
    assert re.search(r"channels that are no known electrode, or without a position: (EEG-)?EOG1 \(2\)", table)
    assert data.summary()["n_left_hand"] == int((data.label == 0).sum()) > 0


def test_trials_are_the_events_of_the_filtered_and_resampled_recording(folders: dict[str, Path], cache: Path) -> None:
    """MNE's own way, step by step: resample, filter, epochs by annotations, bad ones dropped."""
    data = load(folders[".fif"], cache)
    raw = mne.io.read_raw(folders[".fif"] / "sub-01_run-1.fif", preload=True, verbose="ERROR").pick(list(NAMES_32))
    raw.resample(160, verbose="ERROR").filter(7, 30, fir_design="firwin", verbose="ERROR")
    events, codes = mne.events_from_annotations(raw, {"left_hand": 1, "right_hand": 2}, verbose="ERROR")
    epochs = mne.Epochs(raw, events, codes, tmin=-1, tmax=4, baseline=(None, 0), preload=True, verbose="ERROR")
    own = data.subject == 1
    np.testing.assert_array_equal(data.label[own], epochs.events[:, 2] - 1)
    np.testing.assert_allclose(data.trials[own], epochs.get_data(), atol=1e-9)


def test_trials_across_a_pause_or_a_cut_are_dropped(tmp_path: Path) -> None:
    """As EEGLAB writes it (boundary), BrainVision (New Segment), and MNE, which joins two recordings."""
    first, second = own_raw(1, 1, n_trials=6), own_raw(1, 2, n_trials=6)
    raw = mne.concatenate_raws([first.copy(), second], verbose="ERROR")
    write_recording(raw, tmp_path / "fif" / "anna_1.fif")
    notes = raw.annotations[[name[:4] not in ("EDGE", "BAD ") for name in raw.annotations.description]]
    joint = first.n_times / SFREQ
    for name, suffix in (("boundary", ".set"), ("New Segment/", ".vhdr")):
        named = mne.Annotations([raw.first_time, raw.first_time + joint], 0, name, orig_time=notes.orig_time)
        write_recording(raw.copy().set_annotations(notes + named), tmp_path / suffix[1:] / f"anna_1{suffix}")
    # The last trial of the first piece ends half a second before the joint; the filter reaches further.
    long = Preprocessing(tmin=-1, tmax=6.5)
    expected = [load(tmp_path / kind, tmp_path / "c", preprocessing=long) for kind in ("fif", "set", "vhdr")]
    for data in expected:
        assert len(data.trials) == 9  # of 12, two are marked bad and one is beside the joint
        assert "1 trials dropped: the recording was paused or cut in or beside them; 2 trials" in data.table()
        np.testing.assert_array_equal(data.label, expected[0].label)


def test_a_recording_in_several_fif_files_is_one(tmp_path: Path) -> None:
    raw = own_raw(1, 1, n_trials=20)
    write_recording(raw, tmp_path / "one" / "anna_1.fif")
    (tmp_path / "parts").mkdir()
    raw.save(tmp_path / "parts" / "anna_1.fif", split_size="2MB", verbose="ERROR")
    assert len(list((tmp_path / "parts").iterdir())) > 1
    whole, parts = (load(tmp_path / name, tmp_path / "c") for name in ("one", "parts"))
    np.testing.assert_array_equal(parts.trials, whole.trials)
    (tmp_path / "parts" / "anna_1-1.fif").unlink()
    with pytest.raises(InputError, match=r"anna_1.fif: .*anna_1-1.fif"):
        load(tmp_path / "parts", tmp_path / "c")


def test_the_first_of_left_and_right_is_left_and_classes_have_names_of_ones_own(
    folders: dict[str, Path], cache: Path
) -> None:
    data = load(folders[".vhdr"], cache, classes=("right:right_hand", "left:Stimulus/left_hand"))
    assert data.classes == ("left", "right")
    np.testing.assert_array_equal(data.label, load(folders[".vhdr"], cache).label)


def events_named(folder: Path, *names: str) -> Path:
    """anna's recording of twelve trials, as many of each name."""
    write_recording(own_raw(1, 1, n_trials=12, classes=names), folder / "anna_1.fif")
    return folder


@pytest.mark.parametrize(
    ("names", "classes", "n_events"),
    [
        (("Left", "right", "LEFT", "Right"), ("left", "right"), 12),
        (("left, slow", "Right, slow"), ("left slow", "right slow"), 12),
        (("Stimulus/S  1", "Response/S  1", "Stimulus/S  2"), ("stimulus/s1", "S2"), 8),
        (("a", "A"), ("a", "A"), 12),
        (("block: 1", "block: 2"), ("block: 1", "two:block: 2"), 12),
    ],
)
def test_events_are_meant_whatever_their_case_spaces_and_commas(
    tmp_path: Path, names: tuple[str, ...], classes: tuple[str, ...], n_events: int
) -> None:
    data = load(events_named(tmp_path, *names), tmp_path / "c", classes=classes)
    assert data.recordings[0].n_of_class == (n_events // 2, n_events // 2)
    assert set(data.label) == {0, 1}


@pytest.mark.parametrize("suffix", [".edf", ".bdf"])
def test_annotations_of_older_programs_are_latin_1(suffix: str, tmp_path: Path) -> None:
    """EDF+ asks for UTF-8; MNE refuses other bytes unless it is told which they are."""
    file = write_recording(own_raw(1, 1, n_trials=6, classes=("Fuesse", "Zunge")), tmp_path / f"anna_1{suffix}")
    file.write_bytes(file.read_bytes().replace(b"Fuesse", "Füße  ".encode("latin-1")))
    assert load(tmp_path, tmp_path / "c", classes=("Füße", "Zunge")).recordings[0].n_of_class == (3, 3)


def test_markers_that_are_not_utf_8_are_said(tmp_path: Path) -> None:
    file = write_recording(own_raw(1, 1, n_trials=6, classes=("Füße", "Zunge")), tmp_path / "anna_1.vhdr")
    markers = file.with_suffix(".vmrk")
    markers.write_bytes(markers.read_text(encoding="utf-8").encode("latin-1"))
    with pytest.raises(InputError, match=r"anna_1.vhdr: its text is not UTF-8 .*: save its header, or the file with"):
        load(tmp_path, tmp_path / "c", classes=("Füße", "Zunge"))


def test_what_somebody_typed_is_no_event_and_told(tmp_path: Path) -> None:
    """BrainVision's comments: their events are neither offered as classes nor lost without a word."""
    file = write_recording(own_raw(1, 1, n_trials=6), tmp_path / "anna_1.vhdr")
    markers = file.with_suffix(".vmrk")
    markers.write_text(markers.read_text() + "Mk90=Comment,eyes closed,900,1,0\nMk91=Comment,eyes closed,950,1,0\n")
    found = survey(tmp_path, OwnFiles(), tmp_path / "c", quiet=True)
    assert not [name for name in found.events if "eyes" in name]
    assert "left out: comments, which are no events and can be no classes: Comment/eyes closed (2)" in found.text()


def test_a_marker_file_that_the_header_does_not_name_is_part_of_the_recording(tmp_path: Path) -> None:
    """MNE reads the one beside a renamed header; when it changes, so do the trials."""
    file = write_recording(own_raw(1, 1, n_trials=6), tmp_path / "anna_1.vhdr")
    file.write_text(file.read_text().replace("MarkerFile=anna_1.vmrk", "MarkerFile=old.vmrk"))
    markers, prints = file.with_suffix(".vmrk"), set()
    for _ in range(2):
        prints.add(load(tmp_path, tmp_path / "c").fingerprint)
        markers.write_text(markers.read_text().replace("left_hand", "right_hand", 1))
    assert len(prints) == 2


def test_a_name_of_several_events_is_asked_about(tmp_path: Path) -> None:
    """Before, such a class had no trials, and with two others left the run went on without it."""
    folder = events_named(tmp_path, "Stimulus/S  1", "Response/S  1", "Stimulus/S  2", "Stimulus/S  3")
    with pytest.raises(InputError, match=r"'S1' may be '(Stimulus|Response)/S  1' or '.*/S  1'; give the whole name"):
        load(folder, tmp_path / "c", classes=("S1", "S2", "S3"))


def test_a_class_of_which_no_trial_is_left_is_said(tmp_path: Path) -> None:
    raw = own_raw(1, 1, n_trials=12, classes=("left", "right", "feet"))
    feet = [note["onset"] for note in raw.annotations if note["description"] == "feet"]
    bad = mne.Annotations(feet, 0.1, "BAD_feet", orig_time=raw.annotations.orig_time)
    write_recording(raw.set_annotations(raw.annotations + bad), tmp_path / "anna_1.fif")
    with pytest.raises(InputError, match="no trial is left of 'feet', of 4 events: they are marked bad"):
        load(tmp_path, tmp_path / "c", classes=("left", "right", "feet"))


def test_stim_channels_hold_events_by_their_codes(tmp_path: Path) -> None:
    raw = own_raw(1, 1, n_trials=6)
    events, _ = mne.events_from_annotations(raw, {"left_hand": 769, "right_hand": 770}, verbose="ERROR")
    stim = np.zeros((1, raw.n_times))
    for sample, _, code in events:
        stim[0, sample - raw.first_samp : sample - raw.first_samp + 5] = code
    raw.set_annotations(None)
    info = mne.create_info(["STI"], raw.info["sfreq"], "stim", verbose="ERROR")
    raw.add_channels([mne.io.RawArray(stim, info, verbose="ERROR")], force_update_info=True)
    write_recording(raw, tmp_path / "data" / "anna_1.fif")
    data = load(tmp_path / "data", tmp_path / "cache", classes=("left:769", "right:770"))
    assert len(data.label) == 6
    np.testing.assert_array_equal(data.label, events[:, 2] - 769)
    assert data.names.subject == {1: "anna"}


def test_reference_notch_picks_and_drop(folders: dict[str, Path], cache: Path) -> None:
    folder = folders[".fif"]
    plain, average = load(folder, cache), load(folder, cache, reference=("average",))
    np.testing.assert_allclose(average.trials, plain.trials - plain.trials.mean(1, keepdims=True), atol=1e-9)
    cz = load(folder, cache, reference=("Cz",))
    at = plain.ch_names.index("Cz")
    np.testing.assert_allclose(cz.trials, plain.trials - plain.trials[:, at : at + 1], atol=1e-9)
    few = load(folder, cache, picks=("C4", "C3", "T7"))
    np.testing.assert_array_equal(few.trials, plain.trials[:, [plain.ch_names.index(n) for n in ("C4", "C3", "T7")]])
    assert load(folder, cache, drop=("T3", "Fp1")).ch_names == tuple(
        n for n in plain.ch_names if n not in ("T7", "Fp1")
    )
    for one, same in (
        ({"picks": ("C4", "T7")}, {"picks": ("c4", "T3", "C4")}),
        ({"drop": ("T7", "C3")}, {"drop": ("t3", "c3", "eog1")}),
        ({"reference": ("T7",)}, {"reference": ("t3",)}),
        ({"reference": ("average",)}, {"reference": ("Average",)}),
    ):
        expected, found = load(folder, cache, **one), load(folder, cache, **same)  # type: ignore[arg-type]
        assert found.ch_names == expected.ch_names
        np.testing.assert_array_equal(found.trials, expected.trials)
    assert "T7" not in load(folder, cache, drop=("t3",)).ch_names
    notched = load(folder, cache, notch=(20.0,))
    frequencies, power = scipy.signal.periodogram(notched.trials, 160)
    before = scipy.signal.periodogram(plain.trials, 160)[1]
    near = np.abs(frequencies - 20) < 0.15
    assert power[..., near].mean() < 0.3 * before[..., near].mean()


def test_positions_of_the_file_are_taken_and_names_need_not_be_known(tmp_path: Path) -> None:
    raw = own_raw(1, 1, n_trials=6)
    montage = mne.channels.make_standard_montage("colin27_1005")
    raw.rename_channels({"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}).set_montage(montage, verbose="ERROR")
    raw.rename_channels({"C3": "E36", "C4": "E104"})
    write_recording(raw, tmp_path / "data" / "anna_1.fif")
    data = load(tmp_path / "data", tmp_path / "cache")
    assert {"E36", "E104"} < set(data.ch_names)
    left, right = (data.positions[data.ch_names.index(name)] for name in ("E36", "E104"))
    assert left[0] < -0.05 < 0.05 < right[0]
    np.testing.assert_allclose(data.info()["chs"][0]["loc"][:3], data.positions[0], atol=1e-6)
    named = load(tmp_path / "data", tmp_path / "cache", montage="colin27_1005")
    assert len(named.ch_names) == 30
    assert "E36 (1)" in named.table()


def test_three_classes_any_number_of_trials_and_other_times(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "d", ".edf", subjects=1, runs=1, n_trials=9, classes=("feet", "left", "right"))
    preprocessing = Preprocessing(tmin=0.0, tmax=2.0, sfreq=128.0)
    data = load(folder, tmp_path / "c", classes=("feet", "left", "right"), preprocessing=preprocessing)
    assert (data.trials.shape, data.classes) == ((8, 32, 257), ("feet", "left", "right"))
    assert np.bincount(data.label).tolist() == [int((data.label == k).sum()) for k in range(3)]
    assert set(data.label) == {0, 1, 2}
    unlabelled = load(folder, tmp_path / "c", classes=(), labelled=False)
    assert set(unlabelled.label) == {-1}


def test_recordings_without_the_events_are_left_out_and_said(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "d", ".edf", subjects=2, runs=1, n_trials=6)
    write_recording(own_raw(3, 1, n_trials=6, classes=("rest", "rest")), folder / "sub-03_run-1.edf")
    data = load(folder, tmp_path / "c")
    assert [(entry.subject, entry.run) for entry in data.excluded] == [(3, 1)]
    assert "it has none of the events left_hand, right_hand, but rest (6)" in data.table()


def test_a_survey_shows_everything_before_anything_is_cut(folders: dict[str, Path], cache: Path) -> None:
    text = survey(folders[".edf"], OwnFiles(), cache, quiet=True).text()
    for words in ("2 recordings, named by BIDS entities", "left_hand (6)", "right_hand (6)", "250", "EOG1 (2)"):
        assert words in text
    assert "electrodes of 2 recordings (32): Fp1 Fp2" in text


def change(folder: Path, what: str) -> dict[str, object]:
    """Make the recordings of two people wrong in one way; returns the arguments of `load` that go with it."""
    if what == "montage":
        names = [name for name in NAMES_32 if name not in ("O1", "O2")]
        write_recording(own_raw(2, 1, n_trials=6, names=names), folder / "sub-02_run-1.edf")
    elif what == "two files":
        shutil.copy(folder / "sub-01_run-1.edf", folder / "sub-01_run-1.bdf")
    elif what == "two folders":
        (folder / "b").mkdir()
        (folder / "sub-02_run-1.edf").rename(folder / "b" / "sub-01_run-2.edf")
    elif what == "empty":
        (folder / "sub-02_run-1.edf").write_bytes(b"")
    elif what == "link":
        (folder / "sub-02_run-1.edf").unlink()
        (folder / "sub-02_run-1.edf").symlink_to(folder / "nothing.edf")
    elif what == "copies":
        shutil.copy(folder / "sub-01_run-1.edf", folder / "sub-02_run-1.edf")
    elif what == "cut short":
        file = folder / "sub-01_run-1.edf"
        file.write_bytes(file.read_bytes()[:-5000])
    elif what == "units":
        raw = own_raw(1, 1, n_trials=6)
        raw._data *= 1e6
        (folder / "sub-01_run-1.edf").unlink()
        write_recording(raw, folder / "sub-01_run-1.fif")
    changes: dict[str, dict[str, object]] = {
        "pattern": {"subject_pattern": "P{subject}_{run}"},
        "one class": {"classes": ("left_hand",)},
        "no class": {"classes": ()},
        "one event": {"classes": ("a:left_hand", "b:left_hand")},
        "no name": {"classes": (":left_hand", "right_hand")},
        "misspelt": {"classes": ("left_hand", "rigth_hand")},
        "picks": {"picks": ("C3", "C4", "XX")},
        "subjects": {"subjects": "anna"},
        "montage name": {"montage": "biosemi33"},
        "reference": {"reference": ("M1",)},
        "drop": {"drop": ("C9",)},
        "no frequency": {"notch": (50.0, 0.0)},
        "nobody": {"exclude": "01,02"},
        "notch": {"notch": (50.0, 200.0)},
    }
    return changes.get(what, {})


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("pattern", r"subject_pattern='P\{subject\}_\{run\}' fits none of the 2 recordings"),
        (
            "one class",
            r"classes=left_hand: give at least two classes; .*left_hand \(6\), right_hand \(6\)",
        ),
        ("no class", r"classes: none are given; give two or more of the events"),
        (
            "misspelt",
            r"classes: 'rigth_hand' is not among the events; the events there are left_hand \(6\), right_hand",
        ),
        ("two files", "sub-01_run-1.bdf and sub-01_run-1.edf are both subject 01 run 1"),
        ("two folders", "subject 01 is in two folders, .*sub-01_run-1.edf"),
        ("montage", r"sub-02_run-1.edf has other electrodes than sub-01_run-1.edf: it lacks O1 O2; .*picks=common"),
        ("copies", "it has the same bytes as sub-01_run-1.edf"),
        ("one event", r"classes: 'a' and 'b' are both the event 'left_hand'; the events there are left_hand \(6\)"),
        ("no name", "classes: ':left_hand' has no name before the colon; give one, as left:left_hand"),
        ("empty", "sub-02_run-1.edf: it is empty: 0 bytes"),
        ("link", r"sub-02_run-1.edf: it is a link to what is not there: fetch it .*on_bad=skip"),
        ("cut short", "sub-01_run-1.edf: cut short"),
        ("units", "sub-01_run-1.fif: channel Fp1 reaches .* V"),
        ("picks", "has no XX; its electrodes are Fp1"),
        ("subjects", "'anna' is not among the recordings; there are 01, 02"),
        ("montage name", "montage='biosemi33' is not one of MNE's"),
        ("reference", "reference=M1: it has no channel M1"),
        (
            "drop",
            "drop: 'C9' is no channel of the recordings; electrodes of the first are Fp1 .*, its other channels EOG1",
        ),
        ("no frequency", "notch=0: a line frequency in Hz, such as 50 or 60, and at least 1"),
        ("nobody", "all 2 recordings are left out"),
        ("notch", "notch=200: recorded at 250 Hz, it has nothing there; leave it out"),
    ],
)
def test_bad_input_is_one_clear_line(what: str, words: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders[".edf"], tmp_path / "data")
    changes = change(folder, what)
    with pytest.raises(InputError, match=words) as refused:
        load(folder, tmp_path / "cache", **changes)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def with_stim(raw: mne.io.RawArray, bounce: str) -> mne.io.RawArray:
    """The recording with its events on a stim channel instead, 1 left and 2 right, for 0.2 s; some switch badly."""
    codes = np.zeros(raw.n_times)
    for note in raw.annotations:
        code = {"left_hand": 1, "right_hand": 2}.get(note["description"])
        first = round((note["onset"] - raw.first_time) * SFREQ)
        if code:
            codes[first : first + 50] = code
            if bounce == "gap":
                codes[first + 2] = 0
            elif bounce == "code":
                codes[first] = 3 - code
    kinds = [*raw.get_channel_types(), "stim"]
    info = mne.create_info([*raw.ch_names, "STI"], SFREQ, kinds, verbose="ERROR")
    return mne.io.RawArray(np.vstack([raw.get_data(), codes]), info, verbose="ERROR")


def test_events_of_a_stim_channel_that_switches_cleanly(tmp_path: Path) -> None:
    raw = own_raw(1, 1, n_trials=6)
    write_recording(raw.copy(), tmp_path / "a" / "anna_1.fif")
    write_recording(with_stim(raw, "not"), tmp_path / "b" / "anna_1.fif")
    expected, found = load(tmp_path / "a", tmp_path / "c"), load(tmp_path / "b", tmp_path / "c", classes=("1", "2"))
    np.testing.assert_array_equal(found.trials[GOOD[:5]], expected.trials)  # nothing is marked bad
    np.testing.assert_array_equal(found.label[GOOD[:5]], expected.label)
    assert "STI" not in found.table()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("long", r"no trial is left in 1 recordings, .*: 6 of 6 reach past the recordings' ends \(tmin=-1, tmax=100\)"),
        ("all bad", "6 of 6 touch what is marked bad"),
        ("gap", r"6 events of the classes follow another within 0.1 s, at 3.000 and 3.012 s the first: a cue that"),
        ("code", r"its stim channel bounces: code [12] holds for 1 samples before [12], at 3.000 s; clean it"),
        ("tiny", "32 flat and 0 clipped channels of 32 .*all stay within 1e-06 V: perhaps their unit is wrong"),
        ("nan", "channel F3 holds values that are not numbers"),
        ("misc", "none of its 33 channels is of the type EEG, but eog, misc: set their types, and save it"),
        ("no names", "none of its channels is an electrode of colin27_1005 .*; give the montage that has these names"),
        ("slow", "sampled at 50 Hz, a recording has no signal up to h_freq=30 Hz"),
    ],
)
def test_recordings_that_cannot_be_used_are_refused_in_one_line(what: str, words: str, tmp_path: Path) -> None:
    raw = own_raw(1, 1, n_trials=6, sfreq=50.0 if what == "slow" else SFREQ)
    if what == "all bad":
        whole = mne.Annotations(raw.first_time, raw.times[-1], "bad_all", orig_time=raw.annotations.orig_time)
        raw.set_annotations(raw.annotations + whole)
    elif what == "misc":
        raw.set_channel_types(dict.fromkeys(NAMES_32, "misc"), on_unit_change="ignore")
    elif what == "no names":
        raw.rename_channels({name: f"EEG {k:03d}" for k, name in enumerate(NAMES_32)})
    elif what in ("tiny", "nan"):
        raw._data[:32] *= 1e-6 if what == "tiny" else 1
        raw._data[3, 100] *= np.nan if what == "nan" else 1
    elif what in ("gap", "code"):
        raw = with_stim(raw, what)
    write_recording(raw, tmp_path / "data" / "anna_1.fif")
    preprocessing = Preprocessing(tmax=100) if what == "long" else Preprocessing()
    classes = ("left:1", "right:2") if what in ("gap", "code") else HANDS
    with pytest.raises(InputError, match=words) as refused:
        load(tmp_path / "data", tmp_path / "c", classes=classes, preprocessing=preprocessing)
    assert "\n" not in str(refused.value)


def test_a_unit_that_is_likely_to_be_wrong_is_said(tmp_path: Path) -> None:
    raw = own_raw(1, 1, n_trials=6)
    raw._data *= 1000
    write_recording(raw, tmp_path / "anna_1.fif")
    assert re.search(r"SD \S+ uV, where EEG has 5 to 100: is its unit right\?", load(tmp_path, tmp_path).table())


@pytest.mark.parametrize(
    ("suffix", "part", "length", "words"),
    [
        (".fif", ".fif", 100_000, "sub-01_run-1.fif: MNE cannot read it"),
        (".bdf", ".bdf", 500_000, "sub-01_run-1.bdf: the header promises 40 data records, .* the file holds 19"),
        (".vhdr", ".eeg", 132 * 7, "sub-01_run-1.vhdr: cut short: some of its events lie behind its end"),
        (".vhdr", ".eeg", None, "sub-01_run-1.vhdr: MNE cannot read it"),
        (".set", ".fdt", 300_000, "sub-01_run-1.set: MNE cannot read it"),
        (".gdf", ".gdf", 300_000, "sub-01_run-1.gdf: MNE cannot read it"),
    ],
)
def test_a_file_cut_short_is_named(
    suffix: str, part: str, length: int | None, words: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders[suffix], tmp_path / "data")
    file = folder / f"sub-01_run-1{part}"
    if length is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(InputError, match=words) as refused:
        load(folder, tmp_path / "cache", classes=("left:769", "right:770") if suffix == ".gdf" else HANDS)
    assert "\n" not in str(refused.value)


def test_different_montages_have_electrodes_in_common(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders[".edf"], tmp_path / "data")
    change(folder, "montage")
    assert len(load(folder, tmp_path / "cache", picks=("common",)).ch_names) == 30


def test_a_damaged_recording_is_skipped_if_that_is_asked(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders[".edf"], tmp_path / "data")
    change(folder, "cut short")
    data = load(folder, tmp_path / "cache", on_bad="skip")
    assert set(data.subject) == {2}
    assert "left out: subject 01 run 1: cut short" in data.table()


def test_the_cache_is_that_of_these_bytes_and_settings(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders[".vhdr"], tmp_path / "data")
    settings: list[dict[str, object]] = [{}, {"reference": ("average",)}, {"picks": ("C3", "C4")}, {"notch": (50.0,)}]
    prints = [load(folder, tmp_path / "cache", **change).fingerprint for change in settings]  # type: ignore[arg-type]
    marker = folder / "sub-01_run-1.vmrk"
    marker.write_text(marker.read_text().replace("left_hand", "right_hand", 1))
    prints.append(load(folder, tmp_path / "cache").fingerprint)
    assert len(set(prints)) == 5


def test_eegmmi_read_as_ones_own_is_eegmmi(simulated: EegData, eeg_cache: Path, tmp_path: Path) -> None:
    """The simulation, in EEGMMI's files and layout: the same trials by the route of anybody's recordings."""
    folder = simulated.files[0].parents[1]
    own = OwnFiles(classes=("left:T1", "right:T2"))
    found = load_eeg("recordings", tmp_path, folder, subjects="1-2", runs="4,8", own=own, quiet=True)
    same = np.isin(simulated.subject, (1, 2)) & np.isin(simulated.run, (4, 8))
    for name in ("trials", "label", "subject", "run"):
        np.testing.assert_array_equal(getattr(found, name), getattr(simulated, name)[same])
    assert found.ch_names == simulated.ch_names
    np.testing.assert_array_equal(found.positions, simulated.positions)


@pytest.mark.slow
def test_real_people_read_as_ones_own_are_physionets(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "eegmmi"
    theirs = load_eeg("physionet", tmp_path, folder, subjects="1", quiet=True)
    own = OwnFiles(classes=("left:T1", "right:T2"))
    found = load_eeg("recordings", tmp_path, folder, subjects="all", runs="all", own=own, quiet=True)
    for name in ("trials", "label", "subject", "run"):
        np.testing.assert_array_equal(getattr(found, name), getattr(theirs, name))

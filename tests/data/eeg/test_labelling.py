"""Labels of samples from annotations, and whole recordings as the trials' own pipeline filters them."""

from pathlib import Path

import mne
import numpy as np
import pytest

from data.eeg.any_format import open_raw
from data.eeg.labelling import (
    UNLABELLED,
    cycle_seconds,
    labels_of_own,
    labels_of_samples,
    states_of,
    whole_recordings,
)
from data.eeg.load import EegData, load_eeg
from data.eeg.survey import OwnFiles
from tests.data.eeg.own_files import SPACING, own_raw, write_own, write_recording


def test_labels_hold_from_onset_to_end() -> None:
    notes = mne.Annotations([0.0, 1.0, 2.5], [1.0, 1.2, 0.5], ["T0", "T1", "T2"])
    label = labels_of_samples(notes, 35, 10.0)
    assert label[:10].tolist() == [0] * 10
    assert label[10:22].tolist() == [1] * 12
    assert label[22:25].tolist() == [UNLABELLED] * 3
    assert label[25:30].tolist() == [2] * 5
    assert label[30:].tolist() == [UNLABELLED] * 5


def test_stretches_marked_bad_have_no_label() -> None:
    notes = mne.Annotations([0.0, 0.5], [3.0, 1.0], ["T1", "BAD_blink"])
    assert labels_of_samples(notes, 30, 10.0).tolist() == [1] * 5 + [UNLABELLED] * 10 + [1] * 15


def test_whole_recordings_are_what_the_trials_were_cut_from(tmp_path: Path) -> None:
    data = load_eeg("simulated", tmp_path, subjects="1-2", runs="4,8", quiet=True)
    found = whole_recordings(data, [2])
    assert [(r.subject, r.run) for r in found] == [(2, 4), (2, 8)]
    for recording in found:
        starts = np.flatnonzero((recording.label[1:] > 0) & (recording.label[:-1] <= 0)) + 1
        mine = (data.subject == 2) & (data.run == recording.run)
        assert recording.label[starts].tolist() == (data.label[mine] + 1).tolist()
        trial = np.asarray(data.trials[mine][3])
        cut = recording.signal[:, starts[3] + data.preprocessing.first_sample :][:, : trial.shape[1]]
        cut = cut - cut[:, : 1 - data.preprocessing.first_sample].mean(1, keepdims=True)  # the trial's baseline
        np.testing.assert_allclose(cut, trial, atol=1e-9)


def load_own(folder: Path, *classes: str) -> EegData:
    own = OwnFiles(classes=classes, reference=("average",))
    return load_eeg("recordings", folder / "cache", folder, subjects="all", runs="all", own=own, quiet=True)


@pytest.mark.parametrize("suffix", [".fif", ".edf", ".vhdr"])
def test_recordings_of_ones_own_are_whole_what_the_trials_were_cut_from(suffix: str, tmp_path: Path) -> None:
    data = load_own(write_own(tmp_path, suffix, subjects=2, runs=1, n_trials=5), "left_hand", "right_hand")
    (found,) = whole_recordings(data, [2])
    assert states_of(data) == ("rest", "left_hand", "right_hand")
    assert cycle_seconds(data, [2]) == SPACING
    assert found.signal.shape == (32, len(found.label))
    cues = [480 + 960 * k for k in (0, 2, 3, 4)]  # 3 s, then every 6 s, at 160 Hz; the second trial is marked bad
    of_person = data.subject == 2
    assert found.label[cues].tolist() == (data.label[of_person] + 1).tolist()
    for cue, trial in zip(cues, data.trials[of_person], strict=True):
        cut = found.signal[:, cue - 160 : cue + 641]
        np.testing.assert_allclose(cut - cut[:, :161].mean(1, keepdims=True), trial, atol=1e-9)
    # An event without duration lasts until tmax, 4 s; then there is rest, but not before the first or behind the last.
    assert set(found.label[:480]) == {UNLABELLED}
    assert set(found.label[480 + 640 : 480 + 960]) == {0}
    assert set(found.label[cues[3] + 640 :]) == {UNLABELLED}
    second = found.label[480 + 960 : 480 + 1920]  # bad from 1 to 1.5 s behind its cue
    assert (second[160:240] == UNLABELLED).all()
    assert set(second[:159]) == set(second[242:640])
    assert second[0] in (1, 2)


def test_other_events_are_neither_rest_nor_a_class(tmp_path: Path) -> None:
    """An event lasts as long as it says; an other one without a duration no longer than until the next."""
    notes = [(2, 1, "left_hand"), (4, 0, "beep"), (5, 0, "right_hand"), (10, 0, "feet"), (16, 9, "rest")]
    notes += [(17, 1, "sneeze"), (30, 0, "left_hand"), (33, 0, "boundary")]
    raw = own_raw(1, 1, n_trials=6)
    raw.set_annotations(mne.Annotations(*zip(*notes, strict=True)))  # type: ignore[arg-type]
    write_recording(raw, tmp_path / "anna_1.fif")
    data = load_own(tmp_path, "left_hand", "right_hand")
    label = labels_of_own(open_raw(data.files[0], None), data)
    edges = np.flatnonzero(np.diff(label)) + 1
    half = 132  # of the band-pass's 265 taps
    expected = [(0, None), (2, 1), (3, 0), (4, None), (5, 2), (9, 0), (10, None), (14, 0), (17, None), (18, 0), (30, 1)]
    states = [UNLABELLED if state is None else state for _, state in expected]
    around_joint = [33 * 160 - half, 33 * 160 + half, 34 * 160]
    assert edges.tolist() == [*(160 * seconds for seconds, _ in expected[1:]), *around_joint]
    assert label[[0, *edges]].tolist() == [*states, UNLABELLED, 1, UNLABELLED]


def test_a_class_called_rest_is_rest(tmp_path: Path) -> None:
    folder = write_own(tmp_path, ".fif", subjects=1, runs=1, n_trials=6, classes=("feet", "rest"))
    data = load_own(folder, "feet", "rest")
    (found,) = whole_recordings(data, [1])
    assert states_of(data) == ("rest", "feet")
    cues = [480 + 960 * k for k in (0, 2, 3, 4, 5)]
    assert found.label[cues].tolist() == [1 if data.classes[k] == "feet" else 0 for k in data.label]


def test_eegmmi_labelled_as_ones_own_is_eegmmi(tmp_path: Path) -> None:
    theirs = load_eeg("simulated", tmp_path, subjects="2", runs="4", quiet=True)
    own = OwnFiles(classes=("left:T1", "right:T2"))
    ours = load_eeg("recordings", tmp_path, theirs.files[0].parent, subjects="2", runs="4", own=own, quiet=True)
    (expected,), (found,) = whole_recordings(theirs, [2]), whole_recordings(ours, [2])
    known = expected.label != UNLABELLED
    np.testing.assert_array_equal(found.label[known], expected.label[known])
    np.testing.assert_allclose(found.signal, expected.signal, atol=1e-9)

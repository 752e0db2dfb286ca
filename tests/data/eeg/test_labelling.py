"""Labels of samples from annotations, and whole recordings as the trials' own pipeline filters them."""

from pathlib import Path

import mne
import numpy as np

from data.eeg.labelling import UNLABELLED, labels_of_samples, whole_recordings
from data.eeg.load import load_eeg


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

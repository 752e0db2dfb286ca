"""Whole EEGMMI recordings with a label for every sample: rest, left fist, right fist."""

from collections.abc import Sequence
from dataclasses import dataclass

import mne
import numpy as np

from data.eeg.load import EegData
from data.eeg.recording import read_filtered

STATES = ("rest", "left", "right")
STATE_OF = {"T0": 0, "T1": 1, "T2": 2}
UNLABELLED = -100  # samples outside every annotation; torch's cross_entropy leaves them out


@dataclass(frozen=True, eq=False)
class Recording:
    """signal: float32 [n_chans, n_times], band-passed, volts. label: int64 [n_times], an index of STATES or
    UNLABELLED.
    """

    subject: int
    run: int
    signal: np.ndarray
    label: np.ndarray


def whole_recordings(data: EegData, subjects: Sequence[int]) -> list[Recording]:
    """The recordings of `subjects` that `data` was made from, whole, under the same band-pass (MNE's, zero phase)."""
    found = []
    for path, report in zip(data.files, data.recordings, strict=True):
        if report.subject in subjects:
            raw = read_filtered(path, data.preprocessing)
            signal = raw.get_data().astype(np.float32)
            label = labels_of_samples(raw.annotations, signal.shape[1], data.sfreq)
            found.append(Recording(report.subject, report.run, signal, label))
    return found


def labels_of_samples(annotations: mne.Annotations, n_times: int, sfreq: float) -> np.ndarray:
    """The state at each of n_times samples, int64; an annotation holds from its onset up to the next sample after its
    end. Stretches that are marked bad ("BAD...") have none.
    """
    label = np.full(n_times, UNLABELLED, dtype=np.int64)
    for onset, duration, name in zip(annotations.onset, annotations.duration, annotations.description, strict=True):
        if name in STATE_OF:
            label[round(onset * sfreq) : round((onset + duration) * sfreq)] = STATE_OF[name]
    for onset, duration, name in zip(annotations.onset, annotations.duration, annotations.description, strict=True):
        if name.lower().startswith("bad"):
            label[round(onset * sfreq) : round((onset + duration) * sfreq)] = UNLABELLED
    return label

"""Whole recordings with a label for every sample: rest, or one of the classes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import mne
import numpy as np

from data.eeg.any_format import open_raw, read_whole
from data.eeg.events import Marked, began, joints, marked_events
from data.eeg.load import EegData
from data.eeg.recording import Preprocessing, fir_kernel, read_filtered

REST = "rest"
STATES = (REST, "left", "right")
"""EEGMMI's. Of other recordings see `states_of`."""
STATE_OF = {"T0": 0, "T1": 1, "T2": 2}
RESTING = re.compile(r"T0|rest(?:ing)?", re.IGNORECASE)
"""Events, and classes, that are rest by their name."""
UNLABELLED = -100  # samples outside every annotation; torch's cross_entropy leaves them out
CYCLE_SECONDS = 8.3  # rest and task of EEGMMI's protocol


@dataclass(frozen=True, eq=False)
class Recording:
    """signal: float32 [n_chans, n_times], band-passed, volts. label: int64 [n_times], an index of `states_of` or
    UNLABELLED.
    """

    subject: int
    run: int
    signal: np.ndarray
    label: np.ndarray


def states_of(data: EegData) -> tuple[str, ...]:
    """What a sample may be: rest, then the classes; a class that is rest by its name is that rest."""
    return (REST, *(name for name in data.classes if not RESTING.fullmatch(name)))


def whole_recordings(data: EegData, subjects: Sequence[int]) -> list[Recording]:
    """The recordings of `subjects` that `data` was made from, whole, under the same band-pass (MNE's, zero phase)."""
    found = []
    for path, report in zip(data.files, data.recordings, strict=True):
        if report.subject not in subjects:
            continue
        if data.reading is None:
            raw = read_filtered(path, data.preprocessing)
            signal = raw.get_data().astype(np.float32)
            label = labels_of_samples(raw.annotations, signal.shape[1], data.sfreq)
        else:
            raw = open_raw(path, data.reading.bids_root)
            signal = read_whole(raw, data.preprocessing, data.reading)
            label = labels_of_own(raw, data)
            signal, label = signal[:, : len(label)], label[: signal.shape[1]]  # resampling may round otherwise
        found.append(Recording(report.subject, report.run, signal, label))
    return found


def labels_of_samples(annotations: mne.Annotations, n_times: int, sfreq: float) -> np.ndarray:
    """EEGMMI's state at each of n_times samples, int64; an annotation holds from its onset up to the next sample after
    its end. Stretches that are marked bad ("BAD...") have none.
    """
    label = np.full(n_times, UNLABELLED, dtype=np.int64)
    for onset, duration, name in zip(annotations.onset, annotations.duration, annotations.description, strict=True):
        if name in STATE_OF:
            label[round(onset * sfreq) : round((onset + duration) * sfreq)] = STATE_OF[name]
    return without_bad(label, annotations, 0.0, sfreq)


def without_bad(label: np.ndarray, annotations: mne.Annotations, start: float, sfreq: float) -> np.ndarray:
    """The labels [n_times], none where it is marked bad. start: seconds of the first sample on the notes' clock."""
    for onset, duration, name in zip(annotations.onset, annotations.duration, annotations.description, strict=True):
        if name.lower().startswith("bad"):
            first, last = onset - start, onset - start + duration
            label[max(0, round(first * sfreq)) : max(0, round(last * sfreq))] = UNLABELLED
    return label


def labels_of_own(raw: mne.io.BaseRaw, data: EegData) -> np.ndarray:
    """The state at each sample of one of `data`'s recordings, at `data.sfreq`, int64 [n_times]; no sample is read.

    A task lasts as long as its event, or, where that has no duration, until tmax. Rest is what lies between, from the
    first event to the end of the last. No label: stretches marked bad, those that a pause or a cut reaches through the
    band-pass, and other events, which last like tasks, but no longer than until the next event.
    """
    assert data.reading is not None
    n_times = round(raw.n_times * data.sfreq / raw.info["sfreq"])
    label = np.full(n_times, UNLABELLED, dtype=np.int64)
    states = states_of(data)
    state_of = {
        event: 0 if RESTING.fullmatch(name) else states.index(name)
        for name, events in zip(data.classes, data.reading.events, strict=True)
        for event in events
    }
    spans = _spans(marked_events(raw), state_of, data.preprocessing, n_times)
    if spans:
        label[min(first for first, _, _ in spans) : max(last for _, last, _ in spans)] = 0
    for tasks in (False, True):  # a task within another event is a task
        for first, last, state in spans:
            if (state > 0) == tasks:
                label[first:last] = state
    half = len(fir_kernel(data.sfreq, data.preprocessing.l_freq, data.preprocessing.h_freq)) // 2
    for seconds in joints(raw):
        joint = round(seconds * data.sfreq)
        label[max(0, joint - half) : joint + half] = UNLABELLED
    return without_bad(label, raw.annotations, began(raw), data.sfreq)


def labels_without_signal(data: EegData, subjects: Sequence[int]) -> dict[tuple[int, int], np.ndarray]:
    """{(subject, run): `labels_of_own`} of these people's recordings."""
    assert data.reading is not None
    return {
        (report.subject, report.run): labels_of_own(open_raw(path, data.reading.bids_root), data)
        for path, report in zip(data.files, data.recordings, strict=True)
        if report.subject in subjects
    }


def cycle_seconds(data: EegData, subjects: Sequence[int]) -> float:
    """Seconds from one task to the next: EEGMMI's, else the median over the recordings of `subjects`; 0 where no
    recording has two.
    """
    if data.reading is None:
        return CYCLE_SECONDS
    between: list[float] = []
    for path, report in zip(data.files, data.recordings, strict=True):
        if report.subject in subjects:
            of_class = {event for events in data.reading.events for event in events}
            marked = marked_events(open_raw(path, data.reading.bids_root))
            between += np.diff([event.seconds for event in marked if event.name in of_class]).tolist()
    return float(np.median(between)) if between else 0.0


def _spans(
    marked: Sequence[Marked], state_of: dict[str, int], preprocessing: Preprocessing, n_times: int
) -> list[tuple[int, int, int]]:
    """(first sample, the one behind the last, state or UNLABELLED) of every event, in the order of time."""
    spans = []
    for number, event in enumerate(marked):
        resting = RESTING.fullmatch(event.name) is not None
        state = state_of.get(event.name, 0 if resting else UNLABELLED)
        last = event.seconds + (event.duration or max(preprocessing.tmax, 0.0))
        if not event.duration and event.name not in state_of and number + 1 < len(marked):
            last = min(last, marked[number + 1].seconds)
        first = round(event.seconds * preprocessing.sfreq)
        spans.append((max(0, min(first, n_times)), max(0, min(round(last * preprocessing.sfreq), n_times)), state))
    return spans

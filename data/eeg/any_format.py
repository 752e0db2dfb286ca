"""Reads one recording of any format that MNE reads: its electrodes, its events, and its filtered trials.

`scan` looks at the header and the events alone; `read_any_trials` gives what `data.eeg.recording.read_trials` gives of
EEGMMI's files, at whatever rate, with whatever electrodes, from whatever events.
"""

import importlib.util
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mne
import numpy as np

from common.errors import InputError
from data.eeg.edf import BadRecording, check_bdf_bytes, check_edf_bytes
from data.eeg.electrodes import channels_of, electrode_meant
from data.eeg.events import began, check_stim, comment_counts, event_times, joints
from data.eeg.naming import is_bids
from data.eeg.recording import (
    Preprocessing,
    RecordingReport,
    bandpass_trials,
    fir_kernel,
    marked_bad,
    stretches,
)
from data.eeg.signal_checks import check_signal, dead_stretches, median_deviation
from data.eeg.unpacked_size import check_unpacked_size

READING_VERSION = 3  # raise it when the same files and settings give other trials

NEAREST_CUES = 0.1
"""Seconds: nobody is asked twice within."""


@dataclass(frozen=True)
class Reading:
    """How recordings are read.

    electrodes: those to keep, in this order. montage: see `channels_of`. dropped: channels (of the file, or electrodes)
    that are left out before anything else. events: of each class, the names of its events; () for unlabelled
    stretches. reference: electrodes or channels whose mean is subtracted, "average" for that of the electrodes kept, ()
    for the recording's own. notch: line frequencies in Hz to remove. bids_root: of a BIDS tree that mne-bids reads.
    """

    electrodes: tuple[str, ...]
    montage: str | None
    dropped: tuple[str, ...]
    events: tuple[tuple[str, ...], ...]
    reference: tuple[str, ...]
    notch: tuple[float, ...]
    bids_root: Path | None


@dataclass(frozen=True)
class Scan:
    """What a recording holds. events, comments: {name: how many}. positions: metres, of each electrode. bad:
    electrodes that the file itself marks bad. dropped: names of channels to be left out that it has.
    """

    seconds: float
    sfreq: float
    electrodes: tuple[str, ...]
    positions: tuple[tuple[float, ...], ...]
    positions_from_file: bool
    others: tuple[str, ...]
    events: dict[str, int]
    comments: dict[str, int]
    bad: tuple[str, ...]
    dropped: tuple[str, ...]


def open_raw(path: Path, bids_root: Path | None) -> mne.io.BaseRaw:
    """The recording, its samples not yet read; BadRecording if MNE cannot read it."""
    if path.stat().st_size == 0:
        raise BadRecording("it is empty: 0 bytes")
    checks = {".edf": check_edf_bytes, ".bdf": check_bdf_bytes}
    if path.suffix.lower() in checks:
        checks[path.suffix.lower()](path.read_bytes())
    check_unpacked_size(path)
    with _as_bad_recording():
        if bids_root is not None:
            return _open_bids(path, bids_root)
        return _open_mne(path)


def _open_mne(path: Path) -> mne.io.BaseRaw:
    """Annotations of EDF and BDF are UTF-8, as EDF+ asks, or else Latin-1, as older programs wrote them."""
    try:
        return mne.io.read_raw(path, preload=False)
    except Exception as error:  # MNE's own is a bare Exception
        if path.suffix.lower() not in (".edf", ".bdf") or "invalid byte" not in str(error):
            raise
        return mne.io.read_raw(path, preload=False, encoding="latin1")


@contextmanager
def _as_bad_recording() -> Iterator[None]:
    """Whatever MNE raises within is a BadRecording, and so is its warning that events lie behind the recording's end.

    A damaged file leads it to any error, also a bare Exception, ZeroDivisionError or OverflowError.
    """
    try:
        with warnings.catch_warnings(), mne.utils.use_log_level("WARNING"), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", r"Omitted .* outside data range")
            yield
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        if isinstance(error, UnicodeDecodeError):
            raise BadRecording(
                "its text is not UTF-8 (special characters from an older program?): save its header, or the file with "
                "its markers, as UTF-8"
            ) from error
        if words.startswith("Omitted"):
            raise BadRecording(f"cut short: some of its events lie behind its end ({words})") from error
        raise BadRecording(f"MNE cannot read it ({type(error).__name__}: {words})") from error


def _open_bids(path: Path, root: Path) -> mne.io.BaseRaw:
    """With the tree's own events, channel types, bad channels and electrode positions."""
    import mne_bids  # an optional extra

    return mne_bids.read_raw_bids(mne_bids.get_bids_path_from_fname(path).update(root=root), verbose="ERROR")


def bids_root_of(folder: Path) -> Path | None:
    """The folder, if it is a BIDS tree that mne-bids is to read. InputError if it needs mne-bids, which is missing."""
    if not is_bids(folder):
        return None
    if importlib.util.find_spec("mne_bids") is not None:
        return folder
    if next(folder.rglob("*_events.tsv"), None) is not None:
        raise InputError(
            f"data_dir={str(folder)!r} is a BIDS tree with events in files of their own: pip install mne-bids"
        )
    return None


def channels_named(ch_names: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """{name: the channels that it means}: those of that name, else of that name in another case."""
    found = {d: [c for c in ch_names if c == d] or [c for c in ch_names if c.lower() == d.lower()] for d in names}
    return {name: channels for name, channels in found.items() if channels}


def scan(path: Path, montage: str | None, dropped: tuple[str, ...], bids_root: Path | None) -> Scan | str:
    """What the recording holds, or the reason why it cannot be used."""
    try:
        raw = open_raw(path, bids_root)
        channels = channels_of(_without(raw, dropped), montage)
        by_channel = channels_named(raw.ch_names, dropped)
        meant = {d: electrode_meant(d, channels.names.values(), montage) for d in dropped if d not in by_channel}
        kept_electrodes = [(n, e, p) for (n, e), p in zip(channels.names.items(), channels.positions, strict=True)]
        kept_electrodes = [row for row in kept_electrodes if row[1] not in meant.values()]
        return Scan(
            seconds=float(raw.n_times / raw.info["sfreq"]),
            sfreq=float(raw.info["sfreq"]),
            electrodes=tuple(electrode for _, electrode, _ in kept_electrodes),
            positions=tuple(tuple(float(x) for x in place) for _, _, place in kept_electrodes),
            positions_from_file=channels.from_file,
            others=channels.others,
            events=dict(Counter(name for name, _ in event_times(raw))),
            comments=comment_counts(raw),
            bad=tuple(e for n, e, _ in kept_electrodes if n in raw.info["bads"]),
            dropped=(*by_channel, *(d for d, electrode in meant.items() if electrode is not None)),
        )
    except (BadRecording, InputError) as error:
        return str(error)


def read_any_trials(
    path: Path, subject: int, run: int, preprocessing: Preprocessing, reading: Reading
) -> tuple[np.ndarray, np.ndarray, RecordingReport]:
    """The filtered trials of one recording, its labels, and what was found in it, as `read_trials` gives them.

    Trials float32 [n_trials, n_electrodes, n_times] in volts, at `preprocessing.sfreq`; labels int64, an index of
    `reading.events`, or -1. Raises BadRecording for a damaged file or values that cannot be EEG.
    """
    raw = open_raw(path, reading.bids_root)
    recorded_hz, remarks = float(raw.info["sfreq"]), []
    if recorded_hz <= 2 * preprocessing.h_freq:
        raise BadRecording(
            f"sampled at {recorded_hz:g} Hz, a recording has no signal up to h_freq={preprocessing.h_freq:g} Hz: give "
            "a lower h_freq"
        )
    if too_high := [f for f in reading.notch if f + 1 >= recorded_hz / 2]:
        raise BadRecording(f"notch={too_high[0]:g}: recorded at {recorded_hz:g} Hz, it has nothing there; leave it out")
    events = event_times(raw) if reading.events else []
    if reading.events:
        check_stim(raw, {name for names in reading.events for name in names})
    signal, unfiltered = _signal(raw, reading, preprocessing.sfreq)
    flat, clipped = check_signal(unfiltered, reading.electrodes, recorded_hz)
    if recorded_hz != preprocessing.sfreq:
        remarks.append(f"resampled from {recorded_hz:g} to {preprocessing.sfreq:g} Hz")
    if reading.events:
        cues, labels = _class_events(events, reading.events, recorded_hz)
        starts = np.round(cues * preprocessing.sfreq / recorded_hz).astype(int) + preprocessing.first_sample
        remarks += _overlaps(starts, labels, preprocessing)
    else:
        starts, labels, preprocessing = stretches(signal.shape[1], preprocessing)
    inside = (starts >= 0) & (starts + preprocessing.n_times <= signal.shape[1])
    whole = ~beside_joint(raw, starts, preprocessing)
    kept = inside & whole & ~marked_bad(raw.annotations, starts, preprocessing, began(raw))
    if n_joined := int((inside & ~whole).sum()):
        remarks.append(f"{n_joined} trials dropped: the recording was paused or cut in or beside them")
    report = RecordingReport(
        subject=subject,
        run=run,
        file=path.name,
        seconds=round(float(raw.n_times / recorded_hz), 3),
        n_of_class=tuple(int((labels == k).sum()) for k in range(len(reading.events))),
        n_trials=int(kept.sum()),
        n_lost=int((~inside).sum()),
        median_sd_uv=round(median_deviation(unfiltered) * 1e6, 2),
        flat=flat,
        clipped=clipped,
        dead=dead_stretches(unfiltered, recorded_hz),
        n_bad=int((inside & whole & ~kept).sum()),
        remarks=tuple(remarks),
    )
    return bandpass_trials(signal, starts[kept], preprocessing), labels[kept].astype(np.int64), report


def read_whole(raw: mne.io.BaseRaw, preprocessing: Preprocessing, reading: Reading) -> np.ndarray:
    """What `read_any_trials` cuts trials from, whole and band-passed: float32 [n_electrodes, n_times], volts."""
    signal, _ = _signal(raw, reading, preprocessing.sfreq)
    low, high = preprocessing.l_freq, preprocessing.h_freq
    filtered = mne.filter.filter_data(
        signal, preprocessing.sfreq, l_freq=low, h_freq=high, fir_design="firwin", verbose="ERROR"
    )
    return filtered.astype(np.float32)


def beside_joint(raw: mne.io.BaseRaw, starts: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Whether a trial [n_trials], with the signal that the filter needs around it, reaches over one of `joints`."""
    half = len(fir_kernel(preprocessing.sfreq, preprocessing.l_freq, preprocessing.h_freq)) // 2
    found = np.zeros(len(starts), dtype=bool)
    for joint in (seconds * preprocessing.sfreq for seconds in joints(raw)):
        found |= (starts - half < joint) & (joint < starts + preprocessing.n_times + half)
    return found


def _signal(raw: mne.io.BaseRaw, reading: Reading, sfreq: float) -> tuple[np.ndarray, np.ndarray]:
    """(the electrodes' signal at `sfreq`, referenced, without line noise; as recorded), volts [n_chans, n_samples]."""
    channels_left = channels_of(_without(raw, reading.dropped), reading.montage)
    names = {electrode: name for name, electrode in channels_left.names.items()}
    missing = [electrode for electrode in reading.electrodes if electrode not in names]
    if missing:
        raise BadRecording(f"it has no {' '.join(missing)}")
    channels = [names[electrode] for electrode in reading.electrodes]
    reference = _named(reading, names, raw.ch_names)
    outside = [name for name in reference if name not in channels]
    with _as_bad_recording():
        raw = raw.copy().pick([*channels, *outside]).load_data().reorder_channels([*channels, *outside])
    with mne.utils.use_log_level("ERROR"):
        raw = mne.io.RawArray(raw.get_data(), raw.info)  # MNE resamples each file of a split recording by itself
        raw.info["bads"] = []  # MNE would leave them out of the average
        unfiltered = raw.get_data(picks=channels)
        if reading.reference == ("average",):
            raw.set_eeg_reference("average", ch_type="eeg")
        elif reference:
            raw.set_eeg_reference(reference, ch_type="eeg")
        raw.pick(channels)
        if reading.notch:
            raw.notch_filter(list(reading.notch), picks="all")
        if raw.info["sfreq"] != sfreq:
            raw.resample(sfreq)
    return raw.get_data(), unfiltered


def _without(raw: mne.io.BaseRaw, dropped: Sequence[str]) -> mne.Info:
    out = {name for names in channels_named(raw.ch_names, dropped).values() for name in names}
    return mne.pick_info(raw.info, [i for i, name in enumerate(raw.ch_names) if name not in out])


def _named(reading: Reading, names: Mapping[str, str], ch_names: Sequence[str]) -> list[str]:
    """The file's channels that the reference means, by electrode or by their own name."""
    if reading.reference == ("average",):
        return []
    found = []
    for name in reading.reference:
        electrode = electrode_meant(name, names, reading.montage)
        channels = channels_named(ch_names, [name]).get(name, [])
        if electrode is None and not channels:
            raise BadRecording(f"reference={','.join(reading.reference)}: it has no channel {name}")
        found.append(channels[0] if electrode is None else names[electrode])
    return found


def _class_events(
    events: Sequence[tuple[str, int]], classes: Sequence[Sequence[str]], sfreq: float
) -> tuple[np.ndarray, np.ndarray]:
    """(samples of the cues, labels) of the events of the classes. BadRecording where two are at one sample, or nearer
    than two cues can be.
    """
    label_of = {name: label for label, names in enumerate(classes) for name in names}
    found = [(sample, label_of[name]) for name, sample in events if name in label_of]
    cues, labels = (np.array(column, dtype=int) for column in (zip(*found, strict=True) if found else ((), ())))
    twice = np.flatnonzero(np.diff(cues) == 0)
    if len(twice):
        raise BadRecording(f"two events of the classes lie at sample {cues[twice[0]]}: one signal under two labels")
    near = np.flatnonzero(np.diff(cues) < NEAREST_CUES * sfreq)
    if len(near):
        first, second = cues[near[0] : near[0] + 2] / sfreq
        raise BadRecording(
            f"{len(near)} events of the classes follow another within {NEAREST_CUES:g} s, at {first:.3f} and "
            f"{second:.3f} s the first: a cue that counts twice (a stim channel that bounces?); clean its events"
        )
    return cues, labels


def _overlaps(starts: np.ndarray, labels: np.ndarray, preprocessing: Preprocessing) -> list[str]:
    """A remark where the next cue comes before a trial's end."""
    n = int((np.diff(starts) < preprocessing.n_times + preprocessing.first_sample).sum())
    return [f"{n} trials reach past the next cue: give a smaller tmax"] if n else []

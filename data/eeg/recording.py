"""Reads one EEGMMI recording: from an EDF+ file to checked, filtered trials.

`read_epochs` is the exercise's pipeline, call by call, in MNE. `read_trials` gives the same numbers (a test compares
both on real and simulated files), computes the filter only where a trial lies, and checks what the exercise takes on
trust.
"""

import functools
import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import mne
import numpy as np
import scipy.fft

from common.errors import InputError
from data.eeg.edf import BadRecording, check_edf_bytes
from data.eeg.electrodes import DEFAULT_MONTAGE, electrode_positions
from data.eeg.signal_checks import check_signal, dead_stretches, median_deviation

# fmt: off
CHANNELS = (
    "FC5", "FC3", "FC1", "FCz", "FC2", "FC4", "FC6", "C5", "C3", "C1", "Cz", "C2", "C4", "C6",
    "CP5", "CP3", "CP1", "CPz", "CP2", "CP4", "CP6", "Fp1", "Fpz", "Fp2", "AF7", "AF3", "AFz", "AF4", "AF8",
    "F7", "F5", "F3", "F1", "Fz", "F2", "F4", "F6", "F8", "FT7", "FT8", "T7", "T8", "T9", "T10", "TP7", "TP8",
    "P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8",
    "O1", "Oz", "O2", "Iz",
)
# fmt: on
"""The 64 electrodes in the order of EEGMMI's files, under the names of the 10-05 system."""

EVENT_CODES = {"T1": 2, "T2": 3}
MOVEMENTS = ("left fist", "right fist")
"""What labels 0 (T1) and 1 (T2) mean in the runs of `LEFT_RIGHT_RUNS`. In other runs the codes mean something else."""
LEFT_RIGHT_RUNS = (3, 4, 7, 8, 11, 12)
TRIALS_PER_RUN = 15

ALLOWED_TASK_SECONDS = (3.9, 4.4)  # EEGMMI's T1 and T2 last 4.1 s; the recordings with the wrong clock say 5.125 s
USUAL_SD_UV = (0.5, 1000.0)  # of a channel, unfiltered, slow drift included; beyond, the unit is likely to be wrong
MAX_TRIAL_SECONDS = 600.0  # from the cue, before and behind it


@dataclass(frozen=True)
class Preprocessing:
    """The exercise's pipeline: 7-30 Hz FIR, then epochs from 1 s before the cue to 4 s after it.

    Seconds and hertz. `baseline` subtracts each channel's mean before the cue, as `mne.Epochs` does by
    default; without a sample before the cue (tmin >= 0) there is nothing to subtract, and in a trial that ends
    before it (tmax < 0) the mean is that of the whole trial.
    """

    sfreq: float = 160.0
    l_freq: float = 7.0
    h_freq: float = 30.0
    tmin: float = -1.0
    tmax: float = 4.0
    baseline: bool = True
    montage: str = DEFAULT_MONTAGE  # MNE's new name of `standard_1005`

    def __post_init__(self) -> None:
        if not all(abs(t) <= MAX_TRIAL_SECONDS for t in (self.tmin, self.tmax)):  # NaN and infinities too
            raise InputError(
                f"tmin={self.tmin:g}, tmax={self.tmax:g}: seconds from the cue, allowed are -{MAX_TRIAL_SECONDS:g} to "
                f"{MAX_TRIAL_SECONDS:g}"
            )
        if not math.isfinite(self.sfreq):
            raise InputError(f"sfreq={self.sfreq:g} is not a rate; EEGMMI's is 160 Hz")
        if not 0 < self.l_freq < self.h_freq < self.sfreq / 2:
            raise InputError(
                f"l_freq={self.l_freq:g}, h_freq={self.h_freq:g}: a band-pass needs 0 < l_freq < h_freq < "
                f"{self.sfreq / 2:g} Hz"
            )
        if not self.tmin < self.tmax:
            raise InputError(
                f"tmin={self.tmin:g}, tmax={self.tmax:g}: a trial needs tmin < tmax (seconds from the cue)"
            )

    @property
    def first_sample(self) -> int:
        """The trial's first sample, counted from the cue."""
        return round(self.tmin * self.sfreq)

    @property
    def n_times(self) -> int:
        """Samples in a trial; both ends count, so -1 to 4 s at 160 Hz are 801."""
        return round(self.tmax * self.sfreq) - self.first_sample + 1

    @property
    def n_baseline(self) -> int:
        """Samples of a trial whose mean is subtracted: up to the cue, or all where the trial ends before it."""
        return min(1 - self.first_sample, self.n_times) if self.baseline and self.first_sample < 0 else 0


@dataclass(frozen=True)
class RecordingReport:
    """What was found in one recording: a row of the table that `inspect` prints."""

    subject: int
    run: int
    file: str
    seconds: float
    n_of_class: tuple[int, ...]  # events of each class, in the order of the labels
    n_trials: int
    n_lost: int  # trials that do not fit between the recording's ends
    median_sd_uv: float  # median over channels of the unfiltered signal's standard deviation, in microvolts
    flat: tuple[str, ...]
    clipped: tuple[str, ...]
    dead: tuple[str, ...]  # stretches without any signal, such as "50-61 s"
    n_bad: int  # trials that touch an annotation "BAD...", left out as `mne.Epochs` leaves them out
    remarks: tuple[str, ...] = ()  # whatever else is worth a note

    @property
    def notes(self) -> str:
        parts = list(self.remarks)
        if not USUAL_SD_UV[0] <= self.median_sd_uv <= USUAL_SD_UV[1]:
            parts.append(f"SD {self.median_sd_uv:g} uV, where EEG has 5 to 100: is its unit right?")
        if self.n_lost:
            parts.append(f"{self.n_lost} trials run past the end")
        if self.n_bad:
            parts.append(f"{self.n_bad} trials dropped: marked bad in the recording")
        if self.dead:
            parts.append("no signal at " + ", ".join(self.dead))
        if self.flat:
            parts.append("flat: " + " ".join(self.flat))
        if self.clipped:
            parts.append("clipped: " + " ".join(self.clipped))
        return "; ".join(parts)


def read_trials(
    path: Path,
    subject: int,
    run: int,
    preprocessing: Preprocessing,
    labelled: bool = True,
) -> tuple[np.ndarray, np.ndarray, RecordingReport]:
    """The filtered trials of one recording, its labels, and what was found in it.

    Returns trials float32 [n_trials, 64, n_times] in volts; labels int64 [n_trials], 0 = left, 1 = right; the
    report. With `labelled=False` the recording is cut from its start into consecutive stretches of n_times
    samples, whatever was done in them, and every label is -1: material for self-supervised training.

    A trial that touches an annotation "BAD..." is left out, as `mne.Epochs` does, and counted in the report.

    Raises BadRecording for a damaged file, gaps, a wrong sampling rate, missing channels, no event or too many,
    tasks of a wrong length or that overlap, values that cannot be EEG, or too many dead channels.
    """
    check_edf_bytes(path.read_bytes())
    raw = read_raw(path)
    check_sampling_rate(raw, preprocessing.sfreq)
    check_channels(raw)
    check_joined(raw)
    if labelled:
        check_events(raw)
    # Genuine files hold the 64 channels in this order; picking them by name would copy them one by one.
    signal = raw.get_data() if raw.ch_names == list(CHANNELS) else raw.get_data(picks=list(CHANNELS))
    flat, clipped = check_signal(signal, CHANNELS, preprocessing.sfreq)
    remarks: tuple[str, ...] = ()
    if labelled:
        events, _ = mne.events_from_annotations(raw, event_id=EVENT_CODES, verbose="ERROR")
        starts = events[:, 0] - raw.first_samp + preprocessing.first_sample
        labels = events[:, 2] - EVENT_CODES["T1"]
        if len(labels) != TRIALS_PER_RUN:
            remarks = (f"{len(labels)} events instead of {TRIALS_PER_RUN}",)
    else:
        starts, labels, preprocessing = stretches(signal.shape[1], preprocessing)
    inside = (starts >= 0) & (starts + preprocessing.n_times <= signal.shape[1])
    kept = inside & ~marked_bad(raw.annotations, starts, preprocessing)
    trials = bandpass_trials(signal, starts[kept], preprocessing)
    report = RecordingReport(
        subject=subject,
        run=run,
        file=path.name,
        seconds=round(float(raw.n_times / raw.info["sfreq"]), 3),
        n_of_class=tuple(int((labels == k).sum()) for k in range(len(EVENT_CODES))),
        n_trials=int(kept.sum()),
        n_lost=int((~inside).sum()),
        median_sd_uv=round(median_deviation(signal) * 1e6, 2),
        flat=flat,
        clipped=clipped,
        dead=dead_stretches(signal, preprocessing.sfreq),
        n_bad=int((inside & ~kept).sum()),
        remarks=remarks,
    )
    return trials, labels[kept].astype(np.int64), report


def stretches(n_samples: int, preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray, Preprocessing]:
    """First samples of consecutive trials without a cue, their labels -1, and the preprocessing without a baseline."""
    starts = np.arange(n_samples // preprocessing.n_times) * preprocessing.n_times
    return starts, np.full(len(starts), -1), replace(preprocessing, baseline=False)


def try_read_trials(
    path: Path, subject: int, run: int, preprocessing: Preprocessing, labelled: bool, is_genuine: bool
) -> tuple[np.ndarray, np.ndarray, RecordingReport] | str:
    """What `read_trials` gives, or the reason why the recording cannot be used.

    `is_genuine` is whether the file's bytes are those that were expected. If not, that comes first: it is the cause of
    whatever else is found.
    """
    try:
        result = read_trials(path, subject=subject, run=run, preprocessing=preprocessing, labelled=labelled)
    except BadRecording as error:
        if is_genuine:
            return str(error)
        return f"its bytes are not PhysioNet's (SHA-256 differs), and {error}; delete it so that it is downloaded again"
    if not is_genuine:
        return (
            "its bytes are not PhysioNet's (SHA-256 differs): delete it so that it is downloaded again, "
            "or take it as it is with checksums=false"
        )
    return result


def read_raw(path: Path) -> mne.io.BaseRaw:
    """The recording as MNE reads it, unfiltered, in volts, under 10-05 names; BadRecording if MNE cannot."""
    try:
        with np.errstate(all="ignore"):  # limits far beyond any voltage; `check_values` refuses what they give
            raw = mne.io.read_raw_edf(path, preload=True, stim_channel="auto", verbose="ERROR")
        mne.datasets.eegbci.standardize(raw)
    # MNE raises whatever a damaged header leads it to, also a bare Exception, ZeroDivisionError or OverflowError.
    except Exception as error:
        if "invalid byte" in str(error):
            raise BadRecording(
                "an annotation is not UTF-8 text, as EDF+ asks (Latin-1, from an old program?): save it again in UTF-8"
            ) from error
        words = " ".join(str(error).split())[:200]
        raise BadRecording(f"MNE cannot read it ({type(error).__name__}: {words})") from error
    return raw


def read_filtered(path: Path, preprocessing: Preprocessing) -> mne.io.BaseRaw:
    """The exercise's `raw`: names standardised, electrode positions set, band-pass applied."""
    raw = read_raw(path)
    check_channels(raw)
    raw.pick(list(CHANNELS))
    raw.set_montage(electrode_positions(preprocessing.montage), verbose="ERROR")
    raw.filter(
        preprocessing.l_freq,
        preprocessing.h_freq,
        fir_design="firwin",
        skip_by_annotation="edge",
        verbose="ERROR",
    )
    return raw


def read_epochs(path: Path, preprocessing: Preprocessing) -> mne.Epochs:
    """The exercise's epochs: events 2 = left, 3 = right, 64 EEG channels, tmin to tmax around the cue."""
    raw = read_filtered(path, preprocessing)
    n_baseline = preprocessing.n_baseline
    # MNE refuses a baseline that ends at the cue, 0, where the trial does not reach it; None is the trial's end.
    baseline = (None, 0 if n_baseline < preprocessing.n_times else None) if n_baseline else None
    events, _ = mne.events_from_annotations(raw, event_id=EVENT_CODES, verbose="ERROR")
    picks = mne.pick_types(raw.info, meg=False, eeg=True, stim=False, eog=False, exclude="bads")
    epochs = mne.Epochs(
        raw,
        events,
        {"left": 2, "right": 3},
        tmin=preprocessing.tmin,
        tmax=preprocessing.tmax,
        baseline=baseline,
        proj=True,
        picks=picks,
        on_missing="ignore",  # a recording may lack one class
        verbose="ERROR",
    )
    return epochs.drop_bad(
        verbose="ERROR"
    )  # those that run past the end; else they go on first use and leave events behind


@functools.cache
def fir_kernel(sfreq: float, l_freq: float, h_freq: float) -> np.ndarray:
    """The taps [n_taps] (odd, symmetric) that `raw.filter(l_freq, h_freq, fir_design="firwin")` designs."""
    return mne.filter.create_filter(None, sfreq, l_freq, h_freq, fir_design="firwin", verbose="ERROR")


def bandpass_trials(signal: np.ndarray, starts: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """What `raw.filter` gives at samples [start, start + n_times) of each trial, and nowhere else.

    `signal` is float64 [n_chans, n_samples]; returns float32 [n_trials, n_chans, n_times], baseline-corrected
    if `preprocessing` says so. The kernel is MNE's own, and so is the padding (the signal mirrored through
    its end points). One FFT a trial over all channels, in the processor's cache, instead of the whole
    recording
    channel by channel: 9 ms instead of 30 ms a recording.
    """
    kernel = fir_kernel(preprocessing.sfreq, preprocessing.l_freq, preprocessing.h_freq)
    half, n_times, n_samples = len(kernel) // 2, preprocessing.n_times, signal.shape[1]
    if not len(starts):
        return np.empty((0, len(signal), n_times), np.float32)
    if n_samples <= half:
        raise BadRecording(f"{n_samples} samples are too few for a filter of {len(kernel)} taps")
    before = 2 * signal[:, :1] - signal[:, half:0:-1]
    after = 2 * signal[:, -1:] - signal[:, -2 : -half - 2 : -1]
    n_fft = scipy.fft.next_fast_len(n_times + 2 * half, real=True)
    response = scipy.fft.rfft(kernel, n_fft)
    n_baseline = preprocessing.n_baseline
    trials = np.empty((len(starts), len(signal), n_times), np.float32)
    stretch = np.zeros((len(signal), n_fft))
    for out, start in zip(trials, starts, strict=True):
        first, last = start - half, start + n_times + half
        stretch[:, max(-first, 0) : min(last, n_samples) - first] = signal[:, max(first, 0) : last]
        if first < 0:
            stretch[:, :-first] = before[:, first:]
        if last > n_samples:
            stretch[:, n_samples - first : last - first] = after[:, : last - n_samples]
        spectrum = scipy.fft.rfft(stretch, axis=1)
        spectrum *= response
        # The kernel wraps around only into the first 2 * half samples, which are left out.
        filtered = scipy.fft.irfft(spectrum, n_fft, axis=1, overwrite_x=True)[:, 2 * half : 2 * half + n_times]
        if n_baseline:
            filtered -= filtered[:, :n_baseline].mean(axis=1, keepdims=True)
        out[:] = filtered
    return trials


def check_sampling_rate(raw: mne.io.BaseRaw, sfreq: float) -> None:
    """BadRecording unless the recording was sampled at `sfreq` hertz (88, 92 and 100 were not)."""
    if raw.info["sfreq"] != sfreq:
        raise BadRecording(f"sampled at {raw.info['sfreq']:g} Hz instead of {sfreq:g} Hz")


def check_channels(raw: mne.io.BaseRaw) -> None:
    """BadRecording unless the 64 electrodes are there (others are ignored)."""
    missing = [name for name in CHANNELS if name not in raw.ch_names]
    if missing:
        others = [name for name in raw.ch_names if name not in CHANNELS]
        shown, found = (
            " ".join(names[:8]) + (" ..." if len(names) > 8 else "") if names else "none" for names in (missing, others)
        )
        raise BadRecording(
            f"{len(missing)} of the {len(CHANNELS)} EEG channels are missing: {shown}; names in it that are not "
            f"EEGMMI's: {found}"
        )


def check_joined(raw: mne.io.BaseRaw) -> None:
    """BadRecording for a recording joined from pieces: MNE would filter each by itself, `bandpass_trials` would not."""
    for note in raw.annotations:
        if note["description"].lower().startswith("edge"):
            raise BadRecording(
                f"it is joined from pieces ({note['description']!r} at {note['onset']:g} s); give the pieces"
            )


def check_events(raw: mne.io.BaseRaw) -> None:
    """BadRecording unless the recording holds 1 to 15 tasks T1 or T2 of the protocol's length."""
    tasks = [note for note in raw.annotations if note["description"] in EVENT_CODES]
    if not tasks:
        raise BadRecording("it has no T1 or T2 event, so no imagined movement")
    if len(tasks) > TRIALS_PER_RUN:
        raise BadRecording(f"{len(tasks)} T1 and T2 events where the protocol has {TRIALS_PER_RUN}")
    low, high = ALLOWED_TASK_SECONDS
    # The end of a recording may cut its last task; that trial is then lost anyway.
    end = raw.n_times / raw.info["sfreq"] - 2 / raw.info["sfreq"]
    wrong = [n["duration"] for n in tasks if not low <= n["duration"] <= high and n["onset"] + n["duration"] < end]
    if wrong:
        raise BadRecording(
            f"{len(wrong)} of {len(tasks)} tasks last {min(wrong):g} to {max(wrong):g} s where the protocol has 4.1 s"
        )
    for note, following in itertools.pairwise(sorted(tasks, key=lambda note: note["onset"])):
        if following["onset"] - note["onset"] < low:
            raise BadRecording(
                f"{note['description']} at {note['onset']:g} s and {following['description']} at "
                f"{following['onset']:g} s overlap: one signal under two labels, where a task lasts 4.1 s"
            )


def marked_bad(
    annotations: mne.Annotations, starts: np.ndarray, preprocessing: Preprocessing, began: float = 0.0
) -> np.ndarray:
    """Whether each trial [n_trials], given by its first sample, touches an annotation that begins with "bad" in any
    case: the trials that `mne.Epochs` drops (reject_by_annotation). began: seconds of the first sample on the
    annotations' clock.
    """
    bad = np.zeros(len(starts), dtype=bool)
    for note in annotations:
        if note["description"].lower().startswith("bad"):
            # In seconds, which MNE compares, too: what ends where a trial begins is rounded alike.
            onset, first = note["onset"] - began, starts / preprocessing.sfreq
            last = (starts + preprocessing.n_times) / preprocessing.sfreq
            bad |= (onset < last) & (onset + note["duration"] > first)
    return bad

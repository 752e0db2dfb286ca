"""A small data set of one's own, written in the formats that people have: FIF, BDF, BrainVision, EDF."""

from collections.abc import Sequence
from pathlib import Path

import mne
import numpy as np

NAMES_32 = (
    *("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "FC5", "FC1", "FC2", "FC6", "T3", "C3", "Cz", "C4", "T4"),
    *("TP9", "CP5", "CP1", "CP2", "CP6", "TP10", "T5", "P3", "Pz", "P4", "T6", "PO9", "O1", "Oz", "O2", "PO10"),
)
"""32 electrodes of a common cap, four of them under their old names (T3, T4, T5, T6)."""
SFREQ = 250.0
SPACING = 6.0


def own_raw(
    subject: int,
    run: int,
    *,
    n_trials: int = 20,
    classes: Sequence[str] = ("left_hand", "right_hand"),
    names: Sequence[str] = NAMES_32,
    sfreq: float = SFREQ,
    depth: float = 0.8,
) -> mne.io.RawArray:
    """Noise with a 10 Hz rhythm over both hand areas that weakens opposite to the hand; events without duration.

    A further channel EOG1 is no electrode. The second trial is marked bad.
    """
    rng = np.random.default_rng([subject, run])
    n = round(sfreq * (SPACING * n_trials + 4))
    microvolts = rng.normal(0, 10, (len(names), n))
    label = rng.permutation(np.arange(n_trials) % len(classes))
    seconds = np.arange(n) / sfreq
    cues = 3.0 + SPACING * np.arange(n_trials)
    for side, channel in ((0, "C4"), (1, "C3")):
        if channel in names:
            weak = sum(((seconds > c) & (seconds < c + 4)) for c in cues[label == side])
            rhythm = 15 * np.sin(2 * np.pi * 10 * seconds + rng.uniform(0, 6))
            microvolts[list(names).index(channel)] += rhythm * (1 - depth * np.asarray(weak))
    signal = np.vstack([microvolts, rng.normal(0, 50, n)]) * 1e-6
    info = mne.create_info([*names, "EOG1"], sfreq, ["eeg"] * len(names) + ["eog"], verbose="ERROR")
    raw = mne.io.RawArray(signal, info, verbose="ERROR")
    raw.set_meas_date(1_700_000_000 + 1000 * subject + run)
    notes = [*zip(cues, [0.0] * n_trials, [classes[k] for k in label], strict=True), (cues[1] + 1, 0.5, "BAD_blink")]
    onsets, durations, words = zip(*sorted(notes), strict=True)
    raw.set_annotations(mne.Annotations(onsets, durations, words, orig_time=raw.info["meas_date"]), verbose="ERROR")
    return raw


def write_brainvision(raw: mne.io.BaseRaw, path: Path) -> None:
    """The three files of a BrainVision recording: header, markers, and float32 samples in microvolts."""
    data, base = raw.get_data() * 1e6, path.stem
    path.with_suffix(".eeg").write_bytes(np.ascontiguousarray(data.T, dtype="<f4").tobytes())
    channels = "\n".join(f"Ch{i}={name},,1,µV" for i, name in enumerate(raw.ch_names, 1))
    path.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={base}.eeg\nMarkerFile={base}.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(data)}\nSamplingInterval={1e6 / raw.info['sfreq']:g}\n"
        f"[Binary Infos]\nBinaryFormat=IEEE_FLOAT_32\n[Channel Infos]\n{channels}\n",
        encoding="utf-8",
    )
    marks = []
    for i, note in enumerate(raw.annotations, 1):
        onset = note["onset"] - (raw.first_time if raw.annotations.orig_time else 0.0)
        first, length = round(onset * raw.info["sfreq"]) + 1, max(1, round(note["duration"] * raw.info["sfreq"]))
        kind = "Bad Interval" if note["description"].startswith("BAD") else "Stimulus"
        marks.append(f"Mk{i}={kind},{note['description']},{first},{length},0")
    path.with_suffix(".vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={base}.eeg\n[Marker Infos]\n" + "\n".join(marks) + "\n",
        encoding="utf-8",
    )


def write_recording(raw: mne.io.BaseRaw, path: Path) -> Path:
    """In the format of the suffix: .fif, .edf, .bdf or .vhdr."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mne.utils.use_log_level("ERROR"):
        if path.suffix == ".fif":
            raw.save(path, overwrite=True)
        elif path.suffix == ".vhdr":
            write_brainvision(raw, path)
        else:
            mne.export.export_raw(path, raw, fmt=path.suffix[1:], physical_range=(-500.0, 500.0), overwrite=True)
    return path


def write_own(folder: Path, suffix: str = ".edf", *, subjects: int = 3, runs: int = 2, **options: object) -> Path:
    """sub-01_run-1 and so on in `folder`; returns it."""
    for subject in range(1, subjects + 1):
        for run in range(1, runs + 1):
            raw = own_raw(subject, run, **options)  # type: ignore[arg-type]
            write_recording(raw, folder / f"sub-{subject:02d}_run-{run}{suffix}")
    return folder

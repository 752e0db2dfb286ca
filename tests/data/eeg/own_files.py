"""A small data set of one's own, written in the formats that people have: FIF, BDF, BrainVision, EDF,
GDF and EEGLAB.
"""

from collections.abc import Sequence
from pathlib import Path

import mne
import numpy as np
import scipy.io

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


def marks_of(raw: mne.io.BaseRaw) -> list[tuple[int, int, str]]:
    """(first sample, samples, name) of every annotation."""
    began = raw.first_time if raw.annotations.orig_time else 0.0
    rate = raw.info["sfreq"]
    return [
        (round((n["onset"] - began) * rate), max(1, round(n["duration"] * rate)), str(n["description"]))
        for n in raw.annotations
    ]


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
    for i, (first, length, name) in enumerate(marks_of(raw), 1):
        kind = "Bad Interval" if name.startswith("BAD") else "New Segment" if name == "New Segment/" else "Stimulus"
        marks.append(f"Mk{i}={kind},{'' if kind == 'New Segment' else name},{first + 1},{length},0")
    path.with_suffix(".vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={base}.eeg\n[Marker Infos]\n" + "\n".join(marks) + "\n",
        encoding="utf-8",
    )


GDF_CODES = {"left_hand": 769, "right_hand": 770}
"""Codes of GDF's table of events; 771 is feet, 1023 a rejected trial."""


def write_gdf(raw: mne.io.BaseRaw, path: Path) -> None:
    """GDF 1.25 (Schloegl 2006, arXiv:cs/0608052): records of a second, 16 bits over 1 mV, a table of events by code.

    Only the events of GDF_CODES are kept.
    """
    rate, n_chans = round(raw.info["sfreq"]), len(raw.ch_names)
    n_records = raw.n_times // rate
    digital = np.round(raw.get_data()[:, : n_records * rate] * 1e6 * 65.535).clip(-32768, 32767).astype("<i2")
    each = [
        np.full(n_chans, value, kind).tobytes() for value, kind in ((-32768 / 65.535, "<f8"), (32767 / 65.535, "<f8"))
    ]
    each += [np.full(n_chans, value, "<i8").tobytes() for value in (-32768, 32767)]
    header = b"GDF 1.25" + b"X X".ljust(80) + b"".ljust(80) + b"2024010112000000"
    header += np.int64(256 * (n_chans + 1)).tobytes() + bytes(44) + np.int64(n_records).tobytes()
    header += np.array([1, 1, n_chans], "<u4").tobytes()
    header += b"".join(f"EEG-{name}".encode().ljust(16) for name in raw.ch_names) + b"".ljust(80 * n_chans)
    header += b"uV".ljust(8) * n_chans + b"".join(each) + b"".ljust(80 * n_chans)
    header += np.full(n_chans, rate, "<i4").tobytes() + np.full(n_chans, 3, "<i4").tobytes() + bytes(32 * n_chans)
    events = [(first, GDF_CODES[name]) for first, _, name in marks_of(raw) if name in GDF_CODES]
    table = b"\x01" + rate.to_bytes(3, "little") + np.uint32(len(events)).tobytes()
    table += np.array([first + 1 for first, _ in events], "<u4").tobytes()
    table += np.array([code for _, code in events], "<u2").tobytes()
    body = digital.reshape(n_chans, n_records, rate).transpose(1, 0, 2).tobytes()
    path.write_bytes(header + body + table)


def write_eeglab(raw: mne.io.BaseRaw, path: Path) -> None:
    """EEGLAB's .set with the samples beside it in .fdt, in microvolts."""
    data = (raw.get_data() * 1e6).astype("<f4")
    path.with_suffix(".fdt").write_bytes(data.T.tobytes())  # all channels of a sample together
    names = [{"labels": name, "type": "EEG"} for name in raw.ch_names]
    events = [{"type": name, "latency": float(first + 1), "duration": float(n)} for first, n, name in marks_of(raw)]
    eeg = {"setname": path.stem, "nbchan": len(data), "trials": 1, "pnts": data.shape[1], "srate": raw.info["sfreq"]}
    eeg |= {"xmin": 0.0, "xmax": raw.times[-1], "ref": "common", "icawinv": [], "icaweights": [], "icasphere": []}
    eeg |= {"data": path.with_suffix(".fdt").name, "chanlocs": names, "event": events, "epoch": []}
    scipy.io.savemat(path, {"EEG": eeg}, appendmat=False)


def write_recording(raw: mne.io.BaseRaw, path: Path) -> Path:
    """In the format of the suffix: .fif, .edf, .bdf, .vhdr, .gdf or .set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writers = {".vhdr": write_brainvision, ".gdf": write_gdf, ".set": write_eeglab}
    with mne.utils.use_log_level("ERROR"):
        if path.suffix == ".fif":
            raw.save(path, overwrite=True)
        elif path.suffix in writers:
            writers[path.suffix](raw, path)
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

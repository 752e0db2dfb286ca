"""Our route from EDF files to batches of windows beside the exercise's own, MNE and torcheeg's MNEDataset.

    python -m benchmarks.eeg_data eegmmi

Two questions, on one core: how long does it take to build the windows of some recordings (reading, filtering,
cutting, writing the store), and how many shuffled batches of 64 come out a second afterwards. Asked of the
three real recordings (405 windows) and of simulated ones of the same shape, whose trials no longer fit into
the processor's cache. Both sides take turns on the same files; ratios are medians over the repetitions.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mne
import numpy as np
import torch
from torch.utils.data import DataLoader

from data.eeg.load import EegData, load_eeg
from data.eeg.recording import RecordingReport
from data.eeg.simulated import write_simulated
from data.eeg.torcheeg import open_mne_dataset
from data.eeg.windows import EegWindows, WindowBatches

BATCH = 64
SIDES = ("ours", "exercise")


def build_ours(folder: Path, subjects: str, cache_dir: Path) -> tuple[EegData, EegWindows]:
    data = load_eeg("physionet", cache_dir, folder, subjects=subjects, checksums=False, n_workers=1, quiet=True)
    return data, data.windows(160, 80)


def build_exercise(files: Sequence[Path], recordings: Sequence[RecordingReport], store: Path) -> Any:
    """The exercise's own lines (with `standard_1005` under its new name), one process as it is the steadiest."""
    epochs_list = []
    for file in files:
        raw = mne.io.read_raw_edf(file, preload=True, stim_channel="auto", verbose="ERROR")
        mne.datasets.eegbci.standardize(raw)
        raw.set_montage(mne.channels.make_standard_montage("colin27_1005"), verbose="ERROR")
        raw.filter(7.0, 30.0, fir_design="firwin", skip_by_annotation="edge", verbose="ERROR")
        events, _ = mne.events_from_annotations(raw, event_id={"T1": 2, "T2": 3}, verbose="ERROR")
        picks = mne.pick_types(raw.info, meg=False, eeg=True, stim=False, eog=False, exclude="bads")
        epochs_list.append(
            mne.Epochs(
                raw,
                events,
                {"left": 2, "right": 3},
                tmin=-1.0,
                tmax=4.0,
                proj=True,
                picks=picks,
                verbose="ERROR",
            )
        )
    return open_mne_dataset(store, epochs=epochs_list, recordings=recordings, window=160, overlap=80)


def seconds_per_epoch(batches: WindowBatches | DataLoader, n_epochs: int) -> float:
    start = time.perf_counter()
    for _ in range(n_epochs):
        for _ in batches:
            pass
    return (time.perf_counter() - start) / n_epochs


def measure(folder: Path, subjects: str, repeats: int) -> tuple[int, dict[str, list[float]]]:
    """Number of windows, and seconds, one entry per repetition, for building and for an epoch of each side."""
    seconds: dict[str, list[float]] = {f"{what}_{side}": [] for what in ("build", "epoch") for side in SIDES}
    n_windows = 0
    for repeat in range(repeats + 1):
        with tempfile.TemporaryDirectory() as name:
            start = time.perf_counter()
            data, windows = build_ours(folder, subjects, Path(name))
            built_ours = time.perf_counter() - start
            start = time.perf_counter()
            dataset = build_exercise(data.files, data.recordings, Path(name) / "torcheeg")
            built_exercise = time.perf_counter() - start
            n_windows = len(windows)
            assert n_windows == len(dataset)
            if repeat == 0:  # imports, MNE's lazy parts, the page cache
                continue
            seconds["build_ours"].append(built_ours)
            seconds["build_exercise"].append(built_exercise)
            ours = WindowBatches(windows, np.arange(n_windows), BATCH, seed=0)
            theirs = DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True)
            # Training makes many epochs, so each side has one to warm up. Ours then take turns of 10 with 1 of
            # theirs: a single one of ours on 405 windows lasts 3 ms.
            seconds_per_epoch(ours, 1), seconds_per_epoch(theirs, 1)
            for _ in range(2):
                seconds["epoch_ours"].append(seconds_per_epoch(ours, 10))
                seconds["epoch_exercise"].append(seconds_per_epoch(theirs, 1))
    return n_windows, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds MNE-eegbci-data with subject 1, runs 4, 8, 12")
    parser.add_argument("--simulated-subjects", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    ratios, spread = {}, {}
    conditions: dict[str, object] = {"cores": 1, "batch": BATCH, "repeats": arguments.repeats}
    with tempfile.TemporaryDirectory() as name:
        n = arguments.simulated_subjects
        pairs = [(subject, run) for subject in range(1, n + 1) for run in (4, 8, 12)]
        simulated = write_simulated(Path(name), 0, pairs, n_workers=1, quiet=True)
        sources = (("real", arguments.folder, "1"), ("simulated", simulated, f"1-{n}"))
        for label, folder, subjects in sources:
            n_windows, seconds = measure(folder, subjects, arguments.repeats)
            conditions[f"windows_{label}"] = n_windows
            for phase, what in (("build", "building"), ("epoch", "batches")):
                pairs_of_seconds = zip(seconds[f"{phase}_exercise"], seconds[f"{phase}_ours"], strict=True)
                each = [exercise / ours for exercise, ours in pairs_of_seconds]
                ratios[f"{what}, {label}"] = round(statistics.median(each), 2)
                spread[f"{what}, {label}"] = [round(min(each), 2), round(max(each), 2)]
                counted = n_windows if phase == "build" else n_windows // BATCH * BATCH
                for side in SIDES:
                    rate = counted / statistics.median(seconds[f"{phase}_{side}"])
                    conditions[f"{phase}_{side}_windows_per_second_{label}"] = round(rate)
                    print(f"{label:10} {what:9} {side:9} {rate:10,.0f} windows/s")
    print(json.dumps({"name": "eeg_data", "ratios": ratios, "spread": spread, "conditions": conditions}))


if __name__ == "__main__":
    main()

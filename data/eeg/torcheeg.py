"""The exercise's own route to windows: torcheeg's `MNEDataset` (1.0.10 and 1.0.11; removed later).

It gives the same windows as `EegWindows`, in the same order (a test compares them), from a store of its own (LMDB),
tens of times slower. This module adds what makes it usable: a new store for every setting (torcheeg reuses an old one
whatever its arguments), MNE's log level left as it was, and the three transforms as plain functions, since
`torcheeg.transforms` needs a package that has to be compiled.
"""

import contextlib
import hashlib
import importlib
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mne
import numpy as np
import scipy.signal
import torch

from common.errors import InputError
from common.files import atomic_folder, hash_of, read_checked_json, write_checked_json
from data.eeg.recording import EVENT_CODES, Preprocessing, RecordingReport, read_epochs
from data.eeg.windows import floored, window_starts

CHECKSUMS = "checksums.json"
"""The file of a store with the SHA-256 of each of its files."""


class TorcheegWindows:
    """Windows read one by one from an `MNEDataset`; the attributes and `gather` are those of `EegWindows`.

    label: of the trials that `load_eeg` read from `files`, in their order [n_trials]. InputError unless torcheeg's
    windows are as many, of the same recordings, with the same labels.
    """

    def __init__(
        self,
        *,
        files: Sequence[Path],
        recordings: Sequence[RecordingReport],
        preprocessing: Preprocessing,
        window: int,
        overlap: int,
        cache_dir: Path,
        fingerprint: str,
        label: np.ndarray,
    ) -> None:
        starts = window_starts(preprocessing.n_times, window, overlap)
        if window >= preprocessing.n_times:
            raise InputError(
                f"window={window}: torcheeg needs windows shorter than a trial ({preprocessing.n_times} samples)"
            )
        self.window, self.overlap = window, overlap
        store = cache_dir / f"torcheeg-{hash_of([fingerprint, window, overlap, torcheeg_version()])[:32]}"
        if not is_whole(store):
            shutil.rmtree(store, ignore_errors=True)
            epochs = [read_epochs(file, preprocessing) for file in files]
            with atomic_folder(store) as folder:
                open_mne_dataset(folder / "io", epochs=epochs, recordings=recordings, window=window, overlap=overlap)
                write_checked_json(folder / CHECKSUMS, checksums(folder))
        # With a store in place the constructor reads it and looks at no epochs.
        self.dataset = open_mne_dataset(store / "io", epochs=[], recordings=[], window=window, overlap=overlap)
        info = self.dataset.info
        n = len(info)
        self.position = np.tile(np.arange(len(starts)), n // len(starts))
        self.start = np.tile(starts, n // len(starts))
        self.trial = np.repeat(np.arange(n // len(starts)), len(starts))  # its own trial_id starts again in every run
        self.label = info["event"].to_numpy(np.int64) - EVENT_CODES["T1"]
        self.subject, self.run = info["subject"].to_numpy(np.int64), info["run"].to_numpy(np.int64)
        self._check_against(recordings, label, len(starts), store)

    def _check_against(
        self, recordings: Sequence[RecordingReport], label: np.ndarray, n_windows: int, store: Path
    ) -> None:
        """InputError unless each trial of `recordings`, labelled `label` [n_trials], has its `n_windows` windows."""
        n_trials = [report.n_trials for report in recordings]
        expected = {
            "label": np.repeat(label, n_windows),
            "subject": np.repeat(np.repeat([report.subject for report in recordings], n_trials), n_windows),
            "run": np.repeat(np.repeat([report.run for report in recordings], n_trials), n_windows),
        }
        for name, column in expected.items():
            found = getattr(self, name)
            if len(found) != len(column) or (found != column).any():
                n_equal = int((found == column).sum()) if len(found) == len(column) else 0
                raise InputError(
                    f"windows=torcheeg found {len(found)} windows where windows=views has {len(column)}, the {name} of "
                    f"{n_equal} of them the same: one of the two reads these recordings wrongly; delete {store} so "
                    "that it is built again, or use windows=views"
                )

    def __len__(self) -> int:
        return len(self.trial)

    def to(self, device: torch.device | str) -> "TorcheegWindows":
        """Nothing to do: the store stays on the disk; returns self."""
        return self

    def gather(self, indices: np.ndarray | torch.Tensor) -> torch.Tensor:
        """The windows `indices` [n], normalised: float32 [n, n_chans, window] on the CPU."""
        return torch.cat([self.dataset[int(index)][0] for index in indices])


def is_whole(store: Path) -> bool:
    """Whether a store is there, every byte as it was written; all are read for that."""
    try:
        return read_checked_json(store / CHECKSUMS) == checksums(store)
    except (OSError, ValueError):
        return False


def checksums(store: Path) -> dict[str, str]:
    """{file: SHA-256} of what torcheeg wrote into a store, but for the lock."""
    found = {}
    for path in sorted((store / "io").rglob("*")):
        if path.is_file() and path.name != "lock.mdb":
            with path.open("rb") as file:
                found[path.relative_to(store).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def open_mne_dataset(
    store: Path,
    epochs: Sequence[mne.Epochs],
    recordings: Sequence[RecordingReport],
    window: int,
    overlap: int,
) -> Any:
    """The exercise's `MNEDataset` on the folder `store`, written if it is not there; each item is (float32
    [1, 64, window], label).
    """
    level = mne.set_log_level("ERROR", return_old_level=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints when its map grows and when the store exists
            return _mne_dataset_class()(
                epochs_list=list(epochs),
                metadata_list=[{"subject": report.subject, "run": report.run} for report in recordings],
                chunk_size=window,
                overlap=overlap,
                io_path=str(store),
                offline_transform=compose(mean_std_normalize, to_2d),
                online_transform=to_tensor,
                label_transform=label_from_event,
                num_worker=0,  # more change the order of the samples from run to run
                verbose=False,
            )
    finally:
        mne.set_log_level(level)  # the constructor sets CRITICAL for the whole process


def torcheeg_version() -> str:
    return importlib.import_module("torcheeg").__version__


def _mne_dataset_class() -> Any:
    # torcheeg 1.0.11 imports scipy.signal.hann, which moved to scipy.signal.windows.
    if not hasattr(scipy.signal, "hann"):
        scipy.signal.hann = scipy.signal.windows.hann
    level = mne.set_log_level("ERROR", return_old_level=True)
    try:
        return importlib.import_module("torcheeg.datasets").MNEDataset
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"windows=torcheeg needs torcheeg 1.0.11 ({error}); run: pip install --no-deps "
            f"torcheeg==1.0.11, or use windows=views"
        ) from error
    finally:
        mne.set_log_level(level)


# The exercise's transforms, in torcheeg's protocol: keyword arguments in, a dict out.


def mean_std_normalize(eeg: np.ndarray, **_: Any) -> dict[str, np.ndarray]:
    """`transforms.MeanStdNormalize()`: by the mean and the standard deviation of the whole window, a constant one to
    zeros.
    """
    mean = eeg.mean()
    return {"eeg": (eeg - mean) / floored(mean, eeg.std())}


def to_2d(eeg: np.ndarray, **_: Any) -> dict[str, np.ndarray]:
    """`transforms.To2d()`: [n_chans, window] to [1, n_chans, window]."""
    return {"eeg": eeg[np.newaxis]}


def to_tensor(eeg: np.ndarray, **_: Any) -> dict[str, torch.Tensor]:
    """`transforms.ToTensor()`: to float32."""
    return {"eeg": torch.from_numpy(eeg).float()}


def label_from_event(y: dict[str, Any], **_: Any) -> dict[str, int]:
    """`transforms.Select("event")` and `transforms.Lambda(lambda x: x - 2)`."""
    return {"y": y["event"] - EVENT_CODES["T1"]}


def compose(*transforms: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`transforms.Compose([...])`: one after the other."""

    def apply(**data: Any) -> dict[str, Any]:
        for transform in transforms:
            data = transform(**data)
        return data

    return apply

"""Trials of recordings on disk: read once, kept in one file, and mapped into memory."""

import contextlib
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from common.errors import InputError
from common.files import atomic_folder, hash_of, only_process, read_checked_json, write_checked_json
from common.progress import Progress
from data.eeg.any_format import Reading, read_any_trials
from data.eeg.edf import BadRecording
from data.eeg.recording import CHANNELS, Preprocessing, RecordingReport, try_read_trials
from data.parallel import map_processes

K = TypeVar("K")


@dataclass(frozen=True)
class Excluded:
    """A subject (run None) or one recording that was left out, and why."""

    subject: int
    run: int | None
    reason: str


def hash_files(files: Mapping[K, Sequence[Path]]) -> tuple[dict[K, str], dict[K, OSError]]:
    """SHA-256 (hex) of each recording, which may consist of several files, and why others cannot be read at all."""

    def sha256(parts: Sequence[Path]) -> str | OSError:
        try:
            digests = []
            for part in parts:
                with part.open("rb") as stream:
                    digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            return error
        return digests[0] if len(digests) == 1 else hash_of(digests)

    with ThreadPoolExecutor() as pool:  # hashing leaves Python's lock: 96 subjects (750 MB) in under a second
        results = dict(zip(files, pool.map(sha256, files.values()), strict=True))
    digests = {key: result for key, result in results.items() if isinstance(result, str)}
    return digests, {key: result for key, result in results.items() if isinstance(result, OSError)}


class ReadJob(NamedTuple):
    """The arguments of `try_read_trials` for one recording; reading: how it is read if it is not EEGMMI's."""

    file: Path
    subject: int
    run: int
    preprocessing: Preprocessing
    labelled: bool
    is_genuine: bool
    reading: Reading | None = None

    @property
    def n_chans(self) -> int:
        return len(self.reading.electrodes if self.reading else CHANNELS)


def read_job(*job: Any) -> tuple[np.ndarray, np.ndarray, RecordingReport] | str:
    """The trials, labels and report of a `ReadJob`, or the reason why the recording cannot be used."""
    file, subject, run, preprocessing, labelled, is_genuine, reading = job
    if reading is None:
        return try_read_trials(
            file, subject, run, preprocessing=preprocessing, labelled=labelled, is_genuine=is_genuine
        )
    try:
        return read_any_trials(file, subject, run, preprocessing=preprocessing, reading=reading)
    except (BadRecording, InputError) as error:
        return str(error)


def cached_trials(
    folder: Path, jobs: Sequence[ReadJob], *, on_bad: str, workers: int, quiet: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """The trials in `folder`, memory-mapped, and their index; built now if they are not there or not whole.

    Of several processes that ask at once, one builds and the others wait.
    """
    try:
        found = _open(folder, jobs)
        if found is None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with only_process(folder) as alone:
                found = _open(folder, jobs)  # built while this process waited?
                if found is None:
                    shutil.rmtree(folder, ignore_errors=True)
                    for leftover in folder.parent.glob(f".{folder.name}.*.tmp") if alone else ():
                        shutil.rmtree(leftover, ignore_errors=True)  # of a process that was killed
                    _build(folder, jobs, on_bad=on_bad, workers=workers, quiet=quiet)
                    found = _open(folder, jobs)
                    assert found is not None, f"{folder} cannot be read right after it was written"
    except OSError as error:
        raise cannot_keep(f"cache_dir={str(folder.parent)!r}", "trials", error) from error
    return found


def _open(folder: Path, jobs: Sequence[ReadJob]) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Trials and index as `_build` left them, or None if they are not there or a byte of them has changed.

    All trials are read for that: SHA-256 takes about a second for 1.5 GB.
    """
    try:
        index = read_checked_json(folder / "index.json")
        shape = (len(index["label"]), jobs[0].n_chans, jobs[0].preprocessing.n_times)
        if (folder / "trials.f32").stat().st_size != 4 * int(np.prod(shape)):
            return None
        reports_of(index)
        [Excluded(**entry) for entry in index["excluded"]]
        trials = np.memmap(folder / "trials.f32", dtype="<f4", mode="c", shape=shape)
        return (trials, index) if hashlib.sha256(trials.data).hexdigest() == index["trials_sha256"] else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def reports_of(index: Mapping[str, Any]) -> tuple[RecordingReport, ...]:
    """What was found in each recording, from `index.json`; ValueError, KeyError or TypeError where that is damaged."""
    lists = ("n_of_class", "flat", "clipped", "dead", "remarks")
    reports = tuple(
        RecordingReport(**{**row, **{name: tuple(row[name]) for name in lists}}) for row in index["recordings"]
    )
    n_classes = max((len(report.n_of_class) for report in reports), default=0)
    if sum(report.n_trials for report in reports) != len(index["label"]) or set(index["label"]) - {
        *range(-1, n_classes)
    }:
        raise ValueError("the labels are not those of the recordings")
    return reports


def _build(folder: Path, jobs: Sequence[ReadJob], *, on_bad: str, workers: int, quiet: bool) -> None:
    """Read every recording, in parallel, and write `trials.f32` and `index.json` to `folder`, whole or not at all."""
    _check_space(folder.parent, jobs)
    label: list[int] = []
    reports: list[RecordingReport] = []
    bad: list[Excluded] = []
    digest = hashlib.sha256()
    progress_bar = contextlib.closing(Progress(len(jobs), unit="recording", quiet=quiet))
    with progress_bar as progress, atomic_folder(folder) as temporary:
        with (temporary / "trials.f32").open("wb") as out:
            for job, result in zip(jobs, map_processes(read_job, jobs, workers), strict=True):
                progress.advance()
                if isinstance(result, str):
                    if on_bad == "stop":
                        raise bad_recording(job.file, result)
                    bad.append(Excluded(job.subject, job.run, result))
                    continue
                trials, labels, report = result
                stored = trials.astype("<f4", copy=False).data
                out.write(stored)
                digest.update(stored)
                label += labels.tolist()
                reports.append(report)
        if not label:
            why = bad[0].reason if bad else why_none(reports, jobs[0].preprocessing)
            raise InputError(f"no trial is left in {len(jobs)} recordings, of which {jobs[0].file} is the first: {why}")
        index = {
            "label": label,
            "recordings": [asdict(report) for report in reports],
            "excluded": [asdict(entry) for entry in bad],
            "trials_sha256": digest.hexdigest(),
        }
        write_checked_json(temporary / "index.json", index)


def why_none(reports: Sequence[RecordingReport], preprocessing: Preprocessing) -> str:
    """What became of all the trials of recordings that none was cut from."""
    lost, bad, all_of_them = (
        sum(numbers)
        for numbers in zip(*((report.n_lost, report.n_bad, sum(report.n_of_class)) for report in reports), strict=True)
    )
    reaching = f"reach past the recordings' ends (tmin={preprocessing.tmin:g}, tmax={preprocessing.tmax:g})"
    counts = ((lost, reaching), (bad, "touch what is marked bad"))
    found = [f"{n} of {all_of_them} {what}" for n, what in counts if n]
    return ", ".join(found) or "no trial fits between their ends"


def bad_recording(file: Path, reason: str) -> InputError:
    """The error for a recording that stops the run."""
    return InputError(f"{file}: {reason}; or leave such recordings out with on_bad=skip")


def cannot_keep(where: str, what: str, error: OSError) -> InputError:
    """The error for a folder, named by `where`, that recordings or trials cannot be written to."""
    return InputError(
        f"{where}: cannot keep the {what} ({error.strerror or error}); make room, or give a folder that can be written"
    )


def _check_space(folder: Path, jobs: Sequence[ReadJob]) -> None:
    """InputError if the trials will not fit on the disk: per recording at most what a float32 copy of it
    takes.
    """
    needed = sum(2 * job.file.stat().st_size for job in jobs)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"cache_dir={str(folder)!r} has {free / 1e9:.1f} GB free, the trials of {len(jobs)} recordings take up to "
            f"{needed / 1e9:.1f} GB; free some space or give another folder"
        )

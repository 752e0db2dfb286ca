"""PhysioNet's EEG Motor Movement/Imagery database: its files, their download, its faulty subjects.

Schalk et al. 2004 (doi:10.1109/TBME.2004.827072), distributed by PhysioNet (Goldberger et al. 2000) under ODC-BY 1.0.
"""

import functools
import importlib.resources
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import mne

from common.errors import InputError
from common.progress import Progress

URL = "https://physionet.org/files/eegmmidb/1.0.0/"
LAYOUT = Path("MNE-eegbci-data/files/eegmmidb/1.0.0")
"""MNE's own cache layout under a data folder, so that files fetched by either are found by both."""

N_SUBJECTS = 109
N_RUNS = 14

KNOWN_BAD = {
    88: "sampled at 128 Hz, and its task lengths do not add up to the recording",
    89: "its baseline and first task runs do not follow the protocol (one 60 s task; 22 events)",
    92: "sampled at 128 Hz, and its task lengths do not add up to the recording",
    100: "sampled at 128 Hz, and its task lengths do not add up to the recording",
    104: "run 8 stops at 106 s with 13 of its 15 trials",
}
"""Subjects that published work leaves out, with what is wrong."""


def parse_numbers(text: str, name: str, highest: int) -> tuple[int, ...]:
    """The numbers that "1-99" or "1,3,7-20" stands for: ascending, each once, all within 1 to `highest`.

    Raises InputError that names the parameter `name`.
    """
    allowed = f"allowed are numbers and ranges from 1 to {highest}, such as 1-20 or 1,3,7-20"
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        if match is None:
            raise InputError(f"{name}={text!r}: {part.strip()!r} is neither a number nor a range; {allowed}")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise InputError(f"{name}={text!r}: the range {part.strip()} runs backwards; {allowed}")
        for number in (first, last):
            if not 1 <= number <= highest:
                raise InputError(f"{name}={text!r}: there is no {name.removesuffix('s')} {number}; {allowed}")
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as `parse_numbers` reads them: {1, 2, 3, 7} is "1-3,7"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def data_folder(data_dir: Path | None) -> Path:
    """The folder that holds `MNE-eegbci-data`: the one given, else the one MNE is configured with, else
    `~/mne_data`.
    """
    if data_dir is None:
        configured = mne.get_config("MNE_DATASETS_EEGBCI_PATH") or mne.get_config("MNE_DATA")
        folder = Path(configured).expanduser() if configured else Path.home() / "mne_data"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    if not Path(data_dir).is_dir():
        raise InputError(
            f"data_dir={str(data_dir)!r} is not a folder; give the folder that holds the recordings (MNE-eegbci-data/, "
            "S001/S001R04.edf, or PhysioNet's zip), or create an empty one to download them there"
        )
    return Path(data_dir)


def recording_path(folder: Path, subject: int, run: int) -> Path:
    """Where MNE keeps that recording under `folder`."""
    return folder / LAYOUT / recording_name(subject, run)


@functools.cache
def checksums() -> dict[str, str]:
    """SHA-256 (hex) of every file PhysioNet holds, by its name ("S001/S001R04.edf"), as MNE ships them."""
    text = importlib.resources.files("mne").joinpath("data", "eegbci_checksums.txt").read_text(encoding="utf-8")
    return {name: digest for name, digest in (line.split() for line in text.splitlines() if line.strip())}


def expected_sha256(subject: int, run: int) -> str:
    return checksums()[recording_name(subject, run)]


def recording_of(sha256: str) -> str | None:
    """The name ("S001/S001R08.edf") of PhysioNet's recording that has these bytes; None if none has."""
    return _names().get(sha256)


@functools.cache
def _names() -> dict[str, str]:
    return {digest: name for name, digest in checksums().items() if name.endswith(".edf")}


def download(
    folder: Path,
    recordings: Sequence[tuple[int, int]],
    n_at_once: int = 8,
    url: str = URL,
    quiet: bool = False,
    n_asked: int | None = None,
) -> int:
    """Fetch the recordings (subject, run) that `folder` lacks, several at a time; returns how many were
    fetched.

    MNE downloads each to a temporary name, checks its SHA-256 and moves it into place, so a run that is
    killed leaves no half file. Raises InputError if one cannot be had; those that came stay. n_asked: how many were
    asked for with those that are somewhere else, for the error.
    """
    missing = [pair for pair in recordings if not recording_path(folder, *pair).exists()]
    if not missing:
        return 0
    # Made beforehand: MNE's downloader asks whether a folder exists and then makes it, and two threads at once make it
    # twice.
    for subject, run in missing:
        recording_path(folder, subject, run).parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(len(missing), unit="recording", quiet=quiet)
    with ThreadPoolExecutor(n_at_once) as pool:
        jobs = {pool.submit(_download_one, folder, subject, run, url=url): (subject, run) for subject, run in missing}
        try:
            for job in as_completed(jobs):
                job.result()
                progress.advance(note=recording_name(*jobs[job]))
        except Exception as error:
            pool.shutdown(wait=False, cancel_futures=True)
            lacking = {subject for subject, run in missing if not recording_path(folder, subject, run).exists()}
            whole = {subject for subject, _ in recordings} - lacking
            instead = f", or give subjects={ranges(whole)}" if whole else ""
            raise InputError(
                f"{len(missing)} of {n_asked or len(recordings)} recordings are not under {folder / LAYOUT} "
                f"(of subjects {ranges(lacking)}), and {recording_name(*jobs[job])} could not be downloaded from {url} "
                f"({type(error).__name__}: {_first_line(error)}); connect to the network, or copy them there{instead}"
            ) from error
        finally:
            progress.close()
    return len(missing)


def _download_one(folder: Path, subject: int, run: int, url: str) -> None:
    mne.datasets.eegbci.load_data(subject, run, path=folder, update_path=False, base_url=url, verbose="ERROR")


def recording_name(subject: int, run: int) -> str:
    """The file's name under PhysioNet's folder, "S001/S001R04.edf"."""
    return f"S{subject:03d}/S{subject:03d}R{run:02d}.edf"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0][:200]

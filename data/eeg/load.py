"""Loads EEG for training: recordings in, one memory-mapped array of trials out, checked on the way.

    data = load_eeg("simulated", cache_dir=Path("cache"), subjects="1-12")
    windows = data.windows(window=160, overlap=80)
    batch = windows.gather(np.arange(64))           # float32 [64, 64, 160], each window normalised

`python -m data.eeg inspect` shows what is in the recordings: a table, the exercise's three plots, and where left and
right differ.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import mne
import numpy as np

from common.errors import InputError
from common.files import hash_of
from data.eeg import physionet, simulated
from data.eeg.cache import Excluded, ReadJob, bad_recording, cached_trials, cannot_keep, hash_files, reports_of
from data.eeg.recording import (
    CHANNELS,
    LEFT_RIGHT_RUNS,
    MOVEMENTS,
    Preprocessing,
    RecordingReport,
)
from data.eeg.sources import EEG_SOURCES, EegSource
from data.eeg.torcheeg import TorcheegWindows
from data.eeg.windows import EegWindows
from data.parallel import available_cores

CACHE_VERSION = 2  # raise it when the same recordings and settings give other trials
RECORDINGS_PER_WORKER = 24  # starting a worker (it imports MNE) takes about as long as reading 40 recordings

__all__ = ["CHANNELS", "MOVEMENTS", "EegData", "Excluded", "Preprocessing", "load_eeg"]


@dataclass(frozen=True, eq=False)
class EegData:
    """Trials of many recordings, in the order of subject, run and time.

    trials: float32 [n_trials, n_chans, n_times], memory-mapped, in volts, band-passed and (if asked)
    baseline-corrected. Writing to it changes this process's copy only.
    label: 0 = left fist, 1 = right fist, -1 = not labelled. subject, run: EEGMMI's numbers. trial: 0, 1, ...
    unique over all runs. All int64 [n_trials].
    dataset: "physionet" or "simulated". fingerprint: SHA-256 of everything the trials depend on (settings,
    the bytes of every recording, MNE's version); it also names the folder they are kept in. recordings: what
    was found in each. excluded: what was left out. files: where each recording lies.
    """

    dataset: str
    trials: np.ndarray
    label: np.ndarray
    subject: np.ndarray
    run: np.ndarray
    trial: np.ndarray
    preprocessing: Preprocessing
    fingerprint: str
    recordings: tuple[RecordingReport, ...]
    excluded: tuple[Excluded, ...]
    files: tuple[Path, ...]
    cache_dir: Path

    @property
    def sfreq(self) -> float:
        return self.preprocessing.sfreq

    @property
    def ch_names(self) -> tuple[str, ...]:
        return CHANNELS

    @property
    def times(self) -> np.ndarray:
        """Seconds from the cue of each sample of a trial, [n_times]."""
        return (np.arange(self.trials.shape[2]) + self.preprocessing.first_sample) / self.sfreq

    def windows(self, window: int = 160, overlap: int = 80) -> EegWindows:
        """Views of `window` samples that overlap by `overlap`: the default route."""
        return EegWindows(
            trials=self.trials, label=self.label, subject=self.subject, run=self.run, window=window, overlap=overlap
        )

    def torcheeg_windows(self, window: int = 160, overlap: int = 80) -> TorcheegWindows:
        """The same windows by the exercise's own route, torcheeg's `MNEDataset`, which writes its own store
        under `cache_dir`.
        """
        if (self.label < 0).any():
            raise InputError("windows=torcheeg cuts trials around cues; unlabelled stretches need windows=views")
        return TorcheegWindows(
            files=self.files,
            recordings=self.recordings,
            preprocessing=self.preprocessing,
            window=window,
            overlap=overlap,
            cache_dir=self.cache_dir,
            fingerprint=self.fingerprint,
            label=self.label,
        )

    def summary(self) -> dict[str, Any]:
        """What a run logs about its data, JSON-serialisable."""
        return {
            "dataset": self.dataset,
            "fingerprint": self.fingerprint,
            "n_trials": len(self.trials),
            "n_chans": self.trials.shape[1],
            "n_times": self.trials.shape[2],
            "n_subjects": len(np.unique(self.subject)),
            "n_recordings": len(self.recordings),
            "n_left": int((self.label == 0).sum()),
            "n_right": int((self.label == 1).sum()),
            **asdict(self.preprocessing),
            "excluded": [asdict(entry) for entry in self.excluded],
        }

    def table(self) -> str:
        """One line a recording, then what was left out, as text."""
        lines = ["subject run   seconds trials left right  SD/uV  notes"]
        lines += [
            f"{r.subject:7d} {r.run:3d} {r.seconds:9.2f} {r.n_trials:6d} {r.n_left:4d} {r.n_right:5d} "
            f"{r.median_sd_uv:6.1f}  {r.notes}".rstrip()
            for r in self.recordings
        ]
        lines += [
            f"left out: subject {e.subject}{'' if e.run is None else f' run {e.run}'}: {e.reason}"
            for e in self.excluded
        ]
        return "\n".join(lines)


def load_eeg(
    dataset: Literal["physionet", "simulated"],
    cache_dir: Path,
    data_dir: Path | None = None,
    subjects: str = "1-99",
    runs: str = "4,8,12",
    preprocessing: Preprocessing | None = None,
    labelled: bool = True,
    exclude: str = "known",
    on_bad: Literal["stop", "skip"] = "stop",
    checksums: bool = True,
    seed: int = 0,
    n_workers: int | None = None,
    quiet: bool = False,
) -> EegData:
    """The trials of the recordings asked for; built once, then memory-mapped from `cache_dir`.

    dataset: "physionet" reads (and downloads what is missing to) `data_dir`, MNE's own folder if None.
    "simulated" writes the recordings of `seed` under `cache_dir` and reads them by the same path. In both
    folders' names a leading ~ is the home folder.
    subjects, runs: ranges such as "1,3,7-20". labelled: trials around the cues of left/right runs; else
    consecutive stretches of any run, label -1.
    exclude: subjects to leave out: "known" (those with known faults; of physionet only), "none", or ranges.
    on_bad: what to do about a recording that is damaged or not what it should be: "stop" raises, "skip"
    leaves it out and lists it.
    checksums: whether physionet's files must have PhysioNet's bytes.
    n_workers: processes that read files; default one per 24 recordings, at most one per CPU.

    Raises InputError, one line, for anything that the user can correct.
    """
    if dataset not in EEG_SOURCES:
        raise InputError(f"dataset={dataset!r} is not allowed; choose {' or '.join(EEG_SOURCES)}")
    if on_bad not in ("stop", "skip"):
        raise InputError(f"on_bad={on_bad!r} is not allowed; choose stop or skip")
    source = EEG_SOURCES[dataset]
    preprocessing = preprocessing or Preprocessing()
    # os.path: Path.expanduser raises for a user that is not there.
    cache_dir = Path(os.path.expanduser(cache_dir))
    data_dir = None if data_dir is None else Path(os.path.expanduser(data_dir))
    kept, excluded = _choose_subjects(subjects, exclude, source, checksums)
    pairs = [(subject, run) for subject in kept for run in _check_runs(runs, labelled)]
    workers = max(1, min(n_workers or available_cores(), len(pairs) // RECORDINGS_PER_WORKER))

    folder = _recordings_folder(source, cache_dir, data_dir, pairs, seed=seed, workers=workers, quiet=quiet)
    digests, unreadable = hash_files(folder, pairs, on_bad)
    digests, unclear = _leave_out_copies(source, folder, digests, on_bad)
    jobs = _read_jobs(source, folder, digests, preprocessing, labelled=labelled, checksums=checksums)
    fingerprint = _fingerprint(source, jobs, digests)
    trials, index = cached_trials(
        cache_dir / f"eeg-{fingerprint[:32]}", jobs, on_bad=on_bad, workers=workers, quiet=quiet
    )
    data = _assemble(source, jobs, trials, index, fingerprint=fingerprint, cache_dir=cache_dir)
    if on_bad == "stop" and data.excluded:  # an earlier run built this with on_bad=skip
        bad = data.excluded[0]
        raise bad_recording(physionet.recording_path(folder, bad.subject, bad.run or 0), bad.reason)
    if labelled and len(np.unique(data.label)) < 2:
        found = f"all {len(data.label)} trials of subjects={subjects} runs={runs} are {MOVEMENTS[data.label[0]]}"
        raise InputError(f"{found}: two classes are needed; add runs or subjects")
    return replace(data, excluded=(*excluded, *unreadable, *unclear, *data.excluded))


def _recordings_folder(
    source: EegSource,
    cache_dir: Path,
    data_dir: Path | None,
    pairs: Sequence[tuple[int, int]],
    *,
    seed: int,
    workers: int,
    quiet: bool,
) -> Path:
    """The folder of the recordings (subject, run), in which those that were missing are downloaded or simulated."""
    try:
        if source.is_simulated:
            return simulated.write_simulated(cache_dir, seed, pairs, n_workers=workers, quiet=quiet)
        folder = physionet.data_folder(data_dir)
        physionet.download(folder, pairs, quiet=quiet)
        return folder
    except OSError as error:
        if source.is_simulated:
            where = f"cache_dir={str(cache_dir)!r}"
        elif data_dir is not None:
            where = f"data_dir={str(data_dir)!r}"
        else:
            where = f"{error.filename} (MNE's own folder, since data_dir is not given)"
        raise cannot_keep(where, "recordings", error) from error


def _leave_out_copies(
    source: EegSource, folder: Path, digests: Mapping[tuple[int, int], str], on_bad: str
) -> tuple[dict[tuple[int, int], str], list[Excluded]]:
    """The `digests` {(subject, run): SHA-256} of the recordings that lie under their own name alone, and the others.

    InputError, with on_bad=stop, if there are others, and always if none is left.
    """
    reasons = _copies(source, digests)
    for pair, reason in reasons.items():
        file = physionet.recording_path(folder, *pair)
        if on_bad == "stop":
            raise bad_recording(file, reason)
        if len(reasons) == len(digests):
            raise InputError(f"no recording is left of {len(digests)}, {file} and following: {reason}")
    left = {pair: digest for pair, digest in digests.items() if pair not in reasons}
    return left, [Excluded(*pair, reason) for pair, reason in reasons.items()]


def _copies(source: EegSource, digests: Mapping[tuple[int, int], str]) -> dict[tuple[int, int], str]:
    """{(subject, run): why} of PhysioNet's recordings that lie at another one's path, and of files with the same bytes.

    With one person counted as two, or one run as two, a network would be tested on what it was trained on.
    """
    pairs_of: dict[str, list[tuple[int, int]]] = {}
    for pair, digest in digests.items():
        pairs_of.setdefault(digest, []).append(pair)
    reasons = {}
    for pair, digest in digests.items():
        name = physionet.recording_name(*pair)
        really = None if source.is_simulated else physionet.recording_of(digest)
        others = [physionet.recording_name(*other) for other in pairs_of[digest] if other != pair]
        if really is not None and really != name:
            reasons[pair] = (
                f"the bytes of PhysioNet's {really} lie at the path of {name}: move it to its own path, or delete "
                "it so that the right one is downloaded"
            )
        elif others and really is None:
            reasons[pair] = (
                f"it has the same bytes as {others[0]}, so one recording would count as two: keep it once, under the "
                "name of the person and the run that it is of"
            )
    return reasons


def _read_jobs(
    source: EegSource,
    folder: Path,
    digests: Mapping[tuple[int, int], str],
    preprocessing: Preprocessing,
    *,
    labelled: bool,
    checksums: bool,
) -> list[ReadJob]:
    """What to read: every recording of `digests`, {(subject, run): SHA-256 of its file}."""
    return [
        ReadJob(
            file=physionet.recording_path(folder, subject, run),
            subject=subject,
            run=run,
            preprocessing=preprocessing,
            labelled=labelled,
            is_genuine=source.is_simulated or not checksums or digest == physionet.expected_sha256(subject, run),
        )
        for (subject, run), digest in digests.items()
    ]


def _fingerprint(source: EegSource, jobs: Sequence[ReadJob], digests: Mapping[tuple[int, int], str]) -> str:
    """SHA-256 (hex) of all that the trials depend on."""
    return hash_of(
        {
            "version": CACHE_VERSION,
            "mne": mne.__version__,
            "dataset": source.name,
            "preprocessing": asdict(jobs[0].preprocessing),
            "labelled": jobs[0].labelled,
            "recordings": [[job.subject, job.run, digests[job.subject, job.run], job.is_genuine] for job in jobs],
        }
    )


def _assemble(
    source: EegSource,
    jobs: Sequence[ReadJob],
    trials: np.ndarray,
    index: Mapping[str, Any],
    *,
    fingerprint: str,
    cache_dir: Path,
) -> EegData:
    """The data from what the cache holds; `excluded` are the recordings that could not be used."""
    recordings = reports_of(index)
    label = np.array(index["label"], dtype=np.int64)
    n_trials = [report.n_trials for report in recordings]
    file_of = {(job.subject, job.run): job.file for job in jobs}
    return EegData(
        dataset=source.name,
        trials=trials,
        label=label,
        subject=np.repeat([report.subject for report in recordings], n_trials).astype(np.int64),
        run=np.repeat([report.run for report in recordings], n_trials).astype(np.int64),
        trial=np.arange(len(label)),
        preprocessing=jobs[0].preprocessing,
        fingerprint=fingerprint,
        recordings=recordings,
        excluded=tuple(Excluded(**entry) for entry in index["excluded"]),
        files=tuple(file_of[report.subject, report.run] for report in recordings),
        cache_dir=cache_dir,
    )


def _choose_subjects(
    subjects: str, exclude: str, source: EegSource, checksums: bool
) -> tuple[list[int], list[Excluded]]:
    """Split the subjects asked for into those to read and those to leave out, with reasons.

    Without `checksums` the recordings may be anybody's, so PhysioNet's faults are not said to be theirs.
    """
    wanted = physionet.parse_numbers(subjects, "subjects", source.n_subjects)
    reasons: Mapping[int, str]
    if exclude == "known":
        reasons = source.known_bad
        if not checksums:
            reasons = {
                subject: f"exclude=known leaves out EEGMMI's person {subject} ({reason}); if these are recordings of "
                "somebody else, take exclude=none"
                for subject, reason in source.known_bad.items()
            }
    elif exclude == "none":
        reasons = {}
    else:
        numbers = physionet.parse_numbers(exclude, "exclude", source.n_subjects)
        reasons = dict.fromkeys(numbers, "left out as asked (exclude)")
    excluded = [Excluded(subject, None, reasons[subject]) for subject in wanted if subject in reasons]
    kept = [subject for subject in wanted if subject not in reasons]
    if not kept:
        why = "; ".join(f"{entry.subject}: {entry.reason}" for entry in excluded[:5])
        raise InputError(f"every subject asked for is left out ({why}); ask for others, or take them with exclude=none")
    return kept, excluded


def _check_runs(runs: str, labelled: bool) -> tuple[int, ...]:
    numbers = physionet.parse_numbers(runs, "runs", physionet.N_RUNS)
    if labelled and (wrong := [run for run in numbers if run not in LEFT_RIGHT_RUNS]):
        raise InputError(
            f"runs={runs!r}: in run {wrong[0]} there is no left or right fist (1 and 2 are rest without T1/T2; 5, 6, "
            "9, 10, 13, 14 are both fists or both feet); allowed are 4, 8, 12 (imagined) and 3, 7, 11 (executed)"
        )
    return numbers

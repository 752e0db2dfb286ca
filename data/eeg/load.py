"""Loads EEG for training: recordings in, one memory-mapped array of trials out, checked on the way.

    data = load_eeg("simulated", cache_dir=Path("cache"), subjects="1-12")
    windows = data.windows(window=160, overlap=80)
    batch = windows.gather(np.arange(64))           # float32 [64, 64, 160], each window normalised

`python -m data.eeg inspect` shows what is in the recordings: a table, the exercise's three plots, and where left and
right differ.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import mne
import numpy as np

from common.errors import InputError
from common.files import hash_of
from data.eeg.any_format import READING_VERSION, Reading
from data.eeg.cache import Excluded, bad_recording, cached_trials, reports_of
from data.eeg.eegmmi import RECORDINGS_PER_WORKER, plan_eegmmi
from data.eeg.electrodes import electrode_info, standard_positions
from data.eeg.naming import chosen
from data.eeg.own import plan_own
from data.eeg.plan import Asked, Names, Plan
from data.eeg.recording import (
    CHANNELS,
    MOVEMENTS,
    Preprocessing,
    RecordingReport,
)
from data.eeg.sources import EEG_SOURCES, LEFT_RIGHT, is_own
from data.eeg.survey import OwnFiles, survey
from data.eeg.torcheeg import TorcheegWindows
from data.eeg.windows import EegWindows
from data.parallel import available_cores

CACHE_VERSION = 2  # raise it when the same recordings and settings give other trials

__all__ = ["CHANNELS", "MOVEMENTS", "EegData", "Excluded", "Preprocessing", "load_eeg"]


@dataclass(frozen=True, eq=False)
class EegData:
    """Trials of many recordings, in the order of subject, run and time.

    trials: float32 [n_trials, n_chans, n_times], memory-mapped, in volts, band-passed and (if asked)
    baseline-corrected. Writing to it changes this process's copy only.
    label: an index of `classes`, of EEGMMI 0 = left fist and 1 = right fist; -1 = not labelled. subject, run: EEGMMI's
    numbers; of one's own recordings, numbers whose names are in `names`. trial: 0, 1, ... unique over all runs. All
    int64 [n_trials].
    ch_names, positions: of the electrodes; metres in the head's frame [n_chans, 3], x to the right, y to the nose.
    dataset: the name of the source. fingerprint: SHA-256 of everything the trials depend on (settings,
    the bytes of every recording, MNE's version); it also names the folder they are kept in. recordings: what
    was found in each. excluded: what was left out; notes: what else was. files: where each recording lies. reading: how
    recordings of one's own are read.
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
    ch_names: tuple[str, ...] = CHANNELS
    positions: np.ndarray = field(default_factory=lambda: standard_positions(CHANNELS))
    classes: tuple[str, ...] = LEFT_RIGHT
    names: Names = field(default_factory=Names)
    notes: tuple[str, ...] = ()
    reading: Reading | None = None

    @property
    def sfreq(self) -> float:
        return self.preprocessing.sfreq

    @property
    def is_own(self) -> bool:
        """Whether these are anybody's recordings, not EEGMMI's or simulated ones."""
        return is_own(self.dataset)

    @property
    def session(self) -> np.ndarray:
        """Of each trial the number of its session, an index of `session_names`, int64 [n_trials]."""
        numbers = [self.session_names.index(self.names.session.get(report.run, "")) for report in self.recordings]
        return np.repeat(numbers, [report.n_trials for report in self.recordings])

    @property
    def session_names(self) -> list[str]:
        """The names of the sessions, sorted; one, without a name, where the recordings name none."""
        return sorted({self.names.session.get(report.run, "") for report in self.recordings})

    def by_session(self) -> "EegData":
        """The same trials, with a session's runs counted as one: to hold out whole sessions. InputError where the
        recordings name fewer than two.
        """
        if not any(self.names.session.values()) or len(np.unique(self.session)) < 2:
            raise InputError(
                "split=cross_session holds out one session at a time, but the recordings name fewer than two (by names "
                "such as sub-01_ses-2, or a subject_pattern with {session}); use split=within_subject"
            )
        return replace(self, run=self.session + 1)

    def info(self) -> mne.Info:
        """MNE's description of the electrodes, with their positions, for maps of the scalp."""
        return electrode_info(self.ch_names, self.positions, self.sfreq, self.preprocessing.montage)

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
        if self.is_own:
            raise InputError(f"windows=torcheeg reads EEGMMI's files; dataset={self.dataset} needs windows=views")
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
            **{f"n_{name}": int((self.label == k).sum()) for k, name in enumerate(self.classes)},
            **asdict(self.preprocessing),
            "excluded": [asdict(entry) for entry in self.excluded],
        }

    def table(self) -> str:
        """One line a recording, then what was left out, as text."""
        widths = [max(5, len(name) + 1) for name in self.classes]
        people, runs = (
            [self.names.of_subject(r.subject) for r in self.recordings],
            [self.names.run_in_words(r.run) for r in self.recordings],
        )
        wide, deep = (max([least, *map(len, names)]) for least, names in ((7, people), (3, runs)))
        heads = "".join(f"{name:>{width}s}" for name, width in zip(self.classes, widths, strict=True))
        lines = [f"{'subject':>{wide}s} {'run':>{deep}s}   seconds trials{heads}  SD/uV  notes"]
        for r, person, run in zip(self.recordings, people, runs, strict=True):
            counts = "".join(f"{n:{width}d}" for n, width in zip(r.n_of_class or [0] * 9, widths, strict=False))
            row = f"{person:>{wide}s} {run:>{deep}s} {r.seconds:9.2f} {r.n_trials:6d}{counts} {r.median_sd_uv:6.1f}"
            lines.append(f"{row}  {r.notes}".rstrip())
        lines += [f"left out: {self.excluded_in_words(entry)}: {entry.reason}" for entry in self.excluded]
        return "\n".join([*lines, *self.notes])

    def excluded_in_words(self, entry: Excluded) -> str:
        """Whose recording was left out, and which."""
        of_run = "" if entry.run is None else f" run {self.names.run_in_words(entry.run)}"
        return f"subject {self.names.of_subject(entry.subject)}{of_run}"

    def people(self, text: str, parameter: str) -> tuple[int, ...]:
        """The numbers of the people that `text` names, of those that are here; InputError where one is not."""
        there = {self.names.of_subject(int(number)): int(number) for number in np.unique(self.subject)}
        return chosen(text, parameter, there)


BY_NAME = OwnFiles()
"""One's own recordings with nothing said about them: people and runs come from the files' names."""


def load_eeg(
    dataset: str,
    cache_dir: Path,
    data_dir: Path | None = None,
    *,
    subjects: str = "1-99",
    runs: str = "4,8,12",
    preprocessing: Preprocessing | None = None,
    labelled: bool = True,
    exclude: str = "known",
    on_bad: Literal["stop", "skip"] = "stop",
    checksums: bool = True,
    download: Literal["auto", "yes", "no"] = "auto",
    seed: int = 0,
    n_workers: int | None = None,
    quiet: bool = False,
    own: OwnFiles = BY_NAME,
) -> EegData:
    """The trials of the recordings asked for; built once, then memory-mapped from `cache_dir`.

    dataset: "physionet" reads EEGMMI from wherever it lies under `data_dir`, MNE's own folder if None.
    "simulated" writes the recordings of `seed` under `cache_dir` and reads them by the same path. "recordings" reads
    anybody's under `data_dir`, as `own` says. "moabb:NAME" reads a data set of MOABB. In the folders' names a leading ~
    is the home folder.
    subjects, runs: ranges such as "1,3,7-20"; of "recordings" also names, or "all". labelled: trials around the cues;
    else consecutive stretches of any run, label -1.
    exclude: subjects to leave out: "known" (PhysioNet's recordings with known faults), "none", or ranges.
    on_bad: what to do about a recording that is damaged or not what it should be: "stop" raises, "skip"
    leaves it out and lists it.
    checksums: whether physionet's files must have PhysioNet's bytes. download: whether missing ones are fetched;
    "auto": to MNE's own folder, or to a `data_dir` that holds none at all.
    n_workers: processes that read files; default one per 24 recordings, at most one per CPU.

    Raises InputError, one line, for anything that the user can correct.
    """
    _check_names(dataset, on_bad)
    cache_dir, data_dir = _expanded(cache_dir), None if data_dir is None else _expanded(data_dir)
    n_workers = n_workers or available_cores()
    asked = Asked(
        subjects=subjects,
        runs=runs,
        preprocessing=preprocessing or Preprocessing(),
        labelled=labelled,
        exclude=exclude,
        on_bad=on_bad,
        checksums=checksums,
        download=download,
        seed=seed,
    )
    if is_own(dataset):
        plan = _plan_own(dataset, cache_dir, data_dir, own=own, asked=asked, workers=n_workers, quiet=quiet)
    else:
        plan = plan_eegmmi(EEG_SOURCES[dataset], cache_dir, data_dir, asked, workers=n_workers, quiet=quiet)
    fingerprint = _fingerprint(plan)
    workers = max(1, min(n_workers, len(plan.jobs) // RECORDINGS_PER_WORKER))
    folder = cache_dir / f"eeg-{fingerprint[:32]}"
    trials, index = cached_trials(folder, plan.jobs, on_bad=on_bad, workers=workers, quiet=quiet)
    data = _assemble(plan, trials, index, fingerprint=fingerprint, cache_dir=cache_dir)
    _check_complete(data, plan, asked)
    return replace(data, excluded=(*plan.excluded, *data.excluded))


def _expanded(path: Path) -> Path:
    return Path(os.path.expanduser(path))  # Path.expanduser raises for a user that is not there


def _check_names(dataset: str, on_bad: str) -> None:
    if dataset not in EEG_SOURCES and not is_own(dataset):
        names = ", ".join(EEG_SOURCES)
        raise InputError(f"dataset={dataset!r} is not allowed; choose {names}, recordings or moabb:NAME")
    if on_bad not in ("stop", "skip"):
        raise InputError(f"on_bad={on_bad!r} is not allowed; choose stop or skip")


def _check_complete(data: EegData, plan: Plan, asked: Asked) -> None:
    """InputError where a recording is missing that may not be, or a class."""
    if asked.on_bad == "stop" and data.excluded:  # an earlier run built this with on_bad=skip
        bad = data.excluded[0]
        file = next(job.file for job in plan.jobs if (job.subject, job.run) == (bad.subject, bad.run))
        raise bad_recording(file, bad.reason)
    if asked.labelled and data.is_own:
        _check_classes(data)
    elif asked.labelled and len(np.unique(data.label)) < 2:
        of = f"all {len(data.label)} trials of subjects={asked.subjects} runs={asked.runs} are"
        raise InputError(f"{of} {MOVEMENTS[data.label[0]]}: two classes are needed; add runs or subjects")


def _check_classes(data: EegData) -> None:
    """InputError where no trial is left of a class."""
    for number, name in enumerate(data.classes):
        if not (data.label == number).any():
            n_events = sum(report.n_of_class[number] for report in data.recordings)
            raise InputError(
                f"classes: no trial is left of {name!r}, of {n_events} events: they are marked bad, beside a pause, or "
                "reach past a recording's ends (python -m data.eeg inspect shows it); leave the class out, or give "
                "other tmin, tmax"
            )


def _plan_own(
    dataset: str, cache_dir: Path, data_dir: Path | None, own: OwnFiles, asked: Asked, *, workers: int, quiet: bool
) -> Plan:
    """Which trials are read from which files of one's own, or of MOABB."""
    folder, own = own_folder(dataset, cache_dir, data_dir, own, subjects=asked.subjects, quiet=quiet)
    found = survey(folder, own, cache_dir, subjects=asked.subjects, runs=asked.runs, workers=workers, quiet=quiet)
    plan = plan_own(
        found, own, asked.preprocessing, exclude=asked.exclude, labelled=asked.labelled, on_bad=asked.on_bad
    )
    return replace(plan, dataset=dataset)


def own_folder(
    dataset: str, cache_dir: Path, data_dir: Path | None, own: OwnFiles, *, subjects: str, quiet: bool = False
) -> tuple[Path, OwnFiles]:
    """The folder of one's own recordings, or of those of MOABB's data set, written there; and how to read them."""
    if dataset == "recordings":
        if data_dir is None:
            raise InputError("data_dir: give the folder that holds the recordings")
        return data_dir, own
    from data.eeg.moabb import write_moabb  # MOABB is an optional extra

    return write_moabb(dataset.partition(":")[2], cache_dir, data_dir, own, subjects=subjects, quiet=quiet)


def _fingerprint(plan: Plan) -> str:
    """SHA-256 (hex) of all that the trials depend on."""
    first = plan.jobs[0]
    facts: dict[str, Any] = {
        "version": CACHE_VERSION,
        "mne": mne.__version__,
        "dataset": plan.dataset,
        "preprocessing": asdict(first.preprocessing),
        "labelled": first.labelled,
        "recordings": [
            [job.subject, job.run, digest, job.is_genuine] for job, digest in zip(plan.jobs, plan.digests, strict=True)
        ],
    }
    if first.reading is not None:
        facts["reading_version"] = READING_VERSION
        facts["reading"] = {**asdict(first.reading), "bids_root": first.reading.bids_root is not None}
        facts["classes"] = plan.classes
    return hash_of(facts)


def _assemble(
    plan: Plan, trials: np.ndarray, index: Mapping[str, Any], *, fingerprint: str, cache_dir: Path
) -> EegData:
    """The data from what the cache holds; `excluded` are the recordings that could not be used."""
    recordings = reports_of(index)
    label = np.array(index["label"], dtype=np.int64)
    n_trials = [report.n_trials for report in recordings]
    file_of = {(job.subject, job.run): job.file for job in plan.jobs}
    return EegData(
        dataset=plan.dataset,
        trials=trials,
        label=label,
        subject=np.repeat([report.subject for report in recordings], n_trials).astype(np.int64),
        run=np.repeat([report.run for report in recordings], n_trials).astype(np.int64),
        trial=np.arange(len(label)),
        preprocessing=plan.jobs[0].preprocessing,
        fingerprint=fingerprint,
        recordings=recordings,
        excluded=tuple(Excluded(**entry) for entry in index["excluded"]),
        files=tuple(file_of[report.subject, report.run] for report in recordings),
        cache_dir=cache_dir,
        ch_names=plan.ch_names,
        positions=np.array(plan.positions),
        classes=plan.classes,
        names=plan.names,
        notes=plan.notes,
        reading=plan.jobs[0].reading,
    )

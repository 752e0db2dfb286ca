"""Data sets of MOABB (Mother of All BCI Benchmarks), by name: fetched by MOABB, written as recordings of one's own.

MOABB is an optional extra (`pip install wgan-eeg[moabb]`). A person's recordings are written once, as FIF files with
the data set's events as annotations, and read by `data.eeg.own` like anybody's.
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mne

from common.errors import InputError
from common.files import atomic_folder
from common.progress import Progress
from data.eeg.cache import cannot_keep
from data.eeg.naming import chosen
from data.eeg.survey import OwnFiles


def write_moabb(
    name: str, cache_dir: Path, data_dir: Path | None, own: OwnFiles, *, subjects: str, quiet: bool
) -> tuple[Path, OwnFiles]:
    """The folder of the recordings of MOABB's data set `name`, in which those of `subjects` that were missing are
    written; and `own` with the data set's classes, if it names none, and how its files are called.

    data_dir: where MOABB keeps what it downloads; None: where it is configured to. InputError where MOABB or the data
    set is missing, or it cannot be fetched.
    """
    dataset = _dataset(name)
    events: dict[str, int] = dict(dataset.event_id)
    if own.subject_pattern or own.subject_table:
        raise InputError("subject_pattern, subject_table: MOABB's data sets say themselves whose recordings they are")
    folder = cache_dir / f"moabb-{name}"
    wanted = chosen(subjects, "subjects", {str(number): number for number in dataset.subject_list})
    missing = [number for number in wanted if not (folder / f"sub-{number}").is_dir()]
    progress = Progress(len(missing), unit="person", quiet=quiet)
    for number in missing:
        with atomic_folder(folder / f"sub-{number}") as temporary:
            for session, runs in _fetched(dataset, number, data_dir).items():
                for run, raw in runs.items():
                    _write(raw, temporary / f"sub-{number}_ses-{_word(session)}_run-{_word(run)}_raw.fif", dataset)
        progress.advance()
    progress.close()
    return folder, replace(own, classes=own.classes or tuple(events))


def _dataset(name: str) -> Any:
    try:
        import moabb.datasets  # an optional extra
    except ImportError as error:
        raise InputError(
            f"dataset=moabb:{name} needs MOABB ({error}); run: pip install moabb, or take dataset=recordings"
        ) from error
    kind = getattr(moabb.datasets, name, None)
    if not isinstance(kind, type):
        near = difflib.get_close_matches(name, dir(moabb.datasets), n=1, cutoff=0.5)
        hint = f"did you mean moabb:{near[0]}?" if near else "its names are those of moabb.datasets"
        raise InputError(f"dataset=moabb:{name}: MOABB has no such data set; {hint}")
    with mne.utils.use_log_level("ERROR"):
        dataset = kind()
    if getattr(dataset, "paradigm", None) != "imagery":
        raise InputError(f"dataset=moabb:{name} is about {dataset.paradigm}, not imagined movement (paradigm imagery)")
    return dataset


def _fetched(dataset: Any, subject: int, data_dir: Path | None) -> Mapping[str, Mapping[str, mne.io.BaseRaw]]:
    """{session: {run: its signal}} of a person, downloaded by MOABB if need be."""
    where = data_dir or Path(mne.get_config("MNE_DATA") or Path.home() / "mne_data").expanduser()
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_keep(f"data_dir={str(where)!r}", "recordings", error) from error
    try:
        with mne.utils.use_log_level("ERROR"), _downloads_to(where):
            return dataset.get_data(subjects=[subject])[subject]
    # What a downloader, an archive or a reader of files raises is of many kinds.
    except Exception as error:
        words, name = " ".join(str(error).split())[:200], type(dataset).__name__
        raise InputError(
            f"dataset=moabb:{name}: person {subject} could not be fetched ({type(error).__name__}: {words}); connect "
            f"to the network, or fetch it where there is one (moabb.datasets.{name}().download([{subject}])) and copy "
            f"it to {where}"
        ) from error


@contextmanager
def _downloads_to(folder: Path) -> Iterator[None]:
    """MOABB keeps data in this folder; MNE's configuration file, which is the user's, stays as it is."""
    before = os.environ.get("MNE_DATA")
    os.environ["MNE_DATA"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MNE_DATA"]
        else:
            os.environ["MNE_DATA"] = before


def _write(raw: mne.io.BaseRaw, path: Path, dataset: Any) -> None:
    """The recording with the data set's events as annotations, at the start of each task."""
    names = {code: name for name, code in dataset.event_id.items()}
    began = raw.first_time if raw.annotations.orig_time is not None else 0.0
    notes = [(note["onset"] - began, note["duration"], note["description"]) for note in raw.annotations]
    if len(mne.pick_types(raw.info, meg=False, stim=True)):
        events = mne.find_events(raw, shortest_event=0, initial_event=True, verbose="ERROR")
        cues = [((s - raw.first_samp) / raw.info["sfreq"], names[c]) for s, _, c in events if c in names]
    else:
        cues = [(onset, name) for onset, _, name in notes if name in dataset.event_id]
    shift = float(dataset.interval[0])  # of the task, from the event
    kept = [(onset + shift, 0.0, name) for onset, name in cues]
    kept += [note for note in notes if note[2].lower().startswith("bad")]
    channels = [n for n, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True) if kind != "stim"]
    signal = raw.copy().pick(channels)
    clean = mne.io.RawArray(signal.get_data(), signal.info, verbose="ERROR")
    clean.set_meas_date(None)
    clean.set_annotations(mne.Annotations(*([*column] for column in zip(*kept, strict=True))) if kept else None)
    clean.save(path, verbose="ERROR")


def _word(name: object) -> str:
    """A session's or run's name, such as "0train", fit for a file's name."""
    return "".join(character for character in str(name) if character.isalnum()) or "0"

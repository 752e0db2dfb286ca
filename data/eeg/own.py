"""Recordings of one's own: what lies in a folder, what was understood of it, and what is to be read.

`survey` looks at names, headers and events; `plan_own` says which trials are cut from which files, or refuses in one
line. `data.eeg.load.load_eeg("recordings", ...)` reads them.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mne

from common.errors import InputError
from common.files import atomic_file, hash_of
from common.progress import Progress
from data.eeg import physionet
from data.eeg.any_format import READING_VERSION, Reading, Scan, bids_root_of, matching_event, scan
from data.eeg.cache import Excluded, ReadJob, bad_recording, cannot_keep, hash_files
from data.eeg.naming import Named, NamedFiles, chosen, find_recordings, numbers_of, run_numbers
from data.eeg.plan import Names, Plan
from data.eeg.recording import Preprocessing
from data.eeg.sides import left_first
from data.parallel import map_processes

COMMON = "common"
FILES_PER_WORKER = 48


@dataclass(frozen=True)
class OwnFiles:
    """How a folder of recordings is to be understood; docs/own_recordings.md explains each.

    subject_pattern, subject_table: see `find_recordings`. classes: events, "left_hand" or "left:769" (a class called
    left whose event is 769). picks: electrodes to keep, or "common" for those that all recordings have. drop: channels
    to leave out. montage: see `channels_of`. reference, notch: see `Reading`.
    """

    subject_pattern: str | None = None
    subject_table: Path | None = None
    classes: tuple[str, ...] = ()
    picks: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    montage: str | None = None
    reference: tuple[str, ...] = ()
    notch: tuple[float, ...] = ()


@dataclass(frozen=True)
class Survey:
    """What lies in a folder. scans: of each recording, what it holds; unusable: why others cannot be read."""

    folder: Path
    files: NamedFiles
    names: Names
    subject: dict[Named, int]
    run: dict[Named, int]
    digests: dict[Named, str]
    scans: dict[Named, Scan]
    unusable: dict[Named, str]

    @property
    def events(self) -> dict[str, int]:
        """{name: how many in all recordings}, the most frequent first."""
        counts: Counter[str] = Counter()
        for found in self.scans.values():
            counts.update(found.events)
        return dict(counts.most_common())

    def text(self) -> str:
        """Everything that was understood, for people."""
        scans = list(self.scans.values())
        lines = [f"{self.folder}: {len(self.files.recordings)} recordings, named {self.files.how}"]
        lines += [f"{'subject':>12s} {'session':>8s} {'run':>16s}   seconds      Hz  electrodes  file"]
        for recording in self.files.recordings:
            name = f"{recording.subject:>12s} {recording.session:>8s} {recording.run:>16s} "
            found, where = self.scans.get(recording), _within(recording.file, self.folder)
            if found is None:
                lines.append(f"{name} {where}: {self.unusable[recording]}")
            else:
                lines.append(f"{name}{found.seconds:9.2f} {found.sfreq:7g} {len(found.electrodes):11d}  {where}")
        lines += [f"events: {_counts(self.events)}"]
        for electrodes, n in Counter(found.electrodes for found in scans).most_common():
            lines.append(f"electrodes of {n} recordings ({len(electrodes)}): {' '.join(electrodes)}")
        if scans:
            own = sum(found.positions_from_file for found in scans)
            lines.append(f"positions: {own} recordings have their own, {len(scans) - own} a standard montage's")
        return "\n".join([*lines, *self.notes()])

    def notes(self) -> tuple[str, ...]:
        """What is left out, and what may surprise."""
        lines = [f"left out: {_within(f, self.folder)}: its name does not fit" for f in self.files.unmatched]
        others = Counter(name for found in self.scans.values() for name in found.others)
        if others:
            lines.append(
                f"left out: channels that are no known electrode, or without a position: {_counts(dict(others))}"
            )
        bad = Counter(name for found in self.scans.values() for name in found.bad)
        if bad:
            lines.append(f"marked bad in recordings, but read (drop= leaves them out): {_counts(dict(bad))}")
        return tuple(lines)


def survey(
    folder: Path,
    own: OwnFiles,
    cache_dir: Path,
    *,
    subjects: str = "all",
    runs: str = "all",
    workers: int = 1,
    quiet: bool = False,
) -> Survey:
    """Look at the recordings of these people and runs under `folder`.

    What was found is kept in `cache_dir`, by the files' bytes.
    """
    if not folder.is_dir():
        raise InputError(f"data_dir={str(folder)!r} is not a folder; give the one that holds the recordings")
    files = find_recordings(folder, own.subject_pattern, own.subject_table)
    number_of, number_of_run = numbers_of([r.subject for r in files.recordings]), run_numbers(files.recordings)
    names = Names(
        subject={number: name for name, number in number_of.items()},
        session={number: session for (session, _), number in number_of_run.items()},
        run={number: run for (_, run), number in number_of_run.items()},
    )
    subject = {r: number_of[r.subject] for r in files.recordings}
    run = {r: number_of_run[r.session, r.run] for r in files.recordings}
    people = set(chosen(subjects, "subjects", number_of))
    kept_runs = set(chosen(runs, "runs", {names.run_in_words(number): number for number in names.run}))
    wanted = tuple(r for r in files.recordings if subject[r] in people and run[r] in kept_runs)
    if not wanted:
        raise InputError(f"subjects={subjects}, runs={runs}: none of the recordings is of these people and runs")
    digests, unreadable = hash_files({r: parts_of(r.file) for r in wanted})
    found = _scans(folder, own, digests, cache_dir, workers=workers, quiet=quiet)
    return Survey(
        folder,
        replace(files, recordings=wanted),
        names,
        subject=subject,
        run=run,
        digests=digests,
        scans={r: result for r, result in found.items() if not isinstance(result, str)},
        unusable={
            **{r: f"it cannot be read ({error.strerror or error})" for r, error in unreadable.items()},
            **{r: result for r, result in found.items() if isinstance(result, str)},
        },
    )


def parts_of(file: Path) -> list[Path]:
    """The files that a recording consists of: BrainVision's and EEGLAB's data, split FIF, a BIDS tree's tables."""
    parts, name = [file], file.name
    if file.suffix.lower() == ".vhdr":
        text = file.read_text(encoding="latin-1") if file.is_file() else ""
        parts += [file.with_name(n.strip().replace("$b", file.stem)) for n in re.findall(r"(?m)^\w+File=(.+)$", text)]
    elif file.suffix.lower() == ".set":
        parts += [file.with_suffix(".fdt")]
    elif name.lower().endswith(".fif"):
        parts += sorted(file.parent.glob(f"{file.stem}-[0-9]*.fif"))
    base = re.sub(r"_[A-Za-z]+$", "", name.split(".")[0])
    parts += [file.with_name(f"{base}_{table}.tsv") for table in ("events", "channels")]
    parts += sorted(file.parent.glob("*_electrodes.tsv")) + sorted(file.parent.glob("*_coordsystem.json"))
    return [file, *(part for part in dict.fromkeys(parts[1:]) if part.is_file())]


def plan_own(
    found: Survey,
    own: OwnFiles,
    preprocessing: Preprocessing,
    *,
    exclude: str,
    labelled: bool,
    on_bad: str,
) -> Plan:
    """Which trials are read from which of the files found. InputError, one line, for what the user can correct."""
    wanted, left_out = _readable(found, exclude, on_bad)
    classes = _classes(own.classes, found.events, labelled)
    events = tuple(tuple(dict.fromkeys(_events_meant(event, found.scans.values()))) for event in classes.values())
    if labelled:
        idle = {r: _no_class(found.scans[r], classes) for r in wanted if not _has(found.scans[r], events)}
        left_out |= idle
        wanted = [r for r in wanted if r not in idle]
    electrodes = _electrodes(found, wanted, own.picks)
    reading = Reading(
        electrodes,
        own.montage,
        dropped=own.drop,
        events=events if labelled else (),
        reference=own.reference,
        notch=own.notch,
        bids_root=bids_root_of(found.folder),
    )
    jobs = [
        ReadJob(
            file=r.file,
            subject=found.subject[r],
            run=found.run[r],
            preprocessing=preprocessing,
            labelled=labelled,
            is_genuine=True,
            reading=reading,
        )
        for r in wanted
    ]
    first = found.scans[wanted[0]]
    place = dict(zip(first.electrodes, first.positions, strict=True))
    return Plan(
        dataset="recordings",
        jobs=jobs,
        digests=[found.digests[r] for r in wanted],
        excluded=[Excluded(found.subject[r], found.run[r], reason) for r, reason in left_out.items()],
        ch_names=electrodes,
        positions=tuple(place[name] for name in electrodes),
        classes=tuple(classes),
        names=found.names,
        notes=found.notes(),
    )


def _readable(found: Survey, exclude: str, on_bad: str) -> tuple[list[Named], dict[Named, str]]:
    """(the recordings to read, those left out with the reason). InputError for one at fault with on_bad=stop, and
    where none is left.
    """
    wanted, left_out = _wanted(found, exclude)
    faults = {r: found.unusable[r] for r in wanted if r in found.unusable}
    faults |= _copies(found, [r for r in wanted if r not in faults])
    if faults and on_bad == "stop":
        recording, reason = next(iter(faults.items()))
        raise bad_recording(recording.file, reason)
    left_out |= faults
    wanted = [r for r in wanted if r not in faults]
    if not wanted:
        recording, reason = next(iter(left_out.items()))
        raise InputError(f"all {len(left_out)} recordings are left out, {recording.file} first: {reason}")
    return wanted, left_out


def _wanted(found: Survey, exclude: str) -> tuple[list[Named], dict[Named, str]]:
    """(the recordings to read, those that `exclude` leaves out with the reason)."""
    wanted = found.files.recordings
    left_out: dict[Named, str] = {}
    if exclude == "known":  # PhysioNet's faults are those of PhysioNet's bytes, wherever these lie
        for recording in wanted:
            really = physionet.recording_of(found.digests.get(recording, ""))
            fault = physionet.KNOWN_BAD.get(int(really[1:4])) if really else None
            if fault is not None:
                left_out[recording] = f"it is PhysioNet's {really} ({fault}); exclude=none takes it"
    elif exclude != "none":
        unwanted = set(chosen(exclude, "exclude", {name: number for number, name in found.names.subject.items()}))
        left_out = {r: "left out as asked (exclude)" for r in wanted if found.subject[r] in unwanted}
    return [r for r in wanted if r not in left_out], left_out


def _copies(found: Survey, wanted: Sequence[Named]) -> dict[Named, str]:
    """{recording: why} of those with the bytes of another, which would count one recording as two."""
    first: dict[str, Named] = {}
    reasons = {}
    for recording in wanted:
        other = first.setdefault(found.digests[recording], recording)
        if other is not recording:
            reasons[recording] = (
                f"it has the same bytes as {_within(other.file, found.folder)}, so one recording would count as two: "
                "keep it once, under the name of the person and the run that it is of"
            )
    return reasons


def _classes(asked: Sequence[str], events: Mapping[str, int], labelled: bool) -> dict[str, str]:
    """{class: its event as asked}, left before right. InputError unless there are two or more."""
    if not labelled:
        return {}
    there = f"the events there are {_counts(events)}"
    if len(asked) < 2:
        given = f"classes={asked[0]}: give at least two classes" if asked else "classes: none are given"
        raise InputError(f"{given}; give two or more of the events, as classes=left_hand,right_hand; {there}")
    classes: dict[str, str] = {}
    for part in asked:
        name, colon, event = part.partition(":")
        if not colon or matching_event(part, list(events)) is not None:
            name = event = part
        if matching_event(event, list(events)) is None and not any(_alike(event, e) for e in events):
            raise InputError(f"classes: {event!r} is not among the events; {there}")
        if name in classes:
            raise InputError(f"classes: {name!r} is there twice; give each class once")
        classes[name] = event
    return {name: classes[name] for name in left_first(tuple(classes))}


def _alike(wanted: str, name: str) -> bool:
    return matching_event(wanted, [name]) is not None


def _events_meant(event: str, scans: Iterable[Scan]) -> list[str]:
    """The names under which the recordings have an event."""
    return [name for found in scans for name in [matching_event(event, list(found.events))] if name is not None]


def _has(found: Scan, events: Sequence[Sequence[str]]) -> bool:
    return any(name in found.events for names in events for name in names)


def _no_class(found: Scan, classes: Mapping[str, str]) -> str:
    return f"it has none of the events {', '.join(classes.values())}, but {_counts(found.events)}"


def _electrodes(found: Survey, wanted: Sequence[Named], picks: Sequence[str]) -> tuple[str, ...]:
    """The electrodes that are read, in the order of the first recording or of `picks`; InputError where one lacks."""
    if not wanted:
        raise InputError(f"data_dir={str(found.folder)!r}: no recording has events of the classes")
    first = found.scans[wanted[0]].electrodes
    if tuple(picks) == (COMMON,):
        shared = set(first).intersection(*(found.scans[r].electrodes for r in wanted))
        if not shared:
            raise InputError("picks=common: no electrode is in all recordings")
        return tuple(name for name in first if name in shared)
    names = tuple(picks) or first
    for recording in wanted:
        has = found.scans[recording].electrodes
        missing, more = [n for n in names if n not in has], [] if picks else [n for n in has if n not in names]
        if missing and picks:
            raise InputError(
                f"picks: {_within(recording.file, found.folder)} has no {' '.join(missing[:12])}; its electrodes are "
                f"{' '.join(has)}"
            )
        if missing or more:
            differ = "; ".join(
                f"{what} {' '.join(some[:12])}" for what, some in (("lacks", missing), ("also has", more)) if some
            )
            raise InputError(
                f"{_within(recording.file, found.folder)} has other electrodes than "
                f"{_within(wanted[0].file, found.folder)}: it {differ}; take those that all have with picks=common, or "
                "name them with picks"
            )
    return names


def _scans(
    folder: Path, own: OwnFiles, digests: Mapping[Named, str], cache_dir: Path, *, workers: int, quiet: bool
) -> dict[Named, Scan | str]:
    """What every recording holds, from the cache where the same bytes were looked at before."""
    root = bids_root_of(folder)
    key = hash_of([READING_VERSION, mne.__version__, own.montage, own.drop, root is not None, sorted(digests.values())])
    kept = cache_dir / f"eeg-scan-{key[:32]}.json"
    by_digest = _kept_scans(kept)
    if by_digest is None or set(digests.values()) - set(by_digest):
        jobs = [(recording.file, own.montage, own.drop, root) for recording in digests]
        n_workers = max(1, min(workers, len(jobs) // FILES_PER_WORKER))
        by_digest, progress = {}, Progress(len(jobs), unit="file", quiet=quiet)
        for digest, result in zip(digests.values(), map_processes(scan, jobs, n_workers), strict=True):
            by_digest[digest] = result
            progress.advance()
        progress.close()
        rows = {digest: r if isinstance(r, str) else asdict(r) for digest, r in by_digest.items()}
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            with atomic_file(kept) as temporary:
                temporary.write_text(json.dumps(rows), encoding="utf-8")
        except OSError as error:
            raise cannot_keep(f"cache_dir={str(cache_dir)!r}", "recordings' contents", error) from error
    return {recording: by_digest[digest] for recording, digest in digests.items()}


def _kept_scans(file: Path) -> dict[str, Scan | str] | None:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return {
            digest: row
            if isinstance(row, str)
            else Scan(
                **{
                    **row,
                    "electrodes": tuple(row["electrodes"]),
                    "positions": tuple(tuple(place) for place in row["positions"]),
                    "others": tuple(row["others"]),
                    "bad": tuple(row["bad"]),
                }
            )
            for digest, row in rows.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _counts(counts: Mapping[str, int], most: int = 30) -> str:
    """Names and how many of each, in words."""
    shown = [f"{name} ({n})" for name, n in list(counts.items())[:most]]
    return (", ".join(shown) + (f", and {len(counts) - most} more" if len(counts) > most else "")) or "none"


def _within(file: Path, folder: Path) -> Path:
    return file.relative_to(folder) if file.is_relative_to(folder) else file

"""Recordings of one's own: what lies in a folder, and what was understood of it, by names, headers and events alone."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mne

from common.errors import InputError
from common.files import atomic_file, hash_of
from common.progress import Progress
from data.eeg.any_format import READING_VERSION, Scan, bids_root_of, scan
from data.eeg.cache import cannot_keep, hash_files
from data.eeg.naming import (
    Named,
    NamedFiles,
    chosen,
    find_recordings,
    further_parts,
    numbers_of,
    run_numbers,
    within,
)
from data.eeg.plan import Names
from data.parallel import map_processes

SCAN_VERSION = 2  # raise it when the same files are understood otherwise, or no longer refused
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
            found, where = self.scans.get(recording), within(recording.file, self.folder)
            if found is None:
                lines.append(f"{name} {where}: {self.unusable[recording]}")
            else:
                lines.append(f"{name}{found.seconds:9.2f} {found.sfreq:7g} {len(found.electrodes):11d}  {where}")
        lines += [f"events: {counts_in_words(self.events)}"]
        for electrodes, n in Counter(found.electrodes for found in scans).most_common():
            lines.append(f"electrodes of {n} recordings ({len(electrodes)}): {' '.join(electrodes)}")
        if scans:
            own = sum(found.positions_from_file for found in scans)
            lines.append(f"positions: {own} recordings have their own, {len(scans) - own} a standard montage's")
        return "\n".join([*lines, *self.notes()])

    def notes(self) -> tuple[str, ...]:
        """What is left out, and what may surprise."""
        lines = [f"left out: {within(f, self.folder)}: its name does not fit" for f in self.files.unmatched]
        others = Counter(name for found in self.scans.values() for name in found.others)
        if others:
            words = counts_in_words(dict(others))
            lines.append(f"left out: channels that are no known electrode, or without a position: {words}")
        comments: Counter[str] = Counter()
        for found in self.scans.values():
            comments.update(found.comments)
        if comments:
            words = counts_in_words(dict(comments.most_common()))
            lines.append(f"left out: comments, which are no events and can be no classes: {words}")
        bad = Counter(name for found in self.scans.values() for name in found.bad)
        if bad:
            lines.append(f"marked bad in recordings, but read (drop= leaves them out): {counts_in_words(dict(bad))}")
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
    _check_drop(own.drop, [result for result in found.values() if isinstance(result, Scan)])
    return Survey(
        folder,
        replace(files, recordings=wanted),
        names,
        subject=subject,
        run=run,
        digests=digests,
        scans={r: result for r, result in found.items() if not isinstance(result, str)},
        unusable={
            **{r: _why_unreadable(r.file, error) for r, error in unreadable.items()},
            **{r: result for r, result in found.items() if isinstance(result, str)},
        },
    )


def _check_drop(drop: Sequence[str], scans: Sequence[Scan]) -> None:
    """InputError where no recording has a channel that is to be left out."""
    for name in drop if scans else ():
        if not any(name in found.dropped for found in scans):
            first = scans[0]
            others = f", its other channels {' '.join(first.others[:12])}" if first.others else ""
            raise InputError(
                f"drop: {name!r} is no channel of the recordings; electrodes of the first are "
                f"{' '.join(first.electrodes)}{others}"
            )


def _why_unreadable(file: Path, error: OSError) -> str:
    if file.is_symlink() and not file.exists():
        return "it is a link to what is not there: fetch it (datalad get), or take the link away"
    return f"it cannot be read ({error.strerror or error})"


def parts_of(file: Path) -> list[Path]:
    """The files that a recording consists of: BrainVision's and EEGLAB's data, split FIF, a BIDS tree's tables."""
    parts, name = [file], file.name
    if file.suffix.lower() == ".vhdr":
        text = file.read_text(encoding="latin-1") if file.is_file() else ""
        parts += [file.with_name(n.strip().replace("$b", file.stem)) for n in re.findall(r"(?m)^\w+File=(.+)$", text)]
        parts += [file.with_suffix(".vmrk")]  # which MNE reads where the header names one that is not there
    elif file.suffix.lower() == ".set":
        parts += [file.with_suffix(".fdt")]
    parts += further_parts(file)
    base = re.sub(r"_[A-Za-z]+$", "", name.split(".")[0])
    parts += [file.with_name(f"{base}_{table}.tsv") for table in ("events", "channels")]
    parts += sorted(file.parent.glob("*_electrodes.tsv")) + sorted(file.parent.glob("*_coordsystem.json"))
    return [file, *(part for part in dict.fromkeys(parts[1:]) if part.is_file())]


def _scans(
    folder: Path, own: OwnFiles, digests: Mapping[Named, str], cache_dir: Path, *, workers: int, quiet: bool
) -> dict[Named, Scan | str]:
    """What every recording holds, from the cache where the same bytes were looked at before."""
    root = bids_root_of(folder)
    settings = [mne.__version__, own.montage, own.drop, root is not None]
    key = hash_of([SCAN_VERSION, READING_VERSION, *settings, sorted(digests.values())])
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
                    "dropped": tuple(row["dropped"]),
                }
            )
            for digest, row in rows.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def counts_in_words(counts: Mapping[str, int], most: int = 30) -> str:
    """Names and how many of each, in words."""
    shown = [f"{name} ({n})" for name, n in list(counts.items())[:most]]
    return (", ".join(shown) + (f", and {len(counts) - most} more" if len(counts) > most else "")) or "none"

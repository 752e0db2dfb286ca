"""Whose recording a file is, and which one: by a pattern of its name, by BIDS entities, or by a small table."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import InputError

SUFFIXES = (".edf", ".bdf", ".gdf", ".vhdr", ".set", ".fif", ".fif.gz")
"""Of the files that are read; others are passed over (a BrainVision recording is its .vhdr)."""
NOT_RAW = {"derivatives", "sourcedata", "code", "stimuli"}
"""Folders of a BIDS tree that hold no raw recordings."""

ENTITY = re.compile(r"(?:^|[_/])(sub|ses|task|acq|run|recording)-([A-Za-z0-9]+)")
PLACEHOLDER = re.compile(r"\{(\w+)\}|\*")
_RUN = r"(?:run|rec|r)?[_-]?(?P<run>\d+)"
DEFAULTS = {
    "S001R04": re.compile(r"S(?P<subject>\d+)R(?P<run>\d+)", re.IGNORECASE),
    "{subject}_ses{session}_run{run}": re.compile(
        rf"(?P<subject>[^/]+?)[_-]s(?:es(?:sion)?)?[_-]?(?P<session>\d+)[_-]{_RUN}", re.IGNORECASE
    ),
    "{subject}_run{run}": re.compile(rf"(?P<subject>[^/]+?)[_-]{_RUN}", re.IGNORECASE),
    "{subject}/run{run}": re.compile(rf"(?P<subject>[^/]+)/{_RUN}", re.IGNORECASE),
    "{subject}": re.compile(r"(?P<subject>[^/]+)"),
}
"""Tried in this order where a name has no BIDS entities; the first that fits all files is taken."""
ENDINGS = re.compile(r"[_-](?:raw|eeg|ieeg)$", re.IGNORECASE)
MAX_RUN = 999


@dataclass(frozen=True, order=True)
class Named:
    """A recording. session and run are "" where the name says none; run holds a BIDS task too."""

    subject: str
    session: str
    run: str
    file: Path

    @property
    def where(self) -> str:
        """In words, such as "subject 01 session 2 run 1"."""
        parts = (("subject", self.subject), ("session", self.session), ("run", self.run))
        return " ".join(f"{name} {value}" for name, value in parts if value)


@dataclass(frozen=True)
class NamedFiles:
    """The recordings found, in the order of person, session and run; how their names were read; files left out."""

    recordings: tuple[Named, ...]
    how: str
    unmatched: tuple[Path, ...]


def find_recordings(folder: Path, pattern: str | None = None, table: Path | None = None) -> NamedFiles:
    """The recordings under `folder` and whose they are; InputError where that is not clear.

    pattern: the end of a file's path without its suffix, such as "{subject}_{run}" or "{subject}/block{run}", with
    {subject}, {session}, {run}, and * for anything else. table: CSV (, or ;) or TSV with the columns file, subject and
    perhaps session and run.
    """
    if table is not None:
        if pattern is not None:
            raise InputError("subject_pattern and subject_table: give one of the two")
        return _checked(NamedFiles(tuple(_read_table(folder, table)), f"by {table}", ()), folder, by_table=True)
    files = _recording_files(folder)
    if not files:
        raise InputError(f"data_dir={str(folder)!r} holds no recording; read are {', '.join(SUFFIXES)}")
    if pattern is not None:
        found = {file: _by_pattern(_stem(folder, file), _compiled(pattern)) for file in files}
        if not any(found.values()):
            raise InputError(
                f"subject_pattern={pattern!r} fits none of the {len(files)} recordings of data_dir={str(folder)!r}, "
                f"such as {files[0].relative_to(folder)}; give a pattern of the path's end without the suffix, with "
                "{subject} and perhaps {session} and {run}, * for anything else"
            )
        how = f"by subject_pattern={pattern}"
    else:
        found, how = _by_default(folder, files)
    named = (Named(**parts, file=file) for file, parts in found.items() if parts is not None)
    return _checked(NamedFiles(tuple(named), how, tuple(f for f, parts in found.items() if parts is None)), folder)


def numbers_of(names: Sequence[str]) -> dict[str, int]:
    """{name: number}: the digits of the names where these are all that sets them apart, else 1, 2, ... in order."""
    ordered = sorted(set(names), key=_natural)
    matches = [re.fullmatch(r"(\D*)(\d{1,6})", name) for name in ordered]
    if all(matches) and len({match[1] for match in matches if match}) == 1:
        numbers = [int(match[2]) for match in matches if match]
        if len(set(numbers)) == len(numbers) and min(numbers) > 0:
            return dict(zip(ordered, numbers, strict=True))
    return {name: number for number, name in enumerate(ordered, 1)}


def run_numbers(recordings: Sequence[Named]) -> dict[tuple[str, str], int]:
    """{(session, run): number}, 1 to MAX_RUN: a run's own number where no name has a session, else 1, 2, ..."""
    pairs = sorted({(r.session, r.run) for r in recordings}, key=lambda pair: (_natural(pair[0]), _natural(pair[1])))
    if not any(session for session, _ in pairs):
        numbers = numbers_of([run for _, run in pairs])
        if max(numbers.values()) <= MAX_RUN:
            return {("", run): number for run, number in numbers.items()}
    if len(pairs) > MAX_RUN:
        raise InputError(f"{len(pairs)} different sessions and runs; at most {MAX_RUN} can be told apart")
    return {pair: number for number, pair in enumerate(pairs, 1)}


def chosen(text: str, parameter: str, names: Mapping[str, int]) -> tuple[int, ...]:
    """The numbers that "all", or names, numbers and ranges such as "anna,3,7-20", stand for, ascending.

    names: {name: number}, of those that are there. InputError where one is not, or nobody is in a range.
    """
    if text == "all":
        return tuple(sorted(names.values()))
    numbers, there = set(names.values()), ", ".join(sorted(names, key=_natural)[:40])
    wanted: set[int] = set()
    for part in (part.strip() for part in text.split(",")):
        span = re.fullmatch(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?", part)
        if part in names:
            wanted.add(names[part])
        elif span and (found := numbers & set(range(int(span[1]), int(span[2] or span[1]) + 1))):
            wanted |= found
        else:
            raise InputError(f"{parameter}={text!r}: {part!r} is not among the recordings; there are {there}, or all")
    return tuple(sorted(wanted))


def _natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """A key under which run2 comes before run10."""
    return tuple((0, int(part)) if part.isdigit() else (1, part.lower()) for part in re.findall(r"\d+|\D+", name))


def is_bids(folder: Path) -> bool:
    return (folder / "dataset_description.json").is_file()


def _recording_files(folder: Path) -> list[Path]:
    skipped = NOT_RAW if is_bids(folder) else set()
    files = []
    for file in sorted(folder.rglob("*")):
        within = file.relative_to(folder).parts
        if any(part.startswith(".") for part in within) or skipped & set(within[:-1]):
            continue
        if file.name.lower().endswith(SUFFIXES) and file.is_file() and not _continues(file):
            files.append(file)
    return files


def _continues(file: Path) -> bool:
    """Whether it is a further part of a split FIF recording, which MNE reads with its first."""
    part = re.fullmatch(r"(.+)-\d+(\.fif(?:\.gz)?)", file.name)
    return bool(part and file.with_name(part[1] + part[2]).exists()) or bool(
        re.search(r"_split-(?!0*1_)\d+_", file.name)
    )


def _stem(folder: Path, file: Path) -> str:
    """The path in `folder` without the suffix, and without MNE's and BIDS's endings (_raw, _eeg)."""
    name = file.relative_to(folder).as_posix()
    suffix = next(suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix))
    return ENDINGS.sub("", name[: -len(suffix)])


def _compiled(pattern: str) -> re.Pattern[str]:
    unknown = set(re.findall(r"\{(\w*)\}", pattern)) - {"subject", "session", "run"}
    if unknown or "{subject}" not in pattern:
        wrong = f"{{{sorted(unknown)[0]}}} is not known" if unknown else "it has no {subject}"
        raise InputError(f"subject_pattern={pattern!r}: {wrong}; allowed are {{subject}}, {{session}}, {{run}} and *")
    text, at, seen = "", 0, set()
    for match in PLACEHOLDER.finditer(pattern):
        text += re.escape(pattern[at : match.start()])
        name, at = match[1], match.end()
        text += "[^/]*?" if name is None else f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
        seen.add(name)
    return re.compile(text + re.escape(pattern[at:]))


def _by_pattern(stem: str, pattern: re.Pattern[str]) -> dict[str, str] | None:
    match = re.fullmatch(rf"(?:.*/)?{pattern.pattern}", stem, pattern.flags)
    if match is None:
        return None
    return {name: match.groupdict().get(name) or "" for name in ("subject", "session", "run")}


def _by_entities(stem: str) -> dict[str, str] | None:
    found = dict(ENTITY.findall(stem))
    if "sub" not in found:
        return None
    run = " ".join(f"{name}-{found[name]}" for name in ("task", "acq", "recording") if name in found)
    run = f"{run} run-{found['run']}".strip() if run and "run" in found else run or found.get("run", "")
    return {"subject": found["sub"], "session": found.get("ses", ""), "run": run}


def _by_default(folder: Path, files: Sequence[Path]) -> tuple[dict[Path, dict[str, str] | None], str]:
    stems = {file: _stem(folder, file) for file in files}
    found = {file: _by_entities(stem) for file, stem in stems.items()}
    if any(found.values()):
        return found, "by BIDS entities (sub-, ses-, task-, run-)"
    for name, pattern in DEFAULTS.items():
        found = {file: _by_pattern(stem, pattern) for file, stem in stems.items()}
        if all(found.values()):
            return found, f"as {name}"
    raise InputError(
        f"data_dir={str(folder)!r}: whose recordings these are is not clear from {files[0].relative_to(folder)}; give "
        "subject_pattern, such as {subject}_{run}"
    )


def _read_table(folder: Path, table: Path) -> list[Named]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"subject_table={str(table)!r}: it cannot be read ({error})") from error
    heads = text.split("\n", 1)[0]
    delimiter = next((mark for mark in "\t;" if mark in heads), ",")  # spreadsheets write ; where , is in numbers
    rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    if not rows or not {"file", "subject"} <= set(rows[0]):
        raise InputError(
            f"subject_table={str(table)!r} needs a first line with file and subject, and perhaps session and run, and "
            "a line for each recording"
        )
    found = []
    for number, row in enumerate(rows, 2):
        values = {name: (row.get(name) or "").strip() for name in ("file", "subject", "session", "run")}
        file = folder / values.pop("file")
        if not file.is_file() or not values["subject"]:
            wrong = f"{file} is not there" if values["subject"] else "it names no subject"
            raise InputError(f"subject_table={str(table)!r}, line {number}: {wrong}")
        found.append(Named(**values, file=file))
    return found


def _checked(found: NamedFiles, folder: Path, by_table: bool = False) -> NamedFiles:
    """InputError where two files are one person's same run, or one person's lie in two folders (a table may say so)."""
    recordings = sorted(found.recordings, key=lambda r: (_natural(r.subject), _natural(r.session), _natural(r.run)))
    places: dict[tuple[str, str, str], Named] = {}
    first_of: dict[str, Named] = {}
    for recording in recordings:
        key = (recording.subject, recording.session, recording.run)
        other, first = places.setdefault(key, recording), first_of.setdefault(recording.subject, recording)
        if other is not recording:
            both = f"{_within(other.file, folder)} and {_within(recording.file, folder)}"
            raise InputError(
                f"{both} are both {recording.where}, {found.how}; give a subject_pattern that tells them apart, with "
                "{session} or {run}, or move one away"
            )
        if not by_table and _home(recording, folder) != _home(first, folder):
            raise InputError(
                f"subject {recording.subject} is in two folders, {_within(first.file, folder)} and "
                f"{_within(recording.file, folder)}: if this is one person, say so by subject_table; if not, give a "
                "subject_pattern that has the folder in it"
            )
    return replace(found, recordings=tuple(recordings))


def _within(file: Path, folder: Path) -> Path:
    return file.relative_to(folder) if file.is_relative_to(folder) else file


def _home(recording: Named, folder: Path) -> tuple[str, ...]:
    """The folders above the file, without those of its session or of a kind of data."""
    of_session = re.compile(rf"(?:ses(?:sion)?[-_]?)?{re.escape(recording.session)}", re.IGNORECASE)
    parts = recording.file.relative_to(folder).parent.parts
    return tuple(p for p in parts if p not in ("eeg", "ieeg") and not (recording.session and of_session.fullmatch(p)))

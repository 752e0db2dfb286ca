"""Whose recording a file is, and which one: by a pattern of its name, by BIDS entities, or by a small table."""

import csv
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import InputError

SUFFIXES = (".edf", ".bdf", ".gdf", ".vhdr", ".set", ".fif", ".fif.gz")
"""Of the files that are read; others are passed over (a BrainVision recording is its .vhdr)."""
NOT_RAW = {"derivatives", "sourcedata", "code", "stimuli"}
"""Folders of a BIDS tree that hold no raw recordings."""

ENTITY = re.compile(r"(?:^|[_/])(sub|ses|task|acq|run|recording)-([A-Za-z0-9]+)")
NO_RECORDING = re.compile(
    r"(?<!sub|ses|run|acq)(?<!task)(?<!recording)[-_](?:epo|ave|evo|ica|eve|cov|fwd|inv|src|trans|bem|sol|proj|annot)$"
)
"""How MNE has the name of a FIF file end, in lower case, that holds epochs, averages, events and so on."""
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
    perhaps session and run. Names are compared in Unicode's composed form, whatever the file system has.
    """
    if table is not None:
        if pattern is not None:
            raise InputError("subject_pattern and subject_table: give one of the two")
        return _checked(NamedFiles(tuple(_read_table(folder, table)), f"by {table}", ()), folder, depth=None)
    files, others = _recording_files(folder)
    if not files:
        raise InputError(f"data_dir={str(folder)!r} holds no recording; read are {', '.join(SUFFIXES)}")
    if pattern is not None:
        found = {file: _by_pattern(_stem(folder, file), _compiled(pattern)) for file in files}
        if not any(found.values()):
            raise InputError(
                f"subject_pattern={pattern!r} fits none of the {len(files)} recordings of data_dir={str(folder)!r}, "
                f"such as {files[0].relative_to(folder)}; give a pattern of the path's end without the suffix (and "
                "_raw or _eeg before it), with "
                "{subject} and perhaps {session} and {run}, * for anything else"
            )
        how, depth = f"by subject_pattern={pattern}", pattern.count("/")
    else:
        found, how, depth = _by_default(folder, files)
    named = tuple(Named(**parts, file=file) for file, parts in found.items() if parts is not None)
    unmatched = sorted([*others, *(file for file, parts in found.items() if parts is None)])
    return _checked(NamedFiles(named, how, tuple(unmatched)), folder, depth)


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

    names: {name: number}, of those that are there; a comma in one is left out: "Meier Anna" for "Meier, Anna".
    InputError where one is not there, or nobody is in a range.
    """
    if text == "all":
        return tuple(sorted(names.values()))
    names = {re.sub(r"\s*,\s*", " ", name): number for name, number in names.items()}
    numbers, there = set(names.values()), ", ".join(sorted(names, key=_natural)[:40])
    wanted: set[int] = set()
    for part in (part.strip() for part in unicodedata.normalize("NFC", text).split(",")):
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
    return tuple((0, int(part)) if part.isdecimal() else (1, part.lower()) for part in re.findall(r"\d+|\D+", name))


def is_bids(folder: Path) -> bool:
    return (folder / "dataset_description.json").is_file()


def _recording_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """(the recordings under `folder`, files of MNE that hold something else), by their names."""
    skipped = NOT_RAW if is_bids(folder) else set()
    files: list[Path] = []
    others: list[Path] = []
    for file in sorted(_walk(folder, skipped)):
        if file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".") and not _continues(file):
            stem, fif, _ = file.name.lower().partition(".fif")
            (others if fif and NO_RECORDING.search(stem) else files).append(file)
    return files, others


def _walk(folder: Path, skipped: set[str]) -> Iterator[Path]:
    """All files under `folder`, also in folders that are links, each folder once; not in hidden and `skipped` ones."""
    seen: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(where) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(where))
        kept = [name for name in folders if not name.startswith(".") and name not in skipped]
        folders[:] = sorted(kept, key=lambda name: (os.path.islink(Path(where, name)), name))
        yield from (Path(where, name) for name in names)


def _continues(file: Path) -> bool:
    """Whether it is a further part of a split FIF recording, which MNE reads with its first."""
    part = re.fullmatch(r"(.+)-\d+(\.fif(?:\.gz)?)", file.name)
    return bool(part and file.with_name(part[1] + part[2]).exists()) or bool(
        re.search(r"_split-(?!0*1_)\d+_", file.name)
    )


def further_parts(file: Path) -> list[Path]:
    """The files that MNE reads with a FIF recording, sorted: its further parts, by MNE's and by BIDS's names."""
    name = re.match(r"(.+?)(\.fif(?:\.gz)?)$", file.name, re.IGNORECASE)
    if name is None:
        return []
    stem, suffix = map(re.escape, name.groups())
    other_split = re.sub(r"(_split\\-)\d+(_)", r"\1\\d+\2", stem)
    further = re.compile(rf"({stem}-\d+|{other_split}){suffix}", re.IGNORECASE)
    return [path for path in sorted(file.parent.iterdir()) if path != file and further.fullmatch(path.name)]


def _stem(folder: Path, file: Path) -> str:
    """The path in `folder` without the suffix, and without MNE's and BIDS's endings (_raw, _eeg)."""
    name = file.relative_to(folder).as_posix()
    suffix = next(suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix))
    return unicodedata.normalize("NFC", ENDINGS.sub("", name[: -len(suffix)]))


def _compiled(pattern: str) -> re.Pattern[str]:
    unknown = set(re.findall(r"\{(\w*)\}", pattern)) - {"subject", "session", "run"}
    if unknown or "{subject}" not in pattern:
        wrong = f"{{{sorted(unknown)[0]}}} is not known" if unknown else "it has no {subject}"
        raise InputError(f"subject_pattern={pattern!r}: {wrong}; allowed are {{subject}}, {{session}}, {{run}} and *")
    text, at, seen, pattern = "", 0, set(), unicodedata.normalize("NFC", pattern)
    for match in PLACEHOLDER.finditer(pattern):
        between = pattern[at : match.start()]
        adjacent = at > 0 and not between and not pattern[:at].endswith("*")
        name, at = match[1], match.end()
        if adjacent and name is None:
            raise InputError(
                f"subject_pattern={pattern!r}: where what is before * ends is not clear; leave a mark between"
            )
        one = r"(?:(?<=[^\d/])\d+|(?<=\d)[^\d/]+)" if adjacent else "[^/]+?"  # anna12: anna and 12; A01T: A01 and T
        text += re.escape(between)
        text += "[^/]*?" if name is None else f"(?P={name})" if name in seen else f"(?P<{name}>{one})"
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


def _by_default(folder: Path, files: Sequence[Path]) -> tuple[dict[Path, dict[str, str] | None], str, int]:
    """(what each file's name says, how that was read, how many folders are read with it)."""
    stems = {file: _stem(folder, file) for file in files}
    found = {file: _by_entities(stem) for file, stem in stems.items()}
    if any(found.values()):
        return found, "by BIDS entities (sub-, ses-, task-, run-)", 0
    for name, pattern in DEFAULTS.items():
        found = {file: _by_pattern(stem, pattern) for file, stem in stems.items()}
        if all(found.values()):
            if name == "{subject}":
                _check_people(folder, sorted({parts["subject"] for parts in found.values() if parts}, key=_natural))
            return found, f"as {name}", name.count("/")
    raise InputError(
        f"data_dir={str(folder)!r}: whose recordings these are is not clear from {files[0].relative_to(folder)}; give "
        "subject_pattern, such as {subject}_{run}"
    )


def _check_people(folder: Path, names: Sequence[str]) -> None:
    """InputError for names such as anna1, anna2, ben1, or A01E, A01T, A02T, or anna_left, anna_right, ben_left: three
    people, or two?
    """
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(re.sub(r"(?<=.)(?:[ _-][^ _-]*|\d+|(?<=\d)[^\W\d_]+)$", "", name), []).append(name)
    several = next((same for same in stems.values() if len(same) > 1), None)
    if several and len(stems) > 1:
        other = next(name for name in names if name not in several)
        raise InputError(
            f"data_dir={str(folder)!r}: are {', '.join(several[:3])} and {other} people of their own, or runs of "
            "fewer? Give subject_pattern={subject}, or one with {run}, such as {subject}_{run} or {subject}{run}"
        )


def _read_table(folder: Path, table: Path) -> list[Named]:
    try:
        text = unicodedata.normalize("NFC", table.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"subject_table={str(table)!r}: it cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"subject_table={str(table)!r}: it is not UTF-8 ({error}); save it as UTF-8") from error
    heads = text.split("\n", 1)[0].lower()
    delimiter = next((mark for mark in "\t;" if mark in heads), ",")  # spreadsheets write ; where , is in numbers
    names = [name.strip() for name in heads.split(delimiter)]
    lines = list(enumerate(csv.reader(text.splitlines(), delimiter=delimiter), 1))[1:]
    rows = {number: [value.strip() for value in row] for number, row in lines if any(value.strip() for value in row)}
    if not rows or not {"file", "subject"} <= set(names):
        raise InputError(
            f"subject_table={str(table)!r} needs a first line with file and subject, and perhaps session and run, and "
            "a line for each recording"
        )
    found: dict[Path, Named] = {}
    for number, row in rows.items():
        given = dict(zip(names, row, strict=False))
        values = {name: given.get(name, "") for name in ("file", "subject", "session", "run")}
        file = folder / values.pop("file")
        if not file.is_file():
            file = folder / unicodedata.normalize("NFD", str(file))  # as a Mac has it
        wrong = None
        if not values["subject"]:
            wrong = "it names no subject"
        elif not file.is_file():
            wrong = f"{unicodedata.normalize('NFC', str(file))} is not there"
        elif not file.name.lower().endswith(SUFFIXES):
            wrong = f"{file} is no recording; read are {', '.join(SUFFIXES)}"
        elif file in found:
            wrong = f"{file} is in an earlier line, too"
        if wrong:
            raise InputError(f"subject_table={str(table)!r}, line {number}: {wrong}")
        found[file] = Named(**values, file=file)
    return list(found.values())


def _checked(found: NamedFiles, folder: Path, depth: int | None) -> NamedFiles:
    """InputError where two files are one person's same run, two people's names differ by case or leading zeros alone,
    or one person's files lie in two folders. depth: folders that the names were read from; None: a table says so.
    """
    recordings = sorted(found.recordings, key=lambda r: (_natural(r.subject), _natural(r.session), _natural(r.run)))
    places: dict[tuple[str, str, str], Named] = {}
    first_of: dict[tuple[tuple[int, int | str], ...], Named] = {}
    for recording in recordings:
        key = (recording.subject, recording.session, recording.run)
        other, first = places.setdefault(key, recording), first_of.setdefault(_natural(recording.subject), recording)
        if other is not recording:
            both = f"{within(other.file, folder)} and {within(recording.file, folder)}"
            raise InputError(
                f"{both} are both {recording.where}, {found.how}; give a subject_pattern that tells them apart, with "
                "{session} or {run}, or move one away"
            )
        both = f"{within(first.file, folder)} and {within(recording.file, folder)}"
        if recording.subject != first.subject:
            raise InputError(
                f"{both}: are {first.subject} and {recording.subject} one person? Call one person by one name, and "
                "two by names that differ in more than case and leading zeros (subject_table)"
            )
        if depth is not None and _home(recording, folder, depth) != _home(first, folder, depth):
            raise InputError(
                f"subject {recording.subject} is in two folders, {both}: if this is one person, say so by "
                "subject_table; if not, give a subject_pattern that has the folder in it"
            )
    return replace(found, recordings=tuple(recordings))


def within(file: Path, folder: Path) -> Path:
    return file.relative_to(folder) if file.is_relative_to(folder) else file


def _home(recording: Named, folder: Path, depth: int) -> tuple[str, ...]:
    """The folders above those that the name was read from, `depth` of them, without those of its session or of a kind
    of data.
    """
    of_session = re.compile(rf"(?:ses(?:sion)?[-_]?)?{re.escape(recording.session)}", re.IGNORECASE)
    parts = recording.file.relative_to(folder).parent.parts
    parts = parts[: max(0, len(parts) - depth)]
    return tuple(p for p in parts if p not in ("eeg", "ieeg") and not (recording.session and of_session.fullmatch(p)))

"""Recordings of one's own: which trials are to be cut from which of the files that `data.eeg.survey` found, or why not,
in one line. `data.eeg.load.load_eeg("recordings", ...)` reads them.
"""

from collections.abc import Collection, Iterable, Sequence

from common.errors import InputError
from data.eeg import physionet
from data.eeg.any_format import Reading, Scan, bids_root_of
from data.eeg.cache import Excluded, ReadJob, bad_recording
from data.eeg.electrodes import electrode_meant
from data.eeg.events import matching_events
from data.eeg.naming import Named, chosen, within
from data.eeg.plan import Plan
from data.eeg.recording import Preprocessing
from data.eeg.sides import left_first
from data.eeg.survey import OwnFiles, Survey, counts_in_words

COMMON = "common"


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
    if too_low := [frequency for frequency in own.notch if not frequency >= 1]:
        raise InputError(f"notch={too_low[0]:g}: a line frequency in Hz, such as 50 or 60, and at least 1")
    wanted, left_out = _readable(found, exclude, on_bad)
    classes = _classes(own.classes, found) if labelled else {}
    events = tuple(classes.values())
    if labelled:
        idle = {r: _no_class(found.scans[r], events) for r in wanted if not _has(found.scans[r], events)}
        left_out |= idle
        wanted = [r for r in wanted if r not in idle]
    electrodes = _electrodes(found, wanted, own)
    average = [name.lower() for name in own.reference] == ["average"]
    reading = Reading(
        electrodes,
        own.montage,
        dropped=own.drop,
        events=events if labelled else (),
        reference=("average",) if average else own.reference,
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
                f"it has the same bytes as {within(other.file, found.folder)}, so one recording would count as two: "
                "keep it once, under the name of the person and the run that it is of"
            )
    return reasons


def _classes(asked: Sequence[str], found: Survey) -> dict[str, tuple[str, ...]]:
    """{class: its events}, left before right. InputError unless there are two or more, each with events of its own."""
    counts = found.events
    there = f"the events there are {counts_in_words(counts)}"
    if any("," in event for event in counts):
        there += "; leave the comma in a name out"
    if len(asked) < 2:
        given = f"classes={asked[0]}: give at least two classes" if asked else "classes: none are given"
        raise InputError(f"{given}; give two or more of the events, as classes=left_hand,right_hand; {there}")
    event_of: dict[str, str] = {}
    for part in asked:
        name, colon, event = (word.strip() for word in part.partition(":"))
        if not colon or matching_events(part, list(counts)):
            name = event = part
        if not name:
            raise InputError(f"classes: {part!r} has no name before the colon; give one, as left:{event}")
        if name in event_of:
            raise InputError(f"classes: {name!r} is there twice; give each class once")
        event_of[name] = event
    classes: dict[str, tuple[str, ...]] = {}
    for name, event in event_of.items():
        classes[name] = _events_meant(event, found.scans.values(), set(event_of.values()) - {event})
        if not classes[name]:
            raise InputError(f"classes: {event!r} is not among the events; {there}")
        for other in list(classes)[:-1]:
            if both := [e for e in classes[other] if e in classes[name]]:
                raise InputError(f"classes: {other!r} and {name!r} are both the event {both[0]!r}; {there}")
    return {name: classes[name] for name in left_first(tuple(classes))}


def _events_meant(event: str, scans: Iterable[Scan], others: Collection[str]) -> tuple[str, ...]:
    """The names under which the recordings have an event. InputError where one has several of that name.

    others: events of other classes.
    """
    names: list[str] = []
    for found in scans:
        meant = matching_events(event, list(found.events), others)
        groups = {n.rpartition("/")[0].lower() for n in meant}
        if len(groups) > 1:
            raise InputError(f"classes: {event!r} may be {' or '.join(repr(n) for n in meant)}; give the whole name")
        names += meant
    return tuple(dict.fromkeys(names))


def _has(found: Scan, events: Sequence[Sequence[str]]) -> bool:
    return any(name in found.events for names in events for name in names)


def _no_class(found: Scan, classes: Sequence[Sequence[str]]) -> str:
    instead = f", but {counts_in_words(found.events)}" if found.events else ""
    return f"it has none of the events {', '.join(name for names in classes for name in names)}{instead}"


def _electrodes(found: Survey, wanted: Sequence[Named], own: OwnFiles) -> tuple[str, ...]:
    """The electrodes that are read, in the order of the first recording or of `picks`; InputError where one lacks."""
    if not wanted:
        raise InputError(f"data_dir={str(found.folder)!r}: no recording has events of the classes")
    first, picks = found.scans[wanted[0]].electrodes, own.picks
    if [name.lower() for name in picks] == [COMMON]:
        shared = set(first).intersection(*(found.scans[r].electrodes for r in wanted))
        if not shared:
            raise InputError("picks=common: no electrode is in all recordings")
        return tuple(name for name in first if name in shared)
    names = tuple(dict.fromkeys(electrode_meant(name, first, own.montage) or name for name in picks)) or first
    for recording in wanted:
        has = found.scans[recording].electrodes
        missing, more = [n for n in names if n not in has], [] if picks else [n for n in has if n not in names]
        if missing and picks:
            raise InputError(
                f"picks: {within(recording.file, found.folder)} has no {' '.join(missing[:12])}; its electrodes are "
                f"{' '.join(has)}"
            )
        if missing or more:
            differ = "; ".join(
                f"{what} {' '.join(some[:12])}" for what, some in (("lacks", missing), ("also has", more)) if some
            )
            raise InputError(
                f"{within(recording.file, found.folder)} has other electrodes than "
                f"{within(wanted[0].file, found.folder)}: it {differ}; take those that all have with picks=common, or "
                "name them with picks"
            )
    return names

"""Events of a recording as MNE opened it: their names and times, pauses and cuts, and which of them a name means."""

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import mne

from data.eeg.edf import BadRecording

JOINT = re.compile(r"edge.*|boundary|new segment(?:/.*)?", re.IGNORECASE)
"""Annotations where the signal jumps: MNE's, EEGLAB's and BrainVision's names of a pause or a cut."""
COMMENT = re.compile(r"comment(?:/.*)?", re.IGNORECASE)
"""BrainVision's annotations that somebody typed: no events, but told."""
NO_EVENT = re.compile(rf"(?:{JOINT.pattern})|bad.*|{COMMENT.pattern}", re.IGNORECASE)
"""Annotations that say nothing of what a person did."""
BOUNCE = 0.005
"""Seconds, or three samples: a code that a stim channel holds for less before another is not one that was sent."""


def event_times(raw: mne.io.BaseRaw) -> list[tuple[str, int]]:
    """(name, sample from the recording's start) of every event, in the order of time.

    From annotations, and from stim channels, whose names are their codes; a code at the sample of an annotation of the
    same name is not counted twice.
    """
    names = sorted({d for d in raw.annotations.description if not NO_EVENT.fullmatch(d)})
    found: set[tuple[int, str]] = set()
    if names:
        codes = {name: number for number, name in enumerate(names, 1)}
        events, _ = mne.events_from_annotations(raw, event_id=codes, verbose="ERROR")
        found |= {(int(sample), names[code - 1]) for sample, _, code in events}
    if len(mne.pick_types(raw.info, meg=False, stim=True)):
        events = mne.find_events(raw, shortest_event=1, initial_event=True, uint_cast=True, verbose="ERROR")
        found |= {(int(sample), str(code)) for sample, _, code in events}
    return [(name, sample - raw.first_samp) for sample, name in sorted(found)]


def comment_counts(raw: mne.io.BaseRaw) -> dict[str, int]:
    """{comment: how many}: what `event_times` leaves out, and somebody may look for."""
    return dict(Counter(d for d in raw.annotations.description if COMMENT.fullmatch(d)))


def check_stim(raw: mne.io.BaseRaw, wanted: Collection[str]) -> None:
    """BadRecording where a stim channel passes through another code on its way to one of `wanted`, or through that:
    which of the two was sent?
    """
    if not len(mne.pick_types(raw.info, meg=False, stim=True)):
        return
    steps = mne.find_events(raw, output="step", consecutive=True, shortest_event=1, uint_cast=True, verbose="ERROR")
    shortest = max(3, round(BOUNCE * raw.info["sfreq"]))
    for (sample, _, code), (later, before, after) in itertools.pairwise(steps.tolist()):
        bounces = code and after and before == code and later - sample < shortest
        if bounces and {str(code), str(after)} & set(wanted):
            raise BadRecording(
                f"its stim channel bounces: code {code} holds for {later - sample} samples before {after}, at "
                f"{(sample - raw.first_samp) / raw.info['sfreq']:.3f} s; clean it, or give events as annotations"
            )


@dataclass(frozen=True)
class Marked:
    """An event with its time: seconds from the recording's start, and how long it lasts, 0 where that is not said."""

    name: str
    seconds: float
    duration: float


def marked_events(raw: mne.io.BaseRaw) -> list[Marked]:
    """`event_times` with the durations of the annotations among them."""
    rate, start = float(raw.info["sfreq"]), began(raw)
    lasting: dict[str, list[tuple[float, float]]] = {}
    for note in raw.annotations:
        if note["duration"] * rate > 1:  # formats that know no other give an event one sample
            lasting.setdefault(note["description"], []).append((note["onset"] - start, float(note["duration"])))
    found = []
    for name, sample in event_times(raw):
        durations = [d for onset, d in lasting.get(name, []) if abs(onset * rate - sample) <= 1]
        found.append(Marked(name, sample / rate, durations[0] if durations else 0.0))
    return found


def joints(raw: mne.io.BaseRaw) -> list[float]:
    """Seconds from the start at which the signal jumps: every JOINT but one at the start itself."""
    onsets = [note["onset"] - began(raw) for note in raw.annotations if JOINT.fullmatch(note["description"])]
    return [onset for onset in onsets if onset * raw.info["sfreq"] > 1]


def began(raw: mne.io.BaseRaw) -> float:
    """Seconds of the first sample on the clock of the annotations."""
    return float(raw.first_time) if raw.annotations.orig_time is not None else 0.0


def matching_events(wanted: str, names: Sequence[str], others: Collection[str] = ()) -> list[str]:
    """The events of a recording that are meant by a name: those that differ from it by case, spaces and commas alone
    ("left slow" is "Left, slow"), but not what `others` name exactly; else those of that name in any group ("S1" is
    BrainVision's "Stimulus/S  1").
    """

    def plain(name: str) -> str:
        return re.sub(r"[\s,]+", "", unicodedata.normalize("NFC", name)).lower()

    same = [n for n in names if plain(n) == plain(wanted) and (n == wanted or n not in others)]
    return same or [n for n in names if "/" in n and plain(n.rsplit("/", 1)[1]) == plain(wanted)]

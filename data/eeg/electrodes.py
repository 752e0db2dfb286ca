"""Which channels of a recording are electrodes, under which standard name, and where they lie on the head."""

import functools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import mne
import numpy as np

from common.errors import InputError

OLD_NAMES = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
"""Names of the 10-20 system that the 10-10 system replaced."""
DECORATION = re.compile(r"^(?:EEG[ _:-]+)|(?:[ _:-]+(?:REF|LE|RE|AR|AVG|AVE|A1A2|M1M2))$", re.IGNORECASE)
DEFAULT_MONTAGE = "colin27_1005"


@functools.cache
def electrode_positions(montage: str) -> mne.channels.DigMontage:
    """MNE's montage of that name (cached: building one takes as long as reading half a recording)."""
    try:
        return mne.channels.make_standard_montage(montage)
    except ValueError as error:
        raise InputError(f"montage={montage!r} is not one of MNE's; use {DEFAULT_MONTAGE}") from error


@functools.cache
def _known_names(montage: str) -> dict[str, str]:
    """{name in lower case: name} of a standard montage, with the old names of four electrodes."""
    known = {name.lower(): name for name in electrode_positions(montage).ch_names}
    return known | {old.lower(): known[new.lower()] for old, new in OLD_NAMES.items() if new.lower() in known}


def standard_name(name: str, montage: str = DEFAULT_MONTAGE) -> str | None:
    """The electrode of the montage that a channel's name means: "EEG T3-REF" is T7, "Fc5." FC5; None: no electrode."""
    plain = name.strip().strip(".")
    while (bare := DECORATION.sub("", plain).strip()) != plain:
        plain = bare
    return _known_names(montage).get(plain.strip(".").lower())


def electrode_meant(name: str, electrodes: Collection[str], montage: str | None) -> str | None:
    """The one of `electrodes` that somebody means by a name: itself, in another spelling (c3), or an old name (T3)."""
    if name in electrodes:
        return name
    known = standard_name(name, montage or DEFAULT_MONTAGE)
    return known if known in electrodes else next((e for e in electrodes if e.lower() == name.lower()), None)


@dataclass(frozen=True)
class Channels:
    """names: {channel of the file: electrode}, in the file's order; others: those that are no electrode, stim
    channels apart.

    positions: metres, [n_electrodes, 3], x to the right ear, y to the nose, z up. from_file: whether they are the
    file's own.
    """

    names: dict[str, str]
    others: tuple[str, ...]
    positions: np.ndarray
    from_file: bool


def channels_of(info: mne.Info, montage: str | None) -> Channels:
    """The electrodes of a recording.

    montage: a standard montage, by whose names they are known; None: the file's own positions, where it has any, else
    DEFAULT_MONTAGE. InputError where two channels mean the same electrode or there is no electrode.
    """
    kinds = dict(zip(info.ch_names, info.get_channel_types(), strict=True))
    own = {c["ch_name"]: c["loc"][:3] for c in info["chs"] if kinds[c["ch_name"]] == "eeg"}
    placed = [name for name, place in own.items() if np.isfinite(place).all() and np.abs(place).max() > 0]
    by_file = montage is None and bool(placed)
    known = {name: standard_name(name, montage or DEFAULT_MONTAGE) for name in own}
    if by_file:
        names = {name: known[name] or name for name in placed}
    else:
        names = {name: electrode for name, electrode in known.items() if electrode is not None}
    doubled = sorted({e for e in names.values() if list(names.values()).count(e) > 1})
    if doubled:
        both = " and ".join(name for name, electrode in names.items() if electrode == doubled[0])
        raise InputError(f"channels {both} are both electrode {doubled[0]}; leave one out with drop=NAME")
    if not own:
        found = ", ".join(sorted(set(kinds.values())))
        raise InputError(
            f"none of its {len(kinds)} channels is of the type EEG, but {found}: set their types, and save it"
        )
    if not names:
        raise InputError(
            f"none of its channels is an electrode of {montage or DEFAULT_MONTAGE} ({' '.join(info.ch_names[:12])}); "
            "give the montage that has these names, as montage=GSN-HydroCel-128"
        )
    positions = (
        np.stack([own[name] for name in names])
        if by_file
        else standard_positions(tuple(names.values()), montage or DEFAULT_MONTAGE)
    )
    others = tuple(name for name in info.ch_names if name not in names and kinds[name] != "stim")
    return Channels(names, others, positions, by_file)


@functools.cache
def standard_positions(ch_names: tuple[str, ...], montage: str = DEFAULT_MONTAGE) -> np.ndarray:
    """Metres in the head's frame, [n_chans, 3], of electrodes of a standard montage."""
    info = mne.create_info(list(ch_names), 100.0, "eeg", verbose="ERROR")
    info.set_montage(electrode_positions(montage), verbose="ERROR")
    return np.stack([channel["loc"][:3] for channel in info["chs"]])


def electrode_info(ch_names: Sequence[str], positions: np.ndarray, sfreq: float, montage: str) -> mne.Info:
    """MNE's description of the electrodes, with positions, for maps: the montage's where it has all names."""
    info = mne.create_info(list(ch_names), sfreq, "eeg", verbose="ERROR")
    known = _positions_or_none(tuple(ch_names), montage)
    if known is not None and np.array_equal(positions, known):
        return info.set_montage(electrode_positions(montage), verbose="ERROR")
    places = dict(zip(ch_names, positions, strict=True))
    return info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), verbose="ERROR")


def _positions_or_none(ch_names: tuple[str, ...], montage: str) -> np.ndarray | None:
    known = set(electrode_positions(montage).ch_names)
    return standard_positions(ch_names, montage) if set(ch_names) <= known else None

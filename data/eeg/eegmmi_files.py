"""Where EEGMMI's recordings lie under a folder, however they came there: by MNE, as PhysioNet's tree, as its zip.

Nothing is moved. Recordings of the zip are unpacked into the cache.
"""

import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from common.errors import InputError
from common.files import atomic_file, hash_of
from data.eeg.physionet import LAYOUT, recording_name

LAYOUTS = (LAYOUT, Path("files/eegmmidb/1.0.0"), Path("eegmmidb/1.0.0"), Path("1.0.0"), Path())
"""Folders in which S001/S001R04.edf is looked for first, MNE's before all others."""
LARGEST_RECORDING = 64 * 2**20
"""Bytes of a recording in a zip, which can promise any size; EEGMMI's have 3 MB."""
NAME = re.compile(r"S(\d{3})R(\d{2})\.edf")

Pair = tuple[int, int]


def locate(folder: Path, pairs: Sequence[Pair], cache_dir: Path) -> dict[Pair, Path]:
    """{(subject, run): file} of those recordings of `pairs` that are somewhere under `folder`.

    In one of LAYOUTS, in any other folder under the name S001R04.edf, or in a zip.
    """
    found: dict[Pair, Path] = {}
    for layout in LAYOUTS:
        for pair in pairs:
            file = folder / layout / recording_name(*pair)
            if pair not in found and file.exists():
                found[pair] = file
    if missing := [pair for pair in pairs if pair not in found]:
        elsewhere = {_pair_of(file.name): file for file in sorted(folder.rglob("S*R*.edf"), reverse=True)}
        found |= {pair: elsewhere[pair] for pair in missing if pair in elsewhere}
    if missing := [pair for pair in pairs if pair not in found]:
        found |= _from_zips(sorted(folder.rglob("*.zip")), missing, cache_dir)
    return {pair: found[pair] for pair in pairs if pair in found}


def places(files: Iterable[Path], folder: Path) -> str:
    """The folders that hold the recordings, in words."""
    held = sorted({file.parent.parent for file in files})
    shown = [str(place.relative_to(folder)) if place.is_relative_to(folder) else str(place) for place in held]
    return ", ".join(shown[:3]) + (" and others" if len(shown) > 3 else "")


def _pair_of(name: str) -> Pair | None:
    match = NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def _from_zips(zips: Sequence[Path], pairs: Sequence[Pair], cache_dir: Path) -> dict[Pair, Path]:
    """The recordings of `pairs` in the zips, unpacked into the cache, each whole or not at all."""
    found: dict[Pair, Path] = {}
    for path in zips:
        state = path.stat()
        stamp = [str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        target = cache_dir / f"eegmmi-{hash_of(stamp)[:16]}"
        for pair, content in _contents(path, [pair for pair in pairs if pair not in found], target):
            found[pair] = target / recording_name(*pair)
            if content is not None:
                with atomic_file(found[pair]) as temporary:
                    temporary.write_bytes(content)
    return found


def _contents(path: Path, pairs: Sequence[Pair], target: Path) -> Iterator[tuple[Pair, bytes | None]]:
    """(pair, the bytes of its recording) of those of `pairs` that a zip holds; None for what is in `target` already."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {_pair_of(entry.filename.rsplit("/", 1)[-1]): entry for entry in archive.infolist()}
            for pair in pairs:
                if pair in members:
                    there = (target / recording_name(*pair)).exists()
                    yield pair, None if there else _read_member(archive, members[pair])
    except Exception as error:  # a damaged zip fails in many ways
        raise InputError(
            f"{path} is no whole zip ({' '.join(str(error).split())}); copy or download it again"
        ) from error


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > LARGEST_RECORDING:
        raise ValueError(f"{entry.filename} has {entry.file_size / 1e6:,.0f} MB, a recording of EEGMMI 3")
    return archive.read(entry)

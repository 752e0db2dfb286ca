"""What a packed recording unpacks to, counted before MNE reads it: a file of 2 MB can hold gigabytes of zeros."""

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from data.eeg.edf import BadRecording
from data.eeg.naming import further_parts

LARGEST_RATIO, LARGEST_GAIN = 50, 100 * 2**20
"""A file may unpack to 50 times its size and another 105 MB: EEG stored as float64 packs to a sixth or more."""
BLOCK = 1 << 20
HDF5, COMPRESSED = b"\x89HDF\r\n\x1a\n", 15


def check_unpacked_size(path: Path) -> None:
    """BadRecording for a .fif.gz or .set that would unpack to far more than a recording does.

    It is unpacked once for that, a megabyte at a time and no further than allowed. Damage is left to MNE.
    """
    name = path.name.lower()
    if name.endswith(".fif.gz"):
        for part in [path, *further_parts(path)]:
            _count(part, _unpacked_gzip(part))
    elif name.endswith(".set"):
        with open(path, "rb") as file:
            if HDF5 in (file.read(8), file.read(512)[504:]):
                raise BadRecording(
                    "it is a file of MATLAB 7.3 (HDF5): save it in EEGLAB in the older form (-v6 or -v7)"
                )
        _count(path, _unpacked_mat(path))


def _count(path: Path, blocks: Iterator[int]) -> None:
    size = path.stat().st_size
    allowed, unpacked = LARGEST_RATIO * size + LARGEST_GAIN, 0
    for block in blocks:
        unpacked += block
        if unpacked > allowed:
            raise BadRecording(
                f"the {size / 1e6:,.1f} MB of {path.name} would unpack to more than {allowed / 1e6:,.0f} MB, which no "
                "recording does"
            )


def _unpacked_gzip(path: Path) -> Iterator[int]:
    """Bytes of one block after another."""
    try:
        with gzip.open(path) as file:
            while block := len(file.read(BLOCK)):
                yield block
    except (OSError, EOFError, zlib.error):
        return


def _unpacked_mat(path: Path) -> Iterator[int]:
    """Bytes of one block after another of the packed elements of a MAT file (version 5)."""
    with open(path, "rb") as file:
        header = file.read(128)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:])
        while order and len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            if kind != COMPRESSED:
                file.seek(size, 1)
                continue
            inflate = zlib.decompressobj()
            try:
                while size and (packed := file.read(min(size, BLOCK))):
                    size -= len(packed)
                    while packed:
                        yield len(inflate.decompress(packed, BLOCK))
                        packed = inflate.unconsumed_tail
            except zlib.error:
                return

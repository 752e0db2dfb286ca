"""Image files of a folder or a zip, listed but not yet read, and the images of a data set."""

import os
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from common.errors import InputError
from data.images.formats import EXTENSIONS

MAX_FILE_BYTES = 256 * 2**20
"""Of one image's file. A zip can promise any size for an entry of a few bytes."""

END_RECORD = b"PK\5\6"  # of a zip


@dataclass(frozen=True)
class ImageFile:
    """One image, not yet read. `stamp` changes with its bytes: size and times, or size and CRC in a zip."""

    name: str
    stamp: tuple[int, ...]
    read: Callable[[], bytes]


@dataclass(frozen=True)
class ImageSource:
    """The images of one dataset and split, in order, and how they are cropped.

    `crop` is the side of the centre crop (None: the largest square), `size` the width and height that every
    image must have (None: any), `labels` class numbers (int64 [N]) where there are classes, `missing` the
    names that the dataset lists but does not hold. `place` is the folder of the files, or empty
    for a zip, whose checksums identify its files without it. `notes` are lines that say what was made of the files.
    """

    description: str
    files: Sequence[ImageFile]
    place: str = ""
    labels: np.ndarray | None = None
    crop: int | None = None
    size: tuple[int, int] | None = None
    missing: Sequence[str] = field(default=())
    notes: Sequence[str] = field(default=())


def list_files(path: Path, left_out: Counter[str] | None = None) -> list[ImageFile]:
    """The image files of a folder or a zip at any depth, sorted by path; hidden ones are left out.

    left_out: counts the other files by their endings, in lower case.
    """
    left_out = Counter() if left_out is None else left_out
    try:
        if path.is_dir():
            files = list(_walk(path, "", frozenset(), left_out))
        elif path.is_file():
            files = _list_zip(path, left_out)
        else:
            raise InputError(f"{path}: no such folder or zip; give data_dir the path of a folder or a zip of images")
    except OSError as error:
        raise InputError(f"{error.filename or path}: {error.strerror or error}") from error
    # Folder by folder: as whole texts, "cat-2/1.jpg" would come before "cat/1.jpg".
    return sorted(files, key=lambda file: file.name.split("/"))


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]], left_out: Counter[str]) -> Iterator[ImageFile]:
    """Files below `folder`; links to folders are followed, but not in circles (`above`: the folders above)."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as found:
        entries = [entry for entry in found if not _is_hidden(entry.name)]
    for entry in entries:
        name, path = prefix + entry.name, folder / entry.name
        if entry.is_dir():
            yield from _walk(path, name + "/", above | {identity}, left_out)
        elif not entry.name.lower().endswith(EXTENSIONS):
            left_out[_kind(name)] += 1
        elif entry.is_file():
            status = entry.stat()
            # The time of modification is what a copy keeps; the time of change nobody can set.
            stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            yield ImageFile(name, stamp, partial(read_file, path))
        else:
            yield ImageFile(name, (-1, -1), partial(_refuse, "a broken link or no regular file"))


def read_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        _check_file_size(os.fstat(stream.fileno()).st_size)
        return stream.read(MAX_FILE_BYTES)


def read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    _check_file_size(info.file_size)
    data = archive.read(info)  # no more than info.file_size, whatever the entry holds
    if len(data) != info.file_size or not data:  # a checksum of 0 is that of nothing, too
        raise ValueError(f"the zip holds {len(data)} of its {info.file_size} bytes")
    return data


def _check_file_size(n_bytes: int) -> None:
    if n_bytes > MAX_FILE_BYTES:
        raise ValueError(
            f"its file has {n_bytes / 1e6:,.0f} MB, allowed are {MAX_FILE_BYTES / 1e6:.0f} MB: scale it down"
        )


def _list_zip(path: Path, left_out: Counter[str]) -> list[ImageFile]:
    try:
        archive = zipfile.ZipFile(path)
        entries = archive.infolist()
        promised = _promised_entries(archive)
        if (len(entries) - promised) % 2**16:  # a field of 16 bits, which some programs let run over
            raise ValueError(f"its directory lists {len(entries)} entries, {promised} are promised")
        images = [info for info in entries if _is_image_entry(info)]
        for info in entries:
            if not _is_image_entry(info):
                _check_name(archive, info)
                if not info.is_dir() and not any(map(_is_hidden, entry_name(info).split("/"))):
                    left_out[_kind(entry_name(info))] += 1
    except PermissionError:
        raise
    except Exception as error:  # a damaged directory of entries fails in many ways
        raise InputError(
            f"{path}: not a whole zip file ({' '.join(str(error).split())}); copy or download it again, or give a "
            "folder or another zip; unpack other archives"
        ) from None
    if any(info.flag_bits & 0x1 for info in images):
        raise InputError(f"{path}: the zip is encrypted; unpack it with its password and give the folder")
    return [
        ImageFile(entry_name(info), (info.file_size, info.CRC), partial(read_entry, archive, info)) for info in images
    ]


def _is_image_entry(info: zipfile.ZipInfo) -> bool:
    name = entry_name(info)
    return not info.is_dir() and name.lower().endswith(EXTENSIONS) and not any(map(_is_hidden, name.split("/")))


def entry_name(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/").lstrip("/")


def _promised_entries(archive: zipfile.ZipFile) -> int:
    """The number of entries in the record at the end of the zip."""
    stream = archive.fp
    assert stream is not None
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - 2**16 - 22))
    tail = stream.read()
    plain = tail[-22:-18] == END_RECORD and tail[-2:] == b"\0\0"  # without a comment, which could hold those bytes
    return int(struct.unpack_from("<H", tail, (len(tail) - 22 if plain else tail.rfind(END_RECORD)) + 10)[0])


def _check_name(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """ValueError where an entry that is no image has another name in front of its data: a changed byte in the directory
    can hide an image. Of images the names are compared when they are read.
    """
    stream = archive.fp
    assert stream is not None
    stream.seek(info.header_offset)
    header = stream.read(30)
    name = stream.read(struct.unpack_from("<H", header, 26)[0]) if header[:4] == b"PK\3\4" else b""
    if name.decode("utf-8" if info.flag_bits & 0x800 else "cp437") != info.orig_filename:
        raise ValueError(f"entry {info.filename[:60]!r} is called otherwise in front of its data")


def place_of(path: Path) -> str:
    return str(path.resolve()) if path.is_dir() else ""


def _kind(name: str) -> str:
    """The ending of a file's name, with its dot and in lower case."""
    return PurePosixPath(name).suffix.lower()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _refuse(reason: str) -> bytes:
    raise ValueError(reason)

"""Downloads of data sets through torchvision, one process at a time; what a refused one leaves is removed."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from common.errors import InputError
from data.images.files import ImageSource


@dataclass(frozen=True)
class Download:
    """What torchvision fetches.

    Attributes:
        title: what it is called.
        folder: the folder of its files, below the root that torchvision is given.
        size: of the download, in words.
        n_bytes: room that download and unpacked files take.
        fetch: root -> None; torchvision's own loader, which checks every MD5.
        checksums: -> {file: MD5} of the files that it downloads.
        where: what to do by hand; the folder's path follows.
    """

    title: str
    folder: str
    size: str
    n_bytes: int
    fetch: Callable[[Path], None]
    checksums: Callable[[], dict[str, str]]
    where: str


def read_or_download(what: Download, root: Path, read: Callable[[], ImageSource | None]) -> ImageSource:
    """What `read` finds in `root`; downloaded where it finds nothing, or raises InputError since it is not whole."""
    source, damage = _tried(read)
    if source is None:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{what.title.lower()}.lock"):
            source, damage = _tried(read)  # was another process faster?
            if source is None:
                _download(what, root, damage)
                source = read()
                assert source is not None, f"torchvision reported a whole {what.title}"
    return source


def _tried(read: Callable[[], ImageSource | None]) -> tuple[ImageSource | None, str]:
    """(what is there, what to say of it where it is not whole)."""
    try:
        return read(), ""
    except InputError as error:  # such as a page of words that was saved under the zip's name
        return None, f"what lies there is not whole: {error}; "


def _download(what: Download, root: Path, damage: str) -> None:
    folder = root / what.folder
    require_free_space(root, what.n_bytes, what.title)
    print(f"downloading {what.title} ({what.size}) into {folder}", file=sys.stderr, flush=True)
    before = _stamps(folder)
    try:
        what.fetch(root)
    except Exception as error:  # gdown, requests, zipfile and the disk each have their own
        _remove_damaged(folder, before, what.checksums())
        reason = " ".join(f"{damage}{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"{what.title} could not be downloaded; {what.where} {folder} ({reason})") from error


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """{name: (size, time)} of the files in a folder."""
    files = (path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else ()
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def _remove_damaged(folder: Path, before: dict[str, tuple[int, int]], expected: dict[str, str]) -> None:
    """Remove the files that came since `before` without being what torchvision expects."""
    from torchvision.datasets.utils import check_integrity

    for name, stamp in _stamps(folder).items():
        if before.get(name) != stamp and not check_integrity(str(folder / name), expected.get(name, "unknown")):
            (folder / name).unlink()


def require_free_space(folder: Path, n_bytes: int, what: str) -> None:
    """InputError with both figures when the disk of `folder` has less than `n_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise InputError(
            f"{folder}: {n_bytes / 1e6:,.1f} MB are needed for {what}, the disk has {free / 1e6:,.1f} MB free; make "
            "room or give another folder"
        )

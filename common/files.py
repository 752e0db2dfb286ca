"""Files and folders that are either whole or not there, and hashes that name them."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

CHECKSUM = "sha256"
"""The key under which a checked JSON file holds the hash of all its other keys."""


def fsync_path(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it and rename it to `path`, else remove it.

    A reader sees the old file or the new one, never half of one, also after a crash or a power cut.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    set_shared_mode(temporary, 0o666)
    try:
        yield temporary
        fsync_path(temporary)
        os.replace(temporary, path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success flush its files and rename it to `path`.

    If another process finished the same folder meanwhile, theirs stays and ours is removed, so `path` must be
    named by a hash of what its content depends on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    set_shared_mode(temporary, 0o777)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            fsync_path(file)
        fsync_path(temporary)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
        fsync_path(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def only_process(path: Path, waiting: str | None = None) -> Iterator[bool]:
    """Hold the lock of `path`, which the system frees if the process dies; yields False where locks don't exist.

    Without locks (some network disks) two processes may do the same work, and the first to finish wins.

    waiting: a line for stderr, printed where another process has the lock.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                print(waiting, file=sys.stderr, flush=True)
            lock.acquire()
    except NotImplementedError:
        yield False
        return
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def set_shared_mode(path: Path, mode: int) -> None:
    """What tempfile makes is private; what people share gets the mode their umask asks for."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(mode & ~umask)


def write_checked_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object with a checksum in it, which `read_checked_json` compares."""
    path.write_text(json.dumps({**value, CHECKSUM: hash_of(value)}), encoding="utf-8")


def read_checked_json(path: Path) -> dict[str, Any]:
    """What `write_checked_json` wrote. OSError where there is no such file, ValueError where a byte of it has
    changed.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:  # of a damaged file alone: what is written here is flat
        raise ValueError(f"{path} is nested too deeply") from None
    if not isinstance(value, dict) or value.pop(CHECKSUM, None) != hash_of(value):
        raise ValueError(f"the checksum of {path} is not right")
    return value


def hash_of(value: Any) -> str:
    """SHA-256 (hex, 64 characters) of a JSON-serialisable value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

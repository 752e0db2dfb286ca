"""Checkpoints that survive a crash at any moment, and stopping at the end of a step on a signal.

A checkpoint is one file written by `torch.save` and read with `weights_only=True`: tensors, numbers, text, and lists
and dicts of them. It is a zip archive; its comment is the SHA-256 of all before it, which is compared before anything
is read. The archive's own CRC-32 sums leave out its directory, where one changed bit can exchange two tensors.
"""

import hashlib
import os
import shutil
import signal
import struct
import sys
import threading
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from common.errors import InputError, leave_terminal, stop_signals
from common.files import atomic_file
from tracking.outbox.spool import read_facts
from tracking.resuming import CHECKPOINT_NAME, run_folder, this_job

SEAL = b"sha256:"
"""What the archive's comment begins with; 64 hexadecimal digits follow."""
SEAL_BYTES = len(SEAL) + 64

PLAIN_TYPES = (str, int, float, bool, bytes, type(None), torch.Size, torch.dtype, torch.device)
MAPPINGS, SEQUENCES = (dict, OrderedDict, Counter), (list, tuple, set)
"""Types that `torch.load(weights_only=True)` reads, these exactly: of their subclasses (np.float64, an enum, a
namedtuple) it refuses all but those named here."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`, whole or not at all; the file before it is kept as `<name>.previous`.

    Raises TypeError for a value that `load_checkpoint` would refuse, now rather than when it is needed.
    """
    _check_plain(state, "state")
    path = Path(path)
    with atomic_file(path) as temporary:
        torch.save(state, temporary)
        _seal(temporary)
        if path.exists():
            _keep_previous(path, _previous(path))


def load_checkpoint(path: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """The state in `path`; if that file is damaged or missing, in `<name>.previous`, with a line that says so.

    Raises InputError if neither can be read. Nothing is unpickled but tensors and plain values.
    """
    path = Path(path)
    faults = []
    for candidate in (path, _previous(path)):
        try:
            state = _load(candidate, map_location)
        except FileNotFoundError:
            faults.append(f"{candidate} does not exist")
        except (ValueError, OSError) as error:
            faults.append(f"{candidate} is damaged ({error})")
        else:
            if candidate != path:
                print(f"checkpoint: {faults[0]}; using the previous one, {candidate}", file=sys.stderr)
            return state
    raise InputError(f"checkpoint: {'; '.join(faults)}: give another checkpoint, or start a new run")


def find_checkpoint(output_dir: Path, run_id: str) -> Path | None:
    """The run's checkpoint on this machine, else the one it uploaded (fetched into its folder), else None."""
    path = run_folder(Path(output_dir), run_id) / CHECKPOINT_NAME
    if path.exists() or _previous(path).exists():
        return path
    job = this_job()
    if job is not None and read_facts(path.parent).get("job") == job:
        return None  # torchrun's workers were restarted before the first checkpoint
    from tracking import store

    try:
        client = store.connect(store.tracking_uri())
        if not any(Path(file.path).name == CHECKPOINT_NAME for file in client.list_artifacts(run_id, "checkpoints")):
            return None
        with atomic_file(path) as temporary:
            folder = temporary.with_suffix(".folder")
            folder.mkdir()
            try:
                os.replace(
                    client.download_artifacts(run_id, f"checkpoints/{CHECKPOINT_NAME}", str(folder)),
                    temporary,
                )
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except Exception as error:
        if store.is_absent(error):
            return None
        raise InputError(
            f"checkpoint of run {run_id}: not in {Path(output_dir).absolute()}, and the store failed: "
            f"{store.reason(error)}"
        ) from None
    return path


class StopRequest:
    """SIGTERM, SIGHUP and Ctrl-C ask the loop to stop instead of killing it; a second Ctrl-C stops at once.

        with StopRequest() as stop:
            for step in ...:
                train(step)
                if stop.requested:
                    save_checkpoint(...); run.finish("KILLED"); sys.exit(stop.exit_code)

    In a thread other than the main one it can catch nothing, and does nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + signal: 143 for SIGTERM, 129 for SIGHUP, 130 for Ctrl-C; 0 if none came."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (*stop_signals(), signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            self.signal = number
            leave_terminal(number)
            name = signal.Signals(number).name
            # os.write: print may be interrupted in the middle of its own buffer, and raises if entered again.
            os.write(2, f"\n{name}: stopping after this step, with a checkpoint (Ctrl-C stops at once)\n".encode())


def _seal(path: Path) -> None:
    """Make the hash of the archive its comment."""
    with open(path, "rb+") as file:
        size = file.seek(-2, os.SEEK_END) + 2
        file.write(struct.pack("<H", SEAL_BYTES))  # the archive's last field: the length of its comment
        file.flush()
        digest = _sha256(path, size)
        file.seek(size)
        file.write(SEAL + digest.encode())


def _sha256(path: Path, size: int) -> str:
    """SHA-256 (hex) of the first `size` bytes of the file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while size and (block := file.read(min(size, 1 << 20))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def _check_archive(path: Path) -> None:
    """ValueError unless the file is a whole archive, as it was written, that unpacks to no more than its own size."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - SEAL_BYTES))
        tail = file.read()
    sealed = tail.startswith(SEAL)
    if sealed and tail.decode(errors="replace") != SEAL.decode() + _sha256(path, size - SEAL_BYTES):
        raise ValueError("its checksum is not right")
    try:
        with zipfile.ZipFile(path) as archive:
            # Archives of earlier versions have no comment: they end with the record that says so.
            if not sealed and (tail[-22:-18] != b"PK\5\6" or tail[-2:] != b"\0\0"):
                raise ValueError("its checksum is not right")
            entries = archive.infolist()
            packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
            if packed or sum(entry.file_size for entry in entries) > size:
                raise ValueError("it would unpack to more than its size, which torch.save never does")
            damaged = None if sealed else archive.testzip()
    except OSError:
        raise
    except Exception as error:
        # A flipped bit makes it raise BadZipFile, zlib.error, RuntimeError ("encrypted"), ...
        raise ValueError(f"not a whole archive: {error}") from None
    if damaged is not None:
        raise ValueError(f"wrong checksum in {damaged}")


def _load(path: Path, map_location: str | torch.device) -> dict[str, Any]:
    """Raises FileNotFoundError, another OSError, or ValueError with what is wrong."""
    if not path.exists():
        raise FileNotFoundError(path)
    _check_archive(path)
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise ValueError(" ".join(str(error).split())[:150]) from None
    if not isinstance(state, dict):
        raise ValueError(f"holds a {type(state).__name__}, not a dict")
    return state


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _keep_previous(path: Path, previous: Path) -> None:
    """Give the file at `path` the second name `previous`; `path` itself stays."""
    temporary = path.with_name(f".{path.name}.previous.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        # No hard links here: for a moment only `.previous` exists, which `load_checkpoint` takes.
        os.replace(path, previous)
        return
    os.replace(temporary, previous)
    # After a kill between this line and the next checkpoint both are one file already, and replacing does nothing.
    temporary.unlink(missing_ok=True)


def _check_plain(value: Any, where: str) -> None:
    if type(value) in MAPPINGS:
        for key, item in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(item, f"{where}[{key!r}]")
    elif type(value) in SEQUENCES:
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif type(value) not in PLAIN_TYPES and not isinstance(value, torch.Tensor):
        raise TypeError(
            f"{where} is a {type(value).__name__}: a checkpoint holds tensors, plain numbers and text, "
            "and lists and dicts of them"
        )

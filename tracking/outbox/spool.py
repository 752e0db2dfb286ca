"""The outbox of a run: an append-only file on disk, and the thread that sends it to MLflow.

The training waits for one `write` to the page cache and never for the server. The file survives kill -9: what it holds
is sent by the next process that opens the folder, which is the resumed run or `python -m tracking sync`.

One line is one operation: a JSON object with `op`, `time` (ms since the epoch) and what that operation needs, and its
CRC-32. Its files lie in `files/`. `sent` holds how many bytes are delivered. A crash between sending and writing `sent`
sends a line again, and every operation is such that the second time changes nothing. docs/outbox.md describes the
whole.
"""

import base64
import contextlib
import io
import json
import math
import os
import re
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from common.errors import InputError
from common.files import atomic_file

Operation = dict[str, Any]

LOCK_PATIENCE = 20.0
"""Seconds to wait for a folder's lock: the forked data workers of a killed process hold it for a moment."""

SEND_INTERVAL = 5.0
"""Seconds between deliveries: few large batches cost the process less than many small ones."""

HEARTBEAT_INTERVAL = 30.0
FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 60.0
LONGEST_AWAITED_BACKOFF = 4.0
"""Seconds between tries while a run waits for the delivery: it gives up after some twenty."""
READ_BYTES = 1 << 20
BACKLOG_FILE_BYTES = 16 << 20
"""Bytes of files that a checkpoint's backlog holds at most."""

BACKLOG_OPERATIONS = ("metrics", "params", "tags", "dataset", "evaluations", "file", "image")
"""Operations that a checkpoint's backlog may hold. A checkpoint may come from anywhere, so operations that register
models or end runs are neither put into one nor taken from one."""


class Spool:
    """The folder of one run.

    `run.json` (what the run is), `spool.jsonl`, `sent`, `files/`, what the store refused (`refused.jsonl`,
    `refused/`), and the run's checkpoints.

    Only one process at a time may write to it (a lock keeps others out); a partial last line is cut
    off when it is opened.
    """

    def __init__(self, folder: Path, patience: float = LOCK_PATIENCE) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._process_lock = FileLock(folder / "lock")
        try:
            self._process_lock.acquire(timeout=patience)
        except Timeout:
            raise InputError(f"{folder} is in use by another process: wait for it, or stop it, and try again") from None
        self._path, self._sent_path = folder / "spool.jsonl", folder / "sent"
        self._cut_partial_line()
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._lock, self._facts_lock = threading.Lock(), threading.Lock()
        self.size = os.fstat(self._descriptor).st_size
        kept = [*folder.glob("files/*"), *folder.glob("refused/*")]
        self._file_number = max((int(path.name) for path in kept if path.name.isdigit()), default=0)
        self.sent = _read_sent(self._sent_path)
        if self.sent > self.size:  # a power cut took the last lines, or it is damaged
            self.sent = 0

    def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._descriptor)
        self._process_lock.release()

    def append(self, line: str) -> int:
        """Add one operation (a JSON text without a newline); returns the size of the spool after it."""
        data = _sealed(line)
        with self._lock:
            written = 0
            try:
                while written < len(data):
                    written += os.write(self._descriptor, data[written:])
            except OSError:
                os.ftruncate(self._descriptor, self.size)  # a full disk must not leave half a line for others to follow
                raise
            self.size += written
            return self.size

    def add(self, op: str, **values: Any) -> int:
        """Add the operation `op`, stamped with the time; returns the size of the spool after it."""
        return self.append(json.dumps({"op": op, "time": now_ms(), **values}))

    def new_file(self, name: str) -> tuple[Path, str]:
        """A fresh path for a file called `name` beside the spool, and that path relative to the folder."""
        with self._lock:
            self._file_number += 1
            relative = f"files/{self._file_number:06d}/{name}"
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, relative

    def read(self, start: int) -> list[tuple[Operation, int]]:
        """Operations from byte `start` on (about a megabyte of them), each with the offset of its end."""
        with open(self._path, "rb") as file:
            file.seek(start)
            block = file.read(READ_BYTES)
            if not block.endswith(b"\n"):
                block += file.readline()
        operations = []
        for line in io.BytesIO(block):  # not splitlines, which also splits at a \r in a damaged line
            if not line.endswith(b"\n"):
                break  # being written just now
            start += len(line)
            operations.append((_parse(line), start))
        return operations

    def lines(self, start: int = 0) -> Iterable[str]:
        """The lines from byte `start` on, without their newline."""
        with open(self._path, "rb") as file:
            file.seek(start)
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1].decode(errors="replace")

    def mark_sent(self, offset: int) -> None:
        """Remember that everything before `offset` is delivered (no fsync: a replay changes nothing)."""
        self.sent = offset
        with contextlib.suppress(OSError):  # a full disk: another process sends it again
            temporary = self._sent_path.with_suffix(".tmp")
            temporary.write_bytes(_sealed(str(offset)))
            os.replace(temporary, self._sent_path)

    def set_aside(self, operation: Operation, reason: str, again: bool = False) -> None:
        """Keep an operation that the store refuses for good in `refused.jsonl`, its file or model in `refused/`.

        The operations after it can then be sent. again: `take_back` may try it once more.
        """
        place = "folder" if operation["op"] == "register" else "file"
        relative = operation.get(place)
        if relative and (self.folder / relative).exists():
            kept = str(Path("refused", *Path(relative).parts[1:]))
            (self.folder / kept).parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.folder / relative, self.folder / kept)
            operation = {**operation, place: kept}
        with open(self.folder / "refused.jsonl", "a") as file:
            file.write(json.dumps({"reason": reason, **operation, "again": again}) + "\n")

    def take_back(self) -> None:
        """Queue once more what was refused by rights, size or a gateway's rules: these may have been corrected.

        Not what a newer record has replaced by now: tags, a status, a checkpoint.
        """
        path = self.folder / "refused.jsonl"
        if not path.exists():
            return
        kept: list[bytes] = []
        queued: list[Operation] = []
        for line in io.BytesIO(path.read_bytes()):
            operation = _parse(line)
            old = operation["op"] in ("unreadable", "tags", "status") or operation.get("newest")
            if operation.get("again") and not old:
                queued.append(operation)
            else:
                kept.append(line)
        for operation in queued:
            self.append(json.dumps({key: value for key, value in operation.items() if key != "reason"}))
        # Last: a process that is killed before queues them twice, and the second time their files are gone.
        with atomic_file(path) as temporary:
            temporary.write_bytes(b"".join(kept))
        if not kept:
            path.unlink()

    def take_newest(self, relative: str) -> str:
        """Move the file away from the path that the training overwrites; returns where it is now.

        So the upload never removes a newer file. A file that an earlier try moved is uploaded, unless a newer one has
        come since.
        """
        public = self.folder / relative
        private = public.parent / "uploading" / public.name
        if public.exists():
            private.parent.mkdir(exist_ok=True)
            os.replace(public, private)
        return str(private.relative_to(self.folder))

    def remove_file(self, relative: str) -> None:
        """Drop a delivered file or folder."""
        path = self.folder / relative
        _remove(path)
        with contextlib.suppress(OSError):
            path.parent.rmdir()

    def sweep(self) -> None:
        """Remove what a killed process left: half-written files, and models and files that no waiting line names."""
        for pattern in (
            ".run.json.*.tmp",
            ".refused.jsonl.*.tmp",
            ".checkpoint.pt.*",
            "checkpoint.pt.link",
            "sent.tmp",
        ):
            for path in self.folder.glob(pattern):
                _remove(path)
        waiting = [_parse(line.encode()) for line in self.lines(self.sent)]
        named = {str(operation.get(place)) for operation in waiting for place in ("file", "folder")}
        for path in [*self.folder.glob("models/*"), *self.folder.glob("files/[0-9]*/*")]:
            if str(path.relative_to(self.folder)) not in named:
                self.remove_file(str(path.relative_to(self.folder)))

    def pending(self) -> int:
        """How many operations are not delivered."""
        return sum(1 for _ in self.lines(self.sent))

    def last_steps(self) -> tuple[dict[str, int], dict[str, int]]:
        """The last step recorded for each metric and for each image."""
        metrics: dict[str, int] = {}
        images: dict[str, int] = {}
        for line in self.lines():
            operation = _parse(line.encode())
            if operation["op"] == "metrics":
                raise_marks(metrics, {key: operation["step"] for key in operation["values"]})
            elif operation["op"] == "image":
                raise_marks(images, {operation["key"]: operation["step"]})
        return metrics, images

    def backlog(self) -> str:
        """What is not delivered yet, as text for a checkpoint.

        The lines, and small files inside them as base64. Checkpoints that wait for their upload are left out:
        the next one would hold the one before it.
        """
        lines, room = [], BACKLOG_FILE_BYTES
        for line in self.lines(self.sent):
            operation = _parse(line.encode())
            if not _is_for_backlog(operation):
                continue
            if "file" in operation:
                try:
                    with open(self.folder / operation["file"], "rb") as file:
                        content = file.read(room + 1)
                except OSError:
                    continue  # a folder, or delivered and removed this very moment
                if len(content) > room:
                    continue  # too large for a checkpoint
                room -= len(content)
                operation = {**operation, "bytes": base64.b64encode(content).decode()}
            lines.append(json.dumps(operation))  # without a sum: the checkpoint has its own
        return "\n".join(lines)

    def restore(self, backlog: str) -> tuple[dict[str, int], dict[str, int]]:
        """Add the lines of a checkpoint's backlog that the spool lacks.

        Returns the last steps they hold, as `last_steps` does. A line that names a file without holding its
        bytes is left out: it would upload, and then remove, a file of this machine.
        """
        known = {_identity(_parse(line.encode())) for line in self.lines()}
        metrics: dict[str, int] = {}
        images: dict[str, int] = {}
        for line in backlog.split("\n"):
            operation = _parse(line.encode())
            if not _is_for_backlog(operation) or not _is_whole(operation):
                continue
            if operation["op"] == "metrics":
                raise_marks(metrics, {key: operation["step"] for key in operation["values"]})
            elif operation["op"] == "image":
                raise_marks(images, {operation["key"]: operation["step"]})
            if _identity(operation) in known:
                continue
            if "file" in operation:
                path, relative = self.new_file(Path(operation["file"]).name)
                path.write_bytes(base64.b64decode(operation.pop("bytes")))
                operation["file"] = relative
            self.append(json.dumps(operation))
        return metrics, images

    def clear(self) -> None:
        """Remove the delivered spool of a finished run, its files and models; `run.json`, checkpoints and what was
        refused stay.
        """
        with self._lock:
            os.ftruncate(self._descriptor, 0)
            self.size = 0
        self.mark_sent(0)
        for name in ("files", "models"):  # a model of an earlier process: this one did not wait for its registration
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def facts(self) -> dict[str, Any]:
        """`run.json`: run_id, entry_point, tracking_uri, experiment, status."""
        return read_facts(self.folder)

    def set_facts(self, **facts: Any) -> None:
        """Change `run.json`, from the training's thread or the writer's."""
        with self._facts_lock, atomic_file(self.folder / "run.json") as temporary:
            temporary.write_text(json.dumps({**self.facts(), **facts}, indent=1) + "\n")

    def _cut_partial_line(self) -> None:
        if not self._path.exists():
            return
        with open(self._path, "rb+") as file:
            end = file.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - 4096)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    file.truncate(start + newline + 1)
                    return
                end = start
            file.truncate(0)


class Writer(threading.Thread):
    """Sends a spool's operations in order, every few seconds, for as long as the process lives.

    `send` delivers a list of operations and raises if the store is away; `beat` refreshes the run's
    heartbeat. While the store fails the thread tries again after 1, 2, 4, ... 60 seconds, or 4 while somebody waits.
    """

    def __init__(
        self, spool: Spool, send: Callable[[list[tuple[Operation, int]]], None], beat: Callable[[bool], None]
    ) -> None:
        super().__init__(name="tracking-writer", daemon=True)
        self._spool, self._send, self._beat = spool, send, beat
        self._wake, self._ending = threading.Event(), threading.Event()
        self._wake.set()  # the first delivery is at once
        self._changed, self._waiting = threading.Condition(), 0
        self.error: Exception | None = None
        """Why the last try failed; None if it did not."""

    def run(self) -> None:
        """The thread's loop."""
        backoff, last_beat, was_away = 0.0, -HEARTBEAT_INTERVAL, False
        while not self._ending.is_set():
            self._pause(backoff)
            if self._ending.is_set():
                return  # what failed before stands: nothing was tried since
            try:
                self._deliver_all()
                if time.monotonic() - last_beat >= HEARTBEAT_INTERVAL:
                    self._beat(was_away)
                    last_beat, was_away = time.monotonic(), False
                self._note(None)
                backoff = 0.0
            except Exception as error:
                # Whatever it is (away, locked, no rights, a bug in a client library), the training goes on
                # and the spool keeps it.
                self._note(error)
                was_away = True
                backoff = min(max(FIRST_BACKOFF, 2 * backoff), LONGEST_BACKOFF)

    def _pause(self, backoff: float) -> None:
        """Until the next delivery is due, or somebody asks for it; after a failure not before a real pause."""
        if backoff:
            awaited = min(backoff, LONGEST_AWAITED_BACKOFF)
            self._ending.wait(awaited)
            if not self._waiting:
                self._wake.wait(backoff - awaited)
        else:
            self._wake.wait(SEND_INTERVAL)
        self._wake.clear()

    def wait_for(self, offset: int, patience: float, limit: float = math.inf) -> bool:
        """Send now and wait until everything before `offset` is delivered.

        False if the store has been failing for `patience` s.
        """
        begin = time.monotonic()
        with self._changed:
            self._waiting += 1
            self._wake.set()
            try:
                while self._spool.sent < offset and self.is_alive():
                    waited = time.monotonic() - begin
                    if waited > limit or (self.error is not None and waited > patience):
                        return False
                    self._changed.wait(0.5)
            finally:
                self._waiting -= 1
        return self._spool.sent >= offset

    def stop(self) -> None:
        """Ask the thread to end (it is not waited for if a request to a dead server holds it)."""
        self._ending.set()
        self._wake.set()
        self.join(timeout=1.0)

    def _deliver_all(self) -> None:
        while operations := self._spool.read(self._spool.sent):
            self._send(operations)
            self._note(None)
            if self._ending.is_set():
                return

    def _note(self, error: Exception | None) -> None:
        with self._changed:
            self.error = error
            self._changed.notify_all()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def raise_marks(marks: dict[str, int], steps: Mapping[str, int]) -> None:
    """Raise each mark to the step given, where that is higher."""
    for key, step in steps.items():
        marks[key] = max(marks.get(key, step), step)


def read_facts(folder: Path) -> dict[str, Any]:
    """A run folder's `run.json`; empty where there is none."""
    try:
        facts = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def is_finished(folder: Path) -> bool:
    """Whether the run of this folder is FINISHED and the store has all that it recorded."""
    return _has_ended_well(folder) and not _waits(folder)


def is_undelivered(folder: Path) -> bool:
    """Whether the run of this folder is FINISHED, and records of it wait: its process was killed, or the store away."""
    return _has_ended_well(folder) and _waits(folder)


def _has_ended_well(folder: Path) -> bool:
    """By run.json or, where the process was killed before it wrote there, by the last line of the spool."""
    if read_facts(folder).get("status") == "FINISHED":
        return True
    try:
        with open(folder / "spool.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
    except OSError:
        return False
    operation = _parse(last)
    return operation["op"] == "finish" and operation.get("status") == "FINISHED"


def _waits(folder: Path) -> bool:
    try:
        size = (folder / "spool.jsonl").stat().st_size
    except FileNotFoundError:
        return False
    return size not in (0, _read_sent(folder / "sent"))


def _read_sent(path: Path) -> int:
    try:
        return int(_unsealed(path.read_bytes()))
    except (FileNotFoundError, ValueError):
        return 0  # everything is sent again, which changes nothing


def _sealed(text: str) -> bytes:
    """A line that shows if a byte of it changes: the text and its CRC-32."""
    data = text.encode()
    return data + f" {zlib.crc32(data):08x}\n".encode()


def _unsealed(line: bytes) -> bytes:
    """The text of a line. Raises ValueError where it is not what was written; older lines have no sum."""
    line = line.rstrip(b"\n")
    match = re.fullmatch(rb"(.*) ([0-9a-f]{8})", line, re.DOTALL)
    if match is None:
        return line
    if int(match[2], 16) != zlib.crc32(match[1]):
        raise ValueError("the sum differs")
    return match[1]


def _parse(line: bytes) -> Operation:
    """The operation in one line. A damaged line becomes an operation that is set aside, not a crash."""
    try:
        operation = json.loads(_unsealed(line))
        if isinstance(operation, dict) and _has_its_parts(operation):
            return operation
    except ValueError:
        pass
    return {"op": "unreadable", "line": line.decode(errors="replace").rstrip("\n")}


PARTS: dict[str, dict[str, type]] = {
    "metrics": {"step": int, "values": dict},
    "params": {"values": dict},
    "tags": {"values": dict},
    "dataset": {"name": str, "fingerprint": str, "details": dict, "context": str},
    "file": {"file": str, "name": str, "folder": str},
    "image": {"key": str, "step": int, "file": str},
    "register": {"folder": str, "name": str, "registered_name": str, "upload": str, "step": int}
    | {"metrics": dict, "params": dict, "tags": dict},
    "evaluations": {"name": str, "version": str, "step": int, "tags": dict, "metrics": dict},
    "handover": {"run_id": str},
    "status": {"status": str},
    "finish": {"status": str},
}
"""What each operation needs, beside `time`."""


def _has_its_parts(operation: Operation) -> bool:
    parts = PARTS.get(operation.get("op", ""))
    if parts is None or not isinstance(operation.get("time"), int):
        return False
    if not all(isinstance(operation.get(name), kind) for name, kind in parts.items()):
        return False
    numbers = operation["values"] if operation["op"] == "metrics" else operation.get("metrics", {})
    return all(isinstance(value, int | float) for value in numbers.values())


def _is_for_backlog(operation: Operation) -> bool:
    """Whether a checkpoint's backlog may hold the operation."""
    return operation["op"] in BACKLOG_OPERATIONS and not operation.get("newest")


def _is_whole(operation: Operation) -> bool:
    """Whether an operation of a backlog holds what it needs, and no file of this machine."""
    op, step = operation["op"], operation.get("step")
    if op in ("file", "image"):
        file, content = operation.get("file"), operation.get("bytes")
        if not isinstance(file, str) or not isinstance(content, str) or Path(file).name in ("", ".."):
            return False
        try:
            base64.b64decode(content, validate=True)
        except ValueError:
            return False
        return op == "file" or (isinstance(step, int) and isinstance(operation.get("key"), str))
    if op == "metrics" and not (isinstance(step, int) and isinstance(operation.get("values"), dict)):
        return False
    return "file" not in operation


def _identity(operation: Operation) -> str:
    """What makes two lines the same operation: all but where its file lies and the bytes inlined."""
    return json.dumps({key: value for key, value in operation.items() if key not in ("file", "bytes")}, sort_keys=True)

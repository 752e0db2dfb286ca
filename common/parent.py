"""A process that works for another one stops when that one is gone."""

import os
import signal
import threading
import time

LOOK_SECONDS = 1.0
STARTED_BY = "STARTED_BY"
"""A variable "id:parent": who started the process `id`, which may have become another program since (exec)."""

TORCHRUN_ID = "TORCHRUN_ID"
"""A variable: the process id of the torchrun that starts workers."""

GONE = -1
"""In place of a process id: nobody's."""


def stop_without_parent(parent: int | None = None, *, repeat: bool = True) -> None:
    """From now on, SIGTERM comes to this process when the one that started it has died (kill -9, out of memory).

    parent: its process id, for a process that cannot be sure that it lives still; not given: the one there is now.
    repeat: until this process ends, since it may be where it ignores the signal.
    """
    parent = _first_parent() if parent is None else parent
    threading.Thread(target=_watch, args=(parent, repeat), name="parent-watch", daemon=True).start()


def _first_parent() -> int:
    """Who started this process, which may have lost it while it became torchrun: that takes seconds to import."""
    process, _, parent = os.environ.get(STARTED_BY, "").partition(":")
    if process != str(os.getpid()):  # not told, or by a process that started this one
        told = os.environ.get(TORCHRUN_ID) if "TORCHELASTIC_RUN_ID" in os.environ else None
        parent = told or str(GONE if _is_orphan() else os.getppid())
        os.environ[STARTED_BY] = f"{os.getpid()}:{parent}"
    return int(parent)


def _is_orphan() -> bool:
    """Whether the process that started this one was gone before this one could look, while Python began.

    A process is of its parent's session unless it leads one of its own. So a parent of another session is not the one
    that started it, but who takes the orphans (process 1, as a rule). Where that one is of the same session, as in
    containers, it cannot be told.
    """
    if not hasattr(os, "getsid") or os.getppid() == 0 or os.getsid(0) == os.getpid():
        return False
    try:
        return os.getsid(os.getppid()) != os.getsid(0)
    except ProcessLookupError:  # it ended just now
        return True


def works_for_another() -> bool:
    """Whether torchrun or `mlflow run` started this process: nobody else would stop it."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "MLFLOW_RUN_ID" in os.environ


def _watch(parent: int, repeat: bool) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    while repeat:
        time.sleep(5 * LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

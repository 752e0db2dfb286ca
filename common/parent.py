"""A process that works for another one stops when that one is gone."""

import os
import signal
import threading
import time

LOOK_SECONDS = 1.0


def stop_without_parent(parent: int | None = None, *, repeat: bool = True) -> None:
    """From now on, SIGTERM comes to this process when the one that started it has died (kill -9, out of memory).

    parent: its process id, for a process that cannot be sure that it lives still; not given: the one there is now.
    repeat: until this process ends, since it may be where it ignores the signal.
    """
    parent = os.getppid() if parent is None else parent
    threading.Thread(target=_watch, args=(parent, repeat), name="parent-watch", daemon=True).start()


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

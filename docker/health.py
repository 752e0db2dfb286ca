"""The trainer image's health check: fails if a run that is being written has recorded nothing for half an hour.

A run is being written while a process holds the lock of its folder; runs that other containers left in the volume do
not count.
Standard library alone: it starts every minute beside the training.
"""

import fcntl
import os
import sys
import time
from pathlib import Path


def is_locked(path: Path) -> bool:
    """Whether a process holds the file's lock (as tracking/outbox/spool.py does while it writes)."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def silent_runs(runs: Path, seconds: float) -> list[str]:
    """The runs being written in which no file changed for `seconds`."""
    now = time.time()
    silent = []
    for lock in sorted(runs.glob("*/lock")):
        newest = max(path.stat().st_mtime for path in (lock, *lock.parent.glob("*")) if path.exists())
        if now - newest > seconds and is_locked(lock):
            silent.append(lock.parent.name)
    return silent


if __name__ == "__main__":
    minutes = float(os.environ.get("WGAN_EEG_SILENT_MINUTES", "30"))
    if found := silent_runs(Path("runs"), 60 * minutes):
        sys.exit(f"nothing recorded for {minutes:g} minutes: {', '.join(found)}")

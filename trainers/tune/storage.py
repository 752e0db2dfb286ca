"""Where studies are kept: a journal file on this machine, or a database."""

import os
import re
import time
import warnings
from pathlib import Path
from typing import Any, cast

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import URL, make_url

from common.addresses import is_secret, without_query_secrets
from common.errors import InputError

HEARTBEAT, GRACE = 20, 90
"""Seconds between the heartbeats of a trial in a database, and of silence after which it counts as dead."""


def place_of(storage: str | None, journal: Path) -> str:
    """Where the studies are, for messages: the URL without its password, or the file's absolute path."""
    if storage is None or "://" not in storage:
        return str((Path(storage) if storage else journal).absolute())
    return without_password(storage)


def open_storage(storage: str | None, journal: Path) -> BaseStorage:
    """The journal file, or the database at the URL `storage`; InputError where it cannot be had.

    `$NAME` in a URL stands for an environment variable: commands are recorded, and passwords should not be.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if storage is None or "://" not in storage:
        return _open_journal((Path(storage) if storage else journal).absolute())
    try:
        return _open_database(storage)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"storage: {without_password(storage)} cannot be used: {gist(error)}; give a database that "
            "Optuna can use, such as postgresql://user@host/database, or nothing for a journal file on this machine"
        ) from None


# ---------------------------------------------------------------------------------------------------------------------
# a journal file


class JournalFile(JournalFileBackend):
    """A journal under a lock of the operating system's, which lets go of it when its holder is killed.

    Who writes next removes the half line that a writer left who was killed, or whose disk was full: behind it a line
    could never be read again.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._os_lock = path, FileLock(path.with_name(f"{path.name}.lock"))
        # Optuna calls `acquire` and `release` of a lock; the class that it asks for is not public.
        super().__init__(str(path), lock_obj=cast(Any, self._os_lock))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with self._os_lock:  # whoever holds it may take it again, as the backend does
            remove_half_line(self._path)
            super().append_logs(logs)


def remove_half_line(path: Path) -> None:
    """Cut off what stands behind the last line end of a file."""
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        start = end
        while start:
            start = max(0, start - 4096)
            file.seek(start)
            if (found := file.read(min(4096, end - start)).rfind(b"\n")) >= 0:
                if start + found + 1 < end:
                    file.truncate(start + found + 1)
                return
        file.truncate(0)


def _open_journal(path: Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFile(path))
    except Exception as error:
        raise InputError(
            f"storage: {path} is not a journal of studies that can be read and written: {gist(error)}"
        ) from None


# ---------------------------------------------------------------------------------------------------------------------
# a database


def _open_database(storage: str) -> BaseStorage:
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    _check_password(storage)
    url = make_url(os.path.expandvars(storage))
    if url.drivername == "postgresql":  # SQLAlchemy would take psycopg 3, which is not among this project's packages
        url = url.set(drivername="postgresql+psycopg2")
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.get_backend_name() == "postgresql":
        options["connect_args"] = {"connect_timeout": 10}
    address = url.render_as_string(hide_password=False)

    def connect() -> BaseStorage:
        return RDBStorage(address, engine_kwargs=options, heartbeat_interval=HEARTBEAT, grace_period=GRACE)

    try:
        return connect()
    except (IntegrityError, ProgrammingError):  # two processes that meet an empty database at once both make its tables
        time.sleep(3)
        return connect()


def _check_password(storage: str) -> None:
    """InputError for a password in the command itself."""
    if not has_secret(make_url(storage)):
        return
    recorded = (
        "; `mlflow run` has recorded it already, as a parameter and in the command of run "
        f"{os.environ['MLFLOW_RUN_ID']}: delete that run, and change the password"
        if "MLFLOW_RUN_ID" in os.environ
        else ""
    )
    raise InputError(
        f"storage: the password in {without_password(storage)} would be recorded with the command; write $NAME "
        "in its place and put it into the environment variable NAME (PostgreSQL: or PGPASSWORD, or ~/.pgpass)"
        f"{recorded}"
    )


def has_secret(url: URL) -> bool:
    """Whether a password stands in the URL, and not the name of a variable that holds it."""
    in_query = [value for name in url.query if is_secret(name) for value in url.normalized_query[name]]
    return any(secret and not re.fullmatch(r"\$\w+|\$\{\w+\}", secret) for secret in (url.password, *in_query))


def without_password(storage: str) -> str:
    """The URL without its password."""
    return without_query_secrets(re.sub(r"(://[^:/?@]*):[^/?]*@", r"\1:***@", storage))


def gist(error: Exception) -> str:
    """What an error says, in one line."""
    text = " ".join(str(error).split())
    return re.split(r" \(Background on this error| \[SQL:", text)[0][:220] or type(error).__name__

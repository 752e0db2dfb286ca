"""Where studies are kept, which trials lost their process, and which process leads.

A study's trials are counted by one rule in every process: `used`. Trials whose process was killed are found by
`fail_dead` (by process id on this machine; across machines by the heartbeat of Optuna's database storages) and queued
again by `requeue`.
"""

import contextlib
import copy
import datetime
import os
import re
import socket
import time
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import psutil
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, TrialState

from common.errors import InputError

HEARTBEAT, GRACE = 20, 90
"""Seconds between the heartbeats of a trial in a database, and of silence after which it counts as dead."""

NO_OWNER = 180.0
"""Seconds after which a running trial counts as dead if no process has entered itself as its owner."""

MAX_RETRIES = 3
"""How often a trial is repeated whose process was killed. One that was stopped in good order is always repeated."""

LEASE = 90.0
"""Seconds after which a silent leader on another machine is replaced. Clocks must agree better than that."""

Owner = dict[str, Any]


class OsLock(BaseJournalFileLock):
    """The journal's lock as one of the operating system's, which lets go of it when its holder is killed.

    Who writes next removes the half line that a writer left who was killed, or whose disk was full: behind it a line
    could never be read again.
    """

    def __init__(self, journal: Path) -> None:
        self._journal, self._lock = journal, FileLock(journal.with_name(f"{journal.name}.lock"))

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            remove_half_line(self._journal)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


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


def open_storage(storage: str | None, journal: Path) -> BaseStorage:
    """The journal file, or the database at the URL `storage`; InputError where it cannot be had.

    `$NAME` in a URL stands for an environment variable: commands are recorded, and passwords should not be.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if storage is None or "://" not in storage:
        return _open_journal(Path(storage) if storage else journal)
    from sqlalchemy.engine import make_url

    try:
        given = make_url(storage)
        if given.password and not re.fullmatch(r"\$\w+|\$\{\w+\}", str(given.password)):
            recorded = (
                "; `mlflow run` has recorded it already, as a parameter and in the command of run "
                f"{os.environ['MLFLOW_RUN_ID']}: delete that run, and change the password"
                if "MLFLOW_RUN_ID" in os.environ
                else ""
            )
            raise InputError(
                f"storage: the password in {given.render_as_string()} would be recorded with the command; write $NAME "
                "in its place and put it into the environment variable NAME (PostgreSQL: or PGPASSWORD, or ~/.pgpass)"
                f"{recorded}"
            )
        url = make_url(os.path.expandvars(storage))
        if (
            url.drivername == "postgresql"
        ):  # SQLAlchemy would take psycopg 3, which is not among this project's packages
            url = url.set(drivername="postgresql+psycopg2")
        options: dict[str, Any] = {"pool_pre_ping": True}
        if url.get_backend_name() == "postgresql":
            options["connect_args"] = {"connect_timeout": 10}
        return _with_patience(
            lambda: RDBStorage(
                url.render_as_string(hide_password=False),
                engine_kwargs=options,
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
            )
        )
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"storage: {without_password(storage)} cannot be used: {_gist(error)}; give a database that "
            "Optuna can use, such as postgresql://user@host/database, or nothing for a journal file on this machine"
        ) from None


def _open_journal(path: Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=OsLock(path)))
    except Exception as error:
        raise InputError(
            f"storage: {path} is not a journal of studies that can be read and written: {_gist(error)}"
        ) from None


def _with_patience(make: Any) -> BaseStorage:
    """Two processes that meet an empty database at once both make its tables, and one fails: it tries again."""
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    try:
        return make()
    except (IntegrityError, ProgrammingError):
        time.sleep(3)
        return make()


def without_password(storage: str) -> str:
    """The URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", storage)


def _gist(error: Exception) -> str:
    text = " ".join(str(error).split())
    return re.split(r" \(Background on this error| \[SQL:", text)[0][:220] or type(error).__name__


# -------------------------------------------------------------------------------------------------------------------
# studies


def open_study(
    storage: BaseStorage, name: str, directions: Sequence[Any], spec: dict[str, Any], *, where: str = "it"
) -> optuna.Study:
    """The study `name` in the storage (called `where` in messages), made where there is none.

    InputError where it exists and searches something else, or the storage cannot be read.
    """
    try:
        study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
        known, n_trials = study.user_attrs.get("spec"), len(study.get_trials(deepcopy=False))
    except Exception as error:
        raise InputError(
            f"storage: {where} has no studies that can be read, or is no journal of studies: {_gist(error)}; give "
            "another file, or a database URL"
        ) from None
    if known is None and n_trials == 0:
        study.set_user_attr("spec", spec)
        return study
    if known is None:
        raise InputError(
            f"study: the storage has a study {name} that tune did not make; give another name, such as study={name}-2"
        )
    changed = [f"{key} was {known.get(key)!r}, now {spec[key]!r}" for key in spec if known.get(key) != spec[key]]
    if changed:
        raise InputError(
            f"study: {name} exists already and searches something else: {'; '.join(changed)}; give the old values to "
            f"continue it, or another name, such as study={name}-2"
        )
    return study


# ---------------------------------------------------------------------------------------------------------------------
# owners


def this_process() -> Owner:
    """What tells this process from every other one."""
    return {"host": this_host(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def this_host() -> str:
    """This machine since it was last started."""
    return f"{socket.gethostname()}/{int(psutil.boot_time())}"


def is_dead(owner: Owner) -> bool:
    """Whether the process is certainly gone; of other machines nothing is certain."""
    if owner["host"].split("/")[0] != socket.gethostname():
        return False
    if abs(int(owner["host"].split("/")[1]) - int(psutil.boot_time())) > 5:
        return True
    try:
        process = psutil.Process(owner["pid"])
        return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - owner["started"]) > 1
    except psutil.NoSuchProcess:
        return True


# ---------------------------------------------------------------------------------------------------------------------
# trials


def retry_history(trial: FrozenTrial) -> list[int]:
    """Numbers of the trials that this one repeats, as Optuna's retrying keeps them."""
    return list(trial.system_attrs.get("retry_history", []))


def retried(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of all trials that have been queued again."""
    return {number for trial in trials for number in retry_history(trial)}


def is_lost(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether the trial ended because its process was stopped or killed, and is to be repeated."""
    if trial.state != TrialState.FAIL or "failure" in trial.user_attrs or "surplus" in trial.user_attrs:
        return False
    by_number = {t.number: t for t in trials}
    killed = [n for n in [*retry_history(trial), trial.number] if "stopped" not in by_number[n].user_attrs]
    return "stopped" in trial.user_attrs or len(killed) <= MAX_RETRIES


def used(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count against n_trials: each configuration that was decided, once."""
    again = retried(trials)
    return [
        t
        for t in trials
        if t.state in (TrialState.COMPLETE, TrialState.PRUNED)
        or (
            t.state == TrialState.FAIL
            and "surplus" not in t.user_attrs
            and t.number not in again
            and not is_lost(t, trials)
        )
    ]


def under_way(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that run, and those that were lost and are not queued again yet: neither leaves room for another."""
    again = retried(trials)
    return [t for t in trials if t.state == TrialState.RUNNING or (t.number not in again and is_lost(t, trials))]


def is_decided(study: optuna.Study, wanted: int | None) -> bool:
    """Whether all trials wanted are decided and none is under way or queued; False where `wanted` is not known yet."""
    trials = study.get_trials(deepcopy=False)
    waiting = any(t.state == TrialState.WAITING for t in trials)
    return wanted is not None and len(used(trials)) >= wanted and not waiting and not under_way(trials)


def repeats_queued(repeats: optuna.Study, n_trials: int) -> int | None:
    """How many repetitions the leader has queued after a search of n_trials; None: it has not."""
    queued = repeats.user_attrs.get("queued") or {}
    return queued["repeats"] if queued.get("after") == n_trials else None


def fail_dead(study: optuna.Study) -> None:
    """Mark as failed what dead processes left running."""
    optuna.storages.fail_stale_trials(study)
    now = datetime.datetime.now()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get("owner")
        age = (now - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
        if is_dead(owner) if owner else age > NO_OWNER:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another process was faster
                study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)


def requeue(study: optuna.Study) -> list[FrozenTrial]:
    """Queue every lost trial again, with its values, seed and run; returns the lost ones."""
    trials = study.get_trials(deepcopy=False)
    again = retried(trials)
    lost = [t for t in trials if t.number not in again and is_lost(t, trials)]
    queue_again = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
    for trial in copy.deepcopy(lost):  # it changes the history of the trial that it is given
        for attribute in ("owner", "stopped"):  # they were true of the lost process alone
            trial.user_attrs.pop(attribute, None)
        queue_again(study, trial)
    return lost


# ---------------------------------------------------------------------------------------------------------------------
# leader


class Lease:
    """The lead of a study: one of its launchers queues lost trials again, owns the study's run and closes it."""

    def __init__(self, study: optuna.Study) -> None:
        self._study, self._id, self._held, self._renewed = study, uuid.uuid4().hex, False, 0.0

    def hold(self) -> bool:
        """Take or renew the lead if it is free; whether this process has it."""
        if self._held and time.time() - self._renewed < LEASE / 6:
            return True
        current = self._study.user_attrs.get("leader")
        if current is not None and current["id"] != self._id:
            self._held = False
            if not is_dead(current["owner"]) and time.time() - current["time"] < LEASE:
                return False
        self._renewed = time.time()
        self._study.set_user_attr("leader", {"id": self._id, "owner": this_process(), "time": self._renewed})
        if not self._held:
            time.sleep(1.0)  # of several that find it free at once, the last one to write has it
            self._held = self._study.user_attrs["leader"]["id"] == self._id
        return self._held

    def release(self) -> None:
        """Let another process lead at once. On a full disk that cannot be written: it may after `LEASE` seconds."""
        if self._held:
            self._held = False
            with contextlib.suppress(OSError):
                self._study.set_user_attr("leader", None)

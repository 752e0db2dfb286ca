"""The study in its storage: what it searches, which of its trials count, which lost their process, and which process
leads.

A study's trials are counted by one rule in every process: `used`. Trials whose process was killed are found by
`fail_dead` (by process id on this machine; across machines by the heartbeat of Optuna's database storages) and queued
again by `requeue`.
"""

import contextlib
import copy
import datetime
import os
import socket
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from common.errors import InputError
from trainers.tune.storage import gist

NO_OWNER = 180.0
"""Seconds after which a running trial counts as dead if no process has entered itself as its owner."""

MAX_RETRIES = 3
"""How often a trial is repeated whose process was killed. One that was stopped in good order is always repeated."""

CLOCK_STEP = 60.0
"""Seconds that a clock may be put right by; no machine starts twice in that time."""

LEASE = 90.0
"""Seconds after which a silent leader on another machine is replaced. Clocks must agree better than that."""


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
            f"storage: {where} has no studies that can be read, or is no journal of studies: {gist(error)}; give "
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


def this_process() -> dict[str, Any]:
    """What tells this process from every other one."""
    return {"host": this_host(), "pid": os.getpid(), "started": started(psutil.Process())}


def this_host() -> str:
    """This machine since it was last started."""
    return f"{socket.gethostname()}/{boot_id() or int(psutil.boot_time())}"


def is_here(host: str) -> bool:
    """Whether `host` is what `this_host` said on this machine since it was last started."""
    name, _, boot = host.rpartition("/")
    if name != socket.gethostname():
        return False
    if boot.isdigit():  # seconds of a clock that is corrected now and then
        return abs(int(boot) - psutil.boot_time()) < CLOCK_STEP
    return boot == boot_id()


def boot_id() -> str | None:
    """Linux's name of this start of the machine; None elsewhere."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def started(process: psutil.Process) -> float:
    """When the process was started: of one process always the same number, whatever happens to the clock."""
    since_boot = psutil.boot_time() if psutil.LINUX else 0.0  # there psutil adds it, from the clock of now
    return float(process.create_time() - since_boot)


def is_dead(owner: dict[str, Any]) -> bool:
    """Whether the process is certainly gone; of other machines nothing is certain."""
    if owner["host"].rpartition("/")[0] != socket.gethostname():
        return False
    if not is_here(owner["host"]):
        return True
    try:
        process = psutil.Process(owner["pid"])
        return process.status() == psutil.STATUS_ZOMBIE or abs(started(process) - owner["started"]) > 1
    except psutil.NoSuchProcess:
        return True


# ---------------------------------------------------------------------------------------------------------------------
# trials


def recorded(trial: optuna.Trial) -> FrozenTrial:
    """What the storage has of a trial under way: also its steps reported before it was stopped."""
    return trial.study.get_trials(deepcopy=False)[trial.number]


def retry_history(trial: FrozenTrial) -> list[int]:
    """Numbers of the trials that this one repeats, oldest first."""
    return RetryHeartbeatStaleTrialCallback.retry_history(trial)


def retried(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of all trials that have been queued again."""
    return {number for trial in trials for number in retry_history(trial)}


def lost(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that ended because their process was stopped or killed, and are to be queued again."""
    again = retried(trials)
    return [t for t in trials if t.number not in again and _is_to_be_repeated(t, trials)]


def _is_to_be_repeated(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    if trial.state != TrialState.FAIL or "failure" in trial.user_attrs or "surplus" in trial.user_attrs:
        return False
    attempts = [trials[number] for number in (*retry_history(trial), trial.number)]
    killed = [attempt for attempt in attempts if "stopped" not in attempt.user_attrs]
    return "stopped" in trial.user_attrs or len(killed) <= MAX_RETRIES


def used(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count against n_trials: each configuration that was decided, once."""
    not_counted = retried(trials) | {t.number for t in lost(trials)}
    decided = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [t for t in trials if t.state in decided and t.number not in not_counted and "surplus" not in t.user_attrs]


def under_way(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that run, and those that were lost and are not queued again yet: neither leaves room for another."""
    return [*(t for t in trials if t.state == TrialState.RUNNING), *lost(trials)]


def has_waiting(study: optuna.Study) -> bool:
    """Whether a trial is queued."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def has_room(study: optuna.Study, wanted: int) -> bool:
    """Whether fewer trials than wanted are decided or under way."""
    trials = study.get_trials(deepcopy=False)
    return len(used(trials)) + len(under_way(trials)) < wanted


def is_decided(study: optuna.Study, wanted: int) -> bool:
    """Whether all trials wanted are decided and none is under way or queued."""
    trials = study.get_trials(deepcopy=False)
    waiting = any(t.state == TrialState.WAITING for t in trials)
    return len(used(trials)) >= wanted and not waiting and not under_way(trials)


def fail_dead(study: optuna.Study) -> None:
    """Mark as failed what dead processes left running."""
    optuna.storages.fail_stale_trials(study)
    now = datetime.datetime.now()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get("owner")
        age = (now - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
        if is_dead(owner) if owner else age > NO_OWNER:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another process was faster
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def requeue(study: optuna.Study) -> list[FrozenTrial]:
    """Queue every lost trial again, with its values, seed and run; returns the lost ones."""
    found = lost(study.get_trials(deepcopy=False))
    queue_again = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
    for trial in copy.deepcopy(found):  # it changes the history of the trial that it is given
        for attribute in ("owner", "stopped"):  # they were true of the lost process alone
            trial.user_attrs.pop(attribute, None)
        queue_again(study, trial)
    return found


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

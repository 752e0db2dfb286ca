"""A study in its storage: which of its trials count, which are repeated, and which process leads."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from common.errors import InputError
from trainers.tune import study as study_module
from trainers.tune.storage import open_storage
from trainers.tune.study import (
    LEASE,
    MAX_RETRIES,
    Lease,
    fail_dead,
    has_room,
    has_waiting,
    is_dead,
    is_decided,
    is_here,
    open_study,
    requeue,
    retried,
    started,
    this_process,
    under_way,
    used,
)


def test_a_study_of_another_shape_is_refused(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path / "j")
    spec = {"target": "wgan", "space": {"a": "1..2"}}
    open_study(storage, "s", ["minimize"], spec)
    open_study(storage, "s", ["minimize"], spec)  # the same goes on
    with pytest.raises(InputError, match=r"space was \{'a': '1..2'\}, now \{'a': '1..3'\}"):
        open_study(storage, "s", ["minimize"], {**spec, "space": {"a": "1..3"}})
    optuna.create_study(storage=storage, study_name="theirs").ask()
    with pytest.raises(InputError, match="tune did not make"):
        open_study(storage, "theirs", ["minimize"], spec)
    (tmp_path / "text").write_text("not a journal\n")
    text = str(tmp_path / "text")
    with pytest.raises(InputError, match="text"):
        open_study(open_storage(text, tmp_path / "j"), "s", ["minimize"], spec, where=text)


def dead_process() -> dict[str, Any]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = {**this_process(), "pid": child.pid, "started": started(psutil.Process(child.pid))}
    assert not is_dead(owner)
    child.kill()
    child.wait()
    return owner


def test_a_clock_that_is_put_right_kills_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux says when it was started by the clock of now: an hour later, if that is put forward by an hour."""
    owner = this_process()
    before = psutil.boot_time()
    for module in (psutil, psutil._pslinux):
        monkeypatch.setattr(module, "boot_time", lambda: before + 3600.0)
    assert not is_dead(owner)
    assert is_here(owner["host"])
    assert this_process() == owner


@pytest.mark.parametrize(
    ("start", "then", "is_one"), [("a", "a", True), ("a", "b", False), (1000, 1001, True), (1000, 1100, False)]
)
def test_processes_of_before_the_machine_was_started_are_dead(
    monkeypatch: pytest.MonkeyPatch, start: str | int, then: str | int, is_one: bool
) -> None:
    def begin(start: str | int) -> None:
        monkeypatch.setattr(study_module, "boot_id", lambda: start if isinstance(start, str) else None)
        monkeypatch.setattr(psutil, "boot_time", lambda: float(start) if isinstance(start, int) else 0.0)

    begin(start)
    owner = {**this_process(), "started": 0.0}
    begin(then)
    monkeypatch.setattr(study_module, "started", lambda process: 0.0)
    assert is_here(owner["host"]) == is_one
    assert is_dead(owner) != is_one
    assert not is_dead({**owner, "host": "elsewhere/1"})


def test_a_killed_trial_is_done_again_with_its_values_and_counted_once(tmp_path: Path) -> None:
    study = open_study(open_storage(None, tmp_path / "j"), "s", ["minimize"], {})
    alive, killed = study.ask(), study.ask()
    alive.set_user_attr("owner", this_process())
    values = (killed.suggest_float("x", 0, 1), killed.suggest_int("n", 1, 9))
    for key, value in {"owner": dead_process(), "seed": 7, "run_id": "r"}.items():
        killed.set_user_attr(key, value)
    killed.report(0.5, 3)
    fail_dead(study)
    assert [t.state for t in study.trials] == [TrialState.RUNNING, TrialState.FAIL]
    assert [t.number for t in requeue(study)] == [1]
    assert requeue(study) == []  # once
    assert used(study.trials) == []
    again = study.ask()
    assert again.number == 2
    assert (again.suggest_float("x", 0, 1), again.suggest_int("n", 1, 9)) == values
    assert again.user_attrs == {"seed": 7, "run_id": "r"}
    fail_dead(study)  # nobody's name is on it yet, but it is young
    study.tell(again, 0.25)
    study.tell(alive, 0.5)
    assert [t.number for t in used(study.trials)] == [0, 2]
    assert retried(study.trials) == {1}


def test_killed_trials_are_given_up_after_a_while_and_stopped_ones_never() -> None:
    study = optuna.create_study()
    study.ask()
    for attempt in range(MAX_RETRIES + 1):
        assert len(used(study.trials)) == 0, attempt
        study.tell(attempt, state=TrialState.FAIL)
        requeue(study)
        if attempt < MAX_RETRIES:
            assert study.ask().number == attempt + 1
    assert len(used(study.trials)) == 1
    stopped = optuna.create_study()
    for attempt in range(MAX_RETRIES + 3):
        trial = stopped.ask()
        assert trial.number == attempt
        trial.set_user_attr("stopped", True)
        stopped.tell(trial, state=TrialState.FAIL)
        assert len(requeue(stopped)) == 1
    assert used(stopped.trials) == []


def test_failures_count_and_surplus_trials_do_not() -> None:
    study = optuna.create_study()
    for key in ("failure", "surplus"):
        trial = study.ask()
        trial.set_user_attr(key, "x")
        study.tell(trial, state=TrialState.FAIL)
    study.tell(study.ask(), state=TrialState.PRUNED)
    assert requeue(study) == []
    assert [t.number for t in used(study.trials)] == [0, 2]


def test_one_process_leads_until_it_lets_go_or_dies(tmp_path: Path) -> None:
    study = open_study(open_storage(None, tmp_path / "j"), "s", ["minimize"], {})
    first, second = Lease(study), Lease(study)
    assert first.hold()
    assert not second.hold()
    first.release()
    assert second.hold()
    assert not first.hold()
    leader = {"id": "x", "time": time.time()}
    study.set_user_attr("leader", {**leader, "owner": dead_process()})
    assert first.hold()
    far = {**this_process(), "host": "elsewhere/1"}
    study.set_user_attr("leader", {**leader, "owner": far})
    assert not Lease(study).hold()
    study.set_user_attr("leader", {**leader, "owner": far, "time": time.time() - 2 * LEASE})
    assert Lease(study).hold()


def test_the_lead_is_given_back_on_a_full_disk_without_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(storage=open_storage(None, tmp_path / "study.journal"))
    lease = Lease(study)
    monkeypatch.setattr("trainers.tune.study.time.sleep", lambda seconds: None)
    assert lease.hold()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study, "set_user_attr", full)
    lease.release()


def test_a_lost_trial_leaves_no_room_for_another(tmp_path: Path) -> None:
    study = open_study(open_storage(None, tmp_path / "j"), "s", ["minimize"], {})
    study.tell(study.ask(), 1.0)
    study.tell(study.ask(), state=TrialState.FAIL)  # its process was killed, and the leader has not looked yet
    assert [t.number for t in under_way(study.trials)] == [1]
    assert not has_room(study, 2)
    assert not is_decided(study, 2)
    requeue(study)
    assert under_way(study.trials) == []
    assert has_waiting(study)
    assert not is_decided(study, 2)
    study.optimize(lambda trial: 0.0, n_trials=1)
    assert [t.number for t in used(study.trials)] == [0, 2]
    assert is_decided(study, 2)
    assert not has_room(study, 2)
    assert has_room(study, 3)

"""SIGTERM, SIGHUP and Ctrl-C at any moment of a training, once or twice: it stops in good order, and goes on."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE
from tests.faults.fuzzing import CASES, run_cases
from tests.faults.tiny_training import SETTINGS, Undisturbed, assert_as_undisturbed, start, went_on
from tests.running import begin_trainer, runs

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def at_a_write(folder: Path, calls: int, chance: random.Random) -> tuple[str, int, str]:
    """(where and how often, status, what was printed) of a training that gets a signal at a call that writes."""
    number, call, when = chance.choice(SIGNALS), chance.randrange(1, calls + 1), chance.choice(("before", "after"))
    again = chance.choice((0, 0, 1, 2, 5, 20))
    where = f"{number.name} {when} call {call} of {calls}" + (f", twice, {again} calls later" if again else "")
    variables = {"DIE_AT": str(call), "DIE_WHEN": when, "DIE_SIGNAL": number.name, "DIE_AGAIN": str(again)}
    done = start(folder, resume=False, **variables)
    return where, done.returncode, done.stdout


def at_a_time(folder: Path, seconds: float, chance: random.Random) -> tuple[str, int, str]:
    """The same at a moment of the first `seconds` of the process, between any two steps of Python or within one."""
    number, moment, second = chance.choice(SIGNALS), chance.uniform(0.3, seconds), chance.random() < 0.4
    process = begin_trainer(folder, "wgan", **SETTINGS)
    time.sleep(moment)
    process.send_signal(number)
    if second:
        time.sleep(chance.uniform(0, 1))
        process.send_signal(number)
    printed = process.communicate(timeout=PATIENCE)[0]
    return f"{number.name} after {moment:.2f} s{', twice' if second else ''}", process.returncode, printed


def signalled_and_resumed(folder: Path, undisturbed: Undisturbed, chance: random.Random) -> str:
    if chance.random() < 0.6:
        where, status, printed = at_a_write(folder, undisturbed.calls, chance)
    else:
        where, status, printed = at_a_time(folder, undisturbed.seconds, chance)
    at_once = "SIGINT" in where and "twice" in where  # a second Ctrl-C waits for no delivery
    where = f"{where}: status {status}: {printed}"
    assert "Traceback" not in printed, where
    states = [run.info.status for run in runs(folder)]
    if status == 0:  # it was done
        assert states == ["FINISHED"], where
        assert_as_undisturbed(folder, runs(folder)[0].info.run_id, undisturbed, where)
        return "it came to its end"
    assert status in {128 + number for number in SIGNALS} | {-number for number in SIGNALS}, where
    if status > 0:
        assert set(states) <= {"KILLED", *(["RUNNING"] if at_once else [])}, (states, where)
    else:  # Python itself was still starting
        assert not states, (states, where)
    return went_on(folder, undisturbed, where)


@pytest.mark.parametrize(
    "n", [pytest.param(2, marks=pytest.mark.slow), pytest.param(max(1, CASES // 80), marks=pytest.mark.fault)]
)
def test_signalled_at_any_moment(undisturbed: Undisturbed, tmp_path: Path, empty_store: Path, n: int) -> None:
    def case(chance: random.Random) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
        return signalled_and_resumed(folder, undisturbed, chance)

    run_cases(
        "SIGTERM, SIGHUP, Ctrl-C",
        case,
        n,
        allowed=("went on", "began anew", "it came to its end", "began anew, a run left for reap"),
        shown="`SIGTERM: stopping after this step, with a checkpoint`; the run is KILLED, and `resume=latest` goes on",
    )

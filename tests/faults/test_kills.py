"""kill -9 at calls that write: the run goes on, ends with the same weights, with nothing twice or left over."""

import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.faults.fuzzing import CASES, run_cases
from tests.faults.tiny_training import Undisturbed, start, went_on


def killed_and_resumed(folder: Path, undisturbed: Undisturbed, chance: random.Random) -> str:
    """Kill a training at a call that writes, go on with it, and look at what is there in the end."""
    call, when = chance.randrange(1, undisturbed.calls + 1), chance.choice(("before", "after"))
    where = f"call {call} of {undisturbed.calls}, {when} it"
    killed = start(folder, resume=False, DIE_AT=str(call), DIE_WHEN=when)
    if killed.returncode == 0:  # threads: the calls of one run are not those of another
        return "it came to its end"
    assert killed.returncode == -signal.SIGKILL, f"{where}: {killed.stdout}"
    return went_on(folder, undisturbed, where)


@pytest.mark.parametrize(
    "n", [pytest.param(2, marks=pytest.mark.slow), pytest.param(max(1, CASES // 50), marks=pytest.mark.fault)]
)
def test_killed_where_it_writes(undisturbed: Undisturbed, tmp_path: Path, empty_store: Path, n: int) -> None:
    def case(chance: random.Random) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
        return killed_and_resumed(folder, undisturbed, chance)

    outcomes = ("went on", "began anew", "it came to its end", "began anew, a run left for reap")
    run_cases(
        "kill -9 where a training writes",
        case,
        n,
        allowed=outcomes,
        shown="`resume=latest` goes on, or says that there is nothing to go on with; `python -m tracking reap` ends "
        "what stands RUNNING",
    )

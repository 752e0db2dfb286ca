"""What `run_main` makes of SIGTERM and SIGHUP (tests/common/test_files.py has InputError)."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import InputError, one_line
from tests.conftest import PATIENCE, ROOT

SIGNAL_TWICE = """
import os, signal
from common.errors import run_main
from tracking.checkpoint import StopRequest

def main():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.NAME)
        print("asked:", stop.exit_code)
    try:
        os.kill(os.getpid(), signal.NAME)
        print("not reached")
    finally:
        os.kill(os.getpid(), signal.NAME)  # schedulers repeat it
        print("ended in good order")

run_main(main)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_main_in_good_order_unless_a_stop_request_waits_for_it(name: str, code: int) -> None:
    program = SIGNAL_TWICE.replace("NAME", name)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (f"asked: {code}\nended in good order\n", code), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
@pytest.mark.parametrize("place", ["finalizer", "callback"])
def test_a_signal_that_comes_where_python_drops_exceptions_ends_main_too(name: str, code: int, place: str) -> None:
    program = f"""
import os, signal, time, weakref
from common.errors import run_main

def stopped(reference=None):
    os.kill(os.getpid(), signal.{name})
    for _ in range(1000):
        pass
    print("not reached")

class Last:
    if "{place}" == "finalizer":
        __del__ = stopped

def main():
    thing = Last()
    reference = weakref.ref(thing, stopped) if "{place}" == "callback" else None
    try:
        del thing
        time.sleep({PATIENCE})
        print("slept")
    finally:
        print("ended in good order")

run_main(main)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("ended in good order\n", code), done.stderr
    assert done.stderr == ""


def test_other_errors_of_a_finalizer_are_told() -> None:
    program = """
from common.errors import run_main

class Last:
    def __del__(self):
        raise ValueError("lost words")

run_main(lambda: Last() and None)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "ValueError: lost words" in done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_a_trainer_is_imported_ends_it_without_a_word(tmp_path: Path, name: str) -> None:
    """PyTorch takes seconds, and Ctrl-C comes first of all where a parameter was mistyped."""
    (tmp_path / "slow.py").write_text(f"import os, signal\nos.kill(os.getpid(), signal.{name})\nmain = print\n")
    done = run_module(tmp_path, "slow")
    assert (done.returncode, done.stdout, done.stderr) == (-getattr(signal, name), "", "")


def test_ctrl_c_behind_the_import_is_status_130_and_where_it_is_ignored_nothing(tmp_path: Path) -> None:
    later = "import os, signal\n\ndef main():\n    os.kill(os.getpid(), signal.SIGINT)\n    print('went on')\n"
    (tmp_path / "later.py").write_text(later)
    done = run_module(tmp_path, "later")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    done = run_module(tmp_path, "later", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); ")
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({}, "GOMP_SPINCOUNT = '30000'"),
        ({"GOMP_SPINCOUNT": "7"}, "GOMP_SPINCOUNT = '7'"),
        ({"OMP_WAIT_POLICY": "active"}, "GOMP_SPINCOUNT = '30000000000'"),
    ],
)
def test_threads_of_a_trainer_do_not_wait_long_in_a_loop(tmp_path: Path, given: dict[str, str], read: str) -> None:
    """What PyTorch's OpenMP has read, by its own words; `active` is that of someone who has the machine alone."""
    (tmp_path / "trains.py").write_text("import torch\n\ndef main():\n    pass\n")
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    said = run_module(tmp_path, "trains", environment={**environment, **given, "OMP_DISPLAY_ENV": "verbose"}).stderr
    if "GOMP_" not in said:
        pytest.skip("PyTorch does not come with GNU's OpenMP here")
    assert read in said


def run_module(
    folder: Path, name: str, before: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    program = (
        f"{before}import sys; sys.path.insert(0, {str(folder)!r}); import common.errors as e; e.run_module({name!r})"
    )
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("becomes_another", [False, True])
def test_a_trainer_whose_launcher_dies_while_it_is_imported_ends(tmp_path: Path, becomes_another: bool) -> None:
    """becomes_another: as a trainer of nproc=2 becomes torchrun, which looks for its parent when it is imported."""
    other = (
        "import common.parent, os, sys, time\n"
        "print('begun', flush=True)\n"
        "while os.getppid() == int(sys.argv[1]):\n"
        "    time.sleep(0.01)\n"
        "common.parent.stop_without_parent()\n"
        f"time.sleep({PATIENCE})\n"
    )
    becoming = f"import os, sys\nos.execv(sys.executable, [sys.executable, '-c', {other!r}, str(os.getppid())])\n"
    at_once = f"import time\nprint('begun', flush=True)\ntime.sleep({PATIENCE})\n"
    (tmp_path / "slow.py").write_text(becoming if becomes_another else at_once)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import common.errors as e; e.run_module('slow')"
    launcher = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"],
        cwd=ROOT,
        env={**os.environ, "MLFLOW_RUN_ID": "a"},
        stdout=subprocess.PIPE,
    )
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == b"begun\n"
    launcher.kill()
    assert launcher.stdout.read() == b""  # its end: nobody has the pipe any more
    launcher.wait()


def test_under_nohup_a_closed_terminal_stops_nothing() -> None:
    program = SIGNAL_TWICE.replace("NAME", "SIGHUP")
    command = ["nohup", sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.stdout == "asked: 0\nnot reached\nended in good order\n", done.stderr
    assert done.returncode == 0


def test_a_closed_terminal_ends_main_in_good_order(tmp_path: Path) -> None:
    """In a terminal that goes away in the middle: what main prints afterwards raises nothing."""
    program = f"""
import os, pathlib, signal, sys, time
from common.errors import run_main
from tracking.checkpoint import StopRequest

def main():
    with StopRequest() as stop:
        print("ready", flush=True)
        while not stop.requested:
            time.sleep(0.01)
        print("a line for nobody", flush=True)
        print("and one more", file=sys.stderr, flush=True)
        pathlib.Path({str(tmp_path / "saved")!r}).write_text(str(stop.exit_code))
    return stop.exit_code

run_main(main)
"""
    terminal, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=side, stdout=side, stderr=side, start_new_session=True
    )
    os.close(side)
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    assert process.wait(PATIENCE) == 129
    assert (tmp_path / "saved").read_text() == "129"


def test_a_message_that_repeats_a_long_value_is_cut_in_the_middle() -> None:
    assert one_line(InputError("a\nb  c")) == "a b c"
    line = one_line(InputError(f"space: x={'a' * 10_000} is not a range; write low..high"))
    assert len(line) < 2000
    assert line.startswith("space: x=aaa")
    assert line.endswith("aaa is not a range; write low..high")


@pytest.mark.parametrize(
    "statement",
    [
        "import numpy; numpy.empty((10**7, 10**7))",
        "import torch; torch.empty(10**7, 10**7)",
        "import torch; torch.empty(2**62, 2**62)",
        "raise MemoryError",
    ],
)
def test_too_little_memory_is_one_line(statement: str) -> None:
    program = f"from common.errors import run_main\ndef main():\n    {statement}\nrun_main(main)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr.startswith("error: not enough memory (")
    assert len(done.stderr.splitlines()) == 1


def test_too_little_space_is_one_line() -> None:
    program = (
        "from common.errors import run_main\ndef main():\n    open('/dev/full', 'w').write('x' * 10**6)\nrun_main(main)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 1)
    [line] = done.stderr.splitlines()
    assert line.startswith("error: no space is left ([Errno 28] No space left on device): make room, and give")

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

"""What `run_main` makes of SIGTERM (tests/common/test_files.py has InputError)."""

import subprocess
import sys

from tests.conftest import ROOT

SIGTERM_TWICE = """
import os, signal
from common.errors import run_main
from tracking.checkpoint import StopRequest

def main():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        print("asked:", stop.exit_code)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        print("not reached")
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers repeat it
        print("ended in good order")

run_main(main)
"""


def test_sigterm_ends_main_in_good_order_unless_a_stop_request_waits_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", SIGTERM_TWICE], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("asked: 143\nended in good order\n", 143), done.stderr
    assert "Traceback" not in done.stderr

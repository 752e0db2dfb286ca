"""The error that users see, and the place that turns it, or SIGTERM, into an exit status."""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType


class InputError(Exception):
    """Something the user gave is wrong: a parameter, a path, a file.

    The message is one line that says what is wrong, where, what is allowed and what to do.
    """


def run_main(main: Callable[[], int | None]) -> None:
    """Run `main` and exit: status 2 with one line on stderr for an InputError, 143 for SIGTERM, else main's own status.

    SIGTERM raises SystemExit wherever `main` is, so that an open run ends as KILLED. A trainer with checkpoints
    uses `tracking.StopRequest`, which handles the signal itself while it is active.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _exit_on)
    try:
        status = main()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    sys.exit(status or 0)


def _exit_on(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # schedulers repeat the signal, and the run must still be ended properly
    sys.exit(128 + number)

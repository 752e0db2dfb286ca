"""The error that users see, and the place that turns it, or a signal, into an exit status."""

import contextlib
import errno
import importlib
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Callable
from types import FrameType

from common.parent import stop_without_parent, works_for_another

LONGEST_LINE = 2000
"""Characters of an error that are printed."""
SPIN_COUNT = "30000"
"""How long a thread of libgomp counts in a loop for the others before it sleeps (`GOMP_SPINCOUNT`)."""


class InputError(Exception):
    """Something the user gave is wrong: a parameter, a path, a file.

    The message is one line that says what is wrong, where, what is allowed and what to do.
    """


def run_module(name: str) -> None:
    """`run_main` with the `main` of a module, which is imported here.

    PyTorch takes seconds, in which a signal, Ctrl-C too, ends the process at once, without a word, and so does the end
    of its launcher.
    """
    wait_briefly()
    if works_for_another():
        stop_without_parent()
    on_interrupt = signal.getsignal(signal.SIGINT)
    if on_interrupt is signal.default_int_handler:  # not where it is ignored, in the background of a shell
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    main = importlib.import_module(name).main

    def heeding_ctrl_c() -> int | None:
        signal.signal(signal.SIGINT, on_interrupt)
        return main()

    run_main(heeding_ctrl_c)


def wait_briefly() -> None:
    """Let the threads of PyTorch sleep soon where one of them has to wait, unless the environment says how they wait.

    By default they count to 300,000 first. Where other work has the processor that the awaited thread needs, two
    threads are then slower than one: `benchmarks.openmp_spin`. libgomp reads the variable once, when PyTorch is
    imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def run_main(main: Callable[[], int | None]) -> None:
    """Run `main` and exit: status 2 with one line on stderr for an InputError, else main's own status.

    Too little memory, or space on the disk, is status 1 with one line. Ctrl-C is status 130, without a traceback.
    SIGTERM (status 143) and SIGHUP, which a closed terminal sends (129), raise SystemExit wherever `main` is, so that
    an open run ends as KILLED; where Python drops it, in a finalizer, the signal comes again. A trainer with
    checkpoints uses `tracking.StopRequest`, which handles the signals itself while it is active.
    """
    if threading.current_thread() is threading.main_thread():
        for number in stop_signals():
            signal.signal(number, _exit_on)
        sys.unraisablehook = _deliver_again
    try:
        status = main()
    except KeyboardInterrupt:
        sys.exit(130)  # Ctrl-C before or after the training, or a second one: the run has been ended
    except InputError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        said = one_line(error)[:200]
        if is_out_of_memory(error):
            print(f"error: not enough memory ({said}): take smaller batches, or smaller networks", file=sys.stderr)
        elif disk_is_full(error):
            print(f"error: no space is left ({said}): make room, and give the same command again", file=sys.stderr)
        else:
            raise
        sys.exit(1)
    sys.exit(status or 0)


def one_line(error: Exception) -> str:
    """The error's message on one line, without the middle of a value of thousands of characters."""
    line = " ".join(str(error).split())
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 3 :]}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or torch (which has no class of its own for the CPU) could not get the memory asked for."""
    words = (
        r"out of memory|allocate memory|not enough memory|Storage size calculation overflowed|multiplication overflow"
    )
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(re.search(words, str(error))))


def disk_is_full(error: BaseException | None) -> bool:
    """Whether the error says that no more can be written: the disk is full, a quota or a limit of sizes is reached."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    # torch.save and safetensors raise errors of their own.
    words = (
        r"No space left on device|PytorchStreamWriter failed writing|unexpected pos \d+ vs \d+|Disk quota exceeded"
        r"|basic_ios::clear: iostream error"
    )
    return error is not None and bool(re.search(words, str(error)))


def stop_signals() -> list[signal.Signals]:
    """SIGTERM, and SIGHUP where there is one that is not ignored: under nohup a run outlives its terminal."""
    hangup: signal.Signals | None = getattr(signal, "SIGHUP", None)
    if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN:
        return [signal.SIGTERM]
    return [signal.SIGTERM, hangup]


def leave_terminal(number: int) -> None:
    """After SIGHUP the terminal is gone, and every print to it would raise: what is printed goes nowhere instead."""
    if number == getattr(signal, "SIGHUP", None):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            if stat.S_ISCHR(os.fstat(stream).st_mode):  # a terminal that is gone is no longer one to os.isatty
                os.dup2(nowhere, stream)
        os.close(nowhere)


class _StoppedBySignal(SystemExit):
    """What `_exit_on` raises: exit status 128 + signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


def _exit_on(number: int, frame: FrameType | None) -> None:
    leave_terminal(number)
    signal.signal(number, signal.SIG_IGN)  # schedulers repeat the signal, and the run must still be ended properly
    raise _StoppedBySignal(number)


def _deliver_again(dropped: "sys.UnraisableHookArgs") -> None:
    """Send the signal once more whose exception Python has dropped.

    A signal is handled between any two steps of Python, in a finalizer or a callback of a weak reference too, and an
    exception raised there goes nowhere: the process would run on, and ignore every further signal.
    """
    if isinstance(dropped.exc_value, _StoppedBySignal):
        number = dropped.exc_value.number
        signal.signal(number, _exit_on)
    elif isinstance(dropped.exc_value, KeyboardInterrupt):
        number = signal.SIGINT
    else:
        sys.__unraisablehook__(dropped)
        return
    with contextlib.suppress(RuntimeError):  # no thread can begin while Python ends: the process is going already
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()  # sent from here, it would be dropped again

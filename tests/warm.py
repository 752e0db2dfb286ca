"""Trainers in processes of their own without the seconds that each takes to import its packages.

They are forks of one process that has imported them and rehearsed a run (multiprocessing's forkserver; one for each
process of pytest), and can be killed and sent signals like any process. Tests whose matter is how a command begins,
what it imports, or its terminal, start real ones: `tests.running.begin_trainer` and `start_trainer`.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

from tests.conftest import PATIENCE

CONTEXT = multiprocessing.get_context("forkserver")


class Warm:
    """`python -m module argv` in `folder`, with `variables` for its environment, begun; the names are Popen's."""

    def __init__(self, module: str, argv: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
        descriptor, name = tempfile.mkstemp()
        os.close(descriptor)
        self.module, self._printed = module, Path(name)
        CONTEXT.set_forkserver_preload(["tests.preloaded"])
        with mock.patch.dict(os.environ, variables):
            forkserver.ensure_running()
        arguments = (module, list(argv), folder, dict(variables), self._printed)
        self._process = CONTEXT.Process(target=_become, args=arguments)
        self._process.start()

    def poll(self) -> int | None:
        """The exit status; a negative one is a signal's number. None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.pid is not None and self.poll() is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> tuple[int, str]:
        """Wait: (exit status, stdout and stderr together). AssertionError where it hangs."""
        try:
            self._process.join(PATIENCE)
            if self._process.exitcode is None:
                self.kill()
                self._process.join()
                raise AssertionError(f"{self.module} hangs: {self._printed.read_text()}")
            return self._process.exitcode, self._printed.read_text()
        finally:
            self._printed.unlink()


def run_warm(module: str, argv: Sequence[str], folder: Path, variables: Mapping[str, str]) -> tuple[int, str]:
    """A `Warm` from its beginning to its end: (exit status, stdout and stderr together)."""
    return Warm(module, argv, folder, variables).end()


def _become(module: str, argv: list[str], folder: Path, variables: dict[str, str], printed: Path) -> None:
    """Be that command, as if Python had just been started."""
    file = os.open(printed, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = [module, *argv]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a child of multiprocessing leaves without
        sys.stdout.flush()

"""Trainers in processes of their own without the seconds that each takes to import its packages.

They are forks of one process that has imported them and computed nothing (multiprocessing's forkserver; one for each
process of pytest). Tests whose matter is a process, what it imports, or signals, start real commands:
`tests.running.begin_trainer` and `start_trainer`.
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


def run_warm(module: str, argv: Sequence[str], folder: Path, variables: Mapping[str, str]) -> tuple[int, str]:
    """`python -m module argv` in `folder`, with `variables` for its environment: (exit status, stdout and stderr
    together). AssertionError where it hangs.
    """
    descriptor, name = tempfile.mkstemp()
    os.close(descriptor)
    printed = Path(name)
    CONTEXT.set_forkserver_preload(["tests.preloaded"])
    with mock.patch.dict(os.environ, variables):
        forkserver.ensure_running()
    try:
        process = CONTEXT.Process(target=_become, args=(module, list(argv), folder, dict(variables), printed))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"{module} hangs: {printed.read_text()}")
        return process.exitcode, printed.read_text()
    finally:
        printed.unlink()


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

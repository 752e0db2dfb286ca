"""How much memory a pass needs: the growth of a process's peak resident memory, each measurement in a process of its
own (Linux).

What a process has once allocated, the next pass gets for nothing: only a fresh one shows what a pass asks for. Starting
Python and importing PyTorch takes seconds, though, so one process imports and each measurement is a fork of it, made
before it computed anything.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch


@contextlib.contextmanager
def grown_memory() -> Iterator[list[float]]:
    """Afterwards the list holds the megabytes by which this process's peak resident memory grew inside."""
    megabytes: list[float] = []
    # Importing libraries took more memory than is in use now: the kernel's high-water mark has to be set back first.
    Path("/proc/self/clear_refs").write_text("5")
    before = _high_water_mark()
    yield megabytes
    megabytes.append((_high_water_mark() - before) / 1024)


def _high_water_mark() -> int:
    """The process's peak resident memory in kilobytes since it was last set back."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def measure_apart(module: str, jobs: Sequence[Any], note: Callable[[int], None] | None = None) -> list[float | None]:
    """What `module`'s `answer_jobs` finds for each job, in order; None where its process died. note: gets the number
    done.
    """
    found: list[float | None] = []
    with subprocess.Popen(
        [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(list(jobs)))
        server.stdin.close()
        for line in server.stdout:
            found.append(json.loads(line))
            if note is not None:
                note(len(found))
    return found + [None] * (len(jobs) - len(found))


def answer_jobs(measure: Callable[[Any], float]) -> None:
    """The other end of `measure_apart`: a fork for each job on standard input, a line of JSON for what `measure` gives
    there.
    """
    for job in json.load(sys.stdin):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(Exception):
                torch.set_num_threads(1)
                os.write(writer, json.dumps(measure(job)).encode())
            os._exit(0)  # nothing of the parent's is to be flushed or closed twice
        os.close(writer)
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        print(text or "null", flush=True)

"""Work over many files in several processes, and how many of them a machine has cores for."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def map_processes(function: Callable[..., T], arguments: Iterable[tuple[Any, ...]], n_workers: int) -> Iterator[T]:
    """`function(*a)` for each `a` of `arguments`, in their order, as they come; in this process if
    `n_workers` is 1.

    joblib's workers need no `if __name__ == "__main__"` in the caller's script and share no threads with it.
    """
    import joblib  # type: ignore[import-untyped]  # takes a moment that readers of images need not wait for

    parallel = joblib.Parallel(n_jobs=n_workers, return_as="generator")
    with warnings.catch_warnings():
        # It replaces workers whose memory has grown and says so; no job is lost.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs", category=UserWarning)
        yield from parallel(joblib.delayed(function)(*a) for a in arguments)


def available_cores() -> int:
    """Cores that this process may use (fewer than the machine's in a job of a cluster)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

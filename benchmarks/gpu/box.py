"""A part's time box, and what it finds: a line of JSON each, so that a part that dies or is cut off loses nothing."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

NO_TIME = "no time was left"


@dataclass(frozen=True)
class Settings:
    """What all parts are told. tiny: sizes for a test on a CPU. images: uint8 array of images (.npy), or None. out:
    the folder of the page and of what belongs to it."""

    tiny: bool
    images: Path | None
    out: Path


class Box:
    """What a part measures with: its device, the seconds it has, and the file that its rows go to."""

    def __init__(self, settings: Settings, path: Path, seconds: float) -> None:
        self.tiny, self.images, self.out = settings.tiny, settings.images, settings.out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._path, self._end = path, time.monotonic() + seconds

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def row(self, table: str, **values: Any) -> None:
        """A row of a table of the page."""
        self._write({"table": table, "row": values})

    def attempt(self, what: str, measure: Callable[[], Any]) -> None:
        """Call `measure`; what it raises is noted, and the part goes on. Nothing is begun after the box's end."""
        if self.left() <= 0:
            self._write({"failure": what, "why": NO_TIME})
            return
        try:
            measure()
        except Exception as error:
            self._write({"failure": what, "why": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        if self.on_gpu:
            torch.cuda.empty_cache()

    def _write(self, record: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def synchronize(device: torch.device) -> None:
    """Wait for the GPU; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds on the clock until `call` is done, on the GPU, too."""
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - began


def median_seconds(call: Callable[[], Any], device: torch.device, rounds: int, at_most: float = math.inf) -> float:
    """Median seconds of up to `rounds` calls, one at least, for not much longer than `at_most` seconds together."""
    taken: list[float] = []
    while not taken or (len(taken) < rounds and sum(taken) < at_most):
        taken.append(seconds_of(call, device))
    return sorted(taken)[len(taken) // 2]


def start_memory(device: torch.device) -> None:
    """Set the peak of `peak_megabytes` back."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_megabytes(device: torch.device) -> float | None:
    """Peak of allocated GPU memory since `start_memory`; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 2**20, 1) if device.type == "cuda" else None


def set_precision(precision: str) -> None:
    """fp32: products as they are; tf32 (and bf16, whose remaining fp32 products): TF32 allowed."""
    exact = precision == "fp32"
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact
    torch.backends.cudnn.benchmark = True

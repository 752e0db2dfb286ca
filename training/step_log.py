"""From the metrics of each step to the points of a run's curves, without waiting for the device on every step."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tracking.run import Run
from tracking.silent_run import SilentRun
from training.processes import Processes
from training.session import NotFinite


class StepLog:
    """Collects the metrics of each step on the device and turns them into points of curves.

    Waiting for the device happens once every `log_every` steps, when the rows since the last point are averaged,
    checked for NaN and infinity, and handed to the run.
    """

    def __init__(
        self, run: Run | SilentRun, processes: Processes, names: Sequence[str], log_every: int, batch_size: int
    ) -> None:
        self.run, self.processes, self.names = run, processes, names
        self.log_every, self.batch_size = log_every, batch_size
        self.rows: list[Tensor] = []
        self.steps: list[int] = []
        self.history: list[list[float]] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave the time since the last point out of the step time (a checkpoint or a grid was written)."""
        self._clock, self._timed_steps = time.perf_counter(), 0

    def add(self, metrics: Tensor, step: int) -> None:
        self.rows.append(metrics)
        self._timed_steps += 1
        if step % self.log_every == 0:
            self.flush(step)

    def flush(self, step: int) -> None:
        """Log the mean of the rows so far as the point of `step`; raise NotFinite if one of them is not finite."""
        table = self.processes.mean(torch.stack(self.rows)).cpu()  # waits for the device
        self._check(table, step)
        seconds = (time.perf_counter() - self._clock) / max(self._timed_steps, 1)
        values = table.double().mean(0).tolist()
        self.rows.clear()
        self.steps.append(step)
        self.history.append(values)
        point = dict(zip(self.names, values, strict=True))
        self.run.log_metrics({**point, "step_seconds": seconds, "images_per_second": self.batch_size / seconds}, step)
        self.restart_clock()

    def check(self, step: int) -> None:
        """Raise NotFinite if a step since the last point has a loss that is not finite; nothing is logged.

        Afterwards the rows are the means over the processes: a checkpoint holds one process's, for all to go on from.
        """
        if self.rows:
            table = self.processes.mean(torch.stack(self.rows))
            self._check(table.cpu(), step)
            self.rows = list(table)

    def _check(self, table: Tensor, step: int) -> None:
        bad = (~table.isfinite()).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            first = step - len(table) + 1 + row
            raise NotFinite(f"{self.names[column]} became {table[row, column].item()} at step {first}")

    def last(self, name: str) -> float | None:
        """The newest point of a curve; None before the first. Asked at every step, so it looks at nothing else."""
        return self.history[-1][self.names.index(name)] if self.history else None

    def column(self, name: str) -> list[float]:
        index = self.names.index(name)
        return [values[index] for values in self.history]

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": [row.cpu() for row in self.rows],
            "steps": list(self.steps),
            "history": list(self.history),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [row.to(self.processes.device) for row in state["rows"]]
        self.steps, self.history = list(state["steps"]), list(state["history"])

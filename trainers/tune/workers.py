"""The worker processes that a launcher of a study starts on its machine, starts anew where they are killed, and
stops.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from common.errors import InputError
from trainers.tune.config import TuneConfig
from training.config import as_params

STOP_SECONDS = 60.0
"""What a worker may take to write its checkpoint and end its run after SIGTERM; then it is killed."""


class Workers:
    """The worker processes of this machine."""

    def __init__(self, config: TuneConfig) -> None:
        self._config = config
        self._log_folder = config.output_dir.absolute() / "studies"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._restarts = 0

    def log_path(self, index: int) -> Path:
        return self._log_folder / f"{self._config.study_name().replace('/', '-')}-worker{index}.log"

    def start(self) -> None:
        """Start them, where that has not been done."""
        if not self._processes:
            self._log_folder.mkdir(parents=True, exist_ok=True)
            self._processes = [self._spawn(index) for index in range(self._config.n_workers)]

    def _spawn(self, index: int) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_RUN_ID"}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // self._config.n_workers)))
        environment |= _gpu(index, self._config.device)
        with open(self.log_path(index), "ab") as log:
            # A session of its own: Ctrl-C reaches this process alone, which tells the workers once.
            process = subprocess.Popen(
                [sys.executable, "-m", "trainers.tune.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"config": as_params(self._config), "launcher": os.getpid()}).encode())
            process.stdin.close()
        return process

    def check(self) -> None:
        """Start anew what was killed; InputError with a worker's own words where one gave up."""
        for index, process in enumerate(self._processes):
            status = process.poll()
            if status is None:
                continue
            if (status < 0 or status in (130, 143)) and self._restarts < 3 * self._config.n_workers:
                self._restarts += 1
                print(f"worker {index} was killed by signal {abs(status) % 128}; starting another", file=sys.stderr)
                self._processes[index] = self._spawn(index)
                continue
            lines = self.log_path(index).read_text(errors="replace").strip().splitlines()
            said = next(
                (line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "nothing"
            )
            raise InputError(
                f"a worker ended with status {status}: {said.removeprefix('error: ')} (log: {self.log_path(index)})"
            )

    def stop(self) -> None:
        """SIGTERM to all, and wait until they have ended their runs."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _gpu(index: int, device: str) -> dict[str, str]:
    """The workers take the machine's GPUs in turn."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return {}
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]}

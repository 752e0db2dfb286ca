"""Memory, file descriptors and threads of a long training: do they stay flat?

    python -m benchmarks.steadiness [--steps 100000]

A WGAN-GP as small as the networks go is trained by the real entry point in a process of its own, with metrics every 10
steps, grids and checkpoints now and then, against a SQLite store. At every line of progress (15 s apart) its private
memory (USS, MB), open file descriptors and threads are read. A tenth of the steps at the start is left out: libraries
are loaded and caches filled there. The slope is that of a straight line (least squares), per 100,000 steps, with its
95 % interval; largest less smallest stands beside it: over 1,500 steps one MB, taken once, looks like 65. The last line
is one JSON object.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import torch
from scipy import stats

from common.errors import run_main

MEASURES = ("private memory, MB", "descriptors", "threads")
PER = 100_000
SETTINGS = {
    "ngf": 16,
    "ndf": 16,
    "nz": 4,
    "batch_size": 2,
    "n_dis": 1,
    "log_every": 10,
    "sample_every": 2500,
    "checkpoint_every": 1000,
}
STEP = re.compile(r"step (\d+)/\d+ ")


def train_and_watch(steps: int, folder: Path) -> np.ndarray:
    """Rows of (step, MEASURES), one for each line of progress."""
    options = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "trainers.wgan", "--preset", "quick", "--steps", str(steps), *options]
    uri = f"sqlite:///{folder}/mlflow.db"
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": os.getcwd()}
    rows = []
    with subprocess.Popen(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as trainer:
        assert trainer.stdout is not None
        watched = psutil.Process(trainer.pid)
        for line in trainer.stdout:
            print(line, end="", flush=True)
            if found := STEP.match(line):
                memory = watched.memory_full_info().uss / 1e6
                rows.append((int(found[1]), memory, watched.num_fds(), watched.num_threads()))
    if trainer.returncode:
        raise SystemExit(f"the training ended with status {trainer.returncode}")
    del rows[-1:]  # of the line at the loop's end, when the trainer does other things
    return np.array(rows, dtype=float).reshape(-1, 1 + len(MEASURES))


def slope_of(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """(slope of the line through the points, its 95 % interval): 0 where all y are equal (SciPy gives NaN there)."""
    if np.ptp(y) == 0:
        return 0.0, 0.0, 0.0
    fit = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, len(y) - 2) * fit.stderr)
    return float(fit.slope), float(fit.slope) - half, float(fit.slope) + half


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steadiness", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = train_and_watch(args.steps, Path(folder))
    rows = rows[rows[:, 0] > args.steps / 10]
    if len(rows) < 10:
        raise SystemExit(f"{len(rows)} readings are too few for a slope; give more --steps")
    print(f"\n| | at the start | at the end | slope per {PER:,} steps | largest less smallest |\n|---|---|---|---|---|")
    slopes: dict[str, float] = {}
    spread: dict[str, list[float]] = {}
    for column, name in enumerate(MEASURES, 1):
        y = rows[:, column]
        slopes[name], low, high = slope_of(rows[:, 0] / PER, y)
        spread[name] = [low, high]
        print(
            f"| {name} | {y[0]:.0f} | {y[-1]:.0f} | {slopes[name]:+.2f} ({low:+.2f} to {high:+.2f}) | {np.ptp(y):.0f} |"
        )
    conditions = {"steps": args.steps, "readings": len(rows), "torch": torch.__version__}
    print(
        json.dumps({"name": "steadiness", "ratios": {}, "slopes": slopes, "spread": spread, "conditions": conditions})
    )


if __name__ == "__main__":
    run_main(main)

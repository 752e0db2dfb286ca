"""What logging costs a training step: `run.log_metrics` beside MLflow's own calls, in one process, on SQLite and over
HTTP.

    python -m benchmarks.tracking_overhead [--rounds 7] [--steps 400]

Every round times the same calls (10 metrics each) through the three ways, one after the other; the ratio is
the peer's median time per call over ours, per round. Then a loop of 50 ms steps logs through the spool, and
the CPU time of its writer thread is read from the operating system: what the training shares its process
with. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import psutil
import torch

import tracking
from tests.tracking.servers import Server
from tracking import store

STEP_SECONDS = 0.05
PEER_CALLS, OUR_CALLS = 15, 300
VALUES = {f"metric_{number}": 0.1 * number for number in range(10)}


def seconds_per_call(call: Callable[[int], object], calls: int, start: int) -> float:
    """Median time of one call."""
    times = []
    for step in range(start, start + calls):
        begin = time.perf_counter()
        call(step)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def compare_calls(label: str, uri: str, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Per round, each peer's time per call over ours; prints the times."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("peers")
    times: dict[str, list[float]] = {"ours": [], "mlflow.log_metrics": [], "mlflow.log_metrics async": []}
    with tracking.start_run("benchmark", {}, output_dir=folder) as run, mlflow.start_run():
        for number in range(rounds):
            start = number * OUR_CALLS
            ours = seconds_per_call(lambda step: run.log_metrics(VALUES, step), OUR_CALLS, start)
            times["ours"].append(ours)
            sync = seconds_per_call(lambda step: mlflow.log_metrics(VALUES, step), PEER_CALLS, start)
            times["mlflow.log_metrics"].append(sync)
            asynchronous = seconds_per_call(
                lambda step: mlflow.log_metrics(VALUES, step, synchronous=False), PEER_CALLS, start + PEER_CALLS
            )
            times["mlflow.log_metrics async"].append(asynchronous)
            mlflow.flush_async_logging()
    for name, measured in times.items():
        median = statistics.median(measured)
        print(
            f"{label:7} {name:26} {1e6 * median:10.1f} us per call"
            f"  {100 * median / STEP_SECONDS:8.3f} % of a 50 ms step"
        )
    own = times.pop("ours")
    return {f"{label}: {name}": [a / b for a, b in zip(peer, own, strict=True)] for name, peer in times.items()}


def writer_share(label: str, uri: str, folder: Path, steps: int) -> float:
    """CPU seconds of the writer thread per second of a loop of 50 ms steps, each logging 10 metrics."""
    mlflow.set_tracking_uri(uri)
    with tracking.start_run("benchmark", {}, output_dir=folder) as run:
        run.deliver()
        before, begin = thread_seconds(run._writer.native_id), time.perf_counter()
        for step in range(steps):
            run.log_metrics(VALUES, step)
            time.sleep(STEP_SECONDS)
        run.deliver()
        share = (thread_seconds(run._writer.native_id) - before) / (time.perf_counter() - begin)
    print(
        f"{label:7} {'writer thread':26} {1e6 * share * STEP_SECONDS:10.1f} us per step  {100 * share:8.3f} % of a 50 "
        "ms step"
    )
    return share


def thread_seconds(thread_id: int | None) -> float:
    """CPU time that one thread of this process has used."""
    return sum(thread.user_time + thread.system_time for thread in psutil.Process().threads() if thread.id == thread_id)


def main() -> None:
    """Measure on both stores and print the table and the JSON line."""
    parser = argparse.ArgumentParser(description="What logging costs a training step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    ratios: dict[str, list[float]] = {}
    shares = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        server = Server(folder).start()
        try:
            for label, uri in {"sqlite": f"sqlite:///{folder}/local.db", "http": server.uri}.items():
                store.connect(uri)
                ratios |= compare_calls(label, uri, folder / label, arguments.rounds)
                shares[label] = writer_share(label, uri, folder / label, arguments.steps)
        finally:
            server.kill()
    result = {
        "name": "tracking_overhead",
        "ratios": {label: round(statistics.median(values), 1) for label, values in ratios.items()},
        "spread": {label: [round(min(values), 1), round(max(values), 1)] for label, values in ratios.items()},
        "conditions": {
            "metrics_per_call": len(VALUES),
            "step_seconds": STEP_SECONDS,
            "writer_share": {label: round(share, 5) for label, share in shares.items()},
            "rounds": arguments.rounds,
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "mlflow": mlflow.__version__,
        },
    }
    sys.stdout.flush()
    print(json.dumps(result))


if __name__ == "__main__":
    main()

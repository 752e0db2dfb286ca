"""How long threads should wait for each other in a loop: steps of `wgan` with two threads, alone and on a busy machine.

    python -m benchmarks.openmp_spin --counts 0,1000,10000,30000 --busy 0,2 --rounds 3

GNU's OpenMP (libgomp, with which PyTorch's packages for Linux come) lets a thread that is done count in a loop before
it sleeps: 300,000 times or more by default, `GOMP_SPINCOUNT`. On a machine with other work the thread that it waits for
may not be running, and the loop takes the processor that it needs. Each measurement is a process of its own, which
trains `preset=quick` for some seconds; the settings take turns. busy: processes that count beside it. A ratio is the
steps per second with a setting by those with the library's default.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time

import torch

from benchmarks.wgan_equal_time import our_side
from benchmarks.wgan_settings import config_of, load
from common.errors import run_main

DEFAULT = "default"
WARM_UP = 3
"""Steps that are not counted."""


def child(seconds: float) -> None:
    """Train for `seconds`, and print steps per second, and seconds of processor time a step."""
    config = config_of("", 0)
    side = our_side(config, load(config, config.split))
    for _ in range(WARM_UP):
        side.step()
    began, used, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        side.step()
        steps += 1
    took = time.perf_counter() - began
    print(json.dumps({"speed": steps / took, "processor": (time.process_time() - used) / steps}))


def measure(count: str, seconds: float, threads: int) -> dict[str, float]:
    """`child` in a process with this `GOMP_SPINCOUNT`."""
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment["OMP_NUM_THREADS"] = str(threads)
    if count != DEFAULT:
        environment["GOMP_SPINCOUNT"] = count
    command = [sys.executable, "-m", "benchmarks.openmp_spin", "--child", str(seconds)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def count_for_ever() -> None:
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.openmp_spin", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--counts", default="0,1000,10000,30000", help="values of GOMP_SPINCOUNT")
    parser.add_argument("--busy", default="0,2", help="numbers of processes that count beside it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    counts, ratios, spread = [DEFAULT, *args.counts.split(",")], {}, {}
    print("| busy processes | GOMP_SPINCOUNT | steps/s | processor s a step |\n|---|---|---|---|")
    for n_busy in map(int, args.busy.split(",")):
        others = [multiprocessing.Process(target=count_for_ever, daemon=True) for _ in range(n_busy)]
        for other in others:
            other.start()
        rounds = [{c: measure(c, args.seconds, args.threads) for c in counts} for _ in range(args.rounds)]
        for other in others:
            other.terminate()
        for count in counts:
            speed, processor = (statistics.median(r[count][name] for r in rounds) for name in ("speed", "processor"))
            print(f"| {n_busy} | {count} | {speed:.2f} | {processor:.2f} |", flush=True)
            against = [r[count]["speed"] / r[DEFAULT]["speed"] for r in rounds]
            label = f"{count}, {n_busy} busy"
            ratios[label], spread[label] = statistics.median(against), [min(against), max(against)]
    conditions = {"threads": args.threads, "cores": os.cpu_count(), "rounds": args.rounds, "torch": torch.__version__}
    print(json.dumps({"name": "openmp_spin", "ratios": ratios, "spread": spread, "conditions": conditions}))


if __name__ == "__main__":
    run_main(main)

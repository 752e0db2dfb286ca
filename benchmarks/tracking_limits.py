"""Where the shared services of a team end: MLflow's server over PostgreSQL, and Optuna's storages.

    python -m benchmarks.tracking_limits            # all; --parts points,search,study for some

Starts a PostgreSQL cluster and an MLflow server of its own (Debian: apt-get install postgresql, as for tests/stack) and
measures

- points: metric points per second into PostgreSQL through the server, by `tracking.Run` (a spool sent in batches of
1000) with 1, 2
  and 4 trainers at once, beside `mlflow.log_metrics` once per step; 10 metrics per step, one server process;
- search: seconds of the queries behind the UI's run table with 100 to 20,000 runs in the experiment, each a copy of one
real run;
- study: trials per second of 1 to 8 worker processes on one Optuna study (random search, 8 reports per trial, no work
in
  between, so that nothing but the storage is measured), in a journal file and in PostgreSQL.

The last line is JSON. Its ratio: points per second of one `tracking.Run` over those of `mlflow.log_metrics`.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import optuna
from mlflow import MlflowClient
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from tests.stack.services import Postgres, postgres_folder
from tests.tracking.servers import Server
from tracking.run import start_run

NAMES = [f"metric_{i}" for i in range(10)]
PARAMS = {f"param_{i}": i for i in range(40)}  # about as many as a trainer has


def record(folder: str, uri: str, steps: int) -> float:
    """Seconds from the first of `steps` x 10 points to the delivery of the last, through a Run."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    with start_run("limits", PARAMS, output_dir=Path(folder)) as run:
        run.deliver()
        began = time.perf_counter()
        for step in range(steps):
            run.log_metrics({name: step + 0.5 for name in NAMES}, step)
        assert run.deliver()
        return time.perf_counter() - began


def record_one_by_one(uri: str, experiment: str, steps: int) -> float:
    """Seconds of `steps` calls of mlflow.log_metrics with 10 metrics."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment)
    with mlflow.start_run():
        began = time.perf_counter()
        for step in range(steps):
            mlflow.log_metrics({name: step + 0.5 for name in NAMES}, step=step)
        return time.perf_counter() - began


def measure_points(folder: Path, uri: str, rounds: int, pool: Callable[[int], ProcessPoolExecutor]) -> dict[str, Any]:
    """Points per second, median and range of the rounds; with several trainers their sum."""
    rates: dict[str, list[float]] = {}
    ratios = []
    for _ in range(rounds):
        for trainers in (1, 2, 4):
            with pool(trainers) as processes:
                wait = [processes.submit(record, str(folder / "runs"), uri, 1000) for _ in range(trainers)]
                slowest = max(future.result() for future in wait)
            rates.setdefault(f"{trainers} trainers", []).append(trainers * 10_000 / slowest)
        one = 10 * 100 / record_one_by_one(uri, "one-by-one", 100)
        rates.setdefault("mlflow.log_metrics", []).append(one)
        ratios.append(rates["1 trainers"][-1] / one)
    print("\npoints per second into PostgreSQL through the server (10 metrics per step)")
    for name, values in rates.items():
        print(f"  {name:20s} {statistics.median(values):8,.0f}  [{min(values):,.0f}, {max(values):,.0f}]")
    return {"ratios": ratios}


def copy_run(postgres: Postgres, run_id: str, first: int, last: int) -> None:
    """Copies of a run, numbered first to last, each with a `score` of its own."""
    with postgres.connect("mlflow") as connection, connection.cursor() as cursor:
        for table in ("runs", "params", "tags", "latest_metrics"):
            cursor.execute("SELECT column_name FROM information_schema.columns WHERE table_name = %s", (table,))
            columns = [row[0] for row in cursor.fetchall()]
            values = {name: name for name in columns}
            values["run_uuid"] = "md5(i::text)"
            if table == "runs":
                values |= {"start_time": "start_time + i * 1000", "name": "'copy-' || i"}
            if table == "latest_metrics":
                values["value"] = "CASE WHEN key = 'score' THEN (i * 7919 %% 1000) / 1000.0 ELSE value END"
            cursor.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values[name] for name in columns)} "
                f"FROM {table}, generate_series(%s, %s) AS i WHERE run_uuid = %s",
                (first, last, run_id),
            )
        cursor.execute("SELECT count(*) FROM runs")
    connection.close()


QUERIES: dict[str, dict[str, Any]] = {
    "newest 100": {"order_by": ["attributes.start_time DESC"]},
    "best 100 by a metric": {"order_by": ["metrics.score DESC"]},
    "filter by a parameter and a metric": {"filter_string": "params.param_3 = '3' AND metrics.score > 0.9"},
}


def measure_search(folder: Path, postgres: Postgres, uri: str, rounds: int) -> None:
    """Seconds of the UI's queries as runs are added."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    with start_run("limits", PARAMS, output_dir=folder / "runs", experiment="many") as run:
        run.log_metrics({**{name: 0.5 for name in NAMES}, "score": 0.5}, 0)
        run.deliver()
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("many").experiment_id
    print("\nmilliseconds of a query for the run table, median of the rounds [range]")
    have = 1
    for n in (100, 1000, 5000, 20_000):
        copy_run(postgres, run.run_id, have + 1, n)
        have = n
        connection = postgres.connect("mlflow")
        connection.autocommit = True
        connection.cursor().execute("ANALYZE")
        connection.close()
        for name, query in QUERIES.items():
            times = []
            for _ in range(rounds + 1):
                began = time.perf_counter()
                found = client.search_runs([experiment], max_results=100, **query)
                times.append(1000 * (time.perf_counter() - began))
                assert len(found) == min(100, n) or "filter" in name
            times = times[1:]
            print(f"  {n:6,d} runs  {name:36s} {statistics.median(times):7.0f}  [{min(times):.0f}, {max(times):.0f}]")


def open_storage(address: str) -> BaseStorage:
    """A journal file, or a database address."""
    return RDBStorage(address) if "://" in address else JournalStorage(JournalFileBackend(address))


def work(address: str, study_name: str, n_trials: int) -> tuple[float, float]:
    """When this worker began and ended its trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(address)
    study = optuna.load_study(study_name=study_name, storage=storage, sampler=optuna.samplers.RandomSampler())
    began = time.time()
    for _ in range(n_trials):
        trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        for step in range(8):
            trial.report(x, step)
        study.tell(trial, x)
    return began, time.time()


def measure_study(folder: Path, postgres: Postgres, pool: Callable[[int], ProcessPoolExecutor], trials: int) -> None:
    """Trials per second of all workers together."""
    print("\ntrials per second on one study, all workers together (8 reports per trial, nothing in between)")
    for name, address in (("journal file", str(folder / "journal.log")), ("PostgreSQL", postgres.uri("studies"))):
        for workers in (1, 2, 4, 8):
            study_name = f"study-{workers}"
            optuna.create_study(study_name=study_name, storage=open_storage(address))
            with pool(workers) as processes:
                wait = [processes.submit(work, address, study_name, trials // workers) for _ in range(workers)]
                spans = [future.result() for future in wait]
            done = workers * (trials // workers)
            finished = optuna.load_study(study_name=study_name, storage=open_storage(address)).trials
            assert len(finished) == done
            seconds = max(end for _, end in spans) - min(start for start, _ in spans)
            print(f"  {name:14s} {workers} workers {done / seconds:8.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="points,search,study")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=160)
    options = parser.parse_args()
    programs = postgres_folder()
    if programs is None:
        raise SystemExit("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spawn = multiprocessing.get_context("spawn")

    def pool(n: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(n, mp_context=spawn)

    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        postgres = Postgres(programs)
        postgres.start()
        server = Server(folder, postgres.uri("mlflow"))
        try:
            if "study" in options.parts:
                measure_study(folder, postgres, pool, options.trials)
            if "points" in options.parts or "search" in options.parts:
                server.start()
            if "points" in options.parts:
                ratios = measure_points(folder, server.uri, options.rounds, pool)["ratios"]
            if "search" in options.parts:
                measure_search(folder, postgres, server.uri, options.rounds)
        finally:
            server.kill()
            postgres.stop()
    label = "points per second, tracking.Run over mlflow.log_metrics"
    print(
        json.dumps(
            {
                "name": "tracking_limits",
                "ratios": {label: round(statistics.median(ratios), 1)} if ratios else {},
                "spread": {label: [round(min(ratios), 1), round(max(ratios), 1)]} if ratios else {},
                "conditions": {
                    "rounds": options.rounds,
                    "trials": options.trials,
                    "cores": os.cpu_count(),
                    "database": "PostgreSQL on loopback",
                },
            }
        )
    )


if __name__ == "__main__":
    main()

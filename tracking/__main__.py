"""Commands on the store: `python -m tracking sync | reap | promote | import | resolve | init`.

sync delivers what training runs could not. reap ends runs that died silently. promote makes a model version the
champion. import registers published weights. resolve says which model an address names. init makes the store's
database.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from common.errors import InputError, run_main
from tracking.environment import usual_experiment
from tracking.outbox.sync import sync_run

STALE_MINUTES = 10.0
NEVER_BEAT_HOURS = 24.0


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and do it; 1 if something is left undelivered."""
    parser = argparse.ArgumentParser(prog="python -m tracking")
    commands = parser.add_subparsers(dest="command", required=True)
    sync_parser = commands.add_parser("sync", help="deliver the backlog of every run in a folder to its MLflow store")
    sync_parser.add_argument(
        "folder",
        nargs="?",
        default="runs",
        type=Path,
        help="a run's folder, or the folder of runs (default: runs)",
    )
    reap_parser = commands.add_parser("reap", help="end the RUNNING runs whose process is gone, as KILLED")
    reap_parser.add_argument(
        "--experiment", default=usual_experiment(), help="experiment of the runs (default: %(default)s)"
    )
    reap_parser.add_argument(
        "--minutes",
        type=float,
        default=STALE_MINUTES,
        help=f"minutes without a heartbeat after which a run counts as dead (default: {STALE_MINUTES:g})",
    )
    promote_parser = commands.add_parser(
        "promote", help="make a model version the champion, unless it is worse than the present one"
    )
    promote_parser.add_argument("uri", metavar="models:/name/version", help="the version to promote")
    promote_parser.add_argument(
        "--metric", help="metric to compare by (default: the one that the version was evaluated by)"
    )
    promote_parser.add_argument("--alias", default="champion", help="alias to move (default: champion)")
    import_parser = commands.add_parser("import", help="register published weights; prints the generator's address")
    import_parser.add_argument("folder", type=Path, help="such as pretrained/digits32")
    resolve_parser = commands.add_parser(
        "resolve", help="print the exact address of a model to serve; published weights are registered first"
    )
    resolve_parser.add_argument("model", help="models:/name, models:/name@alias, runs:/id/name, or a folder")
    commands.add_parser("init", help="make the SQLite database of the store, if it is not there")
    arguments = parser.parse_args(argv)
    if arguments.command == "init":
        from tracking import store

        store.connect(store.tracking_uri())
        return 0
    if arguments.command == "import":
        from training.generators.registration import register_published

        print(register_published(arguments.folder).uri)
        return 0
    if arguments.command == "resolve":
        print(resolved(arguments.model))
        return 0
    if arguments.command == "sync":
        return sync(arguments.folder)
    if arguments.command == "promote":
        from tracking.registry.promotion import promote

        return promote(arguments.uri, arguments.metric, arguments.alias)
    reap(arguments.experiment, arguments.minutes)
    return 0


def resolved(model: str) -> str:
    """The address of the MLflow model that `model` names: with its version's number, of published weights the
    registered generator's. InputError where there is none.
    """
    from tracking.registry.models import served_address
    from training.generators.published import is_published

    if is_published(model):
        from training.generators.registration import register_published

        return register_published(Path(model)).uri
    return served_address(model)


def sync(folder: Path) -> int:
    """Deliver what waits in `folder` (of one run, or of several runs) and print one line per run.

    Returns 0 if everything was delivered, else 1.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a run's folder or the folder that holds them (default: runs)")
    folders = [path.parent for path in sorted([*folder.glob("run.json"), *folder.glob("*/run.json")])]
    if not folders:
        raise InputError(f"{folder} holds no runs (no run.json in it or one level below)")
    return max(sync_run(run) for run in folders)


def reap(experiment: str, minutes: float) -> int:
    """End the RUNNING runs of `experiment` that are dead; returns how many it ended.

    A run is dead if it has had no heartbeat for `minutes`, or if it is a day old and never had one: `mlflow run` makes
    a run before it sets up the environment, and leaves it RUNNING if that fails.
    """
    from tracking import store

    uri = store.tracking_uri()
    try:
        client = store.connect(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise InputError(
                f"experiment {experiment!r} is not in {store.shown()}: give --experiment, or set MLFLOW_TRACKING_URI"
            )
        runs: list[Any] = []
        token = None
        while True:
            page = client.search_runs([found.experiment_id], "attributes.status = 'RUNNING'", page_token=token)
            runs += page
            token = page.token
            if not token:
                break
        ended = 0
        for run in runs:
            beat = run.data.tags.get("heartbeat")
            last = json.loads(beat)["time"] if beat else run.info.start_time / 1000
            silent = (time.time() - last) / 60
            if silent < (minutes if beat else NEVER_BEAT_HOURS * 60):
                continue
            client.set_tag(run.info.run_id, "reaped", f"no heartbeat for {silent:.0f} minutes")
            client.set_terminated(run.info.run_id, "KILLED", end_time=int(last * 1000))
            print(f"{run.info.run_id} ({run.info.run_name}): silent for {silent:.0f} minutes, ended as KILLED")
            ended += 1
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"tracking store {store.shown()}: {store.reason(error)}") from None
    print(f"{ended} of {len(runs)} RUNNING runs ended")
    return ended


if __name__ == "__main__":
    run_main(main)

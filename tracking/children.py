"""The runs of a study below their parent: their metrics, their end, and aliases for their models.

Every function raises InputError, in one line, if the store does not answer.
"""

import contextlib
import os
from collections.abc import Collection, Iterator
from typing import Any

from common.errors import InputError


def experiment_of(run_id: str) -> str:
    """The name of the run's experiment."""
    with _client() as client:
        return str(client.get_experiment(client.get_run(run_id).info.experiment_id).name)


def metrics_of(run_id: str) -> dict[str, float]:
    """The last value of each metric that the store has of the run."""
    with _client() as client:
        return dict(client.get_run(run_id).data.metrics)


def end_orphans(parent: str, alive: Collection[str]) -> list[str]:
    """End (KILLED) the RUNNING children of `parent` that are not among `alive`; returns their ids."""
    with _client() as client:
        experiment = client.get_run(parent).info.experiment_id
        children = f"tags.mlflow.parentRunId = '{parent}' and attributes.status = 'RUNNING'"
        orphans = [r.info.run_id for r in client.search_runs([experiment], children, max_results=1000)]
    ended = [run_id for run_id in orphans if run_id not in alive]
    for run_id in ended:
        end_killed(run_id)
    return ended


def end_inherited(run_id: str) -> None:
    """End the run that `mlflow run` made for this command, if one did, as one that found its work done in `run_id`."""
    fresh = os.environ.pop("MLFLOW_RUN_ID", None)
    if fresh and fresh != run_id:
        from tracking.outbox.delivery import hand_over

        with _client() as client:
            hand_over(client, fresh, run_id)


def end_killed(run_id: str) -> None:
    """End a run whose process is gone, if it is RUNNING."""
    with _client() as client:
        if client.get_run(run_id).info.status != "RUNNING":
            return
        client.set_tag(run_id, "reaped", "its process was killed")
        client.set_terminated(run_id, "KILLED")


def alias_models(run_id: str, alias: str) -> list[str]:
    """Give every model version that the run registered the alias; returns their addresses."""
    with _client() as client:
        found = [v for v in client.search_model_versions(f"run_id = '{run_id}'", max_results=100)]
        for version in found:
            client.set_registered_model_alias(version.name, alias, version.version)
        return sorted(f"models:/{version.name}/{version.version}" for version in found)


@contextlib.contextmanager
def _client() -> Iterator[Any]:
    """The store's client; whatever it raises becomes one line."""
    from tracking import store

    uri = store.tracking_uri()
    try:
        yield store.connect(uri)
    except InputError:
        raise
    except Exception as error:
        raise InputError(store.trouble(store.shown(), error)) from None

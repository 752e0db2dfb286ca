"""Start of a run: which run a process records into, found in the store or made there."""

import os
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from tracking.outbox.spool import read_facts
from tracking.resuming import folder_to_resume, run_folder

START_PATIENCE = 15.0
"""Seconds to wait for the server when a run is started.

After that the run is recorded on disk and created later.
"""


@dataclass(frozen=True)
class Opening:
    """What is known of a run when its process starts.

    Attributes:
        uri: the store's address, with its password; that of `facts` has none.
        artifacts: the address of the run's artifacts; None where it is not known yet.
        folder: the run's folder on this machine.
        facts: what `run.json` is to say; see `Spool.facts`.
        resumed: whether the run held something before.
        metric_steps: the last step of each metric that the store has.
        image_steps: the same for images.
    """

    uri: str
    artifacts: str | None
    folder: Path
    facts: dict[str, Any]
    resumed: bool
    metric_steps: dict[str, int]
    image_steps: dict[str, int]


def open_run(
    entry_point: str,
    output_dir: Path,
    tags: Mapping[str, Any],
    *,
    experiment: str,
    run_name: str | None,
    resume: str | None,
    inherited: str | None,
) -> Opening:
    """Find the run to continue, or create one with `tags`; on disk where the server is away.

    `inherited` is the id of the run that `mlflow run` made for this process. Raises InputError as `start_run` does.
    """
    from tracking import store

    uri = store.tracking_uri()
    _check_relative(uri, inherited)
    facts: dict[str, Any] = {
        "run_id": inherited,
        "tracking_uri": store.without_secrets(uri),
        "entry_point": entry_point,
        "experiment": experiment,
        "run_name": run_name,
    }
    folder = folder_to_resume(output_dir, resume, entry_point) if resume else None
    if folder is not None:
        facts |= read_facts(folder)
        if "MLFLOW_TRACKING_URI" in os.environ:  # the user, or `mlflow run`, says where the store is now
            facts["tracking_uri"] = store.without_secrets(uri)
        uri = store.with_secrets(facts["tracking_uri"])
    elif resume and resume != "latest":
        facts["run_id"] = resume

    _check_writable(folder or output_dir)  # before the store gets a run that could never be written
    store.use(uri)
    continues = facts["run_id"] is not None or folder is not None
    if not continues:
        facts |= {"local_id": f"offline-{uuid.uuid4().hex[:12]}", "tags": as_text(tags)}
    with store.answering_within(START_PATIENCE):
        client, stored = _stored_run(facts, folder, inherited, uri)
        if stored is not None:
            _check_entry_point(stored, facts["run_id"], entry_point)
            _check_not_deleted(stored, facts["tracking_uri"])
            store.check_artifact_folder(stored.info.artifact_uri)
            facts |= {"run_id": stored.info.run_id, "experiment_id": stored.info.experiment_id}
        # What another machine has delivered counts as recorded, too.
        metric_steps, image_steps = _delivered_steps(client, stored, facts["tracking_uri"])
    folder = folder or run_folder(output_dir, facts["run_id"] or facts["local_id"])
    has_records = (folder / "spool.jsonl").exists() or bool(stored and stored.data.metrics)
    return Opening(
        uri=uri,
        artifacts=stored.info.artifact_uri if stored is not None else None,
        folder=folder,
        facts=facts,
        resumed=has_records or (continues and bool(resume)),
        metric_steps=metric_steps,
        image_steps=image_steps,
    )


def as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """The same mapping with every value as text, as MLflow keeps tags and parameters."""
    return {key: str(value) for key, value in values.items()}


def _check_relative(uri: str, inherited: str | None) -> None:
    """`mlflow run` made its run in a relative SQLite file's database, in the folder where it was called: refuse to make
    another one here, in the project's.
    """
    from tracking import store

    given, path = os.environ.get("MLFLOW_TRACKING_URI", ""), store.sqlite_file(uri)
    if inherited and path is not None and not path.exists() and not os.path.isabs(str(store.sqlite_file(given) or "/")):
        raise InputError(
            f"MLFLOW_TRACKING_URI: {given} is a relative path, and `mlflow run` starts trainers in the project's "
            f"folder, {Path.cwd()}, where there is no such file: give sqlite:////absolute/path/{path.name}"
        )


def _check_entry_point(stored: Any, run_id: str | None, entry_point: str) -> None:
    made_by = stored.data.tags.get("entry_point", entry_point)
    if made_by != entry_point:
        raise InputError(f"run {run_id} is a {made_by} run: resume it with that entry point, not {entry_point}")


def _check_not_deleted(stored: Any, uri: str) -> None:
    """The store would refuse all that is recorded, after hours of training."""
    if stored.info.lifecycle_stage == "deleted":
        run_id = stored.info.run_id
        raise InputError(
            f"run {run_id} is deleted in {uri}: restore it with `MLFLOW_TRACKING_URI={uri} mlflow runs restore "
            f"--run-id {run_id}` (or its experiment with `mlflow experiments restore`), or start a new run"
        )


def _check_writable(folder: Path) -> None:
    """Make the folder and write into it, or raise InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(1 << 20))
            probe.flush()
    except OSError as error:
        raise InputError(
            f"output_dir: cannot write to {str(folder)!r} ({error.strerror or error}); give a folder that can be "
            "written"
        ) from None


def _delivered_steps(client: Any, stored: Any, uri: str) -> tuple[dict[str, int], dict[str, int]]:
    """The last step of each metric and of each image that the store has for the run."""
    if stored is None or not stored.data.metrics:
        return {}, {}
    from tracking import store

    try:
        return store.last_steps(stored), store.last_image_steps(client, stored.info.run_id)
    except Exception as error:  # of whatever store the artifacts are in: S3, HTTP, a folder
        raise InputError(
            f"tracking store {uri}: the artifacts of run {stored.info.run_id}: {store.reason(error)}; try again when "
            "they can be listed"
        ) from None


def _stored_run(facts: Mapping[str, Any], folder: Path | None, inherited: str | None, uri: str) -> tuple[Any, Any]:
    """The store's client and run: the one that `facts` names, or a new one.

    The run is None if the server does not answer. That is an error only for a run id that this machine does not know.
    """
    from tracking import store

    shown, run_id = facts["tracking_uri"], facts["run_id"]
    client = None
    try:
        client = store.connect(uri)
        if run_id is not None:
            return client, client.get_run(run_id)
        if folder is None:
            return client, _created_patiently(client, facts)
    except InputError:
        raise
    except Exception as error:
        if store.is_absent(error) and run_id == inherited:
            raise InputError(
                f"run {run_id}, which `mlflow run` made for this command, is not in {shown}: MLFLOW_TRACKING_URI must "
                "name the store in which it was made, by an absolute path"
            ) from None
        if store.is_absent(error):
            raise InputError(
                f"run {run_id} is not in {shown}: give a run id of this store, or `latest`, or set "
                "MLFLOW_TRACKING_URI to the run's own store"
            ) from None
        must_ask = run_id is not None and folder is None and run_id != inherited
        if must_ask or not uri.startswith("http") or not store.is_away(error):
            raise InputError(store.trouble(shown, error)) from None
        print(
            f"tracking: {shown} does not answer ({store.reason(error)}); recording on disk, delivering when it is back"
        )
    return client, None


def _created_patiently(client: Any, facts: Mapping[str, Any]) -> Any:
    """A new run, asking a server that does not answer for START_PATIENCE seconds."""
    from tracking import store

    deadline = time.monotonic() + START_PATIENCE
    while True:
        try:
            return store.created_run(client, facts)
        except Exception as error:
            if not store.is_away(error) or time.monotonic() > deadline:
                raise
            time.sleep(1.0)

"""Sends the operations of a spool to MLflow. An operation that is sent twice has the effect of once."""

import json
import os
import re
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image

from tracking import store
from tracking.outbox.spool import Operation, Spool, now_ms
from tracking.registry.evaluations import attributed

METRICS_PER_REQUEST = 1000
"""What MLflow accepts in one log_batch."""

TOO_LARGE = (
    "413, larger than the server's gateway takes; raise its limit (nginx: client_max_body_size, 1 MB by default)"
)

THUMBNAIL = 256
"""Side of the compressed copy beside a time-stepped image, as MLflow's own `log_image` makes it."""


class Damaged(Exception):
    """A line of the spool is not what was written."""


class Delivery:
    """Delivers a spool's operations to its run.

    Holds the client, which is made on first use and again after a failure to make it.
    """

    def __init__(self, spool: Spool, uri: str) -> None:
        self._spool, self._uri = spool, uri
        self._client: MlflowClient | None = None
        self._ended = False
        self.refused = 0

    def client(self) -> MlflowClient:
        """The client of the run's store; creates the run first if it was started while the store was away."""
        if self._client is None:
            self._client = store.connect(self._uri)
        facts = self._spool.facts()
        if facts["run_id"] is None:
            created = store.created_run(self._client, facts).info
            self._spool.set_facts(run_id=created.run_id, experiment_id=created.experiment_id)
        return self._client

    def send(self, operations: Sequence[tuple[Operation, int]]) -> None:
        """Deliver in order. Raises if the store is away; what it accepted before is marked as sent."""
        client = self.client()
        facts = self._spool.facts()
        run_id = facts["run_id"]
        metrics: list[tuple[Operation, int]] = []
        waiting = 0
        for operation, end in operations:
            if operation["op"] == "metrics":
                if waiting + len(operation["values"]) > METRICS_PER_REQUEST:
                    self._send_metrics(client, run_id, metrics)
                    metrics, waiting = [], 0
                metrics.append((operation, end))
                waiting += len(operation["values"])
                continue
            self._send_metrics(client, run_id, metrics)
            metrics, waiting = [], 0
            if operation.get("newest"):
                operation = {**operation, "file": self._spool.take_newest(operation["file"])}
            done = operation.get("again") and self._is_done(operation)
            done = done or self._or_set_aside(operation, partial(self._send_one, client, facts, operation))
            self._spool.mark_sent(end)
            if done and operation.get("file"):
                self._spool.remove_file(operation["file"])
            elif done and operation.get("again") and operation["op"] == "register":
                self._spool.remove_file(operation["folder"])
        self._send_metrics(client, run_id, metrics)

    def beat(self, after_outage: bool) -> None:
        """Refresh the run's heartbeat, which tells `reap` that it lives.

        A run that `reap` ended during an outage is set to RUNNING again, unless this process ended it.
        """
        client = self.client()
        run_id = self._spool.facts()["run_id"]
        if after_outage and not self._ended and client.get_run(run_id).info.status == "KILLED":
            client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, "heartbeat", json.dumps(heartbeat()))

    def end(self, status: str, reason: str) -> None:
        """End the run without its spool, which cannot be written any more. Raises if the store is away."""
        client = self.client()
        run_id = self._spool.facts()["run_id"]
        client.set_tag(run_id, "error", store.tag_value(reason))
        client.set_terminated(run_id, status)
        self._ended = True

    def _send_metrics(self, client: MlflowClient, run_id: str, batch: list[tuple[Operation, int]]) -> None:
        if not batch:
            return
        try:
            client.log_batch(
                run_id,
                metrics=[metric for operation, _ in batch for metric in _metrics(operation)],
                synchronous=True,
            )
        except MlflowException as error:
            if not store.is_final(error):
                raise
            # One bad name refuses the whole batch: send them one by one and set the bad one aside.
            for operation, end in batch:
                one = _metrics(operation)
                self._or_set_aside(operation, partial(client.log_batch, run_id, metrics=one, synchronous=True))
                self._spool.mark_sent(end)
        self._spool.mark_sent(batch[-1][1])

    def _or_set_aside(self, operation: Operation, send: Callable[[], Any]) -> bool:
        """Whether it was accepted."""
        error = self._refusal(send)
        if error is not None and _may_be_lifted(error) and not store.is_too_large(error):
            error = self._refusal(send)  # two processes may have met in the store: the second time decides
        if error is None:
            return True
        again = _may_be_lifted(error)
        reason = TOO_LARGE if store.is_too_large(error) else store.reason(error)
        if operation["op"] == "register":
            folder = self._spool.folder / operation["folder"]
            _note_registered(folder, {"name": operation["registered_name"], "refused": reason})
        self._spool.set_aside(operation, reason, again=again)
        self.refused += 1
        if self.refused == 1:
            what = operation.get("name") or operation["op"]
            print(
                f"tracking: a record is set aside ({what}: {reason}); kept in "
                f"{self._spool.folder.absolute()}/refused.jsonl, and the others are delivered"
                + ("; `python -m tracking sync` tries it again" if again else "")
            )
        return False

    def _is_done(self, operation: Operation) -> bool:
        """Whether the file of an operation that is tried again was delivered before."""
        place = operation.get("folder" if operation["op"] == "register" else "file")
        return place is not None and not (self._spool.folder / place).exists()

    def _refusal(self, send: Callable[[], Any]) -> Exception | None:
        """Why the operation is refused while others are accepted; None if it is done.

        Raises what may be gone later, and what refuses all that this run sends: its records keep their order.
        """
        try:
            send()
        except (FileNotFoundError, KeyError, Damaged) as error:
            return error
        except Exception as error:
            if not store.is_final(error):
                raise
            client, run_id = self.client(), self._spool.facts()["run_id"]
            run = client.get_run(run_id)
            # A run deleted in the UI refuses everything, but can be restored: keep the backlog for then.
            if run.info.lifecycle_stage == "deleted":
                raise MlflowException("the run is deleted; `mlflow runs restore` brings it back") from error
            try:
                client.set_tag(run_id, "heartbeat", run.data.tags.get("heartbeat", json.dumps(heartbeat())))
            except Exception:
                raise error from None
            return error
        return None

    def _send_one(self, client: MlflowClient, facts: Mapping[str, Any], operation: Operation) -> None:
        run_id = facts["run_id"]
        match operation["op"]:
            case "params":
                _send_params(client, run_id, operation["values"])
            case "tags":
                tags = [RunTag(key, store.tag_value(value)) for key, value in operation["values"].items()]
                client.log_batch(run_id, tags=tags, synchronous=True)
            case "file":
                path = self._spool.folder / operation["file"]
                if path.is_dir():
                    client.log_artifacts(run_id, str(path), _join(operation["folder"], path.name))
                elif operation.get("again") and _is_stored(client, run_id, operation):
                    pass  # a newer file of that name
                elif path.is_file() or not operation.get("newest"):
                    client.log_artifact(run_id, str(path), operation["folder"] or None)
                # else: a newer checkpoint took this one's place and is delivered already
            case "image":
                _send_image(client, run_id, self._spool.folder / operation["file"], operation)
            case "dataset":
                _send_dataset(client, run_id, operation)
            case "register":
                _register(client, run_id, self._spool.folder, operation)
            case "evaluations":
                _send_evaluations(client, run_id, operation)
            case "handover":
                hand_over(client, operation["run_id"], run_id)
            case "status":
                client.update_run(run_id, status=operation["status"])
                self._ended = False  # a resume: what ended the run before is behind it
            case "finish":
                client.set_terminated(run_id, operation["status"], end_time=operation["time"])
                self._ended = True
            case _:
                raise Damaged("its line in spool.jsonl is damaged")


def heartbeat() -> dict[str, Any]:
    """Which process writes to the run, and when it last did (seconds since the epoch)."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "time": now_ms() // 1000}


def image_name(key: str, step: int, time_ms: int) -> str:
    """The name by which MLflow's UI knows a time-stepped image.

    The same for the same arguments, so that a replay overwrites.
    """
    identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{key}/{step}/{time_ms}")
    return f"{re.sub('/', '~', key)}+step+{step}+timestamp+{time_ms}+{identity}"


def _may_be_lifted(error: Exception) -> bool:
    """Whether rights, a size or a gateway's rules refused it: these can be corrected, a value cannot."""
    return store.is_final(error) and not store.is_refused(error)


def _is_stored(client: MlflowClient, run_id: str, operation: Operation) -> bool:
    path = _join(operation["folder"], operation["name"])
    return path in {file.path for file in client.list_artifacts(run_id, operation["folder"] or None)}


def _metrics(operation: Operation) -> list[Metric]:
    return [Metric(key, value, operation["time"], operation["step"]) for key, value in operation["values"].items()]


def _send_params(client: MlflowClient, run_id: str, values: Mapping[str, Any]) -> None:
    """Log what is new. MLflow's params can't be changed.

    One that is there with another value is logged as `resolved.<name>`.
    """
    stored = client.get_run(run_id).data.params
    params = []
    for key, value in values.items():
        name = key
        if key in stored and not store.same_value(stored[key], value):
            name = f"resolved.{key}"
        if name not in stored:
            params.append(Param(name, str(value)[: store.MAX_PARAM_LENGTH]))
    if params:
        client.log_batch(run_id, params=params, synchronous=True)


def _send_image(client: MlflowClient, run_id: str, path: Path, operation: Operation) -> None:
    """MLflow's `log_image` layout.

    The image as PNG, a small WebP beside it, and the tag that makes the UI look for them.
    """
    name = image_name(operation["key"], operation["step"], operation["time"])
    png, webp = path.with_name(f"{name}.png"), path.with_name(f"{name}+compressed.webp")
    try:
        # A copy under the final name, as log_artifact names by the file; the spooled one stays for a second
        # try.
        png.write_bytes(path.read_bytes())
        with Image.open(path) as image:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            image.save(webp)
        client.log_artifact(run_id, str(png), "images")
        client.log_artifact(run_id, str(webp), "images")
    finally:
        png.unlink(missing_ok=True)
        webp.unlink(missing_ok=True)
    client.set_tag(run_id, "mlflow.loggedImages", "True")


def _send_dataset(client: MlflowClient, run_id: str, operation: Operation) -> None:
    details = json.dumps(operation["details"])
    dataset = Dataset(
        name=operation["name"],
        digest=operation["fingerprint"][:36],  # MLflow's limit; the tag `data.<name>` holds it whole
        source_type="local",
        source=json.dumps({"uri": str(operation["details"].get("source", operation["name"]))}),
        profile=details,
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", operation["context"])])])


def _register(client: MlflowClient, run_id: str, spool_folder: Path, operation: Operation) -> None:
    """Upload a saved model, link it to the run, make it a version of a registered model, move the alias.

    `upload` names it once. Every step looks first: an earlier try may have come so far, and its answer been lost.
    """
    folder, name, upload = spool_folder / operation["folder"], operation["registered_name"], operation["upload"]
    version = _version_of_upload(client, name, upload)
    if version is None:
        if not (folder / "MLmodel").is_file():
            raise FileNotFoundError(f"{folder}/MLmodel")
        logged = _logged_model(client, run_id, operation)
        _upload_model(client, run_id, folder, logged)
        if logged.model_id not in {output.model_id for output in _model_outputs(client, run_id)}:
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, operation["step"])])
        _link_metrics(client, run_id, logged.model_id, operation)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(
            name=name,
            source=f"models:/{logged.model_id}",
            run_id=run_id,
            tags={**_model_tags(run_id, operation), "upload": upload},
            model_id=logged.model_id,
        )
    number, model_id = str(version.version), (version.source or "").removeprefix("models:/")
    versions = json.dumps([{"name": name, "version": int(number)}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": versions})
    if operation["alias"]:
        client.set_registered_model_alias(name, operation["alias"], number)
    _note_registered(folder, {"name": name, "version": number})


def _model_tags(run_id: str, operation: Operation) -> dict[str, str]:
    return {key: store.tag_value(value) for key, value in attributed(operation["tags"], run_id).items()}


def _model_outputs(client: MlflowClient, run_id: str) -> Sequence[LoggedModelOutput]:
    outputs = client.get_run(run_id).outputs
    return outputs.model_outputs if outputs else []


def _logged_model(client: MlflowClient, run_id: str, operation: Operation) -> LoggedModel:
    """The store's entry of the model: that of an earlier try, or a new one."""
    experiment, upload = client.get_run(run_id).info.experiment_id, operation["upload"]
    begun = client.search_logged_models([experiment], f"tags.`upload` = '{upload}'", max_results=1)
    if begun:
        return begun[0]
    return client.create_logged_model(
        experiment_id=experiment,
        name=operation["name"],
        source_run_id=run_id,
        tags={**_model_tags(run_id, operation), "upload": upload},
        params={key: str(value) for key, value in operation["params"].items()},
        model_type="torch",
    )


def _upload_model(client: MlflowClient, run_id: str, folder: Path, logged: LoggedModel) -> None:
    # What Model.log would have written, had the store been there when the model was saved.
    description = Model.load(str(folder / "MLmodel"))
    description.run_id, description.model_id = run_id, logged.model_id
    description.artifact_path, description.model_uuid = logged.artifact_location, logged.model_id
    description.save(str(folder / "MLmodel"))
    store.sweep_uploads(logged.artifact_location)
    client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)


def _note_registered(folder: Path, result: Mapping[str, str]) -> None:
    """For `log_model`, which waits for it, unless the model was set aside before."""
    if folder.parent.name == "models":
        (folder.parent / f"{folder.name}.json").write_text(json.dumps(result) + "\n")


def _send_evaluations(client: MlflowClient, run_id: str, operation: Operation) -> None:
    """Figures of a registered version: tags of it, by which `promote` compares, and metrics on its page."""
    try:
        version = client.get_model_version(operation["name"], operation["version"])
    except MlflowException as error:
        if store.is_absent(error):  # deleted since it was measured: set aside
            raise KeyError(f"models:/{operation['name']}/{operation['version']} is not there any more") from error
        raise
    for key, value in attributed(operation["tags"], run_id).items():
        client.set_model_version_tag(operation["name"], operation["version"], key, store.tag_value(value))
    source = version.source or ""
    if source.startswith("models:/m-"):  # the stores keep no model_id of a version but in its source
        _link_metrics(client, run_id, source.removeprefix("models:/"), operation)


def _version_of_upload(client: MlflowClient, name: str, upload: str) -> ModelVersion | None:
    found = client.search_model_versions(f"name = '{name}' and tags.`upload` = '{upload}'", max_results=1)
    return found[0] if found else None


def _link_metrics(client: MlflowClient, run_id: str, model_id: str, operation: Operation) -> None:
    """Show the model's metrics on its page.

    A value that the run has already is linked at its own step and time: no double.
    """
    stored = client.get_run(run_id).data.metrics
    for key, value in operation["metrics"].items():
        time, step = operation["time"], operation["step"]
        if key in stored and stored[key] == value:
            last = max(client.get_metric_history(run_id, key), key=lambda metric: (metric.step, metric.timestamp))
            time, step = last.timestamp, last.step
        client.log_metric(run_id, key, value=value, timestamp=time, step=step, synchronous=True, model_id=model_id)


def hand_over(client: MlflowClient, fresh_run_id: str, run_id: str) -> None:
    """End the run that `mlflow run` made for a command that continues `run_id`.

    The UI shows it folded under that run.
    """
    client.set_tag(fresh_run_id, "resumes", run_id)
    client.set_tag(fresh_run_id, "mlflow.parentRunId", run_id)
    client.set_tag(
        fresh_run_id, "mlflow.note.content", f"Nothing is recorded here: this command continued run {run_id}."
    )
    client.set_terminated(fresh_run_id, "FINISHED")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name

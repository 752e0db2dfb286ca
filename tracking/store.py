"""The MLflow store: which one is in use, how to reach it, and what its errors mean.

Importing mlflow takes about two seconds, so the other modules import this one where they need it.
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Before mlflow is imported: on a machine without git its GitPython prints a page of advice.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from common.errors import InputError

# This package does its own retrying, on disk and without a time limit; MLflow's seven tries would hold the
# writer for minutes. It prints the run's address itself, once.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server in front of an S3 store offers the store's own addresses for parts of files; only the server's network
    # knows those.
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "false",
}

NOISY_LOGGERS = (
    "mlflow.store.db.utils",  # logs each connection error with a traceback; we report it in one line
    "mlflow.store.model_registry.abstract_store",
    "mlflow.tracking.context.registry",
    "urllib3.connectionpool",
    "alembic",
)

MAX_TAG_LENGTH = 8000
MAX_PARAM_LENGTH = 6000


def tracking_uri() -> str:
    """The store in use.

    MLFLOW_TRACKING_URI, else `sqlite:///<cwd>/mlflow.db` (what `mlflow run` and the UI use too).
    """
    return str(mlflow.get_tracking_uri())


def use(uri: str) -> None:
    """Make `uri` MLflow's own default, too: its registry looks for the models of any store in that one."""
    if uri != tracking_uri():
        mlflow.set_tracking_uri(uri)


def connect(uri: str) -> MlflowClient:
    """A client of the store at `uri`.

    A SQLite store is created on first use, safely among processes that start at once.

    Raises InputError for a kind of store that MLflow refuses, and MlflowException for a database that can't be
    opened. A server is not asked here: whether it answers shows at the first request.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if re.match(r"(file:|\.?/|[A-Za-z]:\\)", uri) and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() != "true":
        raise InputError(
            f"tracking store {uri}: MLflow no longer writes to folders of files; set MLFLOW_TRACKING_URI to "
            "sqlite:////absolute/path/mlflow.db or to a server's address (mlflow migrate-filestore "
            "converts an old mlruns folder)"
        )
    with _first_use(uri):
        client = MlflowClient(tracking_uri=uri)
        if uri.startswith("sqlite:"):
            # Both stores are one database, and each creates the tables it misses: build both while the lock
            # is held.
            client.search_experiments(max_results=1)
            client.search_registered_models(max_results=1)
    return client


@contextlib.contextmanager
def _first_use(uri: str) -> Iterator[None]:
    """Hold a lock beside a SQLite file.

    If four processes create the same database at once, three of them crash.
    """
    match = re.match(r"sqlite:///(.+?)(\?.*)?$", uri)
    if match is None or match[1] == ":memory:":
        yield
        return
    path = Path(match[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=120), _quiet_alembic():
        yield


@contextlib.contextmanager
def _quiet_alembic() -> Iterator[None]:
    """Creating the tables logs 60 lines of migrations at INFO."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of the experiment `name`, created if absent (also if another process creates it just then)."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:
            found = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise InputError(
            f"experiment {name!r} is deleted on {client.tracking_uri}: restore it with `mlflow experiments restore`"
        )
    return str(found.experiment_id)


def create_run(client: MlflowClient, experiment: str, name: str | None, tags: Mapping[str, str]) -> StoredRun:
    """A new RUNNING run with MLflow's own tags (user, source file) and `tags`."""
    every_tag = {key: tag_value(value) for key, value in resolve_tags(dict(tags)).items()}
    return client.create_run(experiment_id(client, experiment), tags=every_tag, run_name=name)


def last_steps(run: StoredRun) -> dict[str, int]:
    """The last step of each metric that the store has for `run`."""
    return {metric.key: int(metric.step) for metric in run.data.to_proto().metrics}


def last_image_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """The last step of each time-stepped image that the store has, read from the file names."""
    steps: dict[str, int] = {}
    for file in client.list_artifacts(run_id, "images"):
        match = re.match(r"images/(.+)\+step\+(-?\d+)\+timestamp\+", file.path)
        if match:
            key = match[1].replace("~", "/")
            steps[key] = max(steps.get(key, int(match[2])), int(match[2]))
    return steps


def tag_value(value: Any) -> str:
    """`value` as text, no longer than a tag may be."""
    return str(value)[:MAX_TAG_LENGTH]


def same_value(stored: str, value: Any) -> bool:
    """Whether a stored parameter is equal to `value`.

    Equal are `1` and `1.0`, `1e-4` and `0.0001`, `'a b'` and `a b`, the empty text and None.
    """
    return _parsed(stored) == _parsed("" if value is None else str(value))


def _parsed(text: str) -> float | str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        # `mlflow run` logs a value that holds a space with the quotes it needs on the command line.
        text = text[1:-1].strip()
    try:
        return float(text)
    except ValueError:
        return text.lower() if text.lower() in ("true", "false", "") else "" if text == "None" else text


def is_absent(error: Exception) -> bool:
    """The store answered that there is no such thing."""
    return isinstance(error, MlflowException) and error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


def is_refused(error: Exception) -> bool:
    """The store answered that it will never accept this value.

    Any other error (away, overloaded, no rights) may be gone later.
    """
    if not isinstance(error, MlflowException):
        return False
    # MLflow's check of an artifact's path gives no code of its own.
    return error.error_code == "INVALID_PARAMETER_VALUE" or str(error).startswith("Invalid artifact path")


def is_away(error: Exception) -> bool:
    """The store gave no answer, or reported a fault of its own, not one of the request."""
    if isinstance(error, MlflowException):
        return error.error_code in (
            "INTERNAL_ERROR",
            "TEMPORARILY_UNAVAILABLE",
            "REQUEST_LIMIT_EXCEEDED",
            "RESOURCE_EXHAUSTED",
        )
    return isinstance(error, OSError)


def reason(error: Exception) -> str:
    """The error in one short line, without object addresses or stack traces."""
    if versions := re.search(r"out-of-date database schema \(found version (\w+), but expected (\w+)\)", str(error)):
        return (
            f"the database was made by another version of MLflow (schema {versions[1]}, that of MLflow "
            f"{mlflow.__version__} is {versions[2]}): copy it, then run `mlflow db upgrade` with its address; if that "
            "fails, it is of a newer MLflow: install that one"
        )
    text = " ".join(str(error).split())
    innermost = re.findall(r"\[Errno -?\d+\] [A-Za-z ]+|timed out|Name or service not known|database is locked", text)
    return innermost[-1] if innermost else text[:200]

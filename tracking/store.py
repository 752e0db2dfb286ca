"""The MLflow store: which one is in use, how to reach it, and what its errors mean.

Importing mlflow takes about two seconds, so the other modules import this one where they need it.
"""

import contextlib
import logging
import os
import re
import shutil
import sqlite3
import tempfile
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
from mlflow.utils.file_utils import local_file_uri_to_path

from common.addresses import without_query_secrets
from common.errors import InputError
from tracking.answers import NotMlflow, look_at_answers

# This package does its own retrying, on disk and without a time limit; MLflow's seven tries would hold the
# writer for minutes. It prints the run's address itself, once.
SETTINGS = {
    # Not even one: a lost answer would send a creation a second time, before anybody could look if it is there.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
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

S3_CREDENTIALS = (
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
)
"""S3's answers to credentials that are wrong or too old."""

ACCOUNT = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"

MAX_TAG_LENGTH = 8000
MAX_PARAM_LENGTH = 6000


def tracking_uri() -> str:
    """The store in use, with an absolute path.

    MLFLOW_TRACKING_URI, else `sqlite:///<cwd>/mlflow.db` (what `mlflow run` and the UI use too).
    """
    uri = str(mlflow.get_tracking_uri())
    path = sqlite_file(uri)
    return uri if path is None else uri.replace(str(path), str(path.absolute()), 1)


def without_secrets(uri: str) -> str:
    """The address, or a text with addresses, without passwords (of HTTP without users, too: a token may stand there).

    For what is printed or kept in files.
    """
    uri = re.sub(r"(https?://)[^/?#\s]*@", r"\1", uri)
    uri = re.sub(r"(://[^/?#\s:@]*):[^/?#\s]*@", r"\1@", uri)
    return without_query_secrets(uri)


def shown() -> str:
    """The store in use, for messages."""
    return without_secrets(tracking_uri())


def with_secrets(uri: str) -> str:
    """The address that `without_secrets` made of MLFLOW_TRACKING_URI or the store in use; another one as it is."""
    known = (os.environ.get("MLFLOW_TRACKING_URI", ""), tracking_uri())
    return next((full for full in known if without_secrets(full) == uri), uri)


@contextlib.contextmanager
def answering_within(seconds: float) -> Iterator[None]:
    """Inside, a request to a server is given up after this number of seconds instead of a minute."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name)
    os.environ[name] = str(max(1, min(int(seconds), int(before or seconds))))
    try:
        yield
    finally:
        os.environ[name] = before or SETTINGS[name]


def use(uri: str) -> None:
    """Make `uri` MLflow's own default, too: its registry looks for the models of any store in that one."""
    if uri != tracking_uri():
        mlflow.set_tracking_uri(uri)


def connect(uri: str) -> MlflowClient:
    """A client of the store at `uri`.

    A SQLite store is created on first use, safely among processes that start at once or are killed.

    Raises InputError for a kind of store that MLflow refuses and for a database that was left half made, and
    MlflowException for one that can't be opened. A server is not asked here: whether it answers shows at the first
    request.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    look_at_answers()
    if re.match(r"(file:|\.?/|[A-Za-z]:\\)", uri) and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() != "true":
        raise InputError(
            f"tracking store {uri}: MLflow no longer writes to folders of files; set MLFLOW_TRACKING_URI to "
            "sqlite:////absolute/path/mlflow.db or to a server's address (mlflow migrate-filestore "
            "converts an old mlruns folder)"
        )
    path = sqlite_file(uri)
    if path is None:
        return MlflowClient(tracking_uri=uri)
    with _only_user(path), _quiet_alembic():
        if not path.exists():
            _make_database(path)
        try:
            return _opened(uri)
        except Exception as error:
            _explain_half_made(error, path)
            raise


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for other stores."""
    match = re.match(r"sqlite:///(.+?)(\?.*)?$", uri)
    return None if match is None or match[1] == ":memory:" else Path(match[1])


@contextlib.contextmanager
def _only_user(path: Path) -> Iterator[None]:
    """Hold a lock beside a SQLite file.

    If four processes create the same database at once, three of them crash.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=120):
        yield


def _opened(uri: str) -> MlflowClient:
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    # Both stores are one database, and each creates the tables it misses: build both while the lock is held.
    client.search_experiments(max_results=1)
    client.search_registered_models(max_results=1)
    return client


def _make_database(path: Path) -> None:
    """Make the database beside `path` and rename it: a process that is killed leaves nothing at `path`."""
    for left in path.parent.glob(f".{path.name}.making*"):
        left.unlink()
    temporary = path.with_name(f".{path.name}.making")
    _opened(f"sqlite:///{temporary}")  # its connection goes on to see the same file under the new name, and idles
    os.replace(temporary, path)


def _explain_half_made(error: Exception, path: Path) -> None:
    """InputError for a database whose making was interrupted (by MLflow's own commands, which make it in place)."""
    if not re.search(
        r"table \S+ already exists|duplicate column|no such table|out-of-date database schema", str(error)
    ):
        return
    with contextlib.closing(sqlite3.connect(path)) as database:
        try:
            n_runs = int(database.execute("select count(*) from runs").fetchone()[0])
            version = database.execute("select version_num from alembic_version").fetchone()
        except sqlite3.Error:
            n_runs, version = 0, None
    if n_runs == 0 and (version is None or _is_known_schema(version[0])):
        raise InputError(
            f"tracking store {path} is half made, by a process that was killed at it, or of an older MLflow, and "
            f"holds no run: remove the file (rm {path}) or upgrade it (mlflow db upgrade sqlite:///{path}), and try "
            "again"
        ) from None


def _is_known_schema(version: str) -> bool:
    """Whether this MLflow has made such a schema at some time; a newer MLflow's database is not to be removed."""
    import mlflow.store.db_migrations

    folder = Path(mlflow.store.db_migrations.__path__[0]) / "versions"
    return any(file.name.startswith(version) for file in folder.glob("*.py"))


@contextlib.contextmanager
def _quiet_alembic() -> Iterator[None]:
    """Creating the tables logs 60 lines of migrations at INFO."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of the experiment `name`, created if absent (also if another process creates it just then).

    InputError where it is deleted, or its artifacts lie on this machine and cannot be written.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            found = client.get_experiment(client.create_experiment(name))
        except MlflowException as error:
            found = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise InputError(
            f"experiment {name!r} is deleted on {without_secrets(client.tracking_uri)}: restore it with "
            "`mlflow experiments restore`"
        )
    check_artifact_folder(found.artifact_location)
    return str(found.experiment_id)


def created_run(client: MlflowClient, facts: Mapping[str, Any]) -> StoredRun:
    """The RUNNING run that `facts` describes: `experiment`, `run_name`, `tags` (beside MLflow's own: user, source file)
    and `local_id`, by which it is looked for first, in case it was created and the answer lost.
    """
    experiment = experiment_id(client, facts["experiment"])
    found = client.search_runs([experiment], f"tags.`local_id` = '{facts['local_id']}'", max_results=1)
    if found:
        return found[0]
    tags = {**facts["tags"], "local_id": facts["local_id"]}
    every_tag = {key: tag_value(value) for key, value in resolve_tags(tags).items()}
    return client.create_run(experiment, tags=every_tag, run_name=facts["run_name"])


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


def local_artifacts(uri: str | None) -> Path | None:
    """The folder at an artifact address on this machine; None for a server's or a bucket's."""
    if uri is None or re.match(r"(?!file:)[a-z0-9+.-]{2,}:", uri):
        return None
    return Path(local_file_uri_to_path(uri))


def sweep_uploads(uri: str | None) -> None:
    """Remove what an upload that was killed left half written at an artifact address on this machine."""
    folder = local_artifacts(uri)
    for path in folder.rglob(".artifact.uploading.*") if folder else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


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


def check_artifact_folder(uri: str | None) -> None:
    """InputError where the artifacts' folder, on this machine, cannot be written: all files would wait forever."""
    folder = local_artifacts(uri)
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"the store's folder of artifacts {str(folder)!r} cannot be written ({error.strerror or error}): correct "
            "its permissions, or the artifact location of the experiment"
        ) from None


def is_absent(error: Exception) -> bool:
    """The store answered that there is no such thing."""
    return isinstance(error, MlflowException) and error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


def is_refused(error: Exception) -> bool:
    """The store answered that it will never accept this value.

    Any other error (away, overloaded, no rights) may be gone later.
    """
    error = _told_by_store(error)
    if not isinstance(error, MlflowException):
        return False
    # MLflow's check of an artifact's path gives no code of its own.
    return error.error_code == "INVALID_PARAMETER_VALUE" or str(error).startswith("Invalid artifact path")


def is_too_large(error: Exception) -> bool:
    """A gateway before the server, or the artifacts' store, takes no request of this size."""
    return status_of(error) == 413 or _s3_code(error) == "EntityTooLarge"


def is_final(error: Exception) -> bool:
    """The request was understood and refused: it would be again, unless somebody changes the store or a gateway.

    Neither final are faults of the store (500 and above but 501, "not implemented") nor what passes: no or old
    credentials, timeouts, conflicts, locks, too many requests.
    """
    if is_refused(error) or is_too_large(error):
        return True
    status = status_of(error)
    passing = (401, 407, 408, 409, 423, 425, 429, 499)
    return status == 501 or (status is not None and 400 <= status < 500 and status not in passing)


def status_of(error: Exception) -> int | None:
    """The HTTP status of the answer that became this error; None where there was no answer."""
    error = _told_by_store(error)
    if _s3_code(error) in S3_CREDENTIALS:
        return 401  # S3 has 400 and 403 for these
    for each in (error, error.__context__):  # boto's own error for an upload keeps the answer in its context only
        answer = getattr(each, "response", None)
        if isinstance(answer, Mapping):
            return answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None and isinstance(error, MlflowException):
        told = re.search(r"failed with error code (\d{3}) != ", str(error))
        status = int(told[1]) if told else error.get_http_status_code()
    return status


def _told_by_store(error: Exception) -> Exception:
    """What MLflow's client made an error of its own of: any trouble in finding a logged model becomes an invalid value,
    and what `answers` says of an answer the end of a long text.
    """
    claims = isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"
    if claims and isinstance(error.__cause__, MlflowException | OSError):
        error = error.__cause__
    return error.__context__ if isinstance(error.__context__, NotMlflow) else error


def _s3_code(error: Exception) -> str | None:
    answers = (getattr(each, "response", None) for each in (error, error.__context__))
    return next((answer.get("Error", {}).get("Code") for answer in answers if isinstance(answer, Mapping)), None)


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


def trouble(uri: str, error: Exception) -> str:
    """What the store at `uri` (an address without secrets) failed with, and what to do about it, in one line."""
    if isinstance(_told_by_store(error), NotMlflow):
        return f"tracking store {uri}: {reason(error)}"
    if _s3_code(error):  # a file's own storage, which the store sent us to
        advice = "look at that storage's bucket and your credentials for it (AWS_ACCESS_KEY_ID and the like)"
    elif status_of(error) == 401:
        advice = f"sign in: set {ACCOUNT}"
    elif status_of(error) == 403:
        advice = f"set {ACCOUNT} of an account that may do this, and an address at which the server may be called"
    elif "database is locked" in str(error):
        advice = "another process is writing to it: wait for that one, or stop it, and try again"
    elif uri.startswith("sqlite"):
        advice = "correct MLFLOW_TRACKING_URI"
    else:
        advice = "start it, or correct MLFLOW_TRACKING_URI"
    return f"tracking store {uri}: {reason(error)}; {advice}"


def reason(error: Exception) -> str:
    """The error in one short line, without object addresses or stack traces."""
    error = _told_by_store(error)
    if versions := re.search(r"out-of-date database schema \(found version (\w+), but expected (\w+)\)", str(error)):
        return (
            f"the database was made by another version of MLflow (schema {versions[1]}, that of MLflow "
            f"{mlflow.__version__} is {versions[2]}): copy it, then run `mlflow db upgrade` with its address; if that "
            "fails, it is of a newer MLflow: install that one"
        )
    text = " ".join(str(error).split())
    text = without_secrets(text)
    if isinstance(error, NotMlflow):
        return text
    innermost = re.findall(r"\[Errno -?\d+\] [A-Za-z ]+|timed out|Name or service not known|database is locked", text)
    return innermost[-1] if innermost else text[:200]

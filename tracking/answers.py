"""Which answers over HTTP are MLflow's own.

A gateway that wants people to sign in answers for the server, by a redirect to its login page or by that page itself
with status 200. MLflow's client follows the redirect, takes every answer of 200 to an upload for "done", and an empty
one to anything else. So every answer is looked at; one that is not MLflow's counts as none, and what was asked is asked
again later.
"""

import functools
import re
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from mlflow.utils import request_utils

SERVER = re.compile(r"/api/\d\.\d/(mlflow|mlflow-artifacts)/.+")
"""What follows the address of a server in that of a request."""

MUST_HOLD = {
    r"POST experiments/create": "experiment_id",
    r"GET experiments/(get|get-by-name)": "experiment",
    r"POST runs/create|GET runs/get": "run",
    r"POST runs/update": "run_info",
    r"POST logged-models|(GET|PATCH) logged-models/[^/]+": "model",
    r"POST registered-models/create|GET registered-models/get": "registered_model",
    r"POST model-versions/create|GET model-versions/get|GET registered-models/alias": "model_version",
}
"""What the answer to a request holds."""

MAY_HOLD = {
    r"POST runs/search": "runs",
    r"POST experiments/search": "experiments",
    r"GET metrics/get-history": "metrics",
    r"POST logged-models/search": "models",
    r"PATCH logged-models/[^/]+/tags": "model",
    r"GET registered-models/search": "registered_models",
    r"GET model-versions/search": "model_versions",
    r"GET mlflow-artifacts/artifacts": "files",
}
"""What the answer holds where there is something to say; else it is an empty object."""

IS_EMPTY = (
    r"POST (runs/(log-[a-z]+|set-tag|outputs)|registered-models/alias|\S+/set-tag)|PUT mlflow-artifacts/artifacts/.+"
)
"""Requests that are answered with an empty object."""


class NotMlflow(OSError):
    """Somebody else answered in the server's place. The message says who, and what to do."""


def look_at_answers() -> None:
    """Have `check` see every answer that MLflow's client gets, by the hook of requests for that."""
    made = request_utils._get_request_session
    if getattr(made, "looked_at", False):
        return

    @functools.wraps(made)
    def with_hook(*arguments: Any, **options: Any) -> requests.Session:
        session = made(*arguments, **options)
        if check not in session.hooks["response"]:
            session.hooks["response"].append(check)
        return session

    with_hook.looked_at = True  # type: ignore[attr-defined]
    request_utils._get_request_session = with_hook


def check(answer: requests.Response, *_: object, **__: object) -> None:
    """Raises NotMlflow for an answer that is not the server's. Errors (400 and above) are MLflow's client's to read."""
    method, url = str(answer.request.method), urlsplit(str(answer.request.url))
    asked = SERVER.search(url.path)
    if answer.is_redirect:
        place = urlsplit(urljoin(url.geturl(), answer.headers["Location"]))
        becomes_get = method not in ("GET", "HEAD") and answer.status_code in (301, 302, 303)
        if becomes_get or (asked and not place.path.endswith(asked[0])):
            raise _not_mlflow(f"a redirect to {place.scheme}://{place.netloc.rpartition('@')[2]}{place.path}")
        return
    if asked is None or answer.status_code >= 400:
        return
    kind = answer.headers.get("Content-Type", "no type").partition(";")[0]
    is_file = re.search(r"/mlflow-artifacts/artifacts/.", asked[0])
    if method == "GET" and is_file:
        # MLflow sends files as attachments, whatever they are.
        if kind == "text/html" and "attachment" not in answer.headers.get("Content-Disposition", ""):
            raise _not_mlflow(f"status {answer.status_code} with a page of HTML")
        return
    if method == "PUT" and is_file and answer.status_code == 200 and _is_empty(answer, kind):
        return
    try:
        content = answer.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise _not_mlflow(f"status {answer.status_code} with {len(answer.content)} bytes of {kind}")
    if not _is_of(asked[0], method, content):
        raise _not_mlflow(f"status {answer.status_code} with other JSON than MLflow's")


def _is_empty(answer: requests.Response, kind: str) -> bool:
    """Whether an answer has no content, as MLflow's to an upload: without a type, or with the header that MLflow adds
    to all it says. nginx (`return 200`) and others give a type to nothing, too.
    """
    return not answer.content and (kind == "no type" or answer.headers.get("X-Content-Type-Options") == "nosniff")


def _is_of(path: str, method: str, content: dict[str, Any]) -> bool:
    """Whether `content` is what MLflow answers to such a request; True for requests that are not known here."""
    request = f"{method} {re.sub(r'/api/[0-9.]+/(mlflow/)?', '', path)}"
    for pattern, key in MUST_HOLD.items():
        if re.fullmatch(pattern, request):
            return key in content
    for pattern, key in MAY_HOLD.items():
        if re.fullmatch(pattern, request):
            return not content or key in content
    return not content or not re.fullmatch(IS_EMPTY, request)


def _not_mlflow(what: str) -> NotMlflow:
    return NotMlflow(
        f"{what} came in place of MLflow's answer, as from a gateway that asks to sign in: set MLFLOW_TRACKING_TOKEN, "
        "or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or correct MLFLOW_TRACKING_URI"
    )

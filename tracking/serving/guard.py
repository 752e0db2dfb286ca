"""Keeps MLflow's scoring server from answering what cannot be read with status 500, a traceback, or a long silence.

This file is stored with the model, as `guard.py`, beside `served.py`, and runs where this project is not: it imports
nothing of it. MLflow has no place for such checks in front of a model, so its function for one request is wrapped, in
the process of a scoring server only.
"""

import json
import os
import sys
from functools import wraps
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

LONGEST_MESSAGE = 2000
"""Characters of an answer's message: MLflow's begin with the whole input."""


def guard_server(max_megabytes: float) -> None:
    """Refuse requests of more than `max_megabytes` (status 413), and answer those that cannot be read with status 400
    and one line, without a traceback.
    """
    if scoring_server._SERVER_MODEL_PATH not in os.environ:
        return
    _limit_bodies(max_megabytes)
    plain = getattr(scoring_server.invocations, "plain", scoring_server.invocations)

    def invocations(data: bytes | str, content_type: str | None, model: Any, input_schema: Any) -> Any:
        if len(data) > max_megabytes * 1e6:
            return _too_large(f"{len(data) / 1e6:.1f}", max_megabytes)
        try:
            return plain(data, content_type or "", model, input_schema)
        except MlflowException as error:
            raise _without_traceback(error) from None
        except RecursionError:
            return _refused(400, "the request is nested too deeply to be read")
        except Exception as error:  # numbers of thousands of digits, columns that are no names, ...
            return _refused(400, f"the request cannot be read ({type(error).__name__}: {error})")

    invocations.plain = plain  # type: ignore[attr-defined]
    scoring_server.invocations = invocations


def _limit_bodies(max_megabytes: float) -> None:
    """Refuse a request by its Content-Length before its body is read, and one without as soon as it is too long.

    MLflow reads a body whole. Its app is made after the model is loaded, with this decorator of its one route.
    """
    from starlette.requests import Request
    from starlette.responses import Response

    catching = scoring_server._async_catch_mlflow_exception
    plain = getattr(catching, "plain", catching)

    def refused(megabytes: str) -> Response:
        answer = _too_large(megabytes, max_megabytes)
        return Response(answer.response, answer.status, media_type=answer.mimetype)

    def limited(route: Any) -> Any:
        @wraps(route)
        async def checked(request: Request) -> Any:
            promised = request.headers.get("content-length", "0")
            if int(promised) > max_megabytes * 1e6:
                return refused(f"{int(promised) / 1e6:.1f}")
            body = bytearray()
            async for part in request.stream():
                body += part
                if len(body) > max_megabytes * 1e6:
                    return refused(f"more than {max_megabytes:g}")

            async def read() -> dict[str, Any]:
                return {"type": "http.request", "body": bytes(body), "more_body": False}

            return await route(Request(request.scope, read))

        return plain(checked)

    limited.plain = plain  # type: ignore[attr-defined]
    scoring_server._async_catch_mlflow_exception = limited


def _too_large(megabytes: str, max_megabytes: float) -> Any:
    sizes = f"the request has {megabytes} MB, allowed are {max_megabytes:g} MB"
    return _refused(413, f"{sizes}: send less at a time (the server's setting max_request_mb)")


def _refused(status: int, message: str) -> Any:
    answer = {"error_code": "BAD_REQUEST", "message": _short(message)}
    return scoring_server.InvocationsResponse(json.dumps(answer), status, "application/json")


def _without_traceback(error: MlflowException) -> MlflowException:
    """The same error with a short message. The traceback of a fault in the model goes to the server's log."""
    traceback = error.json_kwargs.pop("stack_trace", None)
    if traceback and "unexpected error while evaluating" in error.message:
        print(traceback, file=sys.stderr, flush=True)
    error.message = _short(error.message)
    return error


def _short(message: str) -> str:
    if len(message) <= LONGEST_MESSAGE:
        return message
    return f"{message[: LONGEST_MESSAGE // 4]} ... {message[-LONGEST_MESSAGE // 2 :]}"

"""Requests to served models that no client should send."""

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from models.gan.networks import Generator
from tests.faults.fuzzing import amounts, changed_json, damaged, odd_text, run_cases
from tracking.registry.models import save_model
from training.generators.stored import sampler_with

CONTENT_TYPES = ("application/json", "text/csv", "application/vnd.apache.parquet", "text/plain", "", None)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A generator and a network, as a scoring server loads them."""
    folder = tmp_path_factory.mktemp("models")
    os.environ[scoring_server._SERVER_MODEL_PATH] = ""
    plain = scoring_server.invocations
    generator = Generator(32, 4, 16).eval()
    save_model(folder / "generator", generator, np.zeros((2, 4), np.float32), {}, {}, sampler_with(None))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    save_model(folder / "network", network, np.zeros((2, 3, 4), np.float32), {}, {"epochs": {"unit": "V"}})
    yield {name: mlflow.pyfunc.load_model(str(folder / name)) for name in ("generator", "network")}
    scoring_server.invocations = plain
    del os.environ[scoring_server._SERVER_MODEL_PATH]


REQUESTS: dict[str, list[dict[str, object]]] = {
    "generator": [
        {
            "inputs": {"n": 1},
            "params": {"seed": 1, "output": "png", "isir_iterations": 0, "n_particles": 2, "beta": 1.0},
        },
        {"inputs": {"codes": [[0.0] * 4] * 2}, "params": {"output": "float"}},
        {"dataframe_split": {"columns": ["n"], "data": [[1]]}},
    ],
    "network": [
        {"inputs": [[[1e-5] * 4] * 3] * 2},
        {"instances": [[[1e-5] * 4] * 3]},
        {"dataframe_records": [{"a": 1}]},
    ],
}


@amounts
def test_odd_requests(n: int, loaded: dict[str, Any]) -> None:
    """An answer, or status 400, 413 or 415 with one short line: never 500, never a traceback."""

    def case(chance: random.Random) -> str:
        name = chance.choice(tuple(loaded))
        value = chance.choice(REQUESTS[name])
        if chance.random() < 0.7:
            body = json.dumps(changed_json(value, chance)).encode()
        elif chance.random() < 0.7:
            body = damaged(json.dumps(value).encode(), chance)
        else:
            body = chance.choice((b"[" * 50_000, b"1" * 5000, odd_text(chance).encode(), chance.randbytes(50)))
        content_type = "application/json" if chance.random() < 0.8 else chance.choice(CONTENT_TYPES)
        model = loaded[name]
        try:
            answer = scoring_server.invocations(body, content_type, model, model.metadata.get_input_schema())
            status, text = answer.status, answer.response
        except MlflowException as error:
            status, text = error.get_http_status_code(), error.serialize_as_json()
        assert status in (200, 400, 413, 415), (status, body[:300], text[:500])
        if status == 200:
            assert "predictions" in json.loads(text)
            return "answered"
        assert "Traceback" not in text
        assert len(text) < 6000
        return "refused"

    run_cases(
        "odd requests to served models",
        case,
        n,
        allowed=("answered", "refused"),
        shown="status 400 (413: too large, 415: another content type) and one line in `message`",
    )

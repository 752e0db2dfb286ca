"""Which answers count as MLflow's: of a server's own, all; of a gateway that answers in its place, none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from tests.tracking.servers import NOT_MLFLOW, PAGE, Fate, Proxy, Server
from tracking import answers, store

API = "/api/2.0/mlflow"
FILE = f"{API}-artifacts/artifacts/1/x/artifacts/a.html"


def answer(method: str, path: str, status: int, headers: list[tuple[str, str]], content: bytes) -> requests.Response:
    made = requests.Response()
    made.request = requests.Request(method, f"https://host/prefix{path}").prepare()
    made.status_code, made._content = status, content
    made.headers.update(headers)
    return made


@pytest.mark.parametrize("kind", NOT_MLFLOW)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{API}/runs/log-batch"),
        ("POST", f"{API}/runs/log-inputs"),
        ("POST", f"{API}/runs/set-tag"),
        ("POST", f"{API}/runs/create"),
        ("POST", f"{API}/runs/update"),
        ("GET", f"{API}/runs/get?run_id=1"),
        ("GET", f"{API}/model-versions/search?filter=x"),
        ("POST", f"{API}/logged-models"),
        ("PATCH", f"{API}/logged-models/m-1"),
        ("PATCH", f"{API}/logged-models/m-1/tags"),
        ("POST", f"{API}/registered-models/alias"),
        ("PUT", FILE),
        ("GET", f"{API}-artifacts/artifacts?path=1/x"),
    ],
)
def test_what_a_gateway_says_is_no_answer(method: str, path: str, kind: str) -> None:
    given = NOT_MLFLOW[kind]
    assert isinstance(given, tuple)
    with pytest.raises(answers.NotMlflow, match=r"in place of MLflow's answer.*MLFLOW_TRACKING_TOKEN"):
        answers.check(answer(method, path, *given))


@pytest.mark.parametrize(
    ("method", "path", "headers", "content"),
    [
        ("POST", f"{API}/runs/log-batch", {"Content-Type": "application/json"}, b"{}"),
        ("POST", f"{API}/runs/update", {"Content-Type": "application/json"}, b'{"run_info": {}}'),
        ("GET", f"{API}/model-versions/search?filter=x", {"Content-Type": "application/json"}, b"{}"),
        ("PUT", FILE, {}, b""),
        ("PUT", FILE, {"Content-Type": "text/plain", "X-Content-Type-Options": "nosniff"}, b""),
        ("PUT", FILE, {"Content-Type": "application/json"}, b"{}"),
        ("GET", FILE, {"Content-Type": "text/html", "Content-Disposition": "attachment; filename=a.html"}, PAGE),
        ("GET", "/buckets/x/a.html", {"Content-Type": "text/html"}, PAGE),
        ("PUT", "/buckets/x/a.html", {"Content-Type": "text/html"}, PAGE),
    ],
)
def test_what_mlflow_and_other_stores_say_is_one(
    method: str, path: str, headers: dict[str, str], content: bytes
) -> None:
    answers.check(answer(method, path, 200, list(headers.items()), content))


@pytest.mark.parametrize(
    ("method", "status", "to", "is_one"),
    [
        ("GET", 302, "https://other/prefix/api/2.0/mlflow/runs/get?run_id=1", True),
        ("POST", 308, "https://other/deeper/api/2.0/mlflow/runs/get", True),
        ("POST", 307, "/login", False),
        ("POST", 301, "https://host/prefix/api/2.0/mlflow/runs/get", False),  # requests makes a GET of it
        ("GET", 302, "https://me:word@sso/start?state=token", False),
    ],
)
def test_a_redirect_to_the_same_place_is_followed(method: str, status: int, to: str, is_one: bool) -> None:
    redirect = answer(method, f"{API}/runs/get", status, [("Location", to)], b"")
    if is_one:
        answers.check(redirect)
        return
    with pytest.raises(answers.NotMlflow) as caught:
        answers.check(redirect)
    assert "token" not in str(caught.value)
    assert "word@" not in str(caught.value)


def test_a_login_page_in_the_place_of_a_file_is_not_taken_for_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide: list[Callable[..., Fate]] = [lambda *_: None]
    proxy = Proxy(server.uri, lambda *request: decide[0](*request))
    try:
        client = store.connect(proxy.uri)
        run_id = client.create_run(client.create_experiment(tmp_path.name)).info.run_id
        page = tmp_path / "a.html"
        page.write_bytes(PAGE)
        client.log_artifact(run_id, str(page))
        assert Path(client.download_artifacts(run_id, "a.html")).read_bytes() == PAGE
        decide[0] = lambda method, path, body: NOT_MLFLOW["a login page"]
        with pytest.raises(MlflowException, match="MLFLOW_TRACKING_TOKEN"):
            client.download_artifacts(run_id, "a.html")
        with pytest.raises(MlflowException) as caught:
            client.log_batch(run_id, metrics=[Metric("loss", 1.0, 1, 1)])
    finally:
        proxy.stop()
    assert store.is_away(caught.value)
    assert not store.is_final(caught.value)
    assert store.trouble("http://x", caught.value).startswith("tracking store http://x: status 200 with 43 bytes of")
    assert MlflowClient(server.uri).get_metric_history(run_id, "loss") == []

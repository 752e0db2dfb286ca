"""What the writer thread does with a spool in unlucky moments, against a real SQLite store."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image

import tracking
from tests.tracking.servers import NOT_MLFLOW, PAGE, Fate, Proxy, Server
from tracking import __main__ as commands
from tracking import starting, store
from tracking.outbox.delivery import Delivery
from tracking.outbox.spool import Spool


@pytest.fixture
def spool(database: str, tmp_path: Path) -> Spool:
    """The spool of a run of the store, with nothing in it and no thread that delivers."""
    run_id = MlflowClient(database).create_run("0").info.run_id
    spool = Spool(tmp_path / "runs" / run_id)
    spool.set_facts(run_id=run_id, tracking_uri=database, status="RUNNING")
    return spool


def deliver(delivery: Delivery, spool: Spool) -> None:
    """One pass of the writer's loop."""
    while found := spool.read(spool.sent):
        delivery.send(found)


def queue_checkpoint(spool: Spool, content: str) -> None:
    """As `Run.log_checkpoint` does."""
    file = spool.folder / "files/checkpoint/checkpoint.pt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    spool.add("file", file="files/checkpoint/checkpoint.pt", name="checkpoint.pt", folder="checkpoints", newest=True)


def test_a_run_that_ends_after_an_outage_stays_ended(database: str, spool: Spool) -> None:
    client, run_id = MlflowClient(database), spool.facts()["run_id"]
    delivery = Delivery(spool, database)
    spool.add("finish", status="KILLED")
    deliver(delivery, spool)
    delivery.beat(True)
    assert client.get_run(run_id).info.status == "KILLED"
    # Resumed before that was delivered, it is alive, whatever `reap` took it for.
    spool.add("status", status="RUNNING")
    deliver(delivery, spool)
    client.set_terminated(run_id, "KILLED")
    delivery.beat(True)
    assert client.get_run(run_id).info.status == "RUNNING"


def test_a_refused_artifact_is_kept(database: str, spool: Spool) -> None:
    path, relative = spool.new_file("a.txt")
    path.write_text("precious")
    spool.add("file", file=relative, name="a.txt", folder="../outside")
    tree, relative = spool.new_file("tree")
    tree.mkdir()
    (tree / "b.txt").write_text("fine")
    spool.add("file", file=relative, name="tree", folder="")
    deliver(Delivery(spool, database), spool)
    spool.clear()
    record = json.loads((spool.folder / "refused.jsonl").read_text())
    assert record["file"] == "refused/000001/a.txt"
    assert (spool.folder / record["file"]).read_text() == "precious"
    assert not (spool.folder / "files").exists()
    folder = MlflowClient(database).download_artifacts(spool.facts()["run_id"], "tree")
    assert (Path(folder) / "b.txt").read_text() == "fine"


def test_a_checkpoint_saved_during_an_upload_is_uploaded_too(
    database: str, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = MlflowClient.log_artifact
    uploaded = []

    def slow(self: MlflowClient, run_id: str, path: str, folder: str | None = None) -> None:
        uploaded.append(Path(path).read_text())
        upload(self, run_id, path, folder)
        if len(uploaded) == 1:
            queue_checkpoint(spool, "step 2")

    monkeypatch.setattr(MlflowClient, "log_artifact", slow)
    queue_checkpoint(spool, "step 1")
    deliver(Delivery(spool, database), spool)
    assert uploaded == ["step 1", "step 2"]
    stored = MlflowClient(database).download_artifacts(spool.facts()["run_id"], "checkpoints/checkpoint.pt")
    assert Path(stored).read_text() == "step 2"
    assert [path for path in spool.folder.glob("files/**/*") if path.is_file()] == []


@pytest.mark.parametrize("newer", [False, True])
def test_a_checkpoint_whose_upload_failed_waits_unless_there_is_a_newer_one(
    database: str, spool: Spool, monkeypatch: pytest.MonkeyPatch, newer: bool
) -> None:
    upload = MlflowClient.log_artifact

    def away(*arguments: Any) -> None:
        raise ConnectionError("away")

    queue_checkpoint(spool, "step 1")
    monkeypatch.setattr(MlflowClient, "log_artifact", away)
    with pytest.raises(ConnectionError):
        deliver(Delivery(spool, database), spool)
    if newer:
        queue_checkpoint(spool, "step 2")
    monkeypatch.setattr(MlflowClient, "log_artifact", upload)
    deliver(Delivery(spool, database), spool)  # another process, perhaps
    stored = MlflowClient(database).download_artifacts(spool.facts()["run_id"], "checkpoints/checkpoint.pt")
    assert Path(stored).read_text() == ("step 2" if newer else "step 1")
    assert spool.pending() == 0
    assert [path for path in spool.folder.glob("files/**/*") if path.is_file()] == []


def test_a_run_that_is_created_late_knows_its_page(database: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "runs" / "offline-1")
    spool.set_facts(run_id=None, local_id="offline-1", experiment="late", run_name=None, tags={}, tracking_uri=database)
    for _ in range(2):  # the second time it is found by its local id
        delivery = Delivery(spool, database)
        delivery.client()
        experiment = MlflowClient(database).get_experiment_by_name("late").experiment_id
        assert (
            tracking.Run(spool, delivery, False)
            .url()
            .endswith(f"#/experiments/{experiment}/runs/{spool.facts()['run_id']}")
        )
        spool.set_facts(run_id=None, experiment_id=None)


def test_sync_goes_on_behind_damage(database: str, spool: Spool, capsys: pytest.CaptureFixture[str]) -> None:
    spool.set_facts(status="FINISHED")
    spool.append("dama\rged")
    spool.add("metrics", step=1, values={"loss": 1.0})
    spool.close()
    for number, text in enumerate(("", "[]", '{"entry_point": "wgan"}')):
        folder = spool.folder.parent / f"0-{number}"  # before the whole run in alphabetical order
        folder.mkdir()
        (folder / "run.json").write_text(text)
    assert commands.main(["sync", str(spool.folder.parent)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [
        ("run.json is damaged" in line, "2 records delivered, 1 refused" in line) for line in lines if "0-" in line
    ] == [(True, False)] * 3
    assert "2 records delivered, 1 refused" in lines[-1]
    assert MlflowClient(database).get_run(spool.facts()["run_id"]).data.metrics == {"loss": 1.0}


def test_sync_removes_only_what_it_has_sent(database: str, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.set_facts(status="FINISHED")
    spool.add("metrics", step=1, values={"loss": 1.0})
    spool.close()
    whole = (spool.folder / "spool.jsonl").read_bytes()
    monkeypatch.setattr(Spool, "read", lambda self, start: [])
    commands.main(["sync", str(spool.folder)])
    assert (spool.folder / "spool.jsonl").read_bytes() == whole


def test_sync_ends_a_run_that_was_killed_in_its_last_delivery(database: str, spool: Spool) -> None:
    """Its process had no time to write FINISHED into run.json; the spool's last line says it."""
    spool.add("metrics", step=1, values={"loss": 1.0})
    queue_model(spool, "net")
    spool.add("finish", status="FINISHED")
    spool.close()
    assert commands.main(["sync", str(spool.folder)]) == 0
    assert len(MlflowClient(database).search_model_versions("name = 'net'")) == 1
    assert not (spool.folder / "models").exists()
    assert MlflowClient(database).get_run(spool.facts()["run_id"]).info.status == "FINISHED"
    assert spool.facts()["status"] == "FINISHED"
    assert (spool.folder / "spool.jsonl").read_bytes() == b""


def queue_everything(spool: Spool, fresh_run_id: str, model: str = "net") -> None:
    """Every operation that there is, each with its files."""
    spool.add("status", status="RUNNING")
    spool.add("params", values={"lr": "0.1"})
    spool.add("tags", values={"colour": "green"})
    spool.add("dataset", name="digits", fingerprint="ab" * 32, details={"source": "here"}, context="training")
    for step in range(3):
        spool.add("metrics", step=step, values={"loss": 1.0 / (step + 1)})
    path, relative = spool.new_file("a.txt")
    path.write_text("hello")
    spool.add("file", file=relative, name="a.txt", folder="notes")
    tree, relative = spool.new_file("tree")
    tree.mkdir()
    for name in ("b.txt", "c.txt"):
        (tree / name).write_text(name)
    spool.add("file", file=relative, name="tree", folder="")
    path, relative = spool.new_file("image.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    spool.add("image", key="grid", step=1, file=relative)
    queue_checkpoint(spool, "weights")
    queue_model(spool, model)
    spool.add("evaluations", name=model, version="1", step=0, tags={"evaluation.x": "{}"}, metrics={"accuracy": 0.75})
    spool.add("handover", run_id=fresh_run_id)
    spool.add("finish", status="FINISHED")


def queue_model(spool: Spool, name: str, n_bytes: int = 10) -> None:
    folder = spool.folder / "models" / f"{name}-1"
    folder.mkdir(parents=True)
    Model().save(str(folder / "MLmodel"))
    (folder / "weights").write_bytes(b"w" * n_bytes)
    spool.add(
        "register",
        folder=str(folder.relative_to(spool.folder)),
        name=name,
        registered_name=name,
        upload=f"{name}-1",
        step=2,
        alias="latest-good",
        metrics={"loss": 1.0 / 3, "error": 0.25},
        params={"width": 4},
        tags={"kind": "toy"},
    )


def assert_all_once(client: MlflowClient, run_id: str, fresh_run_id: str, model: str = "net") -> None:
    """All of `queue_everything` is in the store, nothing twice, the run ended."""
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1"}
    assert run.data.tags["colour"] == "green"
    points = [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")]
    assert points == [(0, 1.0), (1, 0.5), (2, 1.0 / 3)]
    assert len(run.inputs.dataset_inputs) == 1
    files = [f.path for folder in ("notes", "tree", "checkpoints") for f in client.list_artifacts(run_id, folder)]
    assert files == ["notes/a.txt", "tree/b.txt", "tree/c.txt", "checkpoints/checkpoint.pt"]
    assert len([f for f in client.list_artifacts(run_id, "images") if f.path.endswith(".png")]) == 1
    [version] = client.search_model_versions(f"name = '{model}'")
    assert json.loads(version.tags["evaluation.x"]) == {"measured_by": run_id}
    [logged] = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    assert logged.tags["mlflow.modelVersions"] == f'[{{"name": "{model}", "version": 1}}]'
    assert [output.model_id for output in run.outputs.model_outputs] == [logged.model_id]
    assert Counter((m.key, m.value) for m in logged.metrics or []) == {
        ("loss", 1.0 / 3): 1,
        ("error", 0.25): 1,
        ("accuracy", 0.75): 1,
    }
    assert client.get_model_version_by_alias(model, "latest-good").version == version.version
    assert client.get_run(fresh_run_id).data.tags["resumes"] == run_id


@pytest.fixture
def fates() -> dict[str, Any]:
    """What becomes of requests, for `gateway`: {"decide": a function as `Proxy` takes one}."""
    return {"decide": lambda *_: None}


@pytest.fixture
def gateway(server: Server, fates: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A gateway before the server, and MLFLOW_TRACKING_URI set to it."""
    proxy = Proxy(server.uri, lambda *request: fates["decide"](*request))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    yield proxy
    proxy.stop()


@pytest.fixture
def served_spool(server: Server, gateway: Proxy, tmp_path: Path) -> Spool:
    """The spool of a run of the server, delivered through the gateway."""
    client = MlflowClient(server.uri)  # an experiment of its own: its artifacts go through the server
    run_id = client.create_run(client.create_experiment(tmp_path.name)).info.run_id
    spool = Spool(tmp_path / "runs" / run_id)
    spool.set_facts(run_id=run_id, tracking_uri=gateway.uri, status="RUNNING")
    return spool


def test_the_answer_of_each_request_is_lost_once(
    server: Server, gateway: Proxy, served_spool: Spool, fates: dict[str, Any]
) -> None:
    """The server has done what it was asked; whoever asked does not know."""
    client, spool = MlflowClient(server.uri), served_spool
    run_id, fresh = spool.facts()["run_id"], client.create_run("0").info.run_id
    lost: set[tuple[str, str, bytes]] = set()

    def decide(method: str, path: str, body: bytes) -> str | None:
        request = method, path, re.sub(rb"\d{13}", b"now", body)  # MLflow stamps some with the time of the request
        if request in lost:
            return None
        lost.add(request)
        return "lose"

    fates["decide"] = decide
    queue_everything(spool, fresh)
    failures = 0
    while spool.sent < spool.size:
        try:
            deliver(Delivery(spool, gateway.uri), spool)
        except Exception:
            failures += 1
            assert failures < 200
    assert failures == len(lost) > 30
    assert_all_once(client, run_id, fresh)
    assert not (spool.folder / "refused.jsonl").exists()


@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, len(NOT_MLFLOW)))])
def test_an_answer_that_is_not_mlflows_is_none(
    server: Server, gateway: Proxy, served_spool: Spool, fates: dict[str, Any], first: int
) -> None:
    """A gateway that wants somebody to sign in answers each request once, and the server does not hear it."""
    client, spool, model = MlflowClient(server.uri), served_spool, f"net-{first}"
    kinds = itertools.islice(itertools.cycle(NOT_MLFLOW.values()), first, None)
    run_id, fresh = spool.facts()["run_id"], client.create_run("0").info.run_id
    kept: set[tuple[str, str, bytes]] = set()

    def decide(method: str, path: str, body: bytes) -> Fate:
        request = method, path, re.sub(rb"\d{13}", b"now", body)
        if request in kept:
            return None
        if path.startswith("/login"):
            return 200, [("Content-Type", "text/html")], PAGE
        kept.add(request)
        return next(kinds)

    fates["decide"] = decide
    queue_everything(spool, fresh, model)
    reasons: list[str] = []
    while spool.sent < spool.size and len(reasons) < 200:
        try:
            deliver(Delivery(spool, gateway.uri), spool)
        except Exception as error:
            reasons.append(store.reason(error))
    assert all("MLFLOW_TRACKING_TOKEN" in reason and "secret" not in reason for reason in reasons)
    assert len(reasons) == len(kept) > 30
    assert_all_once(client, run_id, fresh, model)
    assert not (spool.folder / "refused.jsonl").exists()


def test_a_run_whose_creation_was_not_answered_is_made_once(
    server: Server, gateway: Proxy, fates: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: set[str] = set()

    def decide(method: str, path: str, body: bytes) -> str | None:
        if path in lost:
            return None
        lost.add(path)
        return "lose"

    fates["decide"] = decide
    monkeypatch.setattr(starting.time, "sleep", lambda seconds: None)
    opening = starting.open_run(
        "toy", tmp_path / "runs", {}, experiment="lossy", run_name=None, resume=None, inherited=None
    )
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("lossy")
    assert experiment is not None
    assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == [opening.facts["run_id"]]
    assert len(lost) > 3


def test_what_a_killed_upload_of_a_model_left_is_swept(
    database: str, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(database)

    def files(model_id: str) -> Path:
        folder = store.local_artifacts(client.get_logged_model(model_id).artifact_location)
        assert folder is not None
        return folder

    def killed(self: MlflowClient, model_id: str, folder: str) -> None:
        files(model_id).mkdir(parents=True)
        (files(model_id) / ".artifact.uploading.x1").write_text("ha")
        raise ConnectionError("killed")

    queue_model(spool, "net")
    with monkeypatch.context() as context:
        context.setattr(MlflowClient, "log_model_artifacts", killed)
        with pytest.raises(ConnectionError):
            deliver(Delivery(spool, database), spool)
    deliver(Delivery(spool, database), spool)
    [version] = client.search_model_versions("name = 'net'")
    found = files(version.source.removeprefix("models:/"))
    assert {path.name for path in found.iterdir()} == {"MLmodel", "weights"}


def test_an_upload_that_the_gateway_refuses_is_set_aside_and_the_rest_passes(
    server: Server,
    gateway: Proxy,
    served_spool: Spool,
    fates: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """nginx takes 1 MB by default."""
    client, spool = MlflowClient(server.uri), served_spool
    fates["decide"] = lambda method, path, body: 413 if len(body) > 1 << 20 else None
    for name, n_bytes in (("large.bin", 3 << 20), ("small.bin", 10)):
        path, relative = spool.new_file(name)
        path.write_bytes(b"x" * n_bytes)
        spool.add("file", file=relative, name=name, folder="")
    queue_model(spool, "heavy", 2 << 20)
    queue_model(spool, "light")
    spool.add("finish", status="FINISHED")
    deliver(Delivery(spool, gateway.uri), spool)
    run_id = spool.facts()["run_id"]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(run_id)] == ["small.bin"]
    assert len(client.search_model_versions("name = 'light'")) == 1
    assert client.search_model_versions("name = 'heavy'") == []
    refused = [json.loads(line) for line in (spool.folder / "refused.jsonl").read_text().splitlines()]
    assert [record["op"] for record in refused] == ["file", "register"]
    assert all("client_max_body_size" in record["reason"] for record in refused)
    assert (spool.folder / refused[0]["file"]).stat().st_size == 3 << 20
    assert (spool.folder / refused[1]["folder"] / "weights").stat().st_size == 2 << 20
    assert "large.bin: 413" in capsys.readouterr().out


def queue_text(spool: Spool, name: str, content: str) -> None:
    path, relative = spool.new_file(name)
    path.write_text(content)
    spool.add("file", file=relative, name=name, folder="notes")


def text_of(client: MlflowClient, run_id: str, path: str) -> str:
    return Path(client.download_artifacts(run_id, path)).read_text()


def test_what_is_refused_while_the_rest_is_accepted_is_set_aside_and_sync_tries_it_again(
    server: Server, gateway: Proxy, served_spool: Spool, fates: dict[str, Any]
) -> None:
    """The rules of a firewall: a word in the path or the body of a request."""
    client, spool = MlflowClient(server.uri), served_spool
    run_id, model = spool.facts()["run_id"], "firewalled"
    fates["decide"] = lambda method, path, body: 403 if "odd" in path or b"odd" in body else None
    queue_text(spool, "odd.txt", "older")
    queue_text(spool, "odd too.txt", "only")
    queue_text(spool, "plain.txt", "plain")
    spool.add("params", values={"lr": "odd"})
    spool.add("tags", values={"colour": "odd"})
    for step, name in enumerate(("loss", "oddity", "loss")):
        spool.add("metrics", step=step, values={name: 1.0})
    queue_model(spool, model)
    weights = spool.folder / "models" / f"{model}-1" / "weights"
    weights.write_bytes(b"odd" * 9)
    spool.add("finish", status="FINISHED")
    deliver(Delivery(spool, gateway.uri), spool)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(run_id, "notes")] == ["notes/plain.txt"]
    assert [point.step for point in client.get_metric_history(run_id, "loss")] == [0, 2]
    assert client.search_model_versions(f"name = '{model}'") == []
    refused = [json.loads(line) for line in (spool.folder / "refused.jsonl").read_text().splitlines()]
    assert [record["op"] for record in refused] == ["file", "file", "params", "tags", "metrics", "register"]
    assert all("403" in record["reason"] for record in refused)

    spool.close()
    assert commands.main(["sync", str(spool.folder)]) == 1
    assert sorted(path.name for path in spool.folder.glob("refused/*/*")) == [
        "MLmodel",
        "odd too.txt",
        "odd.txt",
        "weights",
    ]
    assert len((spool.folder / "refused.jsonl").read_text().splitlines()) == len(refused)

    fates["decide"] = lambda *_: None
    spool = Spool(spool.folder)
    queue_text(spool, "odd.txt", "newer")
    client.set_tag(run_id, "colour", "newer")
    deliver(Delivery(spool, gateway.uri), spool)
    spool.set_facts(status="FINISHED")
    spool.close()
    assert commands.main(["sync", str(spool.folder)]) == 0
    run = client.get_run(run_id)
    assert text_of(client, run_id, "notes/odd.txt") == "newer"
    assert text_of(client, run_id, "notes/odd too.txt") == "only"
    assert run.data.params == {"lr": "odd"}
    assert run.data.tags["colour"] == "newer"
    assert [point.step for point in client.get_metric_history(run_id, "oddity")] == [1]
    assert len(client.search_model_versions(f"name = '{model}'")) == 1
    assert [json.loads(line)["op"] for line in (spool.folder / "refused.jsonl").read_text().splitlines()] == ["tags"]
    assert list(spool.folder.glob("refused/*")) == []
    assert commands.main(["sync", str(spool.folder)]) == 0


@pytest.mark.parametrize("status", [401, 429])
def test_what_may_pass_is_waited_for(
    server: Server, gateway: Proxy, served_spool: Spool, fates: dict[str, Any], status: int
) -> None:
    client, spool = MlflowClient(server.uri), served_spool
    fates["decide"] = lambda method, path, body: status if method == "PUT" else None
    queue_text(spool, "a.txt", "hello")
    with pytest.raises(Exception, match=str(status)):
        deliver(Delivery(spool, gateway.uri), spool)
    fates["decide"] = lambda *_: None
    deliver(Delivery(spool, gateway.uri), spool)
    assert text_of(client, spool.facts()["run_id"], "notes/a.txt") == "hello"
    assert not (spool.folder / "refused.jsonl").exists()


@pytest.mark.parametrize("refused", [("POST",), ("POST", "PUT", "GET")])
def test_rights_that_are_lost_refuse_all_that_is_sent_and_nothing_is_set_aside(
    server: Server, gateway: Proxy, served_spool: Spool, fates: dict[str, Any], refused: tuple[str, ...]
) -> None:
    client, spool = MlflowClient(server.uri), served_spool
    run_id, fresh = spool.facts()["run_id"], client.create_run("0").info.run_id
    queue_everything(spool, fresh, model="-".join(refused))
    fates["decide"] = lambda method, path, body: 403 if method in refused else None
    with pytest.raises(Exception, match="403"):
        deliver(Delivery(spool, gateway.uri), spool)
    assert spool.sent == 0
    fates["decide"] = lambda *_: None
    deliver(Delivery(spool, gateway.uri), spool)
    assert_all_once(client, run_id, fresh, model="-".join(refused))
    assert not (spool.folder / "refused.jsonl").exists()


def test_two_processes_that_meet_in_the_store_lose_nothing(
    server: Server, gateway: Proxy, served_spool: Spool, fates: dict[str, Any]
) -> None:
    """MLflow answers 400 to the second of two that write the same row."""
    met: set[str] = set()

    def decide(method: str, path: str, body: bytes) -> int | None:
        name = path.partition("/mlflow/")[2]
        if method != "POST" or name not in ("runs/log-batch", "model-versions/create", "runs/update") or name in met:
            return None
        met.add(name)
        return 400

    client, spool = MlflowClient(server.uri), served_spool
    run_id, fresh = spool.facts()["run_id"], client.create_run("0").info.run_id
    queue_everything(spool, fresh, model="meeting")
    fates["decide"] = decide
    deliver(Delivery(spool, gateway.uri), spool)
    assert len(met) == 3
    assert_all_once(client, run_id, fresh, model="meeting")
    assert not (spool.folder / "refused.jsonl").exists()


@pytest.mark.parametrize("fate", ["lose", 503])
def test_a_model_that_cannot_be_found_just_then_is_registered_later(
    server: Server, gateway: Proxy, served_spool: Spool, fates: dict[str, Any], fate: str | int
) -> None:
    """MLflow's client says that such a model may have been deleted, and calls it an invalid value."""
    client, spool = MlflowClient(server.uri), served_spool
    run_id, fresh, model = spool.facts()["run_id"], client.create_run("0").info.run_id, f"late-{fate}"
    queue_everything(spool, fresh, model)
    asked = {"version": False, "found": False}

    def decide(method: str, path: str, body: bytes) -> str | int | None:
        asked["version"] |= path.endswith("model-versions/create")
        if method == "GET" and "logged-models/m-" in path and asked["version"] and not asked["found"]:
            asked["found"] = True
            return fate
        return None

    fates["decide"] = decide
    with pytest.raises(MlflowException) as caught:
        deliver(Delivery(spool, gateway.uri), spool)
    assert asked["found"]
    assert "may have been deleted" not in store.reason(caught.value)
    deliver(Delivery(spool, gateway.uri), spool)
    assert_all_once(client, run_id, fresh, model)
    assert not (spool.folder / "refused.jsonl").exists()


def test_a_kill_while_the_refused_is_taken_back_doubles_nothing(
    server: Server, gateway: Proxy, served_spool: Spool, fates: dict[str, Any]
) -> None:
    client, spool = MlflowClient(server.uri), served_spool
    fates["decide"] = lambda method, path, body: 403 if method == "PUT" else None
    queue_text(spool, "a.txt", "hello")
    deliver(Delivery(spool, gateway.uri), spool)
    fates["decide"] = lambda *_: None
    kept = (spool.folder / "refused.jsonl").read_bytes()
    spool.take_back()
    (spool.folder / "refused.jsonl").write_bytes(kept)  # as if it had been killed before it emptied it
    spool.take_back()
    deliver(Delivery(spool, gateway.uri), spool)
    assert text_of(client, spool.facts()["run_id"], "notes/a.txt") == "hello"
    assert not (spool.folder / "refused.jsonl").exists()

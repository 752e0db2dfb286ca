"""What the writer thread does with a spool in unlucky moments, against a real SQLite store."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import tracking
from tracking import __main__ as commands
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

"""Which version becomes the champion, and which is refused with which words."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from common.errors import InputError
from tracking import store
from tracking.__main__ import main
from tracking.registry.evaluations import Evaluation, evaluation_tags, evaluations_in
from tracking.run import start_run

SAME: dict[str, Any] = {"data": "f00", "n_images": 5000}


@pytest.fixture
def client(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MlflowClient]:
    template = (
        tmp_path_factory.getbasetemp() / "promotion.db"
    )  # MLflow takes seconds to make its tables: once for all tests
    store.connect(f"sqlite:///{template}")
    shutil.copy(template, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.set_tracking_uri(None)
    connected = store.connect(uri)
    connected.create_registered_model("g")
    yield connected
    mlflow.set_tracking_uri(None)


def add(client: MlflowClient, *evaluations: Evaluation) -> str:
    """A new version of `g` that was evaluated so; its number."""
    tags = evaluation_tags(evaluations, "run0")
    return str(client.create_model_version("g", "s3://models/g", tags=tags).version)


def fd(value: float, **conditions: Any) -> Evaluation:
    return Evaluation("fd_digits", value, False, {**SAME, **conditions})


def champion(client: MlflowClient) -> str | None:
    held = client.get_registered_model("g").aliases.get("champion")
    return None if held is None else str(held)


def test_a_better_version_takes_over_and_a_worse_one_does_not(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in (5.0, 4.0, 4.5, 4.0):
        add(client, fd(value))
    assert main(["promote", "models:/g/1"]) == 0
    assert champion(client) == "1"
    assert "version 1 is champion now: fd_digits 5; it had no predecessor" in capsys.readouterr().out
    assert main(["promote", "models:/g/2"]) == 0
    assert champion(client) == "2"
    assert "fd_digits 4 against 5 of version 1 (lower is better)" in capsys.readouterr().out
    assert client.get_model_version("g", "2").tags["champion.took_over_from"] == "1"
    assert main(["promote", "models:/g/3"]) == 1
    assert champion(client) == "2"
    line = capsys.readouterr().out.strip()
    assert line == (
        "g: version 3 is not promoted: fd_digits 4.5 against 4 of version 2 (lower is better); champion stays version 2"
    )
    assert main(["promote", "models:/g/2"]) == 0
    assert "is champion already" in capsys.readouterr().out
    assert main(["promote", "models:/g"]) == 0  # the newest, which is as good
    assert champion(client) == "4"
    client.set_registered_model_alias("g", "latest-good", "1")
    assert main(["promote", "models:/g@latest-good", "--alias", "staging"]) == 0
    assert str(client.get_registered_model("g").aliases["staging"]) == "1"
    assert champion(client) == "4"


def test_higher_is_better_where_the_evaluation_says_so(client: MlflowClient) -> None:
    for value in (0.7, 0.6, 0.8):
        add(client, Evaluation("trial_accuracy", value, True, SAME))
    assert main(["promote", "models:/g/1"]) == 0
    assert main(["promote", "models:/g/2"]) == 1
    assert main(["promote", "models:/g/3"]) == 0
    assert champion(client) == "3"


def test_only_the_same_evaluation_compares(client: MlflowClient) -> None:
    add(client, fd(5.0))
    add(client, fd(1.0, n_images=100))
    assert main(["promote", "models:/g/1"]) == 0
    with pytest.raises(InputError, match=r"cannot be compared \(n_images: 5000 for champion, 100 here\)"):
        main(["promote", "models:/g/2"])
    # Measured again as the champion was: that counts, whatever else was measured since.
    for key, text in evaluation_tags([fd(6.0), fd(0.5, n_images=10)], "run1").items():
        client.set_model_version_tag("g", "2", key, text)
    assert main(["promote", "models:/g/2"]) == 1
    assert champion(client) == "1"


def test_of_several_metrics_one_is_chosen(client: MlflowClient) -> None:
    fid = Evaluation("fid", 30.0, False, SAME)
    add(client, fd(5.0), fid)
    add(client, fd(6.0), Evaluation("fid", 20.0, False, SAME))
    add(client, fd(7.0))
    with pytest.raises(InputError, match="evaluated by fd_digits, fid; choose one by --metric"):
        main(["promote", "models:/g/1"])
    assert main(["promote", "models:/g/1", "--metric", "fid"]) == 0
    with pytest.raises(InputError, match="not evaluated by 'fid'; allowed: fd_digits"):
        main(["promote", "models:/g/3", "--metric", "fid"])
    assert main(["promote", "models:/g/2", "--metric", "fd_digits"]) == 1
    assert main(["promote", "models:/g/2", "--metric", "fid"]) == 0


def test_what_cannot_be_promoted(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    add(client)
    add(client, fd(math.nan))
    add(client, fd(5.0))
    for version in (1, 2):
        with pytest.raises(InputError, match="never evaluated: measure it first"):
            main(["promote", f"models:/g/{version}"])
    client.set_registered_model_alias("g", "champion", "1")
    with pytest.raises(InputError, match="champion, version 1, was never evaluated by fd_digits"):
        main(["promote", "models:/g/3"])
    assert champion(client) == "1"
    with pytest.raises(InputError, match="models:/g/9"):
        main(["promote", "models:/g/9"])
    with pytest.raises(InputError, match="models:/h@champion"):
        main(["promote", "models:/h@champion"])
    with pytest.raises(InputError, match="not a registered version"):
        main(["promote", "weights/model.safetensors"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"store http://127\.0\.0\.1:9"):
        main(["promote", "models:/g/3"])


def test_tags_that_somebody_wrote_are_no_evaluations() -> None:
    good = evaluation_tags([fd(5.0)], "run0")
    (found,) = evaluations_in({**good, "evaluation.mine": "5", "evaluation.x": "{}", "note": "good"}).values()
    assert (found.value, found.measured_by, found.conditions) == (5.0, "run0", SAME)
    text = json.dumps({"metric": "a", "value": "low", "higher_is_better": True, "conditions": {}})
    assert not evaluations_in({"evaluation.a": text})


def test_a_run_records_its_figures_with_the_version(client: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    logged = client.create_logged_model("0", "generator")
    tags = evaluation_tags([fd(5.0)], "run0")
    client.create_model_version("g", f"models:/{logged.model_id}", tags=tags, model_id=logged.model_id)
    add(client, fd(4.5))
    assert main(["promote", "models:/g/1"]) == 0
    with start_run("fid", {}) as run:
        run.log_evaluations("models:/g/1", [fd(4.0)])  # measured again: takes the place of 5.0
        run.log_evaluations("netG.pth", [fd(1.0)])  # a file has no version
        run.log_evaluations("models:/g/99", [fd(1.0)])  # deleted since it was measured
    (found,) = evaluations_in(client.get_model_version("g", "1").tags).values()
    assert (found.value, found.measured_by) == (4.0, run.run_id)
    shown = client.get_logged_model(logged.model_id).metrics  # on the model's page, with the run that measured it
    assert [(metric.key, metric.value, metric.run_id) for metric in shown] == [("fd_digits", 4.0, run.run_id)]
    assert main(["promote", "models:/g/2"]) == 1
    (refused,) = (run.folder / "refused.jsonl").read_text().splitlines()
    assert "models:/g/99 is not there any more" in refused
    assert client.get_run(run.run_id).info.status == "FINISHED"

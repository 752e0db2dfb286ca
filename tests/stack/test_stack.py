"""The stack of compose.yaml for real, without containers: trainers against MLflow's server over PostgreSQL and S3."""

import subprocess
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient

from tests.conftest import PATIENCE
from tests.running import command, environment
from tests.stack.services import PASSWORD, Stack
from tests.trainers.tune.test_run import TINY as STUDY
from tests.trainers.wgan.test_run import TINY
from trainers.tune.study import used
from trainers.wgan.loop import METRICS

pytestmark = pytest.mark.slow


def start_trainer(folder: Path, uri: str, **parameters: object) -> subprocess.Popen[str]:
    folder.mkdir()
    return subprocess.Popen(
        command("wgan", **parameters),
        cwd=folder,
        env={**environment(folder), "MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_trainers_at_once_and_a_server_that_dies_in_the_middle(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(tracking_uri=stack.server.uri)
    trainers = [start_trainer(tmp_path / str(seed), stack.server.uri, **TINY, seed=seed) for seed in (1, 2)]

    deadline = time.monotonic() + PATIENCE
    while not all(list((tmp_path / str(seed)).glob("runs/*/checkpoint.pt")) for seed in (1, 2)):
        assert time.monotonic() < deadline
        assert all(trainer.poll() is None for trainer in trainers), [t.communicate()[0] for t in trainers if t.poll()]
        time.sleep(0.05)
    stack.server.kill()
    time.sleep(2)
    stack.server.start()
    outputs = [trainer.communicate(timeout=PATIENCE)[0] for trainer in trainers]
    assert [trainer.returncode for trainer in trainers] == [0, 0], outputs
    assert not any("not delivered" in output for output in outputs), outputs

    experiment = client.get_experiment_by_name("wgan-eeg")
    runs = client.search_runs([experiment.experiment_id], "params.nz = '8'")
    assert sorted(run.data.params["seed"] for run in runs) == ["1", "2"]
    objects = stack.store.keys()
    for run in runs:
        assert run.info.status == "FINISHED"
        for metric in METRICS:
            points = client.get_metric_history(run.info.run_id, metric)
            assert [point.step for point in sorted(points, key=lambda point: point.step)] == [5, 10, 15, 20, 24], metric
        for artifact in ("checkpoints/checkpoint.pt", "figures/loss_curves.png", "config.json"):
            assert any(run.info.run_id in key and key.endswith(artifact) for key in objects), artifact
    # nothing lies beside the store: artifacts go to S3, everything else to PostgreSQL
    assert not (stack.folder / "artifacts").exists()
    with stack.postgres.connect("mlflow") as connection, connection.cursor() as cursor:
        query = "SELECT count(*) FROM metrics WHERE run_uuid IN %s AND key = 'critic_loss'"
        cursor.execute(query, (tuple(run.info.run_id for run in runs),))
        assert cursor.fetchone() == (10,)

    versions = client.search_model_versions("name = 'wgan-generator'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
    assert {version.run_id for version in versions} == {run.info.run_id for run in runs}
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(stack.server.uri)
    try:
        generator = mlflow.pyfunc.load_model("models:/wgan-generator@latest-good")
    finally:
        mlflow.set_tracking_uri(None)
    images = generator.predict({"codes": np.zeros((3, 8), dtype=np.float32)}, params={"output": "float"})
    assert images.shape == (3, 3, 32, 32)
    assert np.isfinite(images).all()


def test_the_server_refuses_names_it_is_not_called_by(stack: Stack) -> None:
    import urllib.error
    import urllib.request

    address = f"{stack.server.uri}/api/2.0/mlflow/experiments/get?experiment_id=0"
    with urllib.request.urlopen(address, timeout=20) as answer:
        assert answer.status == 200
    request = urllib.request.Request(address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=20)
    assert refusal.value.code == 403


def test_two_workers_share_a_study(stack: Stack, tmp_path: Path) -> None:
    """`tune`, its study in PostgreSQL, its runs on the server: no trial is made twice, none is lost, the winner is
    registered.
    """
    address = stack.postgres.uri("studies").replace(PASSWORD, "$DATABASE_PASSWORD")
    settings = {**STUDY, "fixed": f"{STUDY['fixed']}, n_dis=2", "study": "pair", "storage": address}
    done = subprocess.run(
        command("tune", **settings),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        env={**environment(tmp_path), "MLFLOW_TRACKING_URI": stack.server.uri, "DATABASE_PASSWORD": PASSWORD},
    )
    assert done.returncode == 0, done.stdout
    study, repeats = (
        optuna.load_study(study_name=name, storage=stack.postgres.uri("studies")) for name in ("pair", "pair/repeats")
    )
    counted = used(study.trials)
    assert len(counted) == 4
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in counted)
    assert len({trial.user_attrs["owner"]["pid"] for trial in counted}) == 2
    client = MlflowClient(tracking_uri=stack.server.uri)
    experiment = client.get_experiment_by_name("wgan-eeg").experiment_id
    parent = client.get_run(study.user_attrs["run_id"])
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    winner = study.user_attrs["final"]["run_id"]
    made = [trial.user_attrs["run_id"] for trial in (*counted, *used(repeats.trials))]
    assert sorted(run.info.run_id for run in children) == sorted([*made, winner])
    assert all(run.info.status == "FINISHED" for run in (parent, *children))
    for trial in counted:
        assert client.get_run(trial.user_attrs["run_id"]).data.metrics["validation_kernel_distance"] == trial.value
    assert client.get_model_version_by_alias("wgan-generator", "tuned").run_id == winner
    objects = stack.store.keys()
    for artifact in ("summary.md", "trials.csv", "figures/history.png"):
        assert any(parent.info.run_id in key and key.endswith(artifact) for key in objects), artifact
    assert PASSWORD not in done.stdout + str(parent.data.to_dictionary())

"""The stack of compose.yaml for real, without containers: trainers against MLflow's server over PostgreSQL and S3."""

import multiprocessing
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient

from benchmarks.tracking_limits import work
from tests.stack.services import Stack
from tests.trainers.running import command, environment
from tests.trainers.test_wgan import TINY
from trainers.wgan_loop import METRICS

pytestmark = pytest.mark.slow


def start_trainer(folder: Path, uri: str, **parameters: object) -> subprocess.Popen[str]:
    folder.mkdir()
    return subprocess.Popen(
        command("wgan", **parameters), cwd=folder, env={**environment(folder), "MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_two_trainers_at_once_and_a_server_that_dies_in_the_middle(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(tracking_uri=stack.server.uri)
    trainers = [start_trainer(tmp_path / str(seed), stack.server.uri, **TINY, seed=seed) for seed in (1, 2)]

    deadline = time.monotonic() + 150
    while not all(list((tmp_path / str(seed)).glob("runs/*/checkpoint.pt")) for seed in (1, 2)):
        assert time.monotonic() < deadline
        assert all(trainer.poll() is None for trainer in trainers), [t.communicate()[0] for t in trainers if t.poll()]
        time.sleep(0.05)
    stack.server.kill()
    time.sleep(2)
    stack.server.start()
    outputs = [trainer.communicate(timeout=250)[0] for trainer in trainers]
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


def test_two_workers_share_a_study(stack: Stack) -> None:
    """Every trial is asked for by one of them alone, and none is lost."""
    address = stack.postgres.uri("studies")
    optuna.create_study(study_name="pair", storage=address)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in [pool.submit(work, address, "pair", 6) for _ in range(2)]:
            future.result(timeout=200)
    trials = optuna.load_study(study_name="pair", storage=address).trials
    assert [trial.number for trial in trials] == list(range(12))
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in trials)
    assert all(sorted(trial.intermediate_values) == list(range(8)) for trial in trials)

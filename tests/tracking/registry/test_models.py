"""Models that go to the registry and come back elsewhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

import tracking
from common.errors import InputError
from common.tensors import save_tensors
from tracking import store
from tracking.registry.models import served_address

EXAMPLE = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)

# Runs where neither this repository nor its classes can be imported.
ELSEWHERE = """
import sys, numpy as np, mlflow, torch, importlib.util
torch.cuda.is_available = lambda: True  # MLflow then asks for the GPU, which a program exported on the CPU refuses
assert importlib.util.find_spec("tracking") is None and importlib.util.find_spec("models") is None
for uri in sys.argv[2:]:
    model = mlflow.pyfunc.load_model(uri)
    for name in np.load(sys.argv[1]).files:
        batch = np.load(sys.argv[1])[name]
        np.save(f"{name}.npy", model.predict(batch))
"""


class Network(torch.nn.Module):
    """Convolution, batch norm, dropout and a buffer: what must be frozen in eval mode."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.up = torch.nn.Linear(8, hidden * 4)
        self.conv = torch.nn.Conv1d(hidden, 3, 3, padding=1)
        self.norm = torch.nn.BatchNorm1d(3)
        self.drop = torch.nn.Dropout(0.5)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """z [N, 8] -> [N, 3, 4]."""
        return self.drop(self.norm(self.conv(self.up(z).reshape(z.shape[0], -1, 4)))) * self.scale


@pytest.fixture
def database(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    template = tmp_path_factory.getbasetemp() / "models.db"
    store.connect(f"sqlite:///{template}")
    shutil.copy(template, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def trained() -> Network:
    torch.manual_seed(0)
    network = Network()
    for _ in range(3):
        network(torch.randn(16, 8))  # moves the batch norm's statistics
    return network.train()


def test_round_trip_in_a_fresh_process_elsewhere(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = trained()
    rng = torch.get_rng_state()
    with tracking.start_run("wgan", {}) as run:
        run.log_metrics({"fid": 12.5}, 100)
        info = tracking.log_model(
            run,
            network,
            "generator",
            EXAMPLE,
            registered_name="toy-generator",
            config={"hidden": 6},
            metrics={"fid": 12.5, "kid": 0.1},
            params={"nz": 8},
            tags={"dataset": "digits"},
            metadata={"data": "f00"},
            step=100,
        )
    assert info == tracking.ModelInfo("models:/toy-generator/1", "toy-generator", 1)
    assert network.training, "the module is left as it was"
    assert torch.equal(torch.get_rng_state(), rng)
    assert not capsys.readouterr().out
    assert not list(run.folder.glob("models/*"))

    client = MlflowClient(database)
    version = client.get_model_version_by_alias("toy-generator", "latest-good")
    assert (int(version.version), version.run_id, version.tags["dataset"]) == (1, run.run_id, "digits")
    model_id = version.source.removeprefix("models:/")
    logged = client.get_logged_model(model_id)
    assert {metric.key: metric.value for metric in logged.metrics} == {"fid": 12.5, "kid": 0.1}
    assert (logged.source_run_id, logged.params, str(logged.status)) == (run.run_id, {"nz": "8"}, "READY")
    assert [metric.step for metric in client.get_metric_history(run.run_id, "fid")] == [100]  # linked, not doubled
    assert [output.model_id for output in client.get_run(run.run_id).outputs.model_outputs] == [model_id]

    # By alias and by downloaded folder, in a process of another folder that can't import this project.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    batches = {"one": EXAMPLE[:1], "seven": np.repeat(EXAMPLE, 2, 0)[:7]}
    np.savez(elsewhere / "batches.npz", **batches)
    environment = {
        **os.environ,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    environment.pop("PYTHONPATH", None)
    mlflow = [
        sys.executable,
        "-m",
        "mlflow",
        "artifacts",
        "download",
        "-u",
        "models:/toy-generator@latest-good",
        "-d",
        "dl",
    ]
    subprocess.run(mlflow, cwd=elsewhere, env=environment, check=True)
    program = [
        sys.executable,
        "-c",
        ELSEWHERE,
        "batches.npz",
        "models:/toy-generator@latest-good",
        str(elsewhere / "dl"),
    ]
    subprocess.run(program, cwd=elsewhere, env=environment, check=True)
    for name, batch in batches.items():
        expected = network.eval()(torch.from_numpy(batch)).detach().numpy()
        np.testing.assert_allclose(np.load(elsewhere / f"{name}.npy"), expected, rtol=1e-5, atol=1e-6)
    assert (elsewhere / "dl" / "requirements.txt").read_text().split() == [
        f"mlflow=={store.mlflow.__version__}",
        f"torch=={torch.__version__.split('+')[0]}",
        f"numpy=={np.__version__}",
    ]

    # And back into a module that trains on.
    for uri in (
        "models:/toy-generator/1",
        "models:/toy-generator@latest-good",
        "models:/toy-generator",
        f"runs:/{run.run_id}/generator",
    ):
        state, config = tracking.load_weights(uri)
        again = Network(**config)
        again.load_state_dict(state)
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in again.state_dict().items())
    assert tracking.load_weights(str(elsewhere / "dl"))[1] == {"hidden": 6}
    assert tracking.load_weights(str(elsewhere / "dl" / "weights" / "model.safetensors"))[1] == {"hidden": 6}


def test_versions_and_their_tags(database: str) -> None:
    with tracking.start_run("wgan", {}) as run:
        for number, dataset in enumerate(("digits", "celeba", "digits")):
            network = trained()
            with torch.no_grad():
                next(network.parameters()).add_(number)  # the same weights again would be the same version
            tracking.log_model(run, network, "g", EXAMPLE, registered_name="g", config={}, tags={"dataset": dataset})
    assert tracking.newest_model("g").version == 3
    assert tracking.newest_model("g", dataset="celeba").uri == "models:/g/2"
    with pytest.raises(InputError, match="no version of it with dataset=cifar"):
        tracking.newest_model("g", dataset="cifar")
    with pytest.raises(InputError, match="no version of it"):
        tracking.newest_model("never")


def test_where_an_alias_was_removed_the_versions_are_listed(database: str) -> None:
    with tracking.start_run("wgan", {}) as run:
        for number in range(2):
            network = trained()
            with torch.no_grad():
                next(network.parameters()).add_(number)
            tracking.log_model(run, network, "g", EXAMPLE, registered_name="g", config={})
    MlflowClient(database).delete_registered_model_alias("g", "latest-good")
    words = "it has no such alias; give a version, the newest first: models:/g/2, models:/g/1"
    with pytest.raises(InputError, match=words):
        tracking.load_weights("models:/g@latest-good")


def test_an_address_to_serve_is_that_of_a_model_that_is_there(database: str, tmp_path: Path) -> None:
    with tracking.start_run("wgan", {}) as run:
        tracking.log_model(run, trained(), "g", EXAMPLE, registered_name="g", config={})
    of_run = f"runs:/{run.run_id}/g"
    for uri in ("models:/g", "models:/g@latest-good", "models:/g/1"):
        assert served_address(uri) == "models:/g/1"
    assert served_address(of_run) == of_run
    folder = mlflow.artifacts.download_artifacts("models:/g/1", dst_path=str(tmp_path / "copy"))
    assert served_address(folder) == folder
    with pytest.raises(InputError, match=r"version=2\) not found .*; it has no such version; give .*: models:/g/1$"):
        served_address("models:/g/2")
    with pytest.raises(InputError, match=f"model {of_run}x: "):
        served_address(f"{of_run}x")
    with pytest.raises(InputError, match="no folder of an MLflow model"):
        served_address(str(tmp_path))


@pytest.mark.parametrize(
    "uri",
    [
        "models:/nope/1",
        "models:/nope@champion",
        "models:/nope",
        "runs:/0123456789abcdef0123456789abcdef/g",
        "no/such/folder",
    ],
)
def test_models_that_are_not_there(database: str, uri: str) -> None:
    with pytest.raises(InputError, match=r"nope|no such|not found"):
        tracking.load_weights(uri)


def test_damaged_local_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not registered by this project"):
        tracking.load_weights(str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"\x80\x04 a pickle")
    file = tmp_path / "weights" / "model.safetensors"
    with pytest.raises(InputError, match="not a whole safetensors file"):
        tracking.load_weights(str(tmp_path))
    save_tensors(file, {"a": torch.zeros(3), "b": torch.ones(())})
    (tmp_path / "weights" / "config.json").write_text("{}")
    assert torch.equal(tracking.load_weights(str(tmp_path))[0]["a"], torch.zeros(3))
    whole = bytearray(file.read_bytes())
    whole[-10] ^= 64
    file.write_bytes(whole)
    with pytest.raises(InputError, match=r"model.safetensors: its checksum is not right"):
        tracking.load_weights(str(tmp_path))
    whole[-10] ^= 64
    file.write_bytes(whole)
    for text, words in (("[]", "holds no JSON object"), ("[" * 100_000, "is not JSON")):
        (tmp_path / "weights" / "config.json").write_text(text)
        with pytest.raises(InputError, match=words):
            tracking.load_weights(str(tmp_path))


def test_a_batch_of_one_is_refused(database: str) -> None:
    with tracking.start_run("wgan", {}) as run, pytest.raises(ValueError, match="at least 2"):
        tracking.log_model(run, trained(), "g", EXAMPLE[:1], registered_name="g", config={})


def test_a_module_that_freezes_the_batch_is_refused(database: str) -> None:
    class Freezing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(len(x), 2, 4)

    with tracking.start_run("wgan", {}) as run, pytest.raises(ValueError, match="batches of 4 only"):
        tracking.log_model(run, Freezing(), "g", EXAMPLE, registered_name="g", config={})
    assert not list(run.folder.glob("models/*"))


def test_a_module_that_cannot_be_exported(database: str) -> None:
    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with (
        tracking.start_run("wgan", {}) as run,
        pytest.raises(ValueError, match=r"torch\.export can't trace Branching"),
    ):
        tracking.log_model(run, Branching(), "g", EXAMPLE, registered_name="g", config={})


def test_a_register_operation_sent_twice_makes_one_version(database: str) -> None:
    run = tracking.start_run("wgan", {})
    tracking.log_model(run, trained(), "g", EXAMPLE, registered_name="g", config={})
    run._writer.stop()
    run._spool.mark_sent(0)  # a crash before it was remembered: everything is sent again
    run._delivery.send(run._spool.read(0))
    client = MlflowClient(database)
    assert len(client.search_model_versions("name = 'g'")) == 1
    experiment = client.get_run(run.run_id).info.experiment_id
    assert len(client.search_logged_models([experiment])) == 1
    refused = run.folder / "refused.jsonl"
    # The files of the first delivery are gone by now; what had them is set aside, not sent half.
    assert {json.loads(line)["op"] for line in refused.read_text().splitlines()} == {"file"}
    run._spool.close()


def test_a_run_that_is_resumed_after_the_registration_makes_no_second_version(database: str) -> None:
    """Killed behind it, or resumed though it was finished: the same weights of the same run are one version."""
    client = MlflowClient(database)
    versions = []
    with tracking.start_run("wgan", {}) as run:
        versions.append(tracking.log_model(run, trained(), "g", EXAMPLE, registered_name="g", config={}).version)
    for module in (trained(), Network()):
        with tracking.start_run("wgan", {}, resume=run.run_id) as again:
            versions.append(tracking.log_model(again, module, "g", EXAMPLE, registered_name="g", config={}).version)
    assert versions == [1, 1, 2]  # other weights: another version
    with tracking.start_run("wgan", {}) as other:
        assert tracking.log_model(other, trained(), "g", EXAMPLE, registered_name="g", config={}).version == 3
    assert len(client.search_model_versions("name = 'g'")) == 3

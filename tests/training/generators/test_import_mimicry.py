"""torch-mimicry's checkpoints in the registry; files that are damaged, of another network, or malicious."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common.errors import InputError
from models.gan import mimicry
from tests.conftest import PATIENCE
from tests.running import client, environment, runs
from tracking.registry.evaluations import evaluations_in
from trainers.fid import run as fid
from trainers.isir_fid import run as isir_fid
from training.generators.import_mimicry import main, trained_on
from training.generators.stored import load_critic, load_generator

CPU = torch.device("cpu")


class Bomb:
    """A pickle of it calls `open(path, "w")` where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def save(network: nn.Module, path: Path) -> Path:
    """As torch-mimicry's BaseModel.save_checkpoint writes it."""
    torch.save({"model_state_dict": network.state_dict(), "optimizer_state_dict": {}, "global_step": 100_000}, path)
    return path


@pytest.fixture
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment(folder)["MLFLOW_TRACKING_URI"])
    mlflow.set_tracking_uri(None)
    yield folder
    mlflow.set_tracking_uri(None)


def networks(size: int = 32) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return mimicry.build_networks(size, nz=8, ngf=16, ndf=16)


def test_an_import_is_measured_corrected_served_like_any_generator(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    G, D = networks()
    G.eval(), D.eval()
    files = [save(G, there / "netG_100000_steps.pth"), save(D, there / "netD_100000_steps.pth")]
    assert main([*map(str, files), "--dataset", "digits"]) == 0
    assert "models:/wgan-generator/1: 32 pixels" in capsys.readouterr().out
    z = torch.randn(5, 8)
    with torch.no_grad():
        images = G(z)
        values = D(images)
    generator = load_generator(None, CPU)
    critic = load_critic(None, generator, CPU)  # found by the run that imported both
    assert torch.allclose(generator.network(z), images, atol=1e-5)
    assert torch.allclose(critic.network(images), values, atol=1e-5)
    served = mlflow.pyfunc.load_model("models:/wgan-generator@latest-good")
    answer = served.predict({"codes": z.numpy()}, params={"output": "float"})
    np.testing.assert_allclose(answer, images.numpy(), atol=1e-5)
    assert served.predict({"n": 2}, params={"isir_iterations": 2}).shape == (2, 3, 32, 32)
    np.testing.assert_allclose(
        mlflow.pyfunc.load_model("models:/wgan-critic/1").predict(images.numpy()), values.numpy(), atol=1e-4
    )
    (run,) = runs(there)
    assert run.data.tags["entry_point"] == "import_mimicry"
    assert run.info.status == "FINISHED"

    # fid knows the reference, and its figure lies with the version.
    assert (
        fid.main(["--n_images", "100", "--n_sizes", "2", "--features", "models:/wgan-critic/1", "--force", "true"]) == 0
    )
    (measured,) = evaluations_in(client(there).get_model_version("wgan-generator", "1").tags).values()
    assert measured.metric.startswith("fd_")
    assert measured.conditions["n_images"] == 100
    # And isir_fid takes the files themselves.
    argv = [
        "--model_uri",
        str(files[0]),
        "--critic_uri",
        str(files[1]),
        "--dataset",
        "digits",
        "--samplers",
        "importance",
    ]
    config = isir_fid.parse_config(isir_fid.IsirFidConfig, isir_fid.PRESETS, argv, "isir_fid")
    stored = load_generator(config.model_uri, CPU)
    assert torch.allclose(load_critic(config.critic_uri, stored, CPU).network(images), values, atol=1e-5)


def test_the_folder_of_its_images_is_known_in_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "photos" / "0.png")
    monkeypatch.chdir(tmp_path)
    facts = trained_on("folder", Path("photos"), "train", 32)
    assert facts["data_dir"] == str(tmp_path / "photos")


def test_a_generator_alone_under_another_name(there: Path) -> None:
    G, _ = networks(48)
    assert main([str(save(G, there / "netG.pth")), "--name", "mimicry"]) == 0
    served = mlflow.pyfunc.load_model("models:/mimicry-generator/1")
    assert served.predict({"n": 2}).shape == (2, 3, 48, 48)
    with pytest.raises(mlflow.MlflowException, match="without a critic"):
        served.predict({"n": 2}, params={"isir_iterations": 2})
    assert not client(there).search_registered_models("name = 'wgan-generator'")


def write_faulty(kind: str, path: Path, exploded: Path) -> None:
    G, D = networks()
    if kind == "absent":
        return
    if kind == "truncated":
        save(G, path)
        path.write_bytes(path.read_bytes()[:-2000])
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "a critic":
        save(D, path)
    elif kind == "another network":
        save(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16)), path)
    elif kind == "no state dict":
        torch.save({"weights": 3}, path)
    elif kind == "half a generator":
        state = {name: value for name, value in G.state_dict().items() if not name.startswith("block3")}
        torch.save({"model_state_dict": state, "global_step": 1}, path)
    elif kind == "bomb":
        torch.save({"model_state_dict": G.state_dict(), "global_step": Bomb(exploded)}, path)
    elif kind == "plain pickle bomb":
        path.write_bytes(pickle.dumps(Bomb(exploded)))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("absent", "no such file"),
        ("truncated", "not a checkpoint of torch-mimicry"),
        ("text", "not a checkpoint of torch-mimicry"),
        ("empty", "not a checkpoint of torch-mimicry"),
        ("a critic", "not a WGAN-GP generator of torch-mimicry"),
        ("another network", "not a WGAN-GP generator of torch-mimicry"),
        ("no state dict", "not a checkpoint of torch-mimicry"),
        ("half a generator", "do not fit its architecture"),
        ("bomb", "not a checkpoint of torch-mimicry"),
        ("plain pickle bomb", "not a checkpoint of torch-mimicry"),
    ],
)
def test_files_that_are_refused(there: Path, kind: str, words: str) -> None:
    path, exploded = there / "netG.pth", there / "exploded"
    write_faulty(kind, path, exploded)
    with pytest.raises(InputError) as refusal:
        main([str(path)])
    assert words in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not exploded.exists()
    assert not client(there).search_registered_models()
    assert not runs(there)
    if "bomb" in kind:  # it is a real one: whoever unpickles it makes the file
        torch.load(path, weights_only=False) if kind == "bomb" else pickle.loads(path.read_bytes())
        assert exploded.exists()


def test_critics_that_are_refused(there: Path) -> None:
    G, _ = networks()
    _, D48 = networks(48)
    generator = str(save(G, there / "netG.pth"))
    for other in (save(D48, there / "netD.pth"), save(G, there / "netG2.pth")):
        with pytest.raises(InputError, match="not a WGAN-GP critic of torch-mimicry at 32 pixels"):
            main([generator, str(other)])
    with pytest.raises(InputError, match=r"end in \.pth"):
        main([str(there / "model.safetensors")])
    assert not client(there).search_registered_models()


def test_a_bomb_ends_in_one_line_and_status_2(folder: Path) -> None:
    write_faulty("bomb", folder / "netG.pth", folder / "exploded")
    command = [sys.executable, "-m", "training.generators.import_mimicry", "netG.pth"]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: netG.pth is not a checkpoint of torch-mimicry")
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(os.listdir(folder)) == ["mlflow.db", "netG.pth"]

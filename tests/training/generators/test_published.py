"""Published weights: made of registered networks, checked, measured, registered again; damaged ones are refused."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from common.errors import InputError
from models.gan.density_ratio import RatioSettings
from models.gan.networks import Critic, Generator
from tests.running import client, environment
from tracking.__main__ import main as tracking
from tracking.run import start_run
from trainers.isir_fid import run as isir_fid
from training.generators.publish import main as publish
from training.generators.published import NETWORKS, SUMS, network_address
from training.generators.registration import register_networks
from training.generators.stored import (
    StoredNetwork,
    fingerprint_of,
    load_critic,
    load_density_ratio,
    load_generator,
    ratio_config,
    ratio_network,
)

CPU = torch.device("cpu")
SIZES = {"image_size": 32, "nets": "own", "trained_on": {"dataset": "digits", "split": "train", "data_dir": "/private"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A folder with published weights in weights/small, whose networks are also in its registry as tiny-*."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copy(empty_store, folder / "mlflow.db")
    torch.manual_seed(0)
    G, D = Generator(32, 8, 16).eval(), Critic(32, 16).eval()
    generator = StoredNetwork(
        G,
        "tiny",
        32,
        8,
        {},
        {"class": "generator", **SIZES, "nz": 8, "ngf": 16, "grey": False},
        fingerprint_of(G.state_dict()),
    )
    config = ratio_config(RatioSettings(folds=2), 8, True, generator)
    critic = replace(generator, network=D, config={"class": "critic", **SIZES, "ndf": 16})
    ratio = replace(generator, network=ratio_network(config).eval(), config=config)
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv("MLFLOW_TRACKING_URI", environment(folder)["MLFLOW_TRACKING_URI"])
        mlflow.set_tracking_uri(None)
        with start_run("test", {}) as run:
            register_networks(run, "tiny", generator=generator, critic=critic, ratio=ratio, tags={})
        critic_and_ratio = ["--critic", "models:/tiny-critic/1", "--density_ratio", "models:/tiny-density-ratio/1"]
        assert publish(["models:/tiny-generator/1", "weights/small", *critic_and_ratio]) == 0
    return folder


@pytest.fixture
def published(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the folder of published weights, the registry at hand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment(made)["MLFLOW_TRACKING_URI"])
    mlflow.set_tracking_uri(None)
    shutil.copytree(made / "weights", "weights")
    yield Path("weights/small")
    mlflow.set_tracking_uri(None)


def test_published_networks_are_the_registered_ones(published: Path) -> None:
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=published, check=True)
    assert "/private" not in "".join(file.read_text() for file in published.rglob("*.json"))
    generator, known = (load_generator(uri, CPU) for uri in (str(published), "models:/tiny-generator/1"))
    assert generator.fingerprint == known.fingerprint
    z, x = torch.randn(2, 8), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(generator.network(z), known.network(z), rtol=0, atol=0)
    for load, name in ((load_critic, "tiny-critic"), (load_density_ratio, "tiny-density-ratio")):
        found, expected = load(str(published), generator, CPU), load(f"models:/{name}/1", known, CPU)
        torch.testing.assert_close(found.network(x), expected.network(x), rtol=0, atol=0)
    critic = load_critic(None, generator, CPU)  # its own, without being named
    torch.testing.assert_close(critic.network(x), load_critic(str(published), generator, CPU).network(x))


def test_published_weights_are_published_again(published: Path) -> None:
    publish([str(published), "again/small"])
    assert (Path("again/small") / SUMS).read_text() == (published / SUMS).read_text()
    publish([str(published), "named/small", "--density_ratio", "models:/tiny-density-ratio/1"])
    assert {path.parent.name for path in Path("named/small").rglob("*.safetensors")} == set(NETWORKS)


def test_they_are_registered_once_and_served(published: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    addresses = []
    for _ in range(2):
        assert tracking(["import", str(published)]) == 0
        addresses.append(capsys.readouterr().out.splitlines()[-1])
    assert addresses == ["models:/small-generator/1"] * 2
    names = {model.name for model in client(made).search_registered_models()}
    assert {"small-generator", "small-critic", "small-density-ratio"} <= names
    served = mlflow.pyfunc.load_model(addresses[0])
    images = served.predict({"n": 4}, params={"seed": 3})
    expected = load_generator(str(published), CPU).network(
        torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
    )
    np.testing.assert_allclose(images, (expected * 127.5 + 127.5).round().numpy(), atol=1)
    assert served.predict({"n": 2}, params={"sampler": "calibrated", "seed": 3}).shape == (2, 3, 32, 32)


def test_isir_fid_takes_generator_critic_and_ratio(published: Path) -> None:
    small = "--preset quick --n_images 150 --n_reference 150 --n_sweep 150 --sweep_particles none --sweep_beta none"
    options = f"--model_uri {published} --calibration {published} --samplers calibrated,importance {small}"
    assert isir_fid.main([*options.split(), "--bootstrap", "20", "--force", "true"]) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_changed_bit_is_noticed(published: Path, name: str) -> None:
    file = published / name / "config.json"
    file.write_bytes(file.read_bytes().replace(b'"image_size": 32', b'"image_size": 64'))
    with pytest.raises(InputError, match=rf"{name}/config.json is not the published file \(SHA-256 .*get the folder"):
        network_address(str(published), name)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "no generator is published there, but critic, density_ratio"),
        ("0" * 64 + "  generator/../secret", "has the line '0+  generator/../s', which is no checksum"),
        ("0" * 64 + "  generator/absent.json", r"generator/absent.json cannot be read \(No such file"),
        ("garbage", "has the line 'garbage', which is no checksum"),
    ],
)
def test_wrong_checksums_are_refused(published: Path, line: str, words: str) -> None:
    sums = published / "SHA256SUMS"
    lines = [known for known in sums.read_text().splitlines() if "  generator/" not in known]
    sums.write_text("\n".join([*lines, line]) if line else "\n".join(lines))
    with pytest.raises(InputError, match=words):
        load_generator(str(published), CPU)


def test_what_cannot_be_published_or_imported(published: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="weights/small exists: name another folder"):
        publish(["models:/tiny-generator/1", "weights/small", "--critic", "models:/tiny-critic/1"])
    with pytest.raises(InputError, match="is a critic, not a generator"):
        publish(["models:/tiny-critic/1", "weights/other"])
    for file in ("generator.pt", "netG_100000_steps.pth"):
        with pytest.raises(InputError, match=f"generator: {file} is a file of another project"):
            publish([file, "weights/other"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no folder of published weights .* give one, such as pretrained/digits32"):
        tracking(["import", str(tmp_path / "empty")])
    assert [path.name for path in Path("weights").iterdir()] == ["small"]

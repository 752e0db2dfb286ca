"""The isir_fid entry point, run as its users run it, on a small generator that a real wgan run registered."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from torch import nn

from common.errors import InputError
from data.images.load import ImageSet, load_images
from models.gan.isir import I_SIR
from tests.running import artifacts, client, environment, read_json, run_trainer, runs
from tests.training.generators.test_measuring import image_set
from trainers.isir_fid.calibration import check_generated, other_codes, real_images
from trainers.isir_fid.config import PRESETS, WEIGHTS, IsirFidConfig
from trainers.isir_fid.run import read_inputs
from training.config import parse_config
from training.generators.measuring import latent_codes
from training.generators.stored import StoredNetwork, load_critic, load_density_ratio, load_generator
from training.processes import Processes

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"n_images": 70, "n_iterations": 2, "n_particles": 3, "n_sweep": 70, "n_ratio": 100}
SMALL |= {"bootstrap": 20, "sweep_particles": "1,3", "sweep_beta": "0.1", "mala_steps": 2, "ratio_folds": 2}


@pytest.fixture(scope="module")
def measured(trained: Path) -> tuple[Path, str]:
    """(the folder after a run with every sampler, what the run said)."""
    text = run_trainer(trained, "isir_fid", samplers="calibrated,importance,density,ex2mcmc,mala", **SMALL)
    return trained, text


@pytest.fixture
def store(measured: tuple[Path, str]) -> Iterator[Path]:
    """The folder, its store being that of this process."""
    mlflow.set_tracking_uri(environment(measured[0])["MLFLOW_TRACKING_URI"])
    yield measured[0]
    mlflow.set_tracking_uri(None)


def config_of(**parameters: object) -> IsirFidConfig:
    argv = [word for name, value in parameters.items() for word in (f"--{name}", str(value))]
    return parse_config(IsirFidConfig, PRESETS, argv, "isir_fid")


def test_a_run_measures_every_sampler_on_both_references(measured: tuple[Path, str]) -> None:
    folder, text = measured
    run = runs(folder)[-1]
    assert run.info.status == "FINISHED"
    metrics = run.data.metrics
    for sampler in ("plain", *WEIGHTS, "ex2mcmc", "mala"):
        for score in ("fd_digits", "kd_digits", "precision", "recall", "held_out_fd_digits"):
            assert f"{sampler}_{score}" in metrics
    for sampler in (*WEIGHTS, "ex2mcmc", "mala"):
        for where in ("", "held_out_"):
            change = metrics[f"{sampler}_{where}fd_digits"] - metrics[f"plain_{where}fd_digits"]
            assert metrics[f"{sampler}_{where}difference"] == pytest.approx(change)
            low, high = (metrics[f"{sampler}_{where}difference_{end}"] for end in ("low", "high"))
            assert low < change < high
    assert metrics["calibrated_images_per_sample"] == 1 + 2 * 3
    assert metrics["mala_images_per_sample"] == 1 + 2 * 2
    steps = [point.step for point in client(folder).get_metric_history(run.info.run_id, "calibrated_ess")]
    assert sorted(steps) == [1, 2]
    assert "## What was obtained" in text
    assert re.search(r"image (\d+)/\1 \(100 %\), .*, features, plain", text)  # what takes long is seen to go on
    assert "355 images of scikit-learn's digits" in text
    assert "that neither generator nor critic nor density ratio has seen" in text

    found = artifacts(folder, run.info.run_id)
    assert {"summary.md", "scores.json", *(f"figures/{n}.png" for n in ("chains", "sweeps", "reliability"))} <= found
    for name in ("plain", *WEIGHTS, "ex2mcmc", "mala", "rated_lowest", "rated_highest"):
        assert f"figures/samples_{name}.png" in found
    sweeps = read_json(folder, run.info.run_id, "scores.json")["sweeps"]
    assert {name: [row[name] for row in rows] for name, rows in sweeps.items()} == {
        "n_iterations": [0, 1, 2],
        "n_particles": [1, 3],
        "beta": [0.1, 1.0],
    }


def test_what_ratio_and_critic_are_worth_is_said(measured: tuple[Path, str]) -> None:
    folder, text = measured
    metrics = runs(folder)[-1].data.metrics
    for rater in ("density_ratio", "critic"):
        assert 0 <= metrics[f"{rater}_auc"] <= 1
        assert metrics[f"{rater}_scaled_log_loss"] <= metrics[f"{rater}_log_loss"] + 1e-6
        assert f"{rater.replace('_', ' ')} on held-out images: AUC {metrics[f'{rater}_auc']:.3f}" in text
    # Three steps of training make no digits: anything tells them apart.
    assert metrics["density_ratio_auc"] > 0.99
    assert "The density ratio separates real from generated images almost perfectly" in text


def test_the_ratio_is_registered_loads_and_serves(store: Path) -> None:
    params = runs(store)[-1].data.params
    assert params["resolved_calibration"] == "models:/wgan-density-ratio/1"
    assert params["resolved_critic_uri"].endswith("/critic")
    generator = load_generator(None, CPU)
    ratio = load_density_ratio("models:/wgan-density-ratio", generator, CPU)
    images = generator.network(torch.randn(4, generator.nz))
    served = mlflow.pyfunc.load_model(ratio.uri).predict(images.numpy())
    assert served == pytest.approx(ratio.network(images).numpy(), abs=1e-4)

    sampler = load_generator("models:/wgan-sampler@latest-good", CPU)
    assert sampler.fingerprint == generator.fingerprint
    model = mlflow.pyfunc.load_model(sampler.uri)
    asked = {"sampler": "calibrated", "n_particles": 3, "seed": 5, "output": "float"}
    random = torch.Generator().manual_seed(5)
    z = I_SIR(N_i=2, N_s=6, N_p=3, n_z=generator.nz, D=ratio.network, G=generator.network, generator=random)
    assert model.predict({"n": 6}, params=asked) == pytest.approx(generator.network(z).numpy(), abs=1e-4)
    assert model.predict({"n": 2}, params={"isir_iterations": 1}).shape == (2, 3, 32, 32)  # the critic is there, too


def test_a_registered_ratio_is_used_again(store: Path) -> None:
    text = run_trainer(store, "isir_fid", samplers="calibrated", calibration="models:/wgan-density-ratio/1", **SMALL)
    again = runs(store)[-1]
    first = next(run for run in runs(store) if "mala_difference" in run.data.metrics)
    assert "epoch" not in text
    assert again.data.metrics["calibrated_fd_digits"] == pytest.approx(first.data.metrics["calibrated_fd_digits"])
    assert len(client(store).search_model_versions("name = 'wgan-density-ratio'")) == 1


def test_a_ratio_of_another_generator_is_refused_before_anything_is_recorded(store: Path) -> None:
    n_runs = len(runs(store))
    parameters = {"model_uri": "models:/wgan-generator-raw/1", "calibration": "models:/wgan-density-ratio/1"}
    text = run_trainer(store, "isir_fid", status=2, **parameters, **SMALL)
    assert (
        text.strip()
        .splitlines()[-1]
        .startswith(
            "error: density ratio models:/wgan-density-ratio/1: it was fitted for another generator, "
            "models:/wgan-generator/1, not for models:/wgan-generator-raw/1"
        )
    )
    assert len(runs(store)) == n_runs


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"calibration": "models:/wgan-critic"}, "density ratio models:/wgan-critic/1: it is a critic; give one that"),
        ({"calibration": "models:/absent"}, "model absent:"),
        ({"ratio_folds": 800}, "has 1442 images to fit a density ratio on; 800 folds need at least 1600"),
        ({"ratio_cells": 64}, "ratio_cells: 64 cells per side, but images of 32 pixels; give 32 at most"),
        ({"critic_uri": "models:/wgan-generator"}, "is a generator, not a critic"),
    ],
)
def test_what_cannot_be_sampled_is_refused(store: Path, parameters: dict[str, object], words: str) -> None:
    config = config_of(cache_dir=store / "cache", **parameters)
    with pytest.raises(InputError) as refusal:
        read_inputs(config, Processes(0, 1, CPU))
    assert words in str(refusal.value)


def test_codes_of_the_ratio_are_measured_nowhere(store: Path) -> None:
    config, generator = config_of(n_ratio=100), load_generator(None, CPU)
    codes = other_codes(config, generator)
    assert [len(part) for part in (codes.fit, codes.scale, codes.judge)] == [100, 40, 1000]
    fit = torch.cat([codes.fit, codes.scale, codes.judge])
    assert len(fit.unique(dim=0)) == len(fit)
    measured = latent_codes(1140, generator.nz, config.seed)  # those that `fid` measures
    assert len(torch.cat([fit, measured]).unique(dim=0)) == len(fit) + len(measured)


def stored(make: Any) -> StoredNetwork:
    return StoredNetwork(network=make, uri="g", image_size=8, nz=4, trained_on={})


def test_equal_images_are_refused(tmp_path: Path) -> None:
    constant = stored(lambda z: torch.zeros(len(z), 3, 8, 8))
    with pytest.raises(InputError, match="g makes the same image of every code"):
        check_generated(constant, CPU)
    check_generated(stored(lambda z: z.mean(1).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)), CPU)

    grey = replace(image_set(50), name="folder", pixels=np.full((50, 3, 8, 8), 7, np.uint8))
    config = config_of(dataset="folder", data_dir=tmp_path)
    with pytest.raises(InputError, match="all 40 images of 50 images are equal"):
        real_images(config, constant, grey)


def test_a_folder_without_test_images_holds_a_fifth_out(tmp_path: Path) -> None:
    images = replace(image_set(50), name="folder")
    found = real_images(config_of(dataset="folder", data_dir=tmp_path), stored(nn.Identity()), images)
    assert (len(found.fitted), len(found.held_out)) == (40, 10)
    together = np.concatenate([found.fitted.pixels, found.held_out.pixels])
    assert len(np.unique(together.reshape(50, -1), axis=0)) == 50


def test_the_ratio_never_sees_the_test_split(tmp_path: Path, store: Path) -> None:
    def load(split: str) -> ImageSet:
        return load_images("digits", 32, split, cache_dir=tmp_path, progress=False)

    for reference in ("train", "all"):
        config = config_of(split=reference, cache_dir=tmp_path)
        found = real_images(config, load_generator(None, CPU), load(reference))
        assert found.fitted.fingerprint == load("train").fingerprint
        assert found.held_out.fingerprint == load("test").fingerprint
    with pytest.raises(InputError, match="split: test is the second reference"):
        config_of(split="test")


def test_too_few_chains_of_the_sweeps_are_refused_before_it_samples(trained: Path) -> None:
    n_runs = len(runs(trained))
    text = run_trainer(trained, "isir_fid", status=2, n_images=70, n_sweep=30)
    assert "error: n_sweep: 30 images for features of dimension 64" in text
    assert len(runs(trained)) == n_runs


def test_a_critic_is_loaded_only_where_one_is_needed(store: Path, tmp_path: Path) -> None:
    generator = replace(load_generator(None, CPU), uri="file.pth")
    with pytest.raises(InputError, match="name its critic's, too"):
        load_critic(None, generator, CPU)

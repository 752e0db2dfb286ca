"""The fid entry point, run as its users run it, on a small generator that a real wgan run registered."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
import torch

from benchmarks.fid import random_inception_state
from common.errors import InputError
from evaluation.features import Features
from evaluation.frechet import Gaussian
from models.gan import mimicry
from tests.data.images.image_trees import write_celeba
from tests.running import artifacts, client, environment, read_json, run_trainer, runs
from tracking.registry.evaluations import evaluations_in
from tracking.registry.models import load_program, run_of
from trainers.fid.config import PRESETS, FidConfig
from trainers.fid.run import extrapolate, run_fid
from training.config import parse_config
from training.generators.digit_features import train_classifier
from training.generators.stored import load_critic, load_generator

CPU = torch.device("cpu")


def test_fid_with_no_parameters(trained: Path) -> None:
    text = run_trainer(trained, "fid", n_images=200, n_sizes=3)
    run = runs(trained)[-1]
    assert run.info.status == "FINISHED"
    metrics, params = run.data.metrics, run.data.params
    scores = (
        "fd_digits",
        "fd_digits_infinity",
        "kd_digits",
        "kd_digits_se",
        "precision",
        "recall",
        "density",
        "coverage",
    )
    assert set(metrics) >= set(scores)
    assert metrics["authenticity"] > 0.9  # noise is no copy of a digit
    assert 0.2 < metrics["authenticity_held_out"] < 0.8
    assert "fid" not in metrics  # that name is Inception's alone
    assert metrics["fd_digits"] > 1  # three steps of training make no digits
    assert params["resolved_model_uri"] == "models:/wgan-generator/1"
    assert params["reference_images"] == "1442"
    assert "digits" in params["feature_family"]
    assert artifacts(trained, run.info.run_id) >= {
        "scores.json",
        "summary.md",
        "figures/distance_by_n.png",
        "figures/generated.png",
        "figures/reference.png",
        "figures/closest.png",
    }
    assert read_json(trained, run.info.run_id, "scores.json")["scores"]["fd_digits"] == metrics["fd_digits"]  # type: ignore[index]
    assert "# models:/wgan-generator/1 against scikit-learn's digits, split train" in text
    assert f"| fd_digits | {metrics['fd_digits']:.5g} |" in text
    assert "open it:" in text
    assert "Too few images" not in text
    assert "image 200/200 (100 %)" in text.split("test split, for authenticity")[0].splitlines()[-1]  # of 355
    assert list(read_json(trained, run.info.run_id, "scores.json")["scores"])[:2] == list(scores[:2])  # type: ignore[index, call-overload]

    # The figure lies with the version, under all that it depends on, and lets it be promoted.
    version = client(trained).get_model_version("wgan-generator", "1")
    found = next(e for e in evaluations_in(version.tags).values() if e.measured_by == run.info.run_id)
    assert (found.metric, found.value, found.higher_is_better) == ("fd_digits", metrics["fd_digits"], False)
    assert {"features", "resize", "reference", "split", "preprocessing", "n_reference", "n_images"} <= set(
        found.conditions
    )
    logged = client(trained).get_logged_model(version.source.removeprefix("models:/"))
    assert metrics["fd_digits"] in {metric.value for metric in logged.metrics if metric.key == "fd_digits"}

    # Again: the feature network comes from the registry, the reference from its cache, and every score is the same.
    assert len(list((trained / "cache").glob("features-*"))) == 1
    text = run_trainer(trained, "fid", n_images=200, n_sizes=3, batch_size=33)
    again = runs(trained)[-1].data.metrics
    assert len(client(trained).search_model_versions("name = 'digits-features'")) == 1
    assert "1442/1442" not in text
    for name in ("fd_digits", "kd_digits", "precision", "recall"):
        assert again[name] == pytest.approx(metrics[name], rel=1e-4), name


def test_two_processes_measure_what_one_does(trained: Path) -> None:
    run_trainer(trained, "fid", n_images=120, n_sizes=2, n_reference=500)
    one = runs(trained)[-1].data.metrics["fd_digits"]
    shutil.rmtree(trained / "cache")
    run_trainer(trained, "fid", n_images=120, n_sizes=2, n_reference=500, nproc=2, device="cpu")
    assert runs(trained)[-1].data.metrics["fd_digits"] == pytest.approx(one, rel=1e-5)


def test_fid_with_inception_whose_weights_are_not_the_known_ones(trained: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(random_inception_state(), weights)
    text = run_trainer(
        trained,
        "fid",
        features="inception",
        weights=weights,
        force="true",
        n_images=24,
        n_reference=24,
        n_sizes=2,
        batch_size=24,
    )
    metrics = runs(trained)[-1].data.metrics
    assert any(name.startswith("fd_inception_") for name in metrics)
    assert not {"fid", "kid"} & set(metrics)
    assert metrics["inception_score"] >= 1
    assert "**Too few images for a Fréchet distance** in 2,048 dimensions: fd_inception_" in text
    assert "Not extrapolated to infinitely many images: that takes at least 4,098 generated ones" in text
    assert not any(name.endswith("_infinity") for name in metrics)


def test_a_line_is_drawn_through_points_that_lie_apart() -> None:
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    features = Features(x)
    reference: Any = SimpleNamespace(gaussian=Gaussian.of(features.moments))
    network: Any = SimpleNamespace(dim=99)
    found = extrapolate(FidConfig(n_images=200, n_sizes=3), network, Features(x[:200]), reference)
    assert found is not None
    assert found.sizes == [100, 150, 200]
    assert extrapolate(FidConfig(n_images=199, n_sizes=3), network, Features(x[:199]), reference) is None
    assert extrapolate(FidConfig(n_images=50, n_sizes=3), network, Features(x[:50]), reference) is None


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n_images": 40}, "n_images: 40 images for features of dimension 64"),
        ({"model_uri": "models:/absent"}, "model absent:"),
        ({"model_uri": "models:/wgan-critic"}, "is a critic, not a generator"),
        ({"features": "nothing.pt"}, "neither inception, efficientnet, digits"),
        ({"weights": "w.pth"}, "only inception, efficientnet, dinov2 and clip take them"),
        ({"dataset": "folder"}, "data_dir: dataset=folder needs one"),
        ({"dataset": "celeba", "data_dir": "PHOTOS"}, "is prepared otherwise"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    trained: Path, parameters: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = trained / "photos"
    if not photos.exists():
        write_celeba(photos)
    argv = [
        word
        for name, value in parameters.items()
        for word in (f"--{name}", str(photos if value == "PHOTOS" else value))
    ]
    monkeypatch.chdir(trained)
    mlflow.set_tracking_uri(environment(trained)["MLFLOW_TRACKING_URI"])
    try:
        with pytest.raises(InputError) as refusal:
            run_fid(parse_config(FidConfig, PRESETS, argv, "fid"))
    finally:
        mlflow.set_tracking_uri(None)
    assert words in str(refusal.value)


def test_a_refusal_is_one_line_and_status_2_and_no_run(trained: Path) -> None:
    n_runs = len(runs(trained))
    text = run_trainer(trained, "fid", status=2, n_images=40)
    assert text.strip().splitlines()[-1].startswith("error: n_images: 40 images for features of dimension 64")
    assert "Traceback" not in text
    text = run_trainer(trained, "fid", status=2, features="nothing.pt")
    assert text.strip().splitlines()[-1].startswith("error: features: 'nothing.pt' is neither inception")
    assert len(runs(trained)) == n_runs


def test_stored_networks_come_from_registry_run_folder_and_mimicry(trained: Path, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(environment(trained)["MLFLOW_TRACKING_URI"])
    try:
        registered = load_generator(None, CPU)
        by_run = load_generator(f"runs:/{run_of('models:/wgan-generator@latest-good')}/generator", CPU)
        critic = load_critic(None, registered, CPU)
        program, digest = load_program("models:/wgan-generator")
        with pytest.raises(InputError, match="no exported program"):
            load_program("models:/absent")
    finally:
        mlflow.set_tracking_uri(None)
    z = torch.randn(3, 8)
    images = registered.network(z)
    assert torch.equal(by_run.network(z), images)
    assert torch.allclose(program(z), images, atol=1e-5)
    assert len(digest) == 64
    assert critic.network(images).shape == (3, 1)
    assert registered.trained_on["dataset"] == "digits"

    torch.manual_seed(0)
    theirs, _ = mimicry.build_networks(48, nz=16, ngf=32)
    torch.save(
        {"model_state_dict": theirs.state_dict(), "global_step": 7, "optimizer_state_dict": {}}, tmp_path / "netG.pth"
    )
    ours = load_generator(str(tmp_path / "netG.pth"), CPU)
    assert (ours.image_size, ours.nz, ours.trained_on) == (48, 16, {})
    z = torch.randn(3, 16)
    assert torch.allclose(ours.network(z), theirs.eval()(z), atol=1e-5)
    with pytest.raises(InputError, match="name its critic's, too"):
        load_critic(None, ours, CPU)
    torch.save({"model_state_dict": {"l1.weight": torch.zeros(3, 3)}, "global_step": 7}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not a WGAN-GP generator"):
        load_generator(str(tmp_path / "other.pth"), CPU)


def test_the_digit_classifier_knows_digits_and_is_reproducible(tmp_path: Path) -> None:
    classifier, accuracy = train_classifier(tmp_path)
    assert accuracy > 0.97
    again, _ = train_classifier(tmp_path)
    for one, other in zip(classifier.parameters(), again.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)

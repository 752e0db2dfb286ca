"""What fid and isir_fid share: which images they compare with, how many they need, and what the scores look at."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from common.errors import InputError
from data.images.load import ImageSet, load_images
from evaluation.features import Extractor, Features, network_extractor
from evaluation.frechet import Gaussian
from tests.running import client, environment
from tracking.run import start_run
from trainers.fid.config import PRESETS, FidConfig
from trainers.isir_fid.config import PRESETS as ISIR_PRESETS
from trainers.isir_fid.config import IsirFidConfig
from trainers.isir_fid.samplers import SamplerEvaluation
from training.config import parse_config, preset_config
from training.generators.config import MeasureConfig
from training.generators.measuring import (
    Reference,
    check_count,
    evaluations,
    features_for,
    log_reference,
    measure_reference,
    reference_images,
    scores,
)
from training.generators.stored import StoredNetwork
from training.processes import Processes

CPU = torch.device("cpu")
ONE = Processes(0, 1, CPU)


def mean_colours(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def extractor(network: Callable[[Tensor], Tensor] = mean_colours) -> Extractor:
    return network_extractor(name="colours", network=network, fingerprint="", family="", device=CPU)


def image_set(n: int) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)
    return ImageSet(
        name="colours",
        split="train",
        source=f"{n} images",
        pixels=pixels,
        fingerprint=f"print {n}",
        preprocessing={},
        preprocessing_hash="hash",
        skipped=[],
        labels=None,
        upscaled=0,
    )


def test_images_are_grey_where_no_pixel_has_colour() -> None:
    grey = image_set(20).pixels[:, :1].repeat(3, axis=1)
    assert replace(image_set(20), pixels=grey).is_grey
    grey[-1, 2, 7, 7] ^= 1
    assert not replace(image_set(20), pixels=grey).is_grey


def test_precision_looks_at_all_classes_of_a_reference_in_their_order() -> None:
    """The reference's rows are sorted, so that its first ones are those of the first classes alone."""
    centres = 100.0 * torch.arange(10).repeat_interleave(200)
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    real = Features(centres[:, None] + noise[:2000])
    fake = Features((centres[:, None] + noise[2000:])[torch.randperm(2000, generator=torch.Generator().manual_seed(1))])
    reference = Reference(image_set(20), np.arange(2000), real, Gaussian.of(real.moments))
    found = scores(MeasureConfig(n_neighbours=400), extractor(), fake, reference)
    assert found["precision"] > 0.8  # of the first 400 rows, two classes, it is 0.2
    assert found["recall"] > 0.8


@pytest.mark.parametrize("name", ["n_images", "n_reference", "n_sweep"])
def test_too_few_images_for_a_kernel_distance_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: '19' is not allowed, input should be greater than or equal to 20"):
        parse_config(IsirFidConfig, ISIR_PRESETS, [f"--{name}", "19", "--force", "true"], "isir_fid")


def test_a_small_reference_set_is_refused_forced_or_not(tmp_path: Path) -> None:
    config = parse_config(FidConfig, PRESETS, ["--force", "true", "--cache_dir", str(tmp_path)], "fid")
    with pytest.raises(InputError, match="12 images, split train: 12 images; a kernel distance needs at least 20"):
        measure_reference(config, image_set(12), extractor(), ONE)
    assert len(measure_reference(config, image_set(20), extractor(), ONE).rows) == 20


def test_sweeps_need_as_many_chains_as_their_distance_does() -> None:
    config = parse_config(IsirFidConfig, ISIR_PRESETS, ["--n_sweep", "30"], "isir_fid")
    with pytest.raises(InputError, match="n_sweep: 30 images for features of dimension 64"):
        check_count(config.n_sweep, "n_sweep", 64, config)


def test_the_seconds_of_plain_sampling_are_of_the_generator_alone() -> None:
    made = []

    def generate(z: Tensor) -> Tensor:
        made.append(len(z))
        return torch.zeros(len(z), 3, 8, 8)

    def fail(*args: Any) -> Any:
        raise AssertionError("the feature network belongs outside the clock")

    generator: Any = StoredNetwork(network=generate, uri="g", image_size=8, nz=4, trained_on={})  # type: ignore[arg-type]
    measuring: Any = Extractor(
        name="", score="", kernel_score="", network=fail, dim=1, fingerprint="", family="", resize=""
    )
    nothing: Any = None
    evaluation = SamplerEvaluation(
        config=IsirFidConfig(batch_size=10),
        generator=generator,
        critic=nothing,
        ratio=nothing,
        extractor=measuring,
        reference=nothing,
        held_out=nothing,
        device=CPU,
    )
    assert evaluation.generating_seconds(torch.zeros(25, 4)) > 0
    assert made == [10, 10, 5]


def photos(folder: Path, n: int, seed: int) -> Path:
    """n random pictures of 16 pixels."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / f"{i:03d}.png")
    return folder


def test_the_reference_is_the_images_of_the_training_or_refused(tmp_path: Path) -> None:
    """In another folder, another `photos`, or the same one with more images, is no reference by default."""
    own, other = photos(tmp_path / "own", 12, seed=0), photos(tmp_path / "other", 12, seed=1)
    seen = load_images("folder", 16, "train", own, tmp_path / "cache", progress=False)
    known = {
        "dataset": "folder",
        "split": "train",
        "data_dir": str(own),
        "preprocessing_hash": seen.preprocessing_hash,
        "split_fingerprint": seen.fingerprint,
    }
    network: Any = None
    generator = StoredNetwork(network=network, uri="g", image_size=16, nz=4, trained_on=known)

    def reference(**changes: Any) -> str:
        config = preset_config(FidConfig, PRESETS, "quick", cache_dir=tmp_path / "cache", **changes)
        return reference_images(config, generator).fingerprint

    assert reference() == seen.fingerprint
    with pytest.raises(InputError, match=f"does not hold the train images that g was trained on .from {own}."):
        reference(data_dir=other)
    assert reference(data_dir=other, force=True) != seen.fingerprint
    assert reference(data_dir=other, dataset="folder") != seen.fingerprint  # on purpose
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(own / "one_more.png")
    with pytest.raises(InputError, match="files were added, removed or changed"):
        reference()


def test_a_forced_comparison_is_tagged_and_compared_with_forced_ones_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment(folder)["MLFLOW_TRACKING_URI"])
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    features = Features(torch.rand(20, 3))
    reference = Reference(image_set(20), np.arange(20), features, Gaussian.of(features.moments))
    conditions = []
    for force in (False, True):
        config = preset_config(FidConfig, PRESETS, "quick", force=force)
        with start_run("fid", {}, output_dir=folder / "runs") as run:
            log_reference(run, config, reference.images)
        assert ("forced" in client(folder).get_run(run.run_id).data.tags) == force
        conditions.append(evaluations(config, extractor(), reference, {"fd_colours": 1.0})[0].conditions)
    assert conditions[0] != conditions[1]


@pytest.mark.parametrize(
    ("preset", "dataset", "features"),
    [
        ("quick", "digits", "digits"),
        ("quick", "folder", "efficientnet"),
        ("quick", "celeba", "efficientnet"),
        ("eurosat", "eurosat", "efficientnet"),
        ("celeba", "celeba", "inception"),
    ],
)
@pytest.mark.parametrize(("config", "presets"), [(FidConfig, PRESETS), (IsirFidConfig, ISIR_PRESETS)])
def test_photographs_are_measured_in_features_of_photographs(
    config: Any, presets: Any, preset: str, dataset: str, features: str
) -> None:
    assert features_for(preset_config(config, presets, preset), dataset) == features
    assert features_for(preset_config(config, presets, preset, features="digits"), dataset) == "digits"

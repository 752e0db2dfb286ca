"""What `fid` and `isir_fid` share: reference images, features, and the scores of a set of images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass as plain_dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.progress import Progress
from data.images.load import ImageSet, load_images
from data.images.sources import DATASETS
from evaluation.efficientnet import efficientnet_extractor
from evaluation.features import (
    Extractor,
    Features,
    cache_path,
    extract,
    file_extractor,
    inception_extractor,
    load_features,
    network_extractor,
    save_features,
)
from evaluation.foundation import NETWORKS, foundation_extractor
from evaluation.frechet import (
    MIN_IMAGES,
    Gaussian,
    cmmd,
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from evaluation.images import drawn_rows, to_uint8
from models.gan.digit_classifier import N_FEATURES
from tracking.registry.evaluations import Evaluation
from tracking.registry.models import load_program, open_program
from tracking.run import AnyRun
from training.generators.config import MeasureConfig
from training.generators.stored import StoredNetwork
from training.processes import Processes


@plain_dataclass(frozen=True)
class Reference:
    """The images a generator is compared with, and their features; moments as a factored Gaussian, made once."""

    images: ImageSet
    rows: np.ndarray
    features: Features
    gaussian: Gaussian


def reference_images(config: MeasureConfig, generator: StoredNetwork) -> ImageSet:
    """The reference images, prepared exactly as those the generator was trained on.

    Raises InputError, unless `force`, where the preprocessing differs (it costs tens of FID points), and where the
    reference is the split that the generator was trained on but holds other images than then.
    """
    known = generator.trained_on
    dataset = config.dataset if config.dataset != "model" else known.get("dataset")
    if dataset is None:
        raise InputError(
            f"dataset: {generator.uri} does not say what it was trained on; give dataset={', '.join(DATASETS)}"
        )
    data_dir = data_dir_of(config, generator)
    if dataset in DATASETS and DATASETS[dataset].needs_dir and data_dir is None:
        raise InputError(f"data_dir: dataset={dataset} needs one, a folder or a zip of images")
    images = load_images(
        dataset=dataset,
        image_size=generator.image_size,
        split=config.split,
        data_dir=data_dir,
        cache_dir=config.cache_dir,
        on_bad=config.on_bad,
    )
    expected = known.get("preprocessing_hash")
    if expected not in (None, images.preprocessing_hash) and not config.force:
        raise InputError(
            f"dataset: {images.source} is prepared otherwise ({images.preprocessing}) than the images that "
            f"{generator.uri} was trained on (dataset {known.get('dataset')}, preprocessing {expected[:12]}..., here "
            f"{images.preprocessing_hash[:12]}...): the distance would measure that difference; give the same dataset, "
            "or force=true"
        )
    if expected is None:
        print(
            f"{generator.uri} does not say how its training images were prepared; make sure the reference is the same"
        )
    if not config.force:
        check_training_images(config, generator, images)
    return images


def data_dir_of(config: MeasureConfig, generator: StoredNetwork) -> Path | None:
    """Where the reference images lie: `data_dir`, or where those of the generator's training were."""
    known = generator.trained_on
    dataset = config.dataset if config.dataset != "model" else known.get("dataset")
    if dataset not in DATASETS or not DATASETS[dataset].takes_dir:
        return None
    if config.data_dir is None and dataset == known.get("dataset") and known.get("data_dir"):
        return Path(known["data_dir"])
    return config.data_dir


def check_training_images(config: MeasureConfig, generator: StoredNetwork, images: ImageSet) -> None:
    """InputError where `images` should be the ones that the generator was trained on, and are others."""
    known = generator.trained_on
    same_split = config.dataset == "model" and config.split == known.get("split")
    if same_split and known.get("split_fingerprint") not in (None, images.fingerprint):
        raise InputError(
            f"dataset: {images.source} does not hold the {config.split} images that {generator.uri} was trained on "
            f"(from {known.get('data_dir') or known.get('dataset')}): files were added, removed or changed, or it is "
            "another folder; give data_dir with the images of the training, dataset=folder to compare with others on "
            "purpose, or force=true"
        )


def log_reference(run: AnyRun, config: MeasureConfig, images: ImageSet) -> None:
    """Record which images the run compares with, as a data set of the run; a forced comparison is tagged as such."""
    if config.force:
        run.set_tags({"forced": "force=true: images, preprocessing or weights were not checked"})
    run.log_data(
        name=images.name,
        fingerprint=images.fingerprint,
        details={"source": images.source, "split": images.split},
        context="reference",
    )


def features_for(config: MeasureConfig, dataset: str) -> str:
    """What `features` names; auto: the network of the reference's data set."""
    return DATASETS[dataset].features if config.features == "auto" else config.features


def refuse_early(
    config: MeasureConfig, images: ImageSet, counts: Mapping[str, int], device: torch.device
) -> Extractor | None:
    """What can be refused before a run is recorded: the feature network, which is returned as `build_extractor` does,
    and the numbers of images, of the reference `images` and those in `counts` by their parameter.
    """
    extractor = build_extractor(features_for(config, images.name), config, device)
    dim = N_FEATURES if extractor is None else extractor.dim
    for what, n in counts.items():
        check_count(n, what, dim, config)
    check_reference(config, images, dim)
    return extractor


def check_reference(config: MeasureConfig, images: ImageSet, dim: int) -> int:
    """How many reference images are drawn; InputError for too few."""
    n = min(len(images), config.n_reference)
    check_count(n, "n_reference" if n < len(images) else f"{images.source}, split {images.split}", dim, config)
    return n


def build_extractor(features: str, config: MeasureConfig, device: torch.device) -> Extractor | None:
    """The feature network of that name (`features_for`); None for the digits' own, which a run may first have to train
    and register: `digits_extractor`.
    """
    if features == "inception":
        return inception_extractor(config.weights, device, config.force)
    if features in NETWORKS:
        return foundation_extractor(features, device, config.weights, config.force)
    if features == "efficientnet":
        return efficientnet_extractor(device, config.weights)
    if config.weights is not None:
        raise InputError(
            f"weights: only inception, efficientnet, {' and '.join(NETWORKS)} take them, not features={features}"
        )
    if features == "digits":
        return None
    if features.startswith(("models:/", "runs:/")):
        network, digest = load_program(features)
        return network_extractor(
            name=features.split(":/", 1)[1],
            network=network,
            fingerprint=digest,
            family=f"registered {features}",
            device=torch.device("cpu"),
        )
    return file_extractor(Path(features), device, open_program)


def check_count(n: int, what: str, dim: int, config: MeasureConfig) -> None:
    """Refuse fewer images than a kernel distance needs and, unless forced, than a covariance of the features needs.

    what: the parameter or the data set that the number n comes from, for the error. dim: of the features.
    """
    if n < MIN_IMAGES:
        raise InputError(
            f"{what}: {n} images; a kernel distance needs at least {MIN_IMAGES}, also with force=true; give more"
        )
    if n <= dim and not config.force:
        raise InputError(
            f"{what}: {n} images for features of dimension {dim}: their covariance is singular and the distance mostly "
            f"bias; give at least {dim + 1}, better ten times as many, or force=true, and then read the kernel "
            "distance, which has no such bias"
        )


def measure_reference(config: MeasureConfig, images: ImageSet, extractor: Extractor, processes: Processes) -> Reference:
    """Features of at most n_reference images of the set, drawn at random; taken from the cache if they are there."""
    n = check_reference(config, images, extractor.dim)
    rows = drawn_rows(len(images), n, config.seed)
    key = [
        "reference",
        images.fingerprint,
        extractor.fingerprint,
        extractor.resize,
        n,
        config.seed if n < len(images) else "all",
    ]
    path = cache_path(key, config.cache_dir)
    features = load_features(path) if processes.is_first else None
    if not processes.any(features is not None):  # the other processes help only where there is something to do
        mine = rows[processes.share_of(n)]
        progress = Progress(len(mine), unit="image", quiet=not processes.is_first)
        batches = (
            torch.from_numpy(np.array(images.pixels[mine[i : i + config.batch_size]]))
            for i in range(0, len(mine), config.batch_size)
        )
        features = gathered(extract(extractor, batches, progress.advance), processes)
        progress.close()
        if processes.is_first:
            save_features(path, features)
    features = processes.share(features)
    return Reference(images, rows, features, Gaussian.of(features.moments))


def gathered(features: Features, processes: Processes) -> Features:
    """The features of all processes' images, in the order of ranks."""
    if processes.world_size == 1:
        return features
    logits = None if features.logits is None else processes.gather(features.logits)
    return Features(processes.gather(features.x), logits)


def latent_codes(n: int, nz: int, seed: int) -> Tensor:
    """n codes from N(0, I), [n, nz], on the CPU: the same for any batch size and number of processes."""
    return torch.randn(n, nz, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def images_of(generator: StoredNetwork, z: Tensor, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """The generator's images of codes [n, nz] as uint8 batches [<= batch_size, 3, S, S], rounded."""
    for part in z.split(batch_size):
        yield to_uint8(generator.network(part.to(device)))


def generate(generator: StoredNetwork, z: Tensor, device: torch.device) -> np.ndarray:
    """The generator's images of a few codes [n, nz], for a figure: uint8 [n, 3, S, S]."""
    return torch.cat(list(images_of(generator, z, len(z), device))).cpu().numpy()


def scores(config: MeasureConfig, extractor: Extractor, fake: Features, reference: Reference) -> dict[str, float]:
    """All scores of generated images, under the names of their features."""
    real = reference.features
    distance, error = kernel_distance(fake.x, real.x, torch.Generator().manual_seed(config.seed))
    k = config.n_neighbours  # the generated images come from independent codes: any k of them will do
    some = real.x[drawn_rows(len(real.x), k, config.seed)]
    precision, recall = precision_recall(some, fake.x[:k])
    density, coverage = density_coverage(some, fake.x[:k])
    result = {
        extractor.score: frechet_distance(Gaussian.of(fake.moments), reference.gaussian),
        extractor.kernel_score: distance,
        f"{extractor.kernel_score}_se": error,
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }
    if extractor.cmmd_score is not None:
        result[extractor.cmmd_score] = cmmd(fake.x, real.x)
    if fake.logits is not None:
        result["inception_score"], result["inception_score_sd"] = inception_score(fake.logits)
    return result


def describe_measurement(extractor: Extractor, generator: StoredNetwork, reference: Reference) -> dict[str, str]:
    """What must be said beside the numbers: params of the run."""
    return {
        "resolved_model_uri": generator.uri,
        "feature_family": extractor.family,
        "feature_resize": extractor.resize,
        "feature_dimension": str(extractor.dim),
        "reference": f"{reference.images.source}, split {reference.images.split}",
        "reference_images": str(len(reference.rows)),
        "reference_preprocessing": reference.images.preprocessing_hash[:16],
        "rounding": "uint8, to nearest",
    }


def evaluations(
    config: MeasureConfig, extractor: Extractor, reference: Reference, results: Mapping[str, float]
) -> list[Evaluation]:
    """The Fréchet distance with all that it depends on except the generator.

    Versions of a generator are compared by it where these conditions are equal.
    """
    images = reference.images
    conditions = {
        "features": extractor.fingerprint[:16],
        "resize": extractor.resize,
        "reference": images.fingerprint[:16],
        "split": images.split,
        "preprocessing": images.preprocessing_hash[:16],
        "n_reference": len(reference.rows),
        "n_images": config.n_images,
        "seed": config.seed,
        "forced": config.force,
    }
    return [Evaluation(extractor.score, results[extractor.score], False, conditions)]

"""Are the generated images copies of training images? Authenticity, and the closest pairs."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.progress import Progress
from data.images.load import ImageSet, load_images
from data.images.sources import DATASETS
from evaluation.features import Extractor, Features, extract
from evaluation.frechet import authenticity, nearest
from evaluation.images import drawn_rows
from trainers.fid.config import FidConfig
from training.generators.measuring import Reference, generate
from training.generators.stored import StoredNetwork

N_PAIRS = 24
"""Closest pairs that are shown."""


@dataclass(frozen=True)
class Copies:
    """What was found. held_out: authenticity of the test split's real images; None where there is no such split.

    pairs: uint8 [2 * N_PAIRS, 3, S, S], a generated image and the training image next to it, and so on, closest first.
    """

    authenticity: float
    held_out: float | None
    pairs: np.ndarray

    def metrics(self) -> dict[str, float]:
        """For the run."""
        found = {"authenticity": self.authenticity}
        return found if self.held_out is None else {**found, "authenticity_held_out": self.held_out}


def find_copies(
    config: FidConfig,
    generator: StoredNetwork,
    extractor: Extractor,
    *,
    reference: Reference,
    generated: Features,
    codes: Tensor,
    device: torch.device,
) -> Copies | None:
    """None where the reference is not what the generator was trained on, so that there is nothing to be copied.

    generated: features of the images of the codes [n, nz]; at most `n_neighbours` of them are compared, and no more
    images of the test split than that.
    """
    images = reference.images
    if images.fingerprint != generator.trained_on.get("split_fingerprint"):
        return None
    train, fake = reference.features.x, generated.x[: config.n_neighbours]
    distance, index = nearest(fake, train)
    closest = distance.argsort()[:N_PAIRS].cpu()
    shown = generate(generator, codes[closest], device)
    real = images.pixels[reference.rows[index.cpu()[closest].numpy()]]
    pairs = np.stack([shown, real], axis=1).reshape(-1, *shown.shape[1:])
    held_out = held_out_images(config, generator, images)
    of_held_out = None
    if held_out is not None:
        rows = drawn_rows(len(held_out), min(config.n_images, config.n_neighbours), config.seed)
        parts = (rows[i : i + config.batch_size] for i in range(0, len(rows), config.batch_size))
        batches = (torch.from_numpy(np.array(held_out.pixels[part])) for part in parts)
        with Progress(len(rows), unit="image") as progress:
            found = extract(extractor, batches, lambda n: progress.advance(n, note="test split, for authenticity"))
        of_held_out = authenticity(train, found.x)
    return Copies(authenticity(train, fake), of_held_out, pairs)


def held_out_images(config: FidConfig, generator: StoredNetwork, images: ImageSet) -> ImageSet | None:
    """The test split of the images that the generator was trained on; None where there is none."""
    dataset = DATASETS[images.name]
    known = generator.trained_on.get("data_dir")
    data_dir = config.data_dir if config.data_dir is not None or not known else known
    if images.split != "train" or not dataset.has_split(data_dir, "test"):
        return None
    return load_images(
        dataset=images.name,
        image_size=generator.image_size,
        split="test",
        data_dir=data_dir if dataset.takes_dir else None,
        cache_dir=config.cache_dir,
        on_bad=config.on_bad,
    )

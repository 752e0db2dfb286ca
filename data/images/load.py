"""Images for training: `load_images` gives a decoded data set, `ImageBatches` endless batches of it."""

import hashlib
import sys
import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.files import hash_of
from data.images.cache import CachedImages, cached_images, preprocessing_of
from data.images.files import ImageSource
from data.images.sources import DATASETS, SPLITS

N_NAMED = 3
"""Images that could not be read that are named; all of them are in `ImageSet.skipped`."""


@dataclass(frozen=True)
class ImageSet:
    """A decoded dataset.

    pixels: uint8 [N, 3, S, S], read-only, memory-mapped from the cache.
    fingerprint: SHA-256 over the pixels in their order and the preprocessing; names the data of a run.
    preprocessing, preprocessing_hash: what was done to every image, and its SHA-256.
    skipped: name and reason of every image that could not be read (`on_bad="skip"`).
    labels: class numbers int64 [N] for digits and for folders of classes, else None.
    upscaled: how many images were smaller than S and were enlarged.
    split_fingerprint: that of the whole split, where these images are a part of it; empty where they are all of it.
    """

    name: str
    split: str
    source: str
    pixels: np.ndarray
    fingerprint: str
    preprocessing: dict[str, Any]
    preprocessing_hash: str
    skipped: list[dict[str, str]]
    labels: np.ndarray | None
    upscaled: int
    split_fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def is_grey(self) -> bool:
        """Whether no image has colour: its three channels are equal. Looks no further than the first that has."""
        return all(bool((image[1:] == image[:1]).all()) for image in self.pixels)


def load_images(
    dataset: str,
    image_size: int,
    split: str = "train",
    data_dir: Path | None = None,
    cache_dir: Path = Path("cache"),
    on_bad: str = "stop",
    workers: int | None = None,
    progress: bool = True,
) -> ImageSet:
    """The images of a dataset as squares of `image_size` pixels, decoded once and kept in `cache_dir`.

    dataset: "celeba", "eurosat" or "cifar10" (`data_dir`: where it lies; None: downloaded into `cache_dir`), "folder"
        (`data_dir`: a folder or a zip of images), or "digits" (part of scikit-learn; no `data_dir`).
    split: "train", "valid", "test" or "all". CelebA has its official partitions, digits and CIFAR-10 train and test, a
        folder those of its folders train, valid (val) and test; without such folders all its images are
        "train".
    on_bad: "stop" (an image that cannot be read is an InputError) or "skip" (it is left out and listed).
    workers: threads that decode; None: one per available core, at most 8.

    Raises InputError for anything wrong with the arguments, the files or the disk, and then leaves no cache
    behind.
    """
    _check("dataset", dataset, DATASETS)
    _check("split", split, SPLITS)
    _check("on_bad", on_bad, ("stop", "skip"))
    _check_positive("image_size", image_size)
    if workers is not None:
        _check_positive("workers", workers)
    source = DATASETS[dataset].list_images(data_dir, split, cache_dir)
    for note in source.notes if progress else ():
        _tell(note)
    folder_name = f"{dataset}-{split}-{image_size}"
    cached = cached_images(
        source, image_size, folder_name, cache_dir, on_bad=on_bad, workers=workers, progress=progress
    )
    for note in _of_single_images(source, cached, image_size) if progress and DATASETS[dataset].takes_dir else ():
        _tell(note)
    preprocessing = preprocessing_of(source, image_size)
    preprocessing_hash = hash_of(preprocessing)
    return ImageSet(
        name=dataset,
        split=split,
        source=source.description,
        pixels=cached.pixels,
        fingerprint=hash_of([cached.pixels_sha256, preprocessing_hash]),
        preprocessing=preprocessing,
        preprocessing_hash=preprocessing_hash,
        skipped=cached.skipped,
        labels=None if source.labels is None else source.labels[cached.kept],
        upscaled=cached.upscaled,
    )


def _of_single_images(source: ImageSource, cached: CachedImages, image_size: int) -> list[str]:
    """What to say of images that could not be read, and of those that were enlarged."""
    notes, n = [], len(source.files) + len(source.missing)
    if cached.skipped:
        shown = [f"{bad['name']} ({bad['reason']})" for bad in cached.skipped[:N_NAMED]]
        more = len(cached.skipped) - len(shown)
        named = "; ".join([*shown, f"and {more:,} more"] if more else shown)
        notes.append(f"{source.description}: {len(cached.skipped):,} of {n:,} images left out: {named}")
    if cached.upscaled:
        notes.append(
            f"{source.description}: {cached.upscaled:,} of {n:,} images are smaller than {image_size} pixels, and were "
            "enlarged"
        )
    return notes


@cache
def _tell(note: str) -> None:
    """Print the note, once in a process."""
    print(note, file=sys.stderr, flush=True)


def divide(images: ImageSet, validation_share: float) -> tuple[ImageSet, ImageSet | None]:
    """(images to train on, images for validation; None if the share is 0), the same in every call, both in memory."""
    if validation_share == 0:
        return images, None
    order = np.random.default_rng(0).permutation(len(images))
    n = min(max(1, round(validation_share * len(images))), len(images) - 1)
    return _part_of(images, np.sort(order[n:])), _part_of(images, np.sort(order[:n]))


def _part_of(images: ImageSet, rows: np.ndarray) -> ImageSet:
    return replace(
        images,
        pixels=images.pixels[rows],
        labels=None if images.labels is None else images.labels[rows],
        fingerprint=hash_of([images.fingerprint, rows.tolist()]),
        split_fingerprint=images.split_fingerprint or images.fingerprint,
    )


def _check(name: str, value: str, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name}: {value!r} is not one of {', '.join(allowed)}")


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name}: {value!r} is not a positive whole number")


class ImageBatches:
    """Endless iterator of float32 batches [batch_size / world_size, 3, S, S] in [-1, 1] on `device`.

    Every epoch is a permutation drawn from (seed, epoch), without its incomplete last batch; with `flip`,
    each image of a batch is mirrored with probability 1/2, drawn from (seed, epoch, batch). Nothing else is
    random, so `{"epoch", "batch"}` is the whole state. Rank r of W gets the r-th part of each batch: the
    parts together are the batch that a single process gets.

    The uint8 pixels lie on the GPU when they take at most a quarter of its free memory; else batches are
    gathered from the memory-mapped cache, which all processes of a machine share. Scaling and flips happen on
    the device.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        seed: int,
        device: torch.device | str,
        flip: bool,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check_positive("batch_size", batch_size)
        if batch_size % world_size:
            raise InputError(f"batch_size: {batch_size} images cannot be shared evenly by {world_size} processes")
        if len(images) < batch_size:
            smaller = f" or a batch_size of at most {len(images)}" if len(images) > 1 else ""
            raise InputError(
                f"{images.source}, split {images.split}: {len(images)} image{'s do' if len(images) > 1 else ' does'} "
                f"not fill one batch of batch_size={batch_size}; give more images{smaller}"
            )
        self.device = torch.device(device)
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self.batches_per_epoch = len(images) // batch_size
        part = batch_size // world_size
        self._mine = slice(rank * part, (rank + 1) * part)
        self._pixels = _as_tensor(images.pixels)
        if self.device.type == "cuda" and fits_on_gpu(images.pixels.nbytes, self.device):
            self._pixels = self._pixels.to(self.device)
        self._epoch = self._batch = 0
        self._order = self._permutation(0)

    def __iter__(self) -> "ImageBatches":
        return self

    def __next__(self) -> Tensor:
        start = self._batch * self.batch_size
        index = self._order[start : start + self.batch_size][self._mine]
        batch = self._pixels.index_select(0, index)  # 70 µs for 64 images of 64x64; pixels[index]: 430
        if batch.device.type != self.device.type:
            # A copy from pinned memory runs beside the GPU's work instead of waiting for it.
            batch = (batch.pin_memory() if self.device.type == "cuda" else batch).to(self.device, non_blocking=True)
        if self.flip:
            draws = torch.rand(self.batch_size, generator=_generator(self.seed, self._epoch, self._batch))
            mirrored = draws[self._mine] < 0.5
            rows = torch.arange(len(batch)) + len(batch) * mirrored  # of the batch and its mirror image in a row
            both = torch.cat([batch, batch.flip(3)])  # 200 µs for 64 images of 64x64; torch.where: 700
            batch = both.index_select(0, rows.to(self.device, non_blocking=True))
        self._advance()
        return batch.float().div_(127.5).sub_(1)

    def state_dict(self) -> dict[str, int]:
        """Where the next batch comes from."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken; InputError if this data and batch size have no such batch."""
        epoch, batch = state["epoch"], state["batch"]
        if epoch < 0 or not 0 <= batch < self.batches_per_epoch:
            raise InputError(
                f"data cursor: batch {batch} of epoch {epoch} does not exist, an epoch has "
                f"{self.batches_per_epoch} batches; resume with the data and the batch_size of the checkpoint"
            )
        self._epoch, self._batch = epoch, batch
        self._order = self._permutation(epoch)

    def _advance(self) -> None:
        self._batch += 1
        if self._batch == self.batches_per_epoch:
            self._epoch, self._batch = self._epoch + 1, 0
            self._order = self._permutation(self._epoch)

    def _permutation(self, epoch: int) -> Tensor:
        # Held where the pixels are: on the GPU a batch is then gathered without any copy from the CPU.
        order = torch.randperm(len(self._pixels), generator=_generator(self.seed, epoch))
        return order.to(self._pixels.device)


def fits_on_gpu(n_bytes: int, device: torch.device) -> bool:
    """Whether `n_bytes` of pixels leave the networks their room: at most a quarter of the free memory."""
    free, _ = torch.cuda.mem_get_info(device)
    return n_bytes <= free // 4


def _as_tensor(pixels: np.ndarray) -> Tensor:
    """The same memory as a tensor; torch warns that it is read-only, and nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)


def _generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by a hash of `key`, so that neighbouring keys give unrelated streams."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

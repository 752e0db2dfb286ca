"""Where images come from: every data set by the name that the parameter `dataset` has."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from data.images.celeba import celeba_source
from data.images.cifar10 import cifar10_source
from data.images.digits import digits_source
from data.images.eurosat import eurosat_source
from data.images.files import ImageSource
from data.images.folder import folder_source

SPLITS = ("train", "valid", "test", "all")


@dataclass(frozen=True)
class ImageDataset:
    """What code that works on any data set may have to ask about one.

    Attributes:
        name: the value of the parameter `dataset`.
        list_images: (data_dir, split, cache_dir) -> the images of the split.
        needs_dir: whether `data_dir` must be given.
        takes_dir: whether `data_dir` may be given.
        validation_split: the split made for choosing by; None where it must be taken from the training images.
        test_split: the split of images that are never trained on; None where only a look into `data_dir` tells.
        features: the network whose features its images are compared by with features=auto; it needs no download.
    """

    name: str
    list_images: Callable[[Path | None, str, Path], ImageSource]
    needs_dir: bool
    takes_dir: bool
    validation_split: str | None
    test_split: str | None
    features: str

    @property
    def held_out_split(self) -> str | None:
        """The split to watch the training by: not trained on, and for choosing if there is one; None: none for sure."""
        return self.validation_split or self.test_split

    def has_split(self, data_dir: Path | None, split: str) -> bool:
        """Whether there are images of a split: by a look into `data_dir`; a download has those of the data set."""
        if data_dir is None:
            return split in (self.validation_split, self.test_split)
        try:
            return bool(self.list_images(data_dir, split, Path("cache")).files)
        except InputError:
            return False


DATASETS = {
    dataset.name: dataset
    for dataset in (
        ImageDataset(
            name="celeba",
            list_images=celeba_source,
            needs_dir=False,
            takes_dir=True,
            validation_split="valid",
            test_split="test",
            features="efficientnet",
        ),
        ImageDataset(
            name="eurosat",
            list_images=eurosat_source,
            needs_dir=False,
            takes_dir=True,
            validation_split="valid",
            test_split="test",
            features="efficientnet",
        ),
        ImageDataset(
            name="cifar10",
            list_images=cifar10_source,
            needs_dir=False,
            takes_dir=True,
            validation_split=None,
            test_split="test",
            features="efficientnet",
        ),
        ImageDataset(
            name="folder",
            list_images=lambda data_dir, split, _: folder_source(data_dir, split),
            needs_dir=True,
            takes_dir=True,
            validation_split=None,
            test_split=None,
            features="efficientnet",
        ),
        ImageDataset(
            name="digits",
            list_images=lambda data_dir, split, _: digits_source(data_dir, split),
            needs_dir=False,
            takes_dir=False,
            validation_split=None,
            test_split="test",
            features="digits",
        ),
    )
}
"""Every data set of images by its name."""

"""dataset=cifar10: 60,000 photographs of ten kinds of things, 32x32 (Krizhevsky 2009), with their official split."""

import zlib
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import InputError
from data.images.download import Download, read_or_download
from data.images.files import ImageFile, ImageSource
from data.images.parts import check_part, class_images, find_parts, other_part, source_of

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = (32, 32)
BATCHES = "cifar-10-batches-py"
"""The folder of torchvision's layout: Krizhevsky's own pickled batches."""


def cifar10_source(data_dir: Path | None, split: str, cache_dir: Path) -> ImageSource:
    """CIFAR-10's images from `data_dir`, or downloaded by torchvision into `cache_dir` without one.

    `data_dir` holds (or is) the folder cifar-10-batches-py; or it holds train.zip and test.zip, or folders train and
    test, of class folders, or is the training one of them.
    """
    if split == "valid":
        raise InputError(
            "split 'valid': dataset=cifar10 has the splits train, test and all (validation_share holds training images "
            "out)"
        )
    if data_dir is None:
        root = Path(cache_dir).expanduser() / "cifar10"
        return read_or_download(CIFAR10, root, lambda: _batches(root, split) if (root / BATCHES).exists() else None)
    path = Path(data_dir).expanduser()
    root = path.parent if path.name == BATCHES else path
    return _batches(root, split) if (root / BATCHES).is_dir() else _class_folders(path, split)


def _batches(root: Path, split: str) -> ImageSource:
    """The split in Krizhevsky's batches. They are pickles: torchvision compares their MD5 before it reads them."""
    from torchvision.datasets import CIFAR10 as Torchvisions

    halves = {"train": (True,), "test": (False,), "all": (True, False)}[split]
    try:
        sets = [Torchvisions(str(root), train=half) for half in halves]
    except RuntimeError as error:
        raise InputError(
            f"{root / BATCHES}: not the whole CIFAR-10 ({error}); unpack cifar-10-python.tar.gz anew into {root}"
        ) from None
    pixels = np.concatenate([images.data for images in sets])
    labels = np.concatenate([np.asarray(images.targets, dtype=np.int64) for images in sets])

    def as_ppm(index: int) -> bytes:
        return b"P6 32 32 255\n" + pixels[index].tobytes()

    files = [ImageFile(f"{i:05d}", (zlib.crc32(pixels[i].tobytes()),), partial(as_ppm, i)) for i in range(len(pixels))]
    return ImageSource(f"CIFAR-10 in {(root / BATCHES).resolve()}", files, labels=labels, size=SIZE)


def _class_folders(path: Path, split: str) -> ImageSource:
    parts = find_parts(path)
    check_part(path, split)
    if parts:
        paths = [part for name, part in parts.items() if name == split or (split == "all" and name != "valid")]
    elif split == "test" and not other_part(path):
        raise InputError(
            f"{path}: holds no test images of CIFAR-10; put test.zip beside train.zip, or the folder {BATCHES} into "
            "data_dir"
        )
    else:
        paths = [path]
    return source_of([class_images(part, CLASSES, "CIFAR-10") for part in paths], "CIFAR-10", SIZE)


def _fetch(root: Path) -> None:
    from torchvision.datasets import CIFAR10 as Torchvisions

    Torchvisions(str(root), download=True)


def _checksums() -> dict[str, str]:
    from torchvision.datasets import CIFAR10 as Torchvisions

    return {Torchvisions.filename: Torchvisions.tgz_md5}


CIFAR10 = Download(
    title="CIFAR-10",
    folder="",
    size="170 MB",
    n_bytes=400 * 10**6,  # the archive, and the batches that torchvision unpacks beside it
    fetch=_fetch,
    checksums=_checksums,
    where="get cifar-10-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html) and unpack it into",
)

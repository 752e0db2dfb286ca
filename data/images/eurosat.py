"""dataset=eurosat: Sentinel-2's photographs of ten kinds of land, 64x64 (Helber et al. 2019, arXiv 1709.00029).

There is no official split. Here the number in a file's name makes one, the same in the whole set and in any part of it:
Forest_19.jpg is a test image since its number ends in 9, Forest_18.jpg one for validation, the others are for training.
So a tenth of every class is held out for each: 21,600, 2,700 and 2,700 images. Where somebody's own split lies in two
zips (or folders), train and test, test is all of the test zip, and the numbers divide the training zip; its images that
end in 9 are left out, so that a network trained on a part has seen no test image of the whole set.
"""

import re
from functools import partial
from pathlib import Path

from common.errors import InputError
from data.images.download import Download, read_or_download
from data.images.files import ImageFile, ImageSource
from data.images.parts import ClassImages, check_part, class_images, find_parts, source_of

CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
SIZE = (64, 64)
COUNT = 27_000
TORCHVISIONS = ("eurosat/EuroSAT.zip", "EuroSAT.zip", "eurosat/2750", "2750")
"""Where torchvision leaves it; the zip first, since it has checksums."""


def eurosat_source(data_dir: Path | None, split: str, cache_dir: Path) -> ImageSource:
    """EuroSAT's images from `data_dir`, or downloaded by torchvision into `cache_dir` without one.

    `data_dir` is a folder or a zip of class folders, in torchvision's layout or not, the whole set or a part; or it
    holds train.zip and test.zip (or such folders), or is the training one of them.
    """
    if data_dir is not None:
        return _eurosat_in(Path(data_dir).expanduser(), split)
    root = Path(cache_dir).expanduser()

    def read() -> ImageSource | None:
        if not any((root / place).exists() for place in TORCHVISIONS):
            return None
        whole = _listed(_whole(root))
        if len(whole.files) != COUNT:
            raise InputError(f"{whole.path}: has {len(whole.files)} of {COUNT} images; remove it")
        return source_of([_numbered(whole, split)], "EuroSAT", SIZE)

    return read_or_download(EUROSAT, root, read)


def _eurosat_in(path: Path, split: str) -> ImageSource:
    parts = find_parts(path)
    if not parts:
        check_part(path, split)
        images = _listed(_whole(path))
        chosen = [images if path.name.lower() in ("test", "test.zip") else _numbered(images, split)]
    elif split == "all":
        chosen = [_listed(part) for part in parts.values()]
    elif split in parts and (split == "test" or "valid" in parts):
        chosen = [_listed(parts[split])]
    else:
        chosen = [_numbered(_listed(parts["train"]), split)]
    if not any(part.files for part in chosen):
        raise InputError(f"{path}: holds no images of split {split!r} (docs/images.md has the split)")
    return source_of(chosen, "EuroSAT", SIZE)


def _whole(path: Path) -> Path:
    """Torchvision's zip or folder in `path`, else `path` itself."""
    return next((path / place for place in TORCHVISIONS if (path / place).exists()), path)


_listed = partial(class_images, classes=CLASSES, title="EuroSAT")


def _numbered(images: ClassImages, split: str) -> ClassImages:
    """The images of a split by the numbers in their names."""
    digits = {"train": range(8), "valid": (8,), "test": (9,), "all": range(10)}[split]
    return images.only([last_digit(file, images.path) in digits for file in images.files])


def last_digit(file: ImageFile, place: Path) -> int:
    """Of the number in a name such as Forest_19.jpg."""
    found = re.search(r"(\d)\.\w+$", file.name)
    if found is None:
        raise InputError(
            f"{place}: {file.name} has no number, by which EuroSAT is split (Forest_19.jpg); keep its own names, or "
            "use dataset=folder"
        )
    return int(found[1])


def _fetch(root: Path) -> None:
    from torchvision.datasets import EuroSAT

    EuroSAT(str(root), download=True)


EUROSAT = Download(
    title="EuroSAT",
    folder="eurosat",
    size="90 MB",
    n_bytes=300 * 10**6,  # the zip, and the folder that torchvision unpacks beside it
    fetch=_fetch,
    checksums=lambda: {"EuroSAT.zip": "c8fa014336c82ac7804f0398fcb19387"},
    where="get EuroSAT.zip (RGB, https://github.com/phelber/EuroSAT) and give it as data_dir, or put it into",
)

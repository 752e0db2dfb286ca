"""Data sets of class folders whose splits lie beside each other: train.zip and test.zip, or folders train and test."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from data.images.files import ImageFile, ImageSource, list_files, place_of

PARTS = ("train", "valid", "test")


def find_parts(data_dir: Path) -> dict[str, Path]:
    """The parts in a folder, or beside a `data_dir` that is the training part; empty without train and test.

    Of a zip and a folder of one name the zip is taken, since it has checksums.
    """
    folder = data_dir.parent if _is_part(data_dir, "train") else data_dir
    found: dict[str, Path] = {}
    for part in PARTS:
        for path in (folder / f"{part}.zip", folder / part):
            if path.exists():
                found.setdefault(part, path)
    return found if {"train", "test"} <= set(found) else {}


def other_part(data_dir: Path) -> str:
    """Which part, not the training one, `data_dir` itself is; empty where it is none."""
    return next((part for part in PARTS[1:] if _is_part(data_dir, part)), "")


def _is_part(path: Path, part: str) -> bool:
    return path.name.lower() in (part, f"{part}.zip") and path.exists()


@dataclass(frozen=True)
class ClassImages:
    """The images of class folders in a folder or a zip: files in their order, and the class number of each."""

    path: Path
    files: list[ImageFile]
    labels: np.ndarray

    def only(self, chosen: Sequence[bool]) -> "ClassImages":
        """Those of which `chosen` [N] is true."""
        files = [file for file, taken in zip(self.files, chosen, strict=True) if taken]
        return ClassImages(self.path, files, self.labels[np.array(chosen, dtype=bool)])


def class_images(path: Path, classes: Sequence[str], title: str) -> ClassImages:
    """The images in folders named by class, at any depth of a folder or a zip. InputError where there are others."""
    files = list_files(path)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = []
    for file in files:
        folder = file.name.rsplit("/", 2)[-2] if "/" in file.name else ""
        if folder not in numbers:
            raise InputError(
                f"{path}: {file.name} is in none of {title}'s class folders ({', '.join(classes)}); give {title}, or "
                "dataset=folder for other images"
            )
        labels.append(numbers[folder])
    if not files:
        raise InputError(f"{path}: holds no {title}; give a folder or a zip of its class folders ({classes[0]}, ...)")
    return ClassImages(path, files, np.array(labels, dtype=np.int64))


def source_of(images: Sequence[ClassImages], title: str, size: tuple[int, int]) -> ImageSource:
    """All of them, one after the other, as images that must have `size`."""
    return ImageSource(
        f"{title} in {', '.join(str(part.path.resolve()) for part in images)}",
        [file for part in images for file in part.files],
        " ".join(place_of(part.path) for part in images).strip(),
        labels=np.concatenate([part.labels for part in images]),
        size=size,
    )


def check_part(data_dir: Path, split: str) -> None:
    """InputError where `data_dir` is the test or validation part, and another split is asked of it."""
    part = other_part(data_dir)
    if part and split not in (part, "all"):
        raise InputError(
            f"{data_dir}: holds {part} images, not those of split {split!r}; give split={part}, or as data_dir the "
            f"folder or zip of the training images, beside which {data_dir.name} is found"
        )

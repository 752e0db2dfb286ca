"""dataset=folder: a folder or a zip of one's own images."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import InputError
from data.images.files import EXTENSIONS, ImageSource, list_files, place_of

SPLIT_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}


def folder_source(data_dir: Path | None, split: str) -> ImageSource:
    """The images of a folder or a zip.

    Folders `train`, `valid` (or `val`) and `test` at the top make the splits; without them all images are the
    training set. Folders below are classes; leading folders that all images share are ignored.
    """
    if data_dir is None:
        raise InputError("dataset=folder needs data_dir: the path of a folder or a zip of images")
    path = Path(data_dir).expanduser()
    files = list_files(path)
    if not files:
        raise InputError(f"{path}: holds no images; looked for {' '.join(EXTENSIONS)} at any depth")
    parts = _below_common([file.name.split("/") for file in files], SPLIT_FOLDERS)
    split_of = [SPLIT_FOLDERS.get(part[0].lower()) if len(part) > 1 else None for part in parts]
    found = set(split_of)
    if None in found and "train" in found and len(found) > 2:
        stray = files[split_of.index(None)].name
        raise InputError(f"{path}: has folders train, valid or test, but {stray} is in none of them; move it")
    if None in found:  # no such folders, or a class that happens to be called so
        if split not in ("train", "all"):
            raise InputError(
                f"{path}: has no split {split!r}; put the images into folders train, valid and test in it, "
                "or give the other images as a data_dir of their own with split train"
            )
        chosen, labels = list(range(len(files))), _class_numbers(parts)
    else:
        labels = _class_numbers([part[1:] for part in parts])
        chosen = [i for i, name in enumerate(split_of) if split in (name, "all")]
        if not chosen:
            held = ", ".join(f"{name} ({count})" for name, count in sorted(Counter(map(str, split_of)).items()))
            raise InputError(f"{path}: has no images of split {split!r}; it has {held}")
    return ImageSource(
        description=f"{'folder' if path.is_dir() else 'zip'} {path.resolve()}",
        files=[files[i] for i in chosen],
        place=place_of(path),
        labels=None if labels is None else labels[chosen],
    )


def _below_common(parts: list[list[str]], stop: Sequence[str] | dict[str, str] = ()) -> list[list[str]]:
    """Paths without the leading folders that all of them share, down to one named in `stop`."""
    while True:
        tops = {part[0] if len(part) > 1 else "" for part in parts}
        if len(tops) > 1 or "" in tops or any(top.lower() in stop for top in tops):
            return parts
        parts = [part[1:] for part in parts]


def _class_numbers(parts: list[list[str]]) -> np.ndarray | None:
    """Class numbers [N] by the first folder of each path, in sorted order; None without class folders."""
    parts = _below_common(parts)
    if any(len(part) == 1 for part in parts):
        return None
    names = sorted({part[0] for part in parts})
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[part[0]] for part in parts], dtype=np.int64)

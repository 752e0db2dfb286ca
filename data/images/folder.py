"""dataset=folder: a folder or a zip of one's own images."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.errors import InputError
from data.images.files import ImageFile, ImageSource, list_files, place_of
from data.images.formats import EXTENSIONS, describe_left_out

SPLIT_FOLDERS = {
    **{name: "train" for name in ("train", "training", "training_set")},
    **{name: "valid" for name in ("valid", "val", "validation", "validation_set")},
    **{name: "test" for name in ("test", "testing", "test_set")},
}
PLAIN = ("train", "valid", "val", "test")
"""Names of these that need no word; of the others (Kaggle's) a line says what was made of them."""


def folder_source(data_dir: Path | None, split: str) -> ImageSource:
    """The images of a folder or a zip.

    Folders `train`, `valid` (or `val`) and `test` at the top make the splits, or Kaggle's `training_set`, `test_set`;
    without them all images are the training set. Folders below are classes; leading folders that all images share are
    ignored.
    """
    if data_dir is None:
        raise InputError("dataset=folder needs data_dir: the path of a folder or a zip of images")
    path = Path(data_dir).expanduser()
    left_out: Counter[str] = Counter()
    files = list_files(path, left_out)
    others = describe_left_out(left_out)
    if not files:
        found = f"; {others}" if others else ""
        raise InputError(f"{path}: holds no images; looked for {' '.join(EXTENSIONS)} at any depth{found}")
    parts = _below_common([file.name.split("/") for file in files], SPLIT_FOLDERS)
    split_of = [SPLIT_FOLDERS.get(part[0].lower()) if len(part) > 1 else None for part in parts]
    notes = [f"{path}: {others}"] if others else []
    if None in split_of:  # no such folders, or a class that happens to be called so
        note = _beside(path, split, files=files, parts=parts, split_of=split_of)
        notes += [note] if note else []
        chosen, labels = list(range(len(files))), _class_numbers(parts)
    else:
        labels = _class_numbers(_below_splits(parts, split_of))
        chosen = [i for i, name in enumerate(split_of) if split in (name, "all")]
        if not chosen:
            held = ", ".join(f"{name} ({count})" for name, count in sorted(Counter(map(str, split_of)).items()))
            raise InputError(f"{path}: has no images of split {split!r}; it has {held}")
        note = _renamed(path, parts)
        notes += [note] if note else []
    return ImageSource(
        description=f"{'folder' if path.is_dir() else 'zip'} {path.resolve()}",
        files=[files[i] for i in chosen],
        place=place_of(path),
        labels=None if labels is None else labels[chosen],
        notes=notes,
    )


def _beside(
    path: Path, split: str, *, files: list[ImageFile], parts: list[list[str]], split_of: list[str | None]
) -> str:
    """What is made of a folder named like a split with images beside it, which are then of no split. InputError where
    another split than that of all is asked for, or there are several such folders.
    """
    named = sorted({part[0] for part, name in zip(parts, split_of, strict=True) if name})
    stray = files[split_of.index(None)].name
    if len(set(split_of) - {None}) > 1 and "train" in split_of:
        raise InputError(f"{path}: has folders {', '.join(named)}, but {stray} is in none of them; move it")
    if split not in ("train", "all"):
        beside = f", since {stray} lies beside {', '.join(named)}" if named else ""
        raise InputError(
            f"{path}: has no split {split!r}{beside}; put the images into folders train, valid and test in it, "
            "or give the other images as a data_dir of their own with split train"
        )
    if not named:
        return ""
    return (
        f"{path}: {stray} lies beside {', '.join(named)}, so there are no splits: all {len(files):,} images are for "
        f"training; give the folder {named[0]} itself for those in it alone"
    )


def _renamed(path: Path, parts: list[list[str]]) -> str:
    """What is made of folders such as training_set, in words; empty where the splits have their own names."""
    count = Counter(part[0] for part in parts)
    if all(name.lower() in PLAIN for name in count):
        return ""
    read = [f"{name}/ as split {SPLIT_FOLDERS[name.lower()]} ({n:,} images)" for name, n in sorted(count.items())]
    return f"{path}: read {', '.join(read)}"


def _below_splits(parts: list[list[str]], split_of: list[str | None]) -> list[list[str]]:
    """Paths below the folders of the splits, and below one of such a name that all images of a split share: Kaggle's
    training_set/training_set/cats.
    """
    twice = {
        name
        for name in set(split_of)
        if all(
            len(part) > 2 and part[1].lower() in SPLIT_FOLDERS
            for part, other in zip(parts, split_of, strict=True)
            if other == name
        )
    }
    return [part[2:] if name in twice else part[1:] for part, name in zip(parts, split_of, strict=True)]


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

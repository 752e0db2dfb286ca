"""dataset=digits: scikit-learn's handwritten digits, with nothing to fetch."""

import zlib
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import InputError
from data.images.files import ImageFile, ImageSource


def digits_source(data_dir: Path | None, split: str) -> ImageSource:
    """scikit-learn's 1,797 handwritten digits (8x8, greys 0..16); every fifth of each class is test."""
    if data_dir is not None:
        raise InputError(
            f"dataset=digits is part of scikit-learn and reads no data_dir ({data_dir}); use dataset=folder"
        )
    if split == "valid":
        raise InputError("split 'valid': dataset=digits has the splits train, test and all")
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    rank_in_class = np.zeros(len(labels), dtype=np.int64)
    for digit in range(10):
        rank_in_class[labels == digit] = np.arange((labels == digit).sum())
    is_test = rank_in_class % 5 == 4
    chosen = np.flatnonzero({"train": ~is_test, "test": is_test, "all": np.ones_like(is_test)}[split])
    greys = np.rint(digits.images * (255 / 16)).astype(np.uint8)

    def as_pgm(index: int) -> bytes:
        return b"P5 8 8 255\n" + greys[index].tobytes()

    crc = zlib.crc32
    files = [ImageFile(f"{i:04d}", (crc(as_pgm(i)),), partial(as_pgm, i)) for i in map(int, chosen)]
    return ImageSource("scikit-learn's digits", files, labels=labels[chosen])

"""The embedded digits."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from common.errors import InputError
from data.images.decode import decode
from data.images.digits import digits_source


def test_digits_splits_are_whole_disjoint_and_balanced() -> None:
    names = {split: [file.name for file in digits_source(None, split).files] for split in ("train", "test", "all")}
    assert len(names["all"]) == 1797
    assert sorted(names["train"] + names["test"]) == names["all"]
    labels = digits_source(None, "test").labels
    assert labels is not None
    assert np.bincount(labels).tolist() == [np.sum(load_digits().target == digit) // 5 for digit in range(10)]


def test_digits_are_scikit_learns() -> None:
    source = digits_source(None, "all")
    for index in (0, 1234):
        pixels = np.asarray(decode(source.files[index].read()))
        np.testing.assert_array_equal(pixels[:, :, 0], np.rint(load_digits().images[index] * 255 / 16))


def test_digits_refuse_what_they_cannot_do() -> None:
    with pytest.raises(InputError, match="train, test and all"):
        digits_source(None, "valid")
    with pytest.raises(InputError, match="reads no data_dir"):
        digits_source(Path("photos"), "train")

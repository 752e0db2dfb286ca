"""What a data set says of itself."""

from pathlib import Path

import pytest

from common.errors import InputError
from data.images.sources import DATASETS
from tests.data.images.image_trees import write_folder


@pytest.mark.parametrize(
    ("name", "held_out", "validation", "features"),
    [
        ("celeba", "valid", "valid", "efficientnet"),
        ("eurosat", "valid", "valid", "efficientnet"),
        ("cifar10", "test", None, "efficientnet"),
        ("digits", "test", None, "digits"),
        ("folder", None, None, "efficientnet"),
    ],
)
def test_what_a_data_set_says_of_itself(
    name: str, held_out: str | None, validation: str | None, features: str, tmp_path: Path
) -> None:
    dataset = DATASETS[name]
    assert (dataset.held_out_split, dataset.validation_split, dataset.features) == (held_out, validation, features)
    assert (dataset.needs_dir, dataset.takes_dir) == (name == "folder", name != "digits")
    assert dataset.has_split(None, "test") == (name != "folder")
    assert not dataset.has_split(tmp_path, "test")
    assert dataset.has_split(write_folder(tmp_path, ["train/1.jpg", "test/2.jpg"]), "test") == (name == "folder")


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_needs_dir_and_takes_dir_are_what_the_sources_do(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "images", ["a.jpg"])
    dataset = DATASETS[name]
    for data_dir, allowed in ((None, not dataset.needs_dir), (tmp_path / "images", dataset.takes_dir)):
        if allowed:
            assert dataset.list_images(data_dir, "train", tmp_path).files
        else:
            with pytest.raises(InputError, match="data_dir"):
                dataset.list_images(data_dir, "train", tmp_path)

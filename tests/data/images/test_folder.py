"""dataset=folder: splits, classes, what is told."""

from pathlib import Path

import pytest

from common.errors import InputError
from data.images.folder import folder_source
from data.images.sources import DATASETS
from tests.data.images.image_trees import names_of, write_folder, write_zip

CLASS_FILES = ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("container", ["", "photos/", "a/b/"])
def test_class_folders_give_labels(tmp_path: Path, zipped: bool, container: str) -> None:
    names = [container + name for name in CLASS_FILES]
    data_dir = write_zip(tmp_path / "x.zip", names) if zipped else write_folder(tmp_path / "x", names)
    source = folder_source(data_dir, "train")
    assert [file.name for file in source.files] == names
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1]


def test_a_folder_and_a_zip_come_in_the_same_order(tmp_path: Path) -> None:
    names = ["cat/1.jpg", "cat/b/1.jpg", "cat/b-c.jpg", "cat-2/1.jpg", "dog.jpg", "dog/1.jpg"]
    order = names_of(write_folder(tmp_path / "x", names))
    assert order == ["cat/1.jpg", "cat/b/1.jpg", "cat/b-c.jpg", "cat-2/1.jpg", "dog/1.jpg", "dog.jpg"]
    assert names_of(write_zip(tmp_path / "x.zip", names[::-1])) == order


@pytest.mark.parametrize("names", [["1.jpg", "2.jpg"], ["photos/1.jpg", "photos/2.jpg"], ["1.jpg", "cat/1.jpg"]])
def test_no_class_folders_no_labels(tmp_path: Path, names: list[str]) -> None:
    source = folder_source(write_folder(tmp_path, names), "all")
    assert [file.name for file in source.files] == names
    assert source.labels is None


def test_split_folders_make_splits_with_the_same_classes(tmp_path: Path) -> None:
    names = ["test/dog/3.jpg", "train/cat/1.jpg", "train/dog/2.jpg", "val/dog/4.jpg"]
    write_folder(tmp_path, names)
    assert names_of(tmp_path, "train") == names[1:3]
    assert names_of(tmp_path, "valid") == [names[3]]
    assert names_of(tmp_path, "test") == [names[0]]
    assert names_of(tmp_path, "all") == names
    for split, expected in {"train": [0, 1], "valid": [1], "test": [1], "all": [1, 0, 1, 1]}.items():
        labels = folder_source(tmp_path, split).labels
        assert labels is not None
        assert labels.tolist() == expected  # dog is 1 everywhere, also where there is no cat


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    names = ["car/1.jpg", "plane/1.jpg", "train/1.jpg"]
    assert names_of(write_folder(tmp_path, names)) == names


@pytest.mark.parametrize(
    ("names", "split", "words"),
    [
        (CLASS_FILES, "test", "has no split 'test'; put the images into folders train, valid and test"),
        (["train/1.jpg"], "valid", r"has no images of split 'valid'; it has train \(1\)"),
        (["test/1.jpg", "test/2.jpg"], "train", r"has no images of split 'train'; it has test \(2\)"),
        (["train/1.jpg", "test/1.jpg", "extra/1.jpg"], "train", "but extra/1.jpg is in none of them"),
    ],
)
def test_splits_that_are_not_there(tmp_path: Path, names: list[str], split: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        folder_source(write_folder(tmp_path, names), split)


def test_a_folder_called_train_beside_other_images_is_told(tmp_path: Path) -> None:
    source = folder_source(write_folder(tmp_path, ["train/1.jpg", "train/2.jpg", "cover.jpg"]), "train")
    assert len(source.files) == 3
    assert source.notes == [
        f"{tmp_path}: cover.jpg lies beside train, so there are no splits: all 3 images are for training; give the "
        "folder train itself for those in it alone"
    ]
    with pytest.raises(InputError, match=r"has no split 'test', since cover.jpg lies beside train; put the images"):
        folder_source(tmp_path, "test")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("twice", [(), ("training_set",), ("training_set", "test_set")])
def test_kaggles_training_set_and_test_set_are_splits_and_told(
    tmp_path: Path, zipped: bool, twice: tuple[str, ...]
) -> None:
    inner = {name: f"{name}/{name}" if name in twice else name for name in ("training_set", "test_set")}
    names = [f"{inner['training_set']}/{name}" for name in ("cats/1.jpg", "dogs/2.jpg")]
    names += [f"{inner['test_set']}/dogs/3.jpg"]
    path = write_zip(tmp_path / "x.zip", names) if zipped else write_folder(tmp_path / "x", names)
    source = folder_source(path, "train")
    assert [file.name for file in source.files] == names[:2]
    assert source.notes == [f"{path}: read test_set/ as split test (1 images), training_set/ as split train (2 images)"]
    labels = folder_source(path, "test").labels
    assert labels is not None
    assert labels.tolist() == [1]  # dogs, in both splits
    assert DATASETS["folder"].has_split(path, "test")


def test_files_that_are_left_out_are_counted_by_kind(tmp_path: Path) -> None:
    names = ["1.jpg", "readme.txt", "a/b/other.TXT", "a/data.csv", "a/Makefile", ".hidden.txt", "__MACOSX/x.txt"]
    note = "left out as no images: 2 .txt, 1 .csv, 1 without an ending"
    assert folder_source(write_folder(tmp_path / "x", names), "train").notes == [f"{tmp_path / 'x'}: {note}"]
    assert folder_source(write_zip(tmp_path / "x.zip", names), "train").notes == [f"{tmp_path / 'x.zip'}: {note}"]
    (tmp_path / "x" / "1.jpg").unlink()
    with pytest.raises(InputError, match=f"holds no images; .*; {note}"):
        folder_source(tmp_path / "x", "train")
    assert folder_source(write_folder(tmp_path / "y", ["1.jpg"]), "train").notes == []

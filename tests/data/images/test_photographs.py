"""EuroSAT and CIFAR-10: splits, torchvision's layouts, zips of class folders, downloads, refusals."""

import hashlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets as torchvisions

from common.errors import InputError
from data.images import cifar10, eurosat
from data.images.cifar10 import cifar10_source
from data.images.decode import decode
from data.images.eurosat import eurosat_source
from data.images.load import load_images
from data.images.sources import DATASETS
from tests.data.images.image_trees import write_folder, write_zip

NUMBERS = [f"{name}/{name}_{number}.jpg" for name in ("Forest", "River") for number in range(1, 21)]


def names_of(source: object) -> list[str]:
    return [file.name.rsplit("/", 1)[-1] for file in source.files]  # type: ignore[attr-defined]


# --- EuroSAT --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["eurosat/2750", "2750", "folder", "EuroSAT.zip", "eurosat/EuroSAT.zip", "any.zip"])
def test_eurosat_is_split_by_number_in_every_layout(tmp_path: Path, layout: str) -> None:
    place = tmp_path / layout
    place.parent.mkdir(exist_ok=True)
    if layout.endswith(".zip"):
        write_zip(place, [f"2750/{name}" for name in NUMBERS], (64, 64))
    else:
        write_folder(place, NUMBERS, (64, 64))
    data_dir = place if layout in ("folder", "any.zip") else tmp_path
    names = {split: names_of(eurosat_source(data_dir, split, tmp_path)) for split in ("train", "valid", "test", "all")}
    assert names["test"] == ["Forest_19.jpg", "Forest_9.jpg", "River_19.jpg", "River_9.jpg"]
    assert names["valid"] == ["Forest_18.jpg", "Forest_8.jpg", "River_18.jpg", "River_8.jpg"]
    assert sorted(names["train"] + names["valid"] + names["test"]) == sorted(names["all"])
    assert len(names["all"]) == 40
    labels = eurosat_source(data_dir, "test", tmp_path).labels
    assert labels is not None
    assert labels.tolist() == [1, 1, 8, 8]  # as ImageFolder, of which torchvision's class is one, numbers them


@pytest.mark.parametrize("zipped", [True, False])
def test_eurosat_in_two_parts(tmp_path: Path, zipped: bool) -> None:
    train, test = (tmp_path / (f"{part}.zip" if zipped else part) for part in ("train", "test"))
    write = write_zip if zipped else write_folder
    write(train, NUMBERS, (64, 64))
    write(test, ["Forest/Forest_100.jpg", "SeaLake/SeaLake_101.jpg"], (64, 64))
    for data_dir in (tmp_path, train):
        count = {split: len(eurosat_source(data_dir, split, tmp_path).files) for split in ("train", "valid", "test")}
        assert count == {"train": 32, "valid": 4, "test": 2}
        assert len(eurosat_source(data_dir, "all", tmp_path).files) == 42
    for split in ("test", "all"):
        assert names_of(eurosat_source(test, split, tmp_path)) == ["Forest_100.jpg", "SeaLake_101.jpg"]
    with pytest.raises(
        InputError, match=r"test(.zip)?: holds test images, not those of split 'train'; give split=test"
    ):
        eurosat_source(test, "train", tmp_path)
    write(tmp_path / train.name.replace("train", "valid"), ["River/River_7.jpg"], (64, 64))
    assert names_of(eurosat_source(train, "valid", tmp_path)) == ["River_7.jpg"]
    assert len(eurosat_source(train, "train", tmp_path).files) == 40


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cat/1.jpg"], r"cat/1.jpg is in none of EuroSAT's class folders \(AnnualCrop, .*dataset=folder"),
        (["1.jpg"], "1.jpg is in none of EuroSAT's class folders"),
        (["Forest/a.jpg"], r"Forest/a.jpg has no number, by which EuroSAT is split"),
        (["readme.txt"], "holds no EuroSAT; give a folder or a zip of its class folders"),
        (["Forest/Forest_1.jpg"], "holds no images of split 'valid'"),
    ],
)
def test_another_folder_is_no_eurosat_and_starts_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], words: str
) -> None:
    monkeypatch.setattr("torchvision.datasets.EuroSAT", lambda *_, **__: pytest.fail("it was downloaded"))
    write_folder(tmp_path / "images", names, (64, 64))
    with pytest.raises(InputError, match=words):
        eurosat_source(tmp_path / "images", "valid", tmp_path)
    with pytest.raises(InputError, match="nowhere: no such folder or zip"):
        eurosat_source(tmp_path / "nowhere", "train", tmp_path)


def test_eurosat_of_another_size_is_a_bad_image(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", ["Forest/Forest_1.jpg"], (32, 32))
    with pytest.raises(InputError, match=r"Forest_1.jpg cannot be read: it is 32x32, not 64x64"):
        load_images("eurosat", 64, "train", tmp_path / "images", tmp_path / "cache")


def test_eurosat_is_downloaded_once_by_torchvisions_own_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def fetch(url: str, download_root: str, md5: str) -> None:
        assert md5 == eurosat.EUROSAT.checksums()["EuroSAT.zip"]
        tries.append(url)
        if len(tries) == 1:
            (Path(download_root) / "EuroSAT.zip").write_bytes(b"<html>not now</html>")
            raise RuntimeError("File not found or corrupted.")
        write_zip(Path(download_root) / "EuroSAT.zip", [f"2750/{name}" for name in NUMBERS], (64, 64))
        write_folder(Path(download_root) / "2750", NUMBERS, (64, 64))

    monkeypatch.setattr("torchvision.datasets.eurosat.download_and_extract_archive", fetch)
    monkeypatch.setattr(eurosat, "COUNT", len(NUMBERS))
    with pytest.raises(InputError, match=r"EuroSAT could not be downloaded; .*EuroSAT.zip .*cache/eurosat \(RuntimeEr"):
        eurosat_source(None, "train", tmp_path / "cache")
    assert not (tmp_path / "cache/eurosat/EuroSAT.zip").exists()
    for _ in range(2):
        assert len(eurosat_source(None, "train", tmp_path / "cache").files) == 32
    assert len(tries) == 2
    monkeypatch.setattr(eurosat, "COUNT", len(NUMBERS) + 1)  # an unpacking that was stopped
    monkeypatch.setattr("torchvision.datasets.EuroSAT", _refuse)
    with pytest.raises(InputError, match=r"what lies there is not whole: .* has 40 of 41 images; remove it"):
        eurosat_source(None, "train", tmp_path / "cache")


def _refuse(*_: object, **__: object) -> None:
    raise OSError("no internet")


# --- CIFAR-10 -------------------------------------------------------------------------------------------


def write_batches(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Krizhevsky's layout with two images a batch; returns the pixels uint8 [12, 3, 32, 32], test images last."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name: str, content: object) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    own = torchvisions.CIFAR10
    lists = []
    for number, (name, _) in enumerate(own.train_list + own.test_list):
        rows = pixels[2 * number : 2 * number + 2]
        lists.append([name, write(name, {"data": rows.reshape(2, -1), "labels": [number, 9]})])
    monkeypatch.setattr(own, "train_list", lists[:5])
    monkeypatch.setattr(own, "test_list", lists[5:])
    names = write("batches.meta", {"label_names": list(cifar10.CLASSES)})
    monkeypatch.setattr(own, "meta", {"filename": "batches.meta", "key": "label_names", "md5": names})
    return pixels


def test_cifar10_in_torchvisions_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = write_batches(tmp_path, monkeypatch)
    for place in (tmp_path, tmp_path / "cifar-10-batches-py"):
        for split, rows in (("train", slice(0, 10)), ("test", slice(10, 12)), ("all", slice(None))):
            images = load_images("cifar10", 32, split, place, tmp_path / "cache")
            np.testing.assert_array_equal(images.pixels, pixels[rows])
    source = cifar10_source(tmp_path, "test", tmp_path)
    assert source.labels is not None
    assert source.labels.tolist() == [5, 9]
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(
        InputError, match=r"cifar-10-batches-py: not the whole CIFAR-10 .*unpack cifar-10-python.tar.gz"
    ):
        cifar10_source(tmp_path, "train", tmp_path)


def test_cifar10_in_class_folders(tmp_path: Path) -> None:
    train = write_zip(tmp_path / "train.zip", ["airplane/1.jpg", "truck/2.jpg"], (32, 32))
    assert names_of(cifar10_source(train, "train", tmp_path)) == ["1.jpg", "2.jpg"]
    assert not DATASETS["cifar10"].has_split(train, "test")
    with pytest.raises(InputError, match=r"holds no test images of CIFAR-10; put test.zip beside train.zip"):
        cifar10_source(train, "test", tmp_path)
    test = write_zip(tmp_path / "test.zip", ["truck/0.jpg"], (32, 32))
    assert DATASETS["cifar10"].has_split(train, "test")
    assert (
        names_of(cifar10_source(train, "test", tmp_path))
        == names_of(cifar10_source(test, "all", tmp_path))
        == ["0.jpg"]
    )
    assert names_of(cifar10_source(tmp_path, "all", tmp_path)) == ["1.jpg", "2.jpg", "0.jpg"]
    labels = cifar10_source(tmp_path, "all", tmp_path).labels
    assert labels is not None
    assert labels.tolist() == [0, 9, 9]
    assert decode(cifar10_source(test, "test", tmp_path).files[0].read(), cifar10.SIZE).size == (32, 32)
    with pytest.raises(InputError, match=r"test.zip: holds test images, not those of split 'train'"):
        cifar10_source(test, "train", tmp_path)
    with pytest.raises(InputError, match="has the splits train, test and all"):
        cifar10_source(train, "valid", tmp_path)


def test_cifar10_is_downloaded_by_torchvisions_own_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_batches(tmp_path / "elsewhere", monkeypatch)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", _refuse)
    with pytest.raises(InputError, match=r"CIFAR-10 could not be downloaded; get cifar-10-python.tar.gz .*no internet"):
        cifar10_source(None, "train", tmp_path / "cache")
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="photos: holds no CIFAR-10"):
        cifar10_source(tmp_path / "photos", "train", tmp_path / "cache")

    def fetch(url: str, root: str, filename: str, md5: str) -> None:
        shutil.copytree(tmp_path / "elsewhere", root, dirs_exist_ok=True)

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    assert len(cifar10_source(None, "train", tmp_path / "cache").files) == 10
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", _refuse)
    assert len(cifar10_source(None, "test", tmp_path / "cache").files) == 2

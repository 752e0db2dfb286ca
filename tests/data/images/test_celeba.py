"""CelebA's layouts, partitions and download."""

import zipfile
from pathlib import Path

import pytest

from common.errors import InputError
from data.images.celeba import celeba_source
from data.images.decode import decode
from tests.data.images.image_trees import write_celeba, write_zip


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("below", ["", "celeba"])
def test_celeba_partitions(tmp_path: Path, zipped: bool, below: str) -> None:
    write_celeba(tmp_path / below, 5, 2, 3, zipped=zipped)
    for split, numbers in {
        "train": range(1, 6),
        "valid": (6, 7),
        "test": (8, 9, 10),
        "all": range(1, 11),
    }.items():
        source = celeba_source(tmp_path, split, tmp_path / "cache")
        assert [file.name[-10:] for file in source.files] == [f"{number:06d}.jpg" for number in numbers]
        assert (source.crop, source.size) == (178, (178, 218))


def test_celeba_as_kaggle_packs_it(tmp_path: Path) -> None:
    write_celeba(tmp_path, 3, 1, 1)
    (tmp_path / "img_align_celeba").rename(tmp_path / "inner")
    (tmp_path / "img_align_celeba").mkdir()
    (tmp_path / "inner").rename(tmp_path / "img_align_celeba" / "img_align_celeba")
    lines = (tmp_path / "list_eval_partition.txt").read_text().replace(" ", ",")
    (tmp_path / "list_eval_partition.txt").unlink()
    (tmp_path / "list_eval_partition.csv").write_text("image_id,partition\n" + lines)
    assert len(celeba_source(tmp_path, "train", tmp_path).files) == 3
    assert len(celeba_source(tmp_path / "img_align_celeba", "all", tmp_path).files) == 5


def test_celeba_without_partition_file(tmp_path: Path) -> None:
    write_celeba(tmp_path, 3, 1, 1)
    (tmp_path / "list_eval_partition.txt").unlink()
    assert len(celeba_source(tmp_path, "all", tmp_path).files) == 5
    with pytest.raises(InputError, match=r"has no list_eval_partition.txt.*put it there, or use split all"):
        celeba_source(tmp_path, "train", tmp_path)


def test_celeba_with_a_damaged_partition_file(tmp_path: Path) -> None:
    write_celeba(tmp_path, 3, 1, 1)
    partition = tmp_path / "list_eval_partition.txt"
    partition.write_text(partition.read_text()[:-3])  # cut off by a full disk
    with pytest.raises(InputError, match=r"list_eval_partition.txt, line 5: expected an image's name and 0, 1 or 2"):
        celeba_source(tmp_path, "all", tmp_path)


def test_celeba_lists_what_is_missing(tmp_path: Path) -> None:
    write_celeba(tmp_path, 3, 1, 1)
    (tmp_path / "img_align_celeba" / "000002.jpg").unlink()
    source = celeba_source(tmp_path, "train", tmp_path)
    assert [file.name for file in source.files] == ["000001.jpg", "000003.jpg"]
    assert source.missing == ["000002.jpg"]


def test_celeba_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder; put img_align_celeba.zip"):
        celeba_source(tmp_path / "nowhere", "train", tmp_path)


def test_celeba_download_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(root: str, split: str, download: bool) -> None:
        assert download
        write_celeba(Path(root) / "celeba", 4, 1, 1, zipped=True)

    monkeypatch.setattr("torchvision.datasets.CelebA", download)
    assert len(celeba_source(None, "train", tmp_path).files) == 4
    monkeypatch.setattr("torchvision.datasets.CelebA", None)  # what is there is not fetched again
    assert len(celeba_source(None, "train", tmp_path).files) == 4


def test_celeba_download_that_fails_says_what_to_put_where_and_blocks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = b"<html>Quota exceeded: too many users have viewed or downloaded this file</html>"
    tries = []

    def save_page(file_id: str, root: str, filename: str, md5: str) -> None:
        tries.append(filename)
        Path(root).mkdir(parents=True, exist_ok=True)
        (Path(root) / filename).write_bytes(page)
        raise RuntimeError("Cannot retrieve the public link of the file.\nYou may need to change the permission")

    # torchvision's own class, with only the network call replaced
    monkeypatch.setattr("torchvision.datasets.celeba.download_file_from_google_drive", save_page)
    for number in (1, 2):
        with pytest.raises(InputError) as caught:
            celeba_source(None, "train", tmp_path)
        message = str(caught.value)
        assert "\n" not in message
        for words in ("img_align_celeba.zip", "list_eval_partition.txt", str(tmp_path / "celeba"), "Cannot retrieve"):
            assert words in message
        assert len(tries) == number
        assert list((tmp_path / "celeba").iterdir()) == []

    # as an earlier version left it
    (tmp_path / "celeba" / "img_align_celeba.zip").write_bytes(page)
    (tmp_path / "celeba" / "list_eval_partition.txt").write_bytes(page)
    (tmp_path / "celeba" / "mine.txt").write_text("a note")
    with pytest.raises(InputError, match=r"what lies there is not whole: .*img_align_celeba.zip: not a whole zip file"):
        celeba_source(None, "train", tmp_path)
    # what the download did not touch is nobody's to remove
    left = {path.name for path in (tmp_path / "celeba").iterdir()}
    assert left == {"list_eval_partition.txt", "mine.txt"}

    def download(root: str, split: str, download: bool) -> None:
        (Path(root) / "celeba" / "list_eval_partition.txt").unlink(missing_ok=True)
        write_celeba(Path(root) / "celeba", 4, 1, 1, zipped=True)

    monkeypatch.setattr("torchvision.datasets.CelebA", download)
    assert len(celeba_source(None, "train", tmp_path).files) == 4


def test_celeba_is_not_downloaded_into_a_folder_that_holds_other_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.CelebA", lambda *_, **__: pytest.fail("it was downloaded"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "archive.zip").write_bytes(write_zip(tmp_path / "x.zip", ["1.jpg"]).read_bytes())
    with pytest.raises(InputError, match=r"photos: holds no CelebA .*to download 1.4 GB into .*leave data_dir out"):
        celeba_source(tmp_path / "photos", "train", tmp_path)
    write_celeba(tmp_path / "celeba", 4, 1, 1, zipped=True)
    (tmp_path / "celeba" / "img_align_celeba.zip").write_bytes(b"half")
    with pytest.raises(InputError, match=r"img_align_celeba.zip: not a whole zip file .* download it again"):
        celeba_source(tmp_path / "celeba", "train", tmp_path)


def test_celebas_zip_itself_and_kaggles(tmp_path: Path) -> None:
    write_celeba(tmp_path / "own", 4, 1, 1, zipped=True)
    partition = tmp_path / "own" / "list_eval_partition.txt"
    partition.write_bytes(b"\xef\xbb\xbf" + partition.read_bytes())  # as Windows' editor saves it
    zipped = tmp_path / "own" / "img_align_celeba.zip"
    assert len(celeba_source(zipped, "train", tmp_path).files) == 4
    kaggle = tmp_path / "kaggle" / "archive.zip"
    kaggle.parent.mkdir()
    with zipfile.ZipFile(zipped) as images, zipfile.ZipFile(kaggle, "w") as archive:
        for name in images.namelist():
            archive.writestr(f"img_align_celeba/{name}", images.read(name))
        lines = partition.read_text(encoding="utf-8-sig").replace(" ", ",")
        archive.writestr("list_eval_partition.csv", "image_id,partition\n" + lines)
    for place in (kaggle, kaggle.parent):
        source = celeba_source(place, "valid", tmp_path)
        assert [file.name[-10:] for file in source.files] == ["000005.jpg"]
        assert decode(source.files[0].read(), source.size).size == (178, 218)

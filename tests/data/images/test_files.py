"""Listing the images of a folder or a zip."""

import os
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.errors import InputError
from data.images import files as listing
from data.images.decode import decode
from data.images.files import list_files
from data.images.folder import folder_source
from tests.data.images.image_trees import encoded, jpeg, names_of, picture, write_folder, write_zip


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    names = ["1.JPG", "__MACOSX/._1.jpg", "._2.jpg", ".git/3.jpg", "sub/.4.jpg"]
    write_folder(tmp_path / "x", names)
    (tmp_path / "x" / "readme.txt").write_text("not an image")
    assert names_of(tmp_path / "x") == ["1.JPG"]
    assert names_of(write_zip(tmp_path / "x.zip", [*names, "readme.txt"])) == ["1.JPG"]


def test_linked_folders_are_read_and_circles_are_not(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", ["1.jpg"])
    write_folder(tmp_path / "x", ["cat/1.jpg"])
    (tmp_path / "x" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "x" / "cat" / "again").symlink_to(tmp_path / "x")
    assert names_of(tmp_path / "x") == ["cat/1.jpg", "dog/1.jpg"]


def test_broken_link_and_pipe_are_bad_images_not_a_hang(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "2.jpg")
    for file in list_files(tmp_path):
        with pytest.raises(ValueError, match="broken link or no regular file"):
            file.read()


def test_wrong_paths_and_archives(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs data_dir"):
        folder_source(None, "train")
    with pytest.raises(InputError, match=r"nowhere: no such folder or zip"):
        folder_source(tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match=r"holds no images; looked for .jpg"):
        folder_source(tmp_path, "train")
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"text.zip: holds no images"):
        folder_source(tmp_path / "text.zip", "train")
    (tmp_path / "x.tar").write_bytes(b"not a zip at all")
    with pytest.raises(InputError, match=r"x.tar: not a whole zip file"):
        folder_source(tmp_path / "x.tar", "train")
    whole = write_zip(tmp_path / "whole.zip", ["1.jpg", "2.jpg"]).read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"half.zip: not a whole zip file"):
        folder_source(tmp_path / "half.zip", "train")


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "secret.zip", ["1.jpg"])
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the "encrypted" flag of the entry in the central directory
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"secret.zip: the zip is encrypted"):
        folder_source(path, "train")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_zips_give_images_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("zips")
    damaged = bytearray(write_zip(folder / "x.zip", ["a/1.jpg", "b/2.jpg"], size=(9, 7)).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):  # the last 200 bytes hold the directory of entries
        position = data.draw(st.integers(0, len(damaged) - 1) | st.integers(len(damaged) - 200, len(damaged) - 1))
        damaged[position] = data.draw(st.integers(0, 255))
    (folder / "x.zip").write_bytes(damaged)
    try:
        files = folder_source(folder / "x.zip", "all").files
    except InputError:
        return
    read = {}
    for file in files:
        try:
            read[file.name] = file.read()
        except Exception:
            continue
        # What is read is what the directory's checksum says, never silently something else.
        assert file.stamp[1] == zlib.crc32(read[file.name])
    if len(read) == len(files):  # no image is refused: then none is missing
        assert read == {name: jpeg(number, (9, 7)) for number, name in enumerate(["a/1.jpg", "b/2.jpg"])}


def test_a_zip_whose_directory_lost_an_entry_is_not_a_smaller_set(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "x.zip", ["1.jpg", "2.jpg", "3.jpg"]).read_bytes()
    entries = [at for at in range(len(whole)) if whole[at : at + 4] == b"PK\x01\x02"]
    swallowing, hiding, miscounting = bytearray(whole), bytearray(whole), bytearray(whole)
    swallowing[entries[0] + 32] = entries[1] - entries[0]  # a comment that covers the next entry
    hiding[entries[1] + 46 + 2] ^= 1  # 2.jpg is called 2.kpg
    miscounting[-12] ^= 4
    for damaged, words in (
        (swallowing, "lists 2 entries, 3 are"),
        (hiding, "'2.kpg' is called"),
        (miscounting, "7 are"),
    ):
        (tmp_path / "x.zip").write_bytes(damaged)
        with pytest.raises(InputError, match=rf"x.zip: not a whole zip file \(.*{words}"):
            folder_source(tmp_path / "x.zip", "train")
    emptied = bytearray(whole)
    emptied[entries[1] + 10 : entries[1] + 24] = bytes(14)  # stored, nothing, and the checksum of nothing
    (tmp_path / "x.zip").write_bytes(emptied)
    with pytest.raises(ValueError, match=r"the zip holds 0 of its \d+ bytes"):
        folder_source(tmp_path / "x.zip", "train").files[1].read()
    commented = tmp_path / "commented.zip"
    commented.write_bytes(whole)
    with zipfile.ZipFile(commented, "a") as archive:
        archive.comment = b"holiday"
    assert len(folder_source(commented, "train").files) == 3


def test_sizes_are_looked_at_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small zip can hold an entry of gigabytes, a small PNG gigabytes of pixels."""
    huge = Image.new("P", (12_000, 12_000))
    with pytest.raises(ValueError, match="it has 144 million pixels, allowed are 89 million: scale it down"):
        decode(encoded(huge))
    header = encoded(picture(1, (8, 8)))
    wide = header[:16] + struct.pack(">II", 60_000, 20_000) + header[24:29]
    wide += struct.pack(">I", zlib.crc32(wide[12:29])) + header[33:]
    with pytest.raises(ValueError, match="it has 1,200 million pixels"):
        decode(wide)
    monkeypatch.setattr(listing, "MAX_FILE_BYTES", 100_000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", bytes(200_000))
    write_folder(tmp_path / "folder", ["1.jpg"])
    (tmp_path / "folder" / "2.png").write_bytes(bytes(200_000))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("the entry was opened"))
    for file in (*list_files(tmp_path / "x.zip"), list_files(tmp_path / "folder")[1]):
        with pytest.raises(ValueError, match="its file has 0 MB, allowed are 0 MB: scale it down"):
            file.read()

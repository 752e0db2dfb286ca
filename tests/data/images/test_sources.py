"""What is listed, what is decoded, and what is refused with which words."""

import io
import os
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms import CenterCrop, Compose, Resize

from common.errors import InputError
from data.images import decode as decoding
from data.images import files as listing
from data.images.celeba import celeba_source
from data.images.decode import crop_and_resize, decode
from data.images.digits import digits_source
from data.images.files import list_files
from data.images.folder import folder_source
from data.images.formats import FORMATS, describe_left_out, readers
from data.images.sources import DATASETS
from tests.data.images.image_trees import jpeg, picture, write_celeba, write_folder, write_zip


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


# --- decoding -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(178, 218), (218, 178), (64, 64), (65, 64), (33, 47), (301, 190)])
@pytest.mark.parametrize("image_size", [32, 64])
def test_crop_and_resize_is_torchvisions(width: int, height: int, image_size: int) -> None:
    image = picture(3, (width, height))
    side = 178 if min(width, height) >= 178 else min(width, height)
    expected = Compose([CenterCrop(side), Resize(image_size)])(image)
    crop = 178 if side == 178 else None
    np.testing.assert_array_equal(crop_and_resize(image, crop, image_size), np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        *[("1", "PNG"), ("L", "PNG"), ("P", "GIF"), ("P", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG")],
        *[
            ("RGB", "WEBP"),
            ("RGB", "BMP"),
            ("RGB", "TIFF"),
            ("CMYK", "TIFF"),
            ("L", "PPM"),
            ("YCbCr", "JPEG"),
        ],
    ],
)
def test_every_usual_mode_becomes_rgb(mode: str, file_format: str) -> None:
    data = encoded(picture(1, (20, 16), mode), file_format)
    image = decode(data)
    assert (image.mode, image.size) == ("RGB", (20, 16))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_transparency_is_laid_over_white() -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = [255, 0, 51]  # opaque, clear, one fifth
    np.testing.assert_array_equal(
        np.asarray(decode(encoded(Image.fromarray(rgba))))[0], [[200, 0, 0], [255, 255, 255], [244, 204, 204]]
    )
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    data = encoded(palette, transparency=1)
    np.testing.assert_array_equal(np.asarray(decode(data))[0], [[255, 0, 0], [255, 255, 255]])
    grey = encoded(Image.fromarray(np.array([[7, 9]], dtype=np.uint8)), transparency=9)
    np.testing.assert_array_equal(np.asarray(decode(grey))[0], [[7, 7, 7], [255, 255, 255]])


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_greys_are_scaled_not_clipped(file_format: str) -> None:
    greys = np.array([[0, 128, 129, 257, 32767, 32768, 65535]], dtype=np.uint16)
    pixels = np.asarray(decode(encoded(Image.fromarray(greys), file_format)))
    np.testing.assert_array_equal(pixels[0, :, 0], np.rint(greys[0] / 257))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="no defined range"):
        decode(encoded(picture(1, (8, 8), "L").convert(mode), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = picture(5, (24, 16))
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    undo |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    stored = upright.transpose(Image.Transpose[undo[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(np.asarray(decode(encoded(stored, exif=exif))), np.asarray(upright))


def test_broken_exif_does_not_cost_the_image() -> None:
    whole = jpeg(1, (24, 16))
    segment = b"Exif\0\0II*\0\xff\xff\xff\xff garbage"
    data = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + whole[2:]
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(decode(whole)))


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [picture(seed, (12, 12)).convert("P") for seed in range(3)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(frames[0].convert("RGB")))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_images_are_refused(share: float) -> None:
    for whole in (jpeg(2), encoded(picture(2))):
        with pytest.raises((OSError, SyntaxError, ValueError)):
            decode(whole[: int(len(whole) * share)])


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        decode(b"")
    with pytest.raises(ValueError, match="not an image in a format"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(ValueError, match="it is 100x218, not 178x218"):
        decode(jpeg(1, (100, 218)), (178, 218))


@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    image_size=st.integers(1, 48),
)
def test_any_size_and_mode_gives_a_full_square(size: tuple[int, int], mode: str, image_size: int) -> None:
    image = picture(size[0], size)
    data = encoded(image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode))
    pixels = crop_and_resize(decode(data), None, image_size)
    assert pixels.shape == (3, image_size, image_size)
    assert pixels.dtype == np.uint8


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_an_image_or_an_exception(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(WHOLE_FILES))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 6))):
        if damaged:
            damaged[data.draw(st.integers(0, min(len(damaged), 400) - 1))] = data.draw(st.integers(0, 255))
    try:
        with warnings.catch_warnings(action="ignore"):
            image = decode(bytes(damaged))
    except Exception:
        return  # the cache turns it into a reason; what must not happen is a crash, a hang or another mode
    assert image.mode == "RGB"


WHOLE_FILES = [encoded(picture(4, (15, 11)), kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]


# --- folders and zips -----------------------------------------------------------------------------------


def names_of(data_dir: Path, split: str = "train") -> list[str]:
    return [file.name for file in folder_source(data_dir, split).files]


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
    assert DATASETS["folder"].has_test_split(path)


def test_files_that_are_left_out_are_counted_by_kind(tmp_path: Path) -> None:
    names = ["1.jpg", "readme.txt", "a/b/other.TXT", "a/data.csv", "a/Makefile", ".hidden.txt", "__MACOSX/x.txt"]
    note = "left out as no images: 2 .txt, 1 .csv, 1 without an ending"
    assert folder_source(write_folder(tmp_path / "x", names), "train").notes == [f"{tmp_path / 'x'}: {note}"]
    assert folder_source(write_zip(tmp_path / "x.zip", names), "train").notes == [f"{tmp_path / 'x.zip'}: {note}"]
    (tmp_path / "x" / "1.jpg").unlink()
    with pytest.raises(InputError, match=f"holds no images; .*; {note}"):
        folder_source(tmp_path / "x", "train")
    assert folder_source(write_folder(tmp_path / "y", ["1.jpg"]), "train").notes == []


def test_images_whose_reader_is_missing_are_told_with_what_to_install() -> None:
    without = [ending for endings in readers(avif=False, heif=False).values() for ending in endings]
    counts = Counter({".heic": 1500, ".heif": 1, ".avif": 1, ".txt": 2})
    assert describe_left_out(counts, tuple(without)) == (
        "1,501 .heic files are not read: install pillow-heif; 1 .avif file is not read: install a newer Pillow; "
        "left out as no images: 2 .txt"
    )
    with_all = [ending for endings in readers(avif=True, heif=True).values() for ending in endings]
    assert describe_left_out(Counter({".heic": 0}), tuple(with_all)) == ""
    kinds = Counter({f".{letter}": 2 for letter in "abcdefgh"})
    assert describe_left_out(kinds).endswith("2 .f, 4 of other kinds")


@pytest.mark.parametrize(
    ("ending", "file_format"),
    [("jfif", "JPEG"), ("jpe", "JPEG"), ("JPE", "JPEG"), ("avif", "AVIF"), ("heic", "HEIF"), ("HEIF", "HEIF")],
)
def test_phones_and_browsers_files_are_read(tmp_path: Path, ending: str, file_format: str) -> None:
    if file_format not in FORMATS:
        pytest.skip(f"Pillow has no reader of {file_format} here")
    (tmp_path / f"1.{ending}").write_bytes(encoded(picture(1, (64, 48)), file_format, quality=95))
    (file,) = folder_source(tmp_path, "train").files
    image = decode(file.read())
    assert image.size == (64, 48)
    difference = np.asarray(image).astype(int) - np.asarray(picture(1, (64, 48)))
    assert np.abs(difference).mean() < 8  # coded with half the colours' resolution
    with pytest.raises(Exception, match=r"\w"):  # never half a picture
        decode(file.read()[:200])


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


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_tall_images_are_decoded_band_by_band_with_the_same_pixels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    greys = np.random.default_rng(0).integers(0, 2**16, (600, 20), dtype=np.uint16)
    image = Image.fromarray(greys) if mode == "I;16" else picture(3, (20, 600)).convert(mode)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG", **({"transparency": 3} if mode in "PL" else {}))
    banded = np.asarray(decode(data))
    monkeypatch.setattr(decoding, "BAND_ROWS", 10_000)
    np.testing.assert_array_equal(banded, np.asarray(decode(data)))


# --- CelebA ---------------------------------------------------------------------------------------------


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
    with pytest.raises(InputError, match=r"what lies there is not whole: .*img_align_celeba.zip: not a whole zip file"):
        celeba_source(None, "train", tmp_path)

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


# --- digits ---------------------------------------------------------------------------------------------


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


# --- the data sets ----------------------------------------------------------------------------------------


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
    assert dataset.has_test_split(None) == (name != "folder")
    assert not dataset.has_test_split(tmp_path)
    assert dataset.has_test_split(write_folder(tmp_path, ["train/1.jpg", "test/2.jpg"])) == (name == "folder")


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

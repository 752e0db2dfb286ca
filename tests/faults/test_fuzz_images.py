"""Damaged images, zips, and caches of decoded images."""

import io
import random
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.images import cache as image_cache
from data.images.celeba import celeba_source
from data.images.files import ImageFile, ImageSource
from data.images.folder import folder_source
from tests.data.images.image_trees import jpeg, picture, write_celeba, write_folder, write_zip
from tests.faults.fuzzing import amounts, damaged, flip_bit, run_cases


def files_of_every_format() -> list[bytes]:
    files = []
    for mode, file_format in [
        *[("RGB", name) for name in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")],
        *[("P", "GIF"), ("P", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP"), ("CMYK", "JPEG"), ("1", "TIFF"), ("L", "PPM")],
    ]:
        buffer = io.BytesIO()
        picture(1, (40, 300) if file_format == "PNG" else (24, 20)).convert(mode).save(buffer, file_format)
        files.append(buffer.getvalue())
    for options in ({"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}):
        buffer = io.BytesIO()
        picture(1, (24, 20)).save(buffer, "TIFF", **options)
        files.append(buffer.getvalue())
    return files


@amounts
def test_damaged_images(n: int) -> None:
    """An image, or a reason; never more memory than its limits say (huge sizes are refused before they are read)."""
    files = files_of_every_format()

    def case(chance: random.Random) -> str:
        data = damaged(chance.choice(files), chance)
        source = ImageSource("x", [ImageFile("1", (0,), lambda: data)])
        block = image_cache._decode_block(source.files, 0, source=source, image_size=16)
        if block.bad:
            [(_, reason)] = block.bad
            assert reason
            assert "\n" not in reason
            return "refused"
        assert block.pixels.shape == (1, 3, 16, 16)
        return "read"

    run_cases(
        "damaged images",
        case,
        n,
        allowed=("read", "refused"),
        shown="`1.jpg cannot be read: REASON`; with `on_bad=skip` it is left out and listed. Other pixels in a file of "
        "the right form are not noticed (only a zip has checksums)",
    )


@amounts
def test_damaged_zips(n: int, tmp_path: Path) -> None:
    """All images as they were, or a refusal: never a smaller set, never another image."""
    names = ["train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg", "notes.txt"]
    whole = write_zip(tmp_path / "x.zip", names, size=(9, 7)).read_bytes()
    expected = {name: jpeg(number, (9, 7)) for number, name in enumerate(names[:3])}
    directory = whole.index(b"PK\x01\x02")

    def case(chance: random.Random) -> str:
        data = bytearray(whole[directory:])  # twice as often: a fault in the directory
        data = whole[:directory] + damaged(data, chance) if chance.random() < 0.5 else damaged(whole, chance)
        (tmp_path / "x.zip").write_bytes(data)
        files = folder_source(tmp_path / "x.zip", "all").files
        try:
            read = {file.name: file.read() for file in files}
        except Exception:  # of one image's file, which then counts as one that cannot be read
            return "refused"
        assert all(file.stamp[1] == zlib.crc32(read[file.name]) for file in files)
        assert read == expected
        return "the same"

    run_cases("damaged zips", case, n, allowed=("the same", "refused"), shown="`x.zip: not a whole zip file (REASON)`")


@amounts
def test_damaged_partition_files(n: int, tmp_path: Path) -> None:
    write_celeba(tmp_path, 6, 2, 2)
    file = tmp_path / "list_eval_partition.txt"
    whole = file.read_bytes()

    def case(chance: random.Random) -> str:
        file.write_bytes(damaged(whole, chance))
        source = celeba_source(tmp_path, chance.choice(("train", "valid", "test", "all")), tmp_path)
        assert {file.name for file in source.files} <= {f"{number:06d}.jpg" for number in range(1, 11)}
        return "read"

    run_cases(
        "damaged partition files",
        case,
        n,
        allowed=("read", "refused"),
        shown="`list_eval_partition.txt, line 5: expected ...`, or the images that it lists and the folder lacks",
    )


@amounts
def test_damaged_caches_of_images(n: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A cache with any byte changed is made anew."""
    from data.images.load import load_images  # torch, which the other readers here do without

    data_dir = write_folder(tmp_path / "x", ["a/1.jpg", "b/2.jpg", "b/3.jpg"])

    def load() -> np.ndarray:
        return load_images("folder", 8, data_dir=data_dir, cache_dir=tmp_path / "cache", progress=False).pixels

    whole = np.array(load())
    [cache] = (tmp_path / "cache" / "images").glob("folder*")
    shutil.copytree(cache, tmp_path / "kept")

    def case(chance: random.Random) -> str:
        name = chance.choice(("pixels.npy", "meta.json"))
        data = damaged((tmp_path / "kept" / name).read_bytes(), chance)
        (cache / name).write_bytes(data)
        np.testing.assert_array_equal(load(), whole)
        anew = (cache / name).read_bytes() != data  # white space in JSON changes nothing
        assert anew == ("damaged" in capfd.readouterr().err)
        return "made anew" if anew else "the same"

    run_cases(
        "damaged caches of images",
        case,
        n,
        allowed=("made anew", "the same"),
        shown="`CACHE: damaged, or of an earlier version, so the images are decoded anew`",
    )


def test_the_readers_would_notice_if_they_did_not_look(tmp_path: Path) -> None:
    """The harness itself: a reader that lets damage pass fails it, with the seed and the number of the case."""
    content = bytearray(bytes(100))

    def case(chance: random.Random) -> str:
        flip_bit(content, chance)
        return "the same" if not any(content) else "another"

    with pytest.raises(AssertionError, match=r"30 of 30 cases failed\nseed 0, case 0:") as caught:
        run_cases("harness", case, 30, allowed=("the same",), shown="")
    assert "'another' is none of the same" in str(caught.value)
    assert Image.MAX_IMAGE_PIXELS is not None  # nothing here switches Pillow's own limit off

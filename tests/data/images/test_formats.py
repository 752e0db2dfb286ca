"""Which image files are read."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data.images.decode import decode
from data.images.folder import folder_source
from data.images.formats import FORMATS, describe_left_out, readers
from tests.data.images.image_trees import encoded, picture


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

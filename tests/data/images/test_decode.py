"""Decoding: any usual image file becomes a square, or is refused."""

import io
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from data.images import decode as decoding
from data.images.decode import crop_and_resize, decode
from tests.data.images.image_trees import encoded, jpeg, picture


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


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_tall_images_are_decoded_band_by_band_with_the_same_pixels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    greys = np.random.default_rng(0).integers(0, 2**16, (600, 20), dtype=np.uint16)
    image = Image.fromarray(greys) if mode == "I;16" else picture(3, (20, 600)).convert(mode)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG", **({"transparency": 3} if mode in "PL" else {}))
    rows, to_rgb = [], decoding._to_rgb

    def watched(band: Image.Image, file_format: str | None) -> Image.Image:
        rows.append(band.height)
        return to_rgb(band, file_format)

    monkeypatch.setattr(decoding, "_to_rgb", watched)
    banded = np.asarray(decode(data))
    assert sum(rows) == 600
    assert max(rows) <= decoding.BAND_ROWS  # what is converted at once, and so the memory for it
    monkeypatch.setattr(decoding, "BAND_ROWS", 10_000)
    np.testing.assert_array_equal(banded, np.asarray(decode(data)))

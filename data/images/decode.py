"""How a file becomes a square RGB image: `decode`, `crop_and_resize`."""

import contextlib
import io
import re
import threading
import warnings

import numpy as np
from PIL import Image, ImageOps

from data.images.formats import FORMATS

MAX_PIXELS = 89_478_485
"""Of one image: where Pillow begins to warn. As RGB they take 360 MB."""
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # such an image is refused here
LARGE_PIXELS = 2**24
BAND_ROWS = 256

_one_large_image = threading.Lock()
"""Held while an image of more than LARGE_PIXELS is decoded: the memory of one, however many threads there are."""


def decode(data: bytes, size: tuple[int, int] | None = None) -> Image.Image:
    """The RGB picture in `data` (8 bits a channel, upright), or an exception that says why there is none.

    Transparency is laid over white, 16-bit greys are scaled by their full range (65535 -> 255), of an
    animation the first frame is used, and an EXIF orientation is applied. `size` is the width and height that
    it must have.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise ValueError(f"not an image in a format that is read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError as error:
        raise ValueError(_too_many_pixels(int(re.findall(r"\d+", str(error))[0]))) from None
    n_pixels = image.width * image.height
    if n_pixels > MAX_PIXELS:
        raise ValueError(_too_many_pixels(n_pixels))
    with _one_large_image if n_pixels > LARGE_PIXELS else contextlib.nullcontext():
        return _decoded(image, size)


def _too_many_pixels(n_pixels: int) -> str:
    return f"it has {n_pixels / 1e6:,.0f} million pixels, allowed are {MAX_PIXELS / 1e6:.0f} million: scale it down"


def _decoded(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """The opened image with its pixels, upright and in RGB."""
    file_format = image.format
    image.load()
    with contextlib.suppress(Exception):  # unreadable EXIF leaves the pixels as they are
        ImageOps.exif_transpose(image, in_place=True)
    if size is not None and image.size != size:
        raise ValueError(f"it is {image.width}x{image.height}, not {size[0]}x{size[1]}")
    if image.height <= BAND_ROWS or _is_plain_rgb(image):
        return _to_rgb(image, file_format)
    # Band by band: a palette's or a transparent image's way to RGB needs several times the image.
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, BAND_ROWS):
        band = image.crop((0, top, image.width, min(top + BAND_ROWS, image.height)))
        whole.paste(_to_rgb(band, file_format), (0, top))
    return whole


def _is_plain_rgb(image: Image.Image) -> bool:
    return image.mode == "RGB" and "transparency" not in image.info


def _to_rgb(image: Image.Image, file_format: str | None) -> Image.Image:
    if _is_plain_rgb(image):
        return image
    # Pillow gives 16-bit PGM files as mode I, scaled to 0..65535; elsewhere I and F have no range of their
    # own.
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format == "PPM"):
        grey = (np.asarray(image).astype(np.int64) + 128) // 257
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit numbers of no defined range; save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def crop_and_resize(image: Image.Image, crop: int | None, image_size: int) -> np.ndarray:
    """uint8 [3, S, S]: the centre square of side `crop` (None: the largest), resized bilinearly with
    antialiasing.

    Bit for bit what torchvision's CenterCrop(crop) and Resize(image_size) make of a PIL image.
    """
    side = min(image.size) if crop is None else crop
    if image.size != (side, side):
        left, top = round((image.width - side) / 2), round((image.height - side) / 2)
        image = image.crop((left, top, left + side, top + side))
    if side != image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)

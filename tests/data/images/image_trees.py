"""Writes small image datasets in the layouts that people have, for every test that needs images."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from data.images.folder import folder_source


def picture(seed: int, size: tuple[int, int] = (178, 218), mode: str = "RGB") -> Image.Image:
    """A smooth random picture of `size` (width, height): low-resolution noise, enlarged."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


def jpeg(seed: int, size: tuple[int, int] = (178, 218)) -> bytes:
    """`picture` as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_celeba(root: Path, n_train: int = 12, n_valid: int = 4, n_test: int = 4, zipped: bool = False) -> Path:
    """CelebA's layout in `root`: img_align_celeba/NNNNNN.jpg or its zip, and list_eval_partition.txt."""
    root.mkdir(parents=True, exist_ok=True)
    parts = [0] * n_train + [1] * n_valid + [2] * n_test
    names = [f"{number:06d}.jpg" for number in range(1, len(parts) + 1)]
    if zipped:
        with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
            for number, name in enumerate(names):
                archive.writestr(f"img_align_celeba/{name}", jpeg(number))
    else:
        (root / "img_align_celeba").mkdir()
        for number, name in enumerate(names):
            (root / "img_align_celeba" / name).write_bytes(jpeg(number))
    lines = [f"{name} {part}\n" for name, part in zip(names, parts, strict=True)]
    (root / "list_eval_partition.txt").write_text("".join(lines))
    return root


def write_folder(root: Path, names: list[str], size: tuple[int, int] = (40, 30)) -> Path:
    """JPEGs of `size` under the given names (`cat/1.jpg`), each another picture."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(number, size))
    return root


def write_zip(path: Path, names: list[str], size: tuple[int, int] = (40, 30), stored: bool = False) -> Path:
    """The same as `write_folder`, in a zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for number, name in enumerate(names):
            archive.writestr(name, jpeg(number, size))
    return path


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    """The image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


# --- folders and zips -----------------------------------------------------------------------------------


def names_of(data_dir: Path, split: str = "train") -> list[str]:
    """Names of the images that dataset=folder lists."""
    return [file.name for file in folder_source(data_dir, split).files]

"""Where images come from: what each data set lists, and how a file becomes a square RGB image."""

import contextlib
import io
import os
import re
import shutil
import struct
import sys
import threading
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image, ImageOps

from common.errors import InputError

SPLITS = ("train", "valid", "test", "all")
EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
)
# Pillow tries these readers and no other: some of its readers start programs (EPS) or read files that are no images.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")

MAX_FILE_BYTES = 256 * 2**20
"""Of one image's file. A zip can promise any size for an entry of a few bytes."""
MAX_PIXELS = 89_478_485
"""Of one image: where Pillow begins to warn. As RGB they take 360 MB."""
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # such an image is refused here
LARGE_PIXELS = 2**24
BAND_ROWS = 256

END_RECORD = b"PK\5\6"  # of a zip

_one_large_image = threading.Lock()
"""Held while an image of more than LARGE_PIXELS is decoded: the memory of one, however many threads there are."""

CELEBA_SIZE = (178, 218)  # width and height of every aligned image
CELEBA_CROP = 178
CELEBA_DOWNLOAD_BYTES = 3 * 10**9  # the zip, and the folder that torchvision unpacks beside it


@dataclass(frozen=True)
class ImageFile:
    """One image, not yet read. `stamp` changes with its bytes: size and time, or size and CRC in a zip."""

    name: str
    stamp: tuple[int, ...]
    read: Callable[[], bytes]


@dataclass(frozen=True)
class ImageSource:
    """The images of one dataset and split, in order, and how they are cropped.

    `crop` is the side of the centre crop (None: the largest square), `size` the width and height that every
    image must have (None: any), `labels` class numbers (int64 [N]) where there are classes, `missing` the
    names that the dataset lists but does not hold. `place` is the folder of the files, or empty
    for a zip, whose checksums identify its files without it.
    """

    description: str
    files: Sequence[ImageFile]
    place: str = ""
    labels: np.ndarray | None = None
    crop: int | None = None
    size: tuple[int, int] | None = None
    missing: Sequence[str] = field(default=())


# --- one image ----------------------------------------------------------------------------------------------


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


# --- folders and zips ---------------------------------------------------------------------------------------


def list_files(path: Path) -> list[ImageFile]:
    """The image files of a folder or a zip at any depth, sorted by path; hidden ones are left out."""
    try:
        if path.is_dir():
            files = list(_walk(path, "", frozenset()))
        elif path.is_file():
            files = _list_zip(path)
        else:
            raise InputError(f"{path}: no such folder or zip; give data_dir the path of a folder or a zip of images")
    except OSError as error:
        raise InputError(f"{error.filename or path}: {error.strerror or error}") from error
    # Folder by folder: as whole texts, "cat-2/1.jpg" would come before "cat/1.jpg".
    return sorted(files, key=lambda file: file.name.split("/"))


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[ImageFile]:
    """Files below `folder`; links to folders are followed, but not in circles (`above`: the folders above)."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as found:
        entries = [entry for entry in found if not _is_hidden(entry.name)]
    for entry in entries:
        name, path = prefix + entry.name, folder / entry.name
        if entry.is_dir():
            yield from _walk(path, name + "/", above | {identity})
        elif not entry.name.lower().endswith(EXTENSIONS):
            continue
        elif entry.is_file():
            status = entry.stat()
            yield ImageFile(name, (status.st_size, status.st_mtime_ns), partial(_read_file, path))
        else:
            yield ImageFile(name, (-1, -1), partial(_refuse, "a broken link or no regular file"))


def _read_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        _check_file_size(os.fstat(stream.fileno()).st_size)
        return stream.read(MAX_FILE_BYTES)


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    _check_file_size(info.file_size)
    data = archive.read(info)  # no more than info.file_size, whatever the entry holds
    if len(data) != info.file_size or not data:  # a checksum of 0 is that of nothing, too
        raise ValueError(f"the zip holds {len(data)} of its {info.file_size} bytes")
    return data


def _check_file_size(n_bytes: int) -> None:
    if n_bytes > MAX_FILE_BYTES:
        raise ValueError(
            f"its file has {n_bytes / 1e6:,.0f} MB, allowed are {MAX_FILE_BYTES / 1e6:.0f} MB: scale it down"
        )


def _list_zip(path: Path) -> list[ImageFile]:
    try:
        archive = zipfile.ZipFile(path)
        entries = archive.infolist()
        promised = _promised_entries(archive)
        if (len(entries) - promised) % 2**16:  # a field of 16 bits, which some programs let run over
            raise ValueError(f"its directory lists {len(entries)} entries, {promised} are promised")
        images = [info for info in entries if _is_image_entry(info)]
        for info in entries:
            if not _is_image_entry(info):
                _check_name(archive, info)
    except PermissionError:
        raise
    except Exception as error:  # a damaged directory of entries fails in many ways
        raise InputError(
            f"{path}: not a whole zip file ({' '.join(str(error).split())}); copy or download it again, or give a "
            "folder or another zip; unpack other archives"
        ) from None
    if any(info.flag_bits & 0x1 for info in images):
        raise InputError(f"{path}: the zip is encrypted; unpack it with its password and give the folder")
    return [
        ImageFile(_entry_name(info), (info.file_size, info.CRC), partial(_read_entry, archive, info)) for info in images
    ]


def _is_image_entry(info: zipfile.ZipInfo) -> bool:
    name = _entry_name(info)
    return not info.is_dir() and name.lower().endswith(EXTENSIONS) and not any(map(_is_hidden, name.split("/")))


def _entry_name(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/").lstrip("/")


def _promised_entries(archive: zipfile.ZipFile) -> int:
    """The number of entries in the record at the end of the zip."""
    stream = archive.fp
    assert stream is not None
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - 2**16 - 22))
    tail = stream.read()
    plain = tail[-22:-18] == END_RECORD and tail[-2:] == b"\0\0"  # without a comment, which could hold those bytes
    return int(struct.unpack_from("<H", tail, (len(tail) - 22 if plain else tail.rfind(END_RECORD)) + 10)[0])


def _check_name(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """ValueError where an entry that is no image has another name in front of its data: a changed byte in the directory
    can hide an image. Of images the names are compared when they are read.
    """
    stream = archive.fp
    assert stream is not None
    stream.seek(info.header_offset)
    header = stream.read(30)
    name = stream.read(struct.unpack_from("<H", header, 26)[0]) if header[:4] == b"PK\3\4" else b""
    if name.decode("utf-8" if info.flag_bits & 0x800 else "cp437") != info.orig_filename:
        raise ValueError(f"entry {info.filename[:60]!r} is called otherwise in front of its data")


def _place(path: Path) -> str:
    return str(path.resolve()) if path.is_dir() else ""


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _refuse(reason: str) -> bytes:
    raise ValueError(reason)


# --- dataset=folder -----------------------------------------------------------------------------------------

SPLIT_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}


def folder_source(data_dir: Path | None, split: str) -> ImageSource:
    """The images of a folder or a zip.

    Folders `train`, `valid` (or `val`) and `test` at the top make the splits; without them all images are the
    training set. Folders below are classes; leading folders that all images share are ignored.
    """
    if data_dir is None:
        raise InputError("dataset=folder needs data_dir: the path of a folder or a zip of images")
    path = Path(data_dir).expanduser()
    files = list_files(path)
    if not files:
        raise InputError(f"{path}: holds no images; looked for {' '.join(EXTENSIONS)} at any depth")
    parts = _below_common([file.name.split("/") for file in files], SPLIT_FOLDERS)
    split_of = [SPLIT_FOLDERS.get(part[0].lower()) if len(part) > 1 else None for part in parts]
    found = set(split_of)
    if None in found and "train" in found and len(found) > 2:
        stray = files[split_of.index(None)].name
        raise InputError(f"{path}: has folders train, valid or test, but {stray} is in none of them; move it")
    if None in found:  # no such folders, or a class that happens to be called so
        if split not in ("train", "all"):
            raise InputError(
                f"{path}: has no split {split!r}; put the images into folders train, valid and test in it, "
                "or give the other images as a data_dir of their own with split train"
            )
        chosen, labels = list(range(len(files))), _class_numbers(parts)
    else:
        labels = _class_numbers([part[1:] for part in parts])
        chosen = [i for i, name in enumerate(split_of) if split in (name, "all")]
        if not chosen:
            held = ", ".join(f"{name} ({count})" for name, count in sorted(Counter(map(str, split_of)).items()))
            raise InputError(f"{path}: has no images of split {split!r}; it has {held}")
    return ImageSource(
        description=f"{'folder' if path.is_dir() else 'zip'} {path.resolve()}",
        files=[files[i] for i in chosen],
        place=_place(path),
        labels=None if labels is None else labels[chosen],
    )


def _below_common(parts: list[list[str]], stop: Sequence[str] | dict[str, str] = ()) -> list[list[str]]:
    """Paths without the leading folders that all of them share, down to one named in `stop`."""
    while True:
        tops = {part[0] if len(part) > 1 else "" for part in parts}
        if len(tops) > 1 or "" in tops or any(top.lower() in stop for top in tops):
            return parts
        parts = [part[1:] for part in parts]


def _class_numbers(parts: list[list[str]]) -> np.ndarray | None:
    """Class numbers [N] by the first folder of each path, in sorted order; None without class folders."""
    parts = _below_common(parts)
    if any(len(part) == 1 for part in parts):
        return None
    names = sorted({part[0] for part in parts})
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[part[0]] for part in parts], dtype=np.int64)


# --- dataset=celeba -----------------------------------------------------------------------------------------

CELEBA_HELP = (
    "put img_align_celeba.zip (or the unpacked folder img_align_celeba) and list_eval_partition.txt, "
    "both from http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, or Kaggle's archive.zip, into"
)
CELEBA_IMAGES = ("img_align_celeba.zip", "img_align_celeba", "archive.zip")
CELEBA_PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")


def celeba_source(data_dir: Path | None, split: str, cache_dir: Path) -> ImageSource:
    """CelebA's aligned images by its official partitions, from `data_dir`, or downloaded by torchvision without one.

    `data_dir`, or `celeba/` in it, holds `img_align_celeba.zip` or a folder `img_align_celeba`, and
    `list_eval_partition.txt` (or Kaggle's `.csv`), or it is a zip: that one, or Kaggle's, which holds both. The order
    is the partition file's, as in torchvision.
    """
    if data_dir is None:
        return _downloaded_celeba(Path(cache_dir).expanduser(), split)
    root = Path(data_dir).expanduser()
    if not root.exists():
        raise InputError(f"{root}: no such folder; {CELEBA_HELP} a folder and give it as data_dir")
    images = root if root.is_file() else _find_celeba(root)
    if images is None:
        raise InputError(
            f"{root}: holds no CelebA (looked for {', '.join(CELEBA_IMAGES)} in it and in {root / 'celeba'}); "
            f"{CELEBA_HELP} it; to download 1.4 GB into {Path(cache_dir) / 'celeba'}, leave data_dir out"
        )
    return _celeba_in(images, split)


def _celeba_in(images: Path, split: str) -> ImageSource:
    """The split of CelebA in a folder of images or a zip."""
    files = {file.name.rsplit("/", 1)[-1]: file for file in list_files(images)}
    if not files:
        raise InputError(f"{images}: holds no images; {CELEBA_HELP} {images.parent}")
    description = f"CelebA in {images.resolve()}"
    partition = _celeba_partition(images)
    if partition is None:
        if split != "all":
            raise InputError(
                f"{images.parent}: has no list_eval_partition.txt, which says what split {split!r} is; "
                "put it there, or use split all"
            )
        return ImageSource(description, list(files.values()), _place(images), crop=CELEBA_CROP, size=CELEBA_SIZE)
    where, text = partition
    splits = parse_partition(text, where)
    names = [name for name, number in splits.items() if split in (SPLITS[number], "all")]
    if not names:
        raise InputError(f"{where}: lists no images of split {split!r}")
    return ImageSource(
        description,
        [files[name] for name in names if name in files],
        _place(images),
        crop=CELEBA_CROP,
        size=CELEBA_SIZE,
        missing=[name for name in names if name not in files],
    )


def _celeba_partition(images: Path) -> tuple[str, bytes] | None:
    """(where it is, its bytes) of the partition file beside the images, or in their zip."""
    folders = [images.parent, *([images.parent.parent] if images.parent.name == "img_align_celeba" else [])]
    for path in (folder / name for folder in folders for name in CELEBA_PARTITIONS):
        if path.is_file():
            return str(path), _read_file(path)
    if images.is_file():
        with zipfile.ZipFile(images) as archive:
            for info in archive.infolist():
                if _entry_name(info).rsplit("/", 1)[-1] in CELEBA_PARTITIONS:
                    try:
                        return f"{images}, {info.filename}", _read_entry(archive, info)
                    except Exception as error:  # of a damaged entry
                        raise InputError(f"{images}: {info.filename} cannot be read: {error}") from None
    return None


def parse_partition(data: bytes, where: str) -> dict[str, int]:
    """Image name -> 0 (train), 1 (valid) or 2 (test), in the file's order."""
    splits = {}
    for number, line in enumerate(data.decode("utf-8-sig", errors="replace").splitlines(), 1):
        fields = line.replace(",", " ").split()
        if not fields or (number == 1 and fields == ["image_id", "partition"]):
            continue
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise InputError(f"{where}, line {number}: expected an image's name and 0, 1 or 2, found {line[:60]!r}")
        splits[fields[0]] = int(fields[1])
    return splits


def _find_celeba(root: Path) -> Path | None:
    """CelebA's zip or folder of images in `root` or `root/celeba`; the zip is preferred, since it has checksums."""
    if root.name == "img_align_celeba":
        root = root.parent
    for folder in (root, root / "celeba"):
        for path in (folder / name for name in CELEBA_IMAGES):
            if path.exists() and (path.name != "archive.zip" or _is_kaggles(path)):
                return path
    return None


def _is_kaggles(path: Path) -> bool:
    """Whether a zip of that common name is one of CelebA."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("img_align_celeba/" in name for name in archive.namelist())
    except Exception:  # no zip, or a damaged one
        return False


def _downloaded_celeba(root: Path, split: str) -> ImageSource:
    """The split of CelebA in `root/celeba`; downloaded where it is not there, or what is there is not whole."""
    damage = ""
    images = _find_celeba(root)
    if images is not None:
        try:
            return _celeba_in(images, split)
        except InputError as error:  # such as a page of words that was saved under the zip's name
            damage = f"what lies there is not whole: {error}; "
    return _celeba_in(_download_celeba(root, damage), split)


def _download_celeba(root: Path, damage: str) -> Path:
    """Download into `root/celeba` through torchvision, which checks every MD5; one process at a time.

    What a failed download leaves is removed: it would be taken for the file itself.
    """
    from torchvision.datasets import CelebA

    root.mkdir(parents=True, exist_ok=True)
    folder = root / "celeba"
    with FileLock(root / ".celeba.lock"):
        images = _find_celeba(root)
        if images is not None and not damage:
            return images  # another process was faster
        require_free_space(root, CELEBA_DOWNLOAD_BYTES, "CelebA")
        print(f"downloading CelebA (1.4 GB) into {folder}", file=sys.stderr, flush=True)
        before = _stamps(folder)
        try:
            CelebA(str(root), split="all", download=True)
        except Exception as error:  # gdown, requests, zipfile and the disk each have their own
            _remove_damaged(folder, before)
            reason = " ".join(f"{damage}{type(error).__name__}: {error}".split())[:300]
            raise InputError(f"CelebA could not be downloaded; {CELEBA_HELP} {folder} ({reason})") from error
        images = _find_celeba(root)
        assert images is not None, "torchvision reported a whole CelebA"
        return images


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """{name: (size, time)} of the files in a folder."""
    files = (path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else ()
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def _remove_damaged(folder: Path, before: dict[str, tuple[int, int]]) -> None:
    """Remove the files that came since `before` without being what torchvision expects."""
    from torchvision.datasets.celeba import CelebA
    from torchvision.datasets.utils import check_integrity

    expected = {name: md5 for _, md5, name in CelebA.file_list}
    for name, stamp in _stamps(folder).items():
        if before.get(name) != stamp and not check_integrity(str(folder / name), expected.get(name, "unknown")):
            (folder / name).unlink()


def require_free_space(folder: Path, n_bytes: int, what: str) -> None:
    """InputError with both figures when the disk of `folder` has less than `n_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise InputError(
            f"{folder}: {n_bytes / 1e6:,.1f} MB are needed for {what}, the disk has {free / 1e6:,.1f} MB free; make "
            "room or give another folder"
        )


# --- dataset=digits -----------------------------------------------------------------------------------------


def digits_source(data_dir: Path | None, split: str) -> ImageSource:
    """scikit-learn's 1,797 handwritten digits (8x8, greys 0..16); every fifth of each class is test."""
    if data_dir is not None:
        raise InputError(
            f"dataset=digits is part of scikit-learn and reads no data_dir ({data_dir}); use dataset=folder"
        )
    if split == "valid":
        raise InputError("split 'valid': dataset=digits has the splits train, test and all")
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    rank_in_class = np.zeros(len(labels), dtype=np.int64)
    for digit in range(10):
        rank_in_class[labels == digit] = np.arange((labels == digit).sum())
    is_test = rank_in_class % 5 == 4
    chosen = np.flatnonzero({"train": ~is_test, "test": is_test, "all": np.ones_like(is_test)}[split])
    greys = np.rint(digits.images * (255 / 16)).astype(np.uint8)

    def as_pgm(index: int) -> bytes:
        return b"P5 8 8 255\n" + greys[index].tobytes()

    crc = zlib.crc32
    files = [ImageFile(f"{i:04d}", (crc(as_pgm(i)),), partial(as_pgm, i)) for i in map(int, chosen)]
    return ImageSource("scikit-learn's digits", files, labels=labels[chosen])


# --- the data sets of the parameter `dataset` ---------------------------------------------------------------


@dataclass(frozen=True)
class ImageDataset:
    """What code that works on any data set may have to ask about one.

    Attributes:
        name: the value of the parameter `dataset`.
        list_images: (data_dir, split, cache_dir) -> the images of the split.
        needs_dir: whether `data_dir` must be given.
        takes_dir: whether `data_dir` may be given.
        validation_split: the split made for choosing by; None where it must be taken from the training images.
        test_split: the split of images that are never trained on; None where only a look into `data_dir` tells.
        features: the network whose features its images are compared by, as the parameter `features` has it.
    """

    name: str
    list_images: Callable[[Path | None, str, Path], ImageSource]
    needs_dir: bool
    takes_dir: bool
    validation_split: str | None
    test_split: str | None
    features: str

    @property
    def held_out_split(self) -> str | None:
        """The split to watch the training by: not trained on, and for choosing if there is one; None: none for sure."""
        return self.validation_split or self.test_split

    def has_test_split(self, data_dir: Path | None) -> bool:
        """Whether there are test images, for a folder by its `test` folder."""
        if self.test_split is not None:
            return True
        return data_dir is not None and (Path(data_dir) / "test").is_dir()


DATASETS = {
    dataset.name: dataset
    for dataset in (
        ImageDataset(
            name="celeba",
            list_images=celeba_source,
            needs_dir=False,
            takes_dir=True,
            validation_split="valid",
            test_split="test",
            features="inception",
        ),
        ImageDataset(
            name="folder",
            list_images=lambda data_dir, split, _: folder_source(data_dir, split),
            needs_dir=True,
            takes_dir=True,
            validation_split=None,
            test_split=None,
            features="inception",
        ),
        ImageDataset(
            name="digits",
            list_images=lambda data_dir, split, _: digits_source(data_dir, split),
            needs_dir=False,
            takes_dir=False,
            validation_split=None,
            test_split="test",
            features="digits",
        ),
    )
}
"""Every data set of images by its name."""

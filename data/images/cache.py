"""Decodes images once: a memory-mapped uint8 array in a folder named by a hash of its inputs."""

import contextlib
import errno
import hashlib
import shutil
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
from PIL import Image

from common.errors import InputError
from common.files import atomic_folder, hash_of, only_process, read_checked_json, write_checked_json
from common.progress import Progress
from data.images.decode import crop_and_resize, decode
from data.images.download import require_free_space
from data.images.files import ImageFile, ImageSource
from data.parallel import available_cores

# Raise it whenever the code gives other pixels for the same files: every cache is then made anew.
VERSION = 1
BLOCK_BYTES = 4 * 2**20
MAX_WORKERS = 8


@dataclass(frozen=True)
class CachedImages:
    """`pixels` uint8 [N, 3, S, S], read-only and memory-mapped, and what is known about them.

    `kept` holds the index in the source of every image here, `skipped` a name and a reason for every other
    one. `upscaled` counts the images whose crop was smaller than S.
    """

    pixels: np.memmap
    kept: np.ndarray
    pixels_sha256: str
    skipped: list[dict[str, str]]
    upscaled: int


def preprocessing_of(source: ImageSource, image_size: int) -> dict[str, Any]:
    """What is done to every image between its file and the array, as a JSON object."""
    return {
        "crop": "centre, largest square" if source.crop is None else f"centre, {source.crop}",
        "resize": "bilinear, antialiased (Pillow, uint8)",
        "image_size": image_size,
        "colours": "RGB; transparency over white; 16-bit greys / 257; EXIF orientation applied",
        "version": VERSION,
    }


def cached_images(
    source: ImageSource,
    image_size: int,
    folder_name: str,
    cache_dir: Path,
    *,
    on_bad: str,
    workers: int | None,
    progress: bool,
) -> CachedImages:
    """The decoded images of `source`: read from `cache_dir`, or decoded and left there for the next run.

    Of several processes that ask at once, one decodes and the others wait. With `on_bad="stop"` an image that
    cannot be read is an InputError, with "skip" it is left out and listed; a full disk is an InputError, and
    leaves nothing.
    """
    if source.missing and on_bad == "stop":
        raise InputError(
            f"{source.description}: lacks {len(source.missing)} of the images that its partition file lists "
            f"(the first is {source.missing[0]}); complete it, or leave them out with on_bad=skip"
        )
    preprocessing = preprocessing_of(source, image_size)
    files = [[file.name, *file.stamp] for file in source.files]
    key = hash_of({"place": source.place, "files": files, "missing": list(source.missing), "how": preprocessing})
    folder = Path(cache_dir).expanduser() / "images" / f"{folder_name}-{key[:16]}"
    try:
        cached = _open(folder, key, len(source.files))
        if cached is None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            waiting = f"waiting for another process that decodes the same images ({folder})"
            with only_process(folder, waiting) as alone:
                cached = _open(folder, key, len(source.files))  # made while this process waited?
                if cached is None:
                    _clear(folder, alone)
                    _build(
                        source,
                        image_size,
                        folder,
                        key=key,
                        preprocessing=preprocessing,
                        on_bad=on_bad,
                        workers=workers,
                        progress=progress,
                    )
                    cached = _open(folder, key, len(source.files))
                    assert cached is not None, f"{folder} cannot be read right after it was written"
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            needed = len(source.files) * 3 * image_size**2 / 1e6
            hint = f"{needed:,.1f} MB are needed; make room or give another cache_dir"
        else:
            hint = "give a cache_dir that can be written"
        raise InputError(
            f"{folder.parent}: cannot keep the decoded images ({error.strerror or error}); {hint}"
        ) from error
    if cached.skipped and on_bad == "stop":
        raise InputError(_bad_image(source, cached.skipped[0], len(cached.skipped)))
    return cached


# --- reading ------------------------------------------------------------------------------------------------


def _open(folder: Path, key: str, n_files: int) -> CachedImages | None:
    """The cache in `folder`, or None when there is none or a byte of it is not as it was written.

    All pixels are read for that: SHA-256 takes about a second for 1.5 GB.
    """
    try:
        meta = read_checked_json(folder / "meta.json")
        pixels = _mapped(folder / "pixels.npy")
        skipped = meta["skipped"]
        kept = np.setdiff1d(np.arange(n_files), meta["skipped_indices"])
        size = meta["preprocessing"]["image_size"]
        whole = (
            meta["key"] == key
            and pixels.dtype == np.uint8
            and pixels.shape == (len(kept), 3, size, size)
            and (folder / "pixels.npy").stat().st_size == pixels.offset + pixels.nbytes
            and hashlib.sha256(pixels.data).hexdigest() == meta["pixels_sha256"]
        )
        images = CachedImages(
            pixels=pixels, kept=kept, pixels_sha256=meta["pixels_sha256"], skipped=skipped, upscaled=meta["upscaled"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return images if whole else None


def _mapped(path: Path) -> np.memmap:
    """The array in a .npy file, memory-mapped. Raises OSError, or ValueError for a damaged header."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # NumPy reads a header as Python text, and lets through whatever that raises
        raise ValueError(f"{path}: {error}") from error


# --- writing ------------------------------------------------------------------------------------------------


def _clear(folder: Path, alone: bool) -> None:
    """Remove a damaged cache and, if this process holds the lock (`alone`), what killed processes left."""
    if folder.exists():
        print(
            f"{folder}: damaged, or of an earlier version, so the images are decoded anew", file=sys.stderr, flush=True
        )
        shutil.rmtree(folder)
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp") if alone else ():
        shutil.rmtree(leftover, ignore_errors=True)


def _build(
    source: ImageSource,
    image_size: int,
    folder: Path,
    *,
    key: str,
    preprocessing: dict[str, Any],
    on_bad: str,
    workers: int | None,
    progress: bool,
) -> None:
    require_free_space(folder.parent, len(source.files) * 3 * image_size**2, "the decoded images")
    digest = hashlib.sha256()
    skipped = [{"name": name, "reason": "missing"} for name in source.missing]
    skipped_indices = []
    n_kept = upscaled = 0
    progress_bar = contextlib.closing(Progress(len(source.files), unit="image", quiet=not progress))
    with progress_bar as bar, atomic_folder(folder) as temporary:
        with open(temporary / "pixels.npy", "wb") as out:
            # Plain writes in order, not a writable memory map: on a full disk a map kills the process by
            # SIGBUS, a write raises. The header has room for any N, so that it can be written again when
            # images were skipped.
            _write_header(out, (len(source.files), 3, image_size, image_size))
            start = out.tell()
            for block in _decoded_blocks(source, image_size, workers):
                for index, reason in block.bad:
                    bad = {"name": source.files[index].name, "reason": reason}
                    if on_bad == "stop":
                        raise InputError(_bad_image(source, bad))
                    skipped.append(bad)
                    skipped_indices.append(index)
                out.write(block.pixels.data)
                digest.update(block.pixels.data)
                n_kept += len(block.pixels)
                upscaled += block.upscaled
                bar.advance(len(block.pixels) + len(block.bad))
            if n_kept == 0:
                raise InputError(f"{_bad_image(source, skipped[0], len(skipped))}; none is left")
            out.seek(0)
            _write_header(out, (n_kept, 3, image_size, image_size))
            assert out.tell() == start, "the .npy header changed its length"
        meta = {
            "key": key,
            "source": source.description,
            "preprocessing": preprocessing,
            "pixels_sha256": digest.hexdigest(),
            "upscaled": upscaled,
            "skipped": skipped,
            "skipped_indices": skipped_indices,
            "pillow": PIL.__version__,
        }
        write_checked_json(temporary / "meta.json", meta)


def _write_header(out: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _bad_image(source: ImageSource, bad: dict[str, str], count: int = 1) -> str:
    others = f" (and {count - 1} more)" if count > 1 else ""
    image = f"{source.description}: {bad['name']} cannot be read: {bad['reason']}{others}"
    return f"{image}; repair it, or leave it out with on_bad=skip"


# --- decoding -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """Consecutive images: those that could be read, uint8 [n, 3, S, S], and (index, reason) of the others."""

    pixels: np.ndarray
    bad: list[tuple[int, str]]
    upscaled: int


def _decoded_blocks(source: ImageSource, image_size: int, workers: int | None) -> Iterator[_Block]:
    """Decode every file on `workers` threads; blocks come in order, a few of them ahead of the reader.

    Threads, because Pillow decodes and resizes outside Python's lock: as fast as processes here
    (docs/images.md), they start at once, share one open zip, and cannot outlive a killed run.
    """
    workers = workers or min(available_cores(), MAX_WORKERS)
    per_block = max(1, min(256, BLOCK_BYTES // (3 * image_size**2)))
    starts = range(0, len(source.files), per_block)
    Image.init()  # its list of readers is filled on first use, and not by several threads at once
    waiting: deque[Future[_Block]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for start in starts:
                files = source.files[start : start + per_block]
                waiting.append(pool.submit(_decode_block, files, start, source=source, image_size=image_size))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _decode_block(files: Sequence[ImageFile], start: int, source: ImageSource, image_size: int) -> _Block:
    pixels = np.empty((len(files), 3, image_size, image_size), dtype=np.uint8)
    bad = []
    count = upscaled = 0
    for index, file in enumerate(files, start):
        try:
            image = decode(file.read(), source.size)
            pixels[count] = crop_and_resize(image, source.crop, image_size)
        except Exception as error:  # Pillow's readers raise a dozen kinds for damaged data
            if isinstance(error, OSError) and error.errno is not None:
                # The disk fails, not the image. If it were skipped, it would be missing from the cache permanently.
                raise InputError(f"{source.description}: {file.name} cannot be read: {_reason(error)}") from error
            bad.append((index, _reason(error)))
        else:
            count += 1
            upscaled += (source.crop or min(image.size)) < image_size
    return _Block(pixels[:count], bad, upscaled)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]

"""The image cache and its batches beside torchvision's ImageFolder and torch's DataLoader, on the same files.

    python -m benchmarks.image_cache cifar10/train.zip

Three questions: how fast is every image read for the first time (ours also writes the cache), how fast are
batches of every later epoch, and how long does one batch of 64 take, to be held against a training step.
The photographs are used as they are (small files) and enlarged to CelebA's 178x218 (decoding dominates).
Both sides crop, resize to 64 and end with float batches in [-1, 1]. They take turns; ratios are medians.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from data.images.load import ImageBatches, load_images
from data.parallel import available_cores

SIZE = 64
BATCH = 64


def unpack(archive: Path, folder: Path, n_images: int, enlarge: bool) -> int:
    """Write up to `n_images` of the zip into one folder per class, as JPEGs; returns how many."""
    with zipfile.ZipFile(archive) as photographs:
        names = [info.filename for info in photographs.infolist() if not info.is_dir()]
        names = names[:: max(1, len(names) // n_images)][:n_images]
        for name in names:
            data = photographs.read(name)
            if enlarge:
                buffer = io.BytesIO()
                image = Image.open(io.BytesIO(data)).convert("RGB")
                image.resize((178, 218), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
                data = buffer.getvalue()
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return len(names)


def plain_loader(folder: Path, side: int, workers: int) -> DataLoader:
    transform = Compose([CenterCrop(side), Resize(SIZE), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
    return DataLoader(ImageFolder(str(folder), transform), BATCH, shuffle=True, num_workers=workers, drop_last=True)


@contextlib.contextmanager
def stopwatch(seconds: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)


def measure(folder: Path, side: int, repeats: int, workers: int) -> dict[str, list[float]]:
    """Seconds, one entry per repetition, for a first pass and a later epoch of each side."""
    seconds: dict[str, list[float]] = {"cache_first": [], "cache_epoch": [], "plain_epoch": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            with stopwatch(seconds["cache_first"]):
                images = load_images(
                    "folder", SIZE, data_dir=folder, cache_dir=Path(cache), workers=workers, progress=False
                )
            batches = ImageBatches(images, BATCH, seed=0, device="cpu", flip=False)
            with stopwatch(seconds["cache_epoch"]):
                for _ in islice(batches, batches.batches_per_epoch):
                    pass
        loader = plain_loader(folder, side, workers)
        with stopwatch(seconds["plain_epoch"]):
            for _ in loader:
                pass
    return seconds


def microseconds_per_batch(folder: Path, flip: bool) -> float:
    """Median time of one batch of 64 at 64 pixels, warm, on the CPU."""
    with tempfile.TemporaryDirectory() as cache:
        images = load_images("folder", SIZE, data_dir=folder, cache_dir=Path(cache), progress=False)
        batches = ImageBatches(images, BATCH, seed=0, device="cpu", flip=flip)
        seconds: list[float] = []
        for _ in range(300):
            with stopwatch(seconds):
                next(batches)
    return 1e6 * statistics.median(seconds[50:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="a zip of photographs with one folder per class")
    parser.add_argument("--n-images", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=available_cores(), help="threads of ours, processes of theirs")
    arguments = parser.parse_args()
    ratios, spread = {}, {}
    conditions: dict[str, object] = {
        "cores": available_cores(),
        "workers": arguments.workers,
        "threads_of_torch": torch.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "image_size": SIZE,
        "batch": BATCH,
        "repeats": arguments.repeats,
    }
    for label, enlarge, side in (("as_they_are", False, 32), ("178x218", True, 178)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            n_images = unpack(arguments.archive, folder, arguments.n_images, enlarge)
            seconds = measure(folder, side, arguments.repeats, arguments.workers)
            for phase, key in (("first pass", "cache_first"), ("later epoch", "cache_epoch")):
                each = [plain / ours for plain, ours in zip(seconds["plain_epoch"], seconds[key], strict=True)]
                ratios[f"{phase}, {label}"] = round(statistics.median(each), 2)
                spread[f"{phase}, {label}"] = [round(min(each), 2), round(max(each), 2)]
            for key, values in seconds.items():
                rate = n_images / statistics.median(values)
                conditions[f"{key}_images_per_second_{label}"] = round(rate)
                print(f"{label:12} {key:12} {rate:10,.0f} images/s")
            for flip in (False, True):
                microseconds = microseconds_per_batch(folder, flip)
                conditions[f"microseconds_per_batch_{label}{'_flipped' if flip else ''}"] = round(microseconds)
                print(f"{label:12} one batch of {BATCH}, flip={flip}: {microseconds:.0f} µs")
    print(json.dumps({"name": "image_cache", "ratios": ratios, "spread": spread, "conditions": conditions}))


if __name__ == "__main__":
    main()

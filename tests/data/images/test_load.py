"""The cache (whole or absent, shared, made anew when damaged) and the stream of batches."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from common.errors import InputError
from data.images import cache as image_cache
from data.images import load as load_module
from data.images.load import ImageBatches, ImageSet, load_images
from tests.conftest import PATIENCE, ROOT
from tests.data.images.image_trees import write_celeba, write_folder, write_zip


def load(data_dir: Path, cache_dir: Path, **options: Any) -> ImageSet:
    options = {"dataset": "folder", "image_size": 16, "progress": False, **options}
    return load_images(data_dir=data_dir, cache_dir=cache_dir, **options)


def caches(cache_dir: Path) -> list[Path]:
    """Every finished cache and every leftover of an unfinished one; lock files are neither."""
    return [path for path in sorted((cache_dir / "images").glob("*")) if path.suffix != ".lock"]


# --- what is in the cache -------------------------------------------------------------------------------


def test_celeba_is_torchvisions_pipeline_bit_for_bit(tmp_path: Path) -> None:
    write_celeba(tmp_path / "tree", 5, 2, 2)
    images = load(tmp_path / "tree", tmp_path / "cache", dataset="celeba", image_size=64, split="valid")
    transform = Compose([CenterCrop(178), Resize(64)])
    for index, number in enumerate((6, 7)):
        image = transform(Image.open(tmp_path / "tree" / "img_align_celeba" / f"{number:06d}.jpg"))
        np.testing.assert_array_equal(images.pixels[index], np.asarray(image).transpose(2, 0, 1))
    assert (images.name, images.split, len(images), images.upscaled) == ("celeba", "valid", 2, 0)


def test_celeba_image_of_another_size_is_a_bad_image(tmp_path: Path) -> None:
    write_celeba(tmp_path / "tree", 3, 0, 0)
    write_folder(tmp_path / "tree" / "img_align_celeba", ["000002.jpg"], size=(250, 250))
    with pytest.raises(InputError, match=r"000002.jpg cannot be read: it is 250x250, not 178x218"):
        load(tmp_path / "tree", tmp_path / "cache", dataset="celeba")


def test_celeba_missing_images_stop_or_are_listed(tmp_path: Path) -> None:
    write_celeba(tmp_path / "tree", 4, 0, 0)
    (tmp_path / "tree" / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(InputError, match="lacks 1 of the images that its partition file lists"):
        load(tmp_path / "tree", tmp_path / "cache", dataset="celeba")
    images = load(tmp_path / "tree", tmp_path / "cache", dataset="celeba", on_bad="skip")
    assert images.skipped == [{"name": "000002.jpg", "reason": "missing"}]
    assert len(images) == 3


def test_folder_and_zip_give_the_same_images_and_fingerprint(tmp_path: Path) -> None:
    names = [f"{kind}/{number:03d}.jpg" for kind in ("cat", "cat-2") for number in range(20)]
    folder = load(write_folder(tmp_path / "x", names), tmp_path / "cache", workers=3)
    zipped = load(write_zip(tmp_path / "x.zip", names), tmp_path / "cache", workers=1)
    np.testing.assert_array_equal(folder.pixels, zipped.pixels)
    assert folder.fingerprint == zipped.fingerprint
    assert folder.labels is not None
    assert folder.labels.tolist() == [0] * 20 + [1] * 20
    assert len(caches(tmp_path / "cache")) == 2


def test_fingerprint_follows_pixels_and_preprocessing(tmp_path: Path) -> None:
    data_dir = write_folder(tmp_path / "x", ["1.jpg", "2.jpg"])
    first = load(data_dir, tmp_path / "cache")
    smaller = load(data_dir, tmp_path / "cache", image_size=8)
    assert first.fingerprint != smaller.fingerprint
    assert first.preprocessing_hash != smaller.preprocessing_hash
    (data_dir / "1.jpg").write_bytes((data_dir / "2.jpg").read_bytes())
    changed = load(data_dir, tmp_path / "cache")
    assert changed.fingerprint != first.fingerprint
    assert changed.preprocessing_hash == first.preprocessing_hash
    assert json.loads(json.dumps(changed.preprocessing)) == changed.preprocessing


@pytest.mark.parametrize("way", ["in place", "renamed"])
def test_a_file_replaced_by_one_of_the_same_size_and_time_is_another(tmp_path: Path, way: str) -> None:
    """As `cp -p` or `rsync -t` do it."""
    folder = tmp_path / "tree"
    folder.mkdir()
    path, other = folder / "1.bmp", tmp_path / "other.bmp"
    Image.new("RGB", (16, 16), (10, 20, 30)).save(path)
    Image.new("RGB", (16, 16), (90, 20, 30)).save(other)
    before, first = path.stat(), load(folder, tmp_path / "cache")
    if way == "renamed":
        other.rename(path)
    else:
        path.write_bytes(other.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    second = load(folder, tmp_path / "cache")
    assert (first.pixels[0, 0, 0, 0], second.pixels[0, 0, 0, 0]) == (10, 90)
    assert first.fingerprint != second.fingerprint


def test_other_code_makes_another_cache_and_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir = write_folder(tmp_path / "x", ["1.jpg", "2.jpg"])
    first = load(data_dir, tmp_path / "cache")
    monkeypatch.setattr(image_cache, "VERSION", image_cache.VERSION + 1)
    second = load(data_dir, tmp_path / "cache")
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.fingerprint != second.fingerprint
    assert len(caches(tmp_path / "cache")) == 2


def test_second_load_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir = write_folder(tmp_path / "x", ["1.jpg", "2.jpg"])
    first = load(data_dir, tmp_path / "cache")
    monkeypatch.setattr(image_cache, "_build", None)
    second = load(data_dir, tmp_path / "cache")
    assert second.fingerprint == first.fingerprint
    assert isinstance(second.pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        second.pixels[0] = 0


def test_digits(tmp_path: Path) -> None:
    images = load_images("digits", 32, cache_dir=tmp_path, progress=False)
    test = load_images("digits", 32, "test", cache_dir=tmp_path, progress=False)
    assert images.pixels.shape == (1442, 3, 32, 32)
    assert len(images) + len(test) == 1797
    assert images.upscaled == 1442
    assert (images.pixels[:, 0] == images.pixels[:, 2]).all()
    assert images.labels is not None
    assert images.labels[:5].tolist() == [0, 1, 2, 3, 4]
    # enlarging is smooth: a digit's mean grey stays what it was
    from sklearn.datasets import load_digits

    assert np.abs(images.pixels[0].mean() - load_digits().images[0].mean() * 255 / 16) < 1.5


def test_real_photographs(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "cifar10" / "test.zip"
    images = load(path, tmp_path, image_size=32)
    assert images.pixels.shape == (4000, 3, 32, 32)
    assert images.labels is not None
    assert np.unique(images.labels).tolist() == list(range(10))
    with zipfile.ZipFile(path) as archive:
        name = sorted(archive.namelist())[1234]
        np.testing.assert_array_equal(
            images.pixels[1234], np.asarray(Image.open(archive.open(name)).convert("RGB")).transpose(2, 0, 1)
        )


# --- bad images -----------------------------------------------------------------------------------------


def with_bad_images(tmp_path: Path) -> Path:
    data_dir = write_folder(tmp_path / "x", [f"{kind}/{n}.jpg" for kind in ("cat", "dog") for n in range(5)])
    whole = (data_dir / "cat" / "3.jpg").read_bytes()
    (data_dir / "cat" / "3.jpg").write_bytes(whole[: len(whole) * 9 // 10])
    (data_dir / "dog" / "0.jpg").write_bytes(b"")
    (data_dir / "dog" / "4.jpg").write_text("<html>quota exceeded</html>")
    return data_dir


def test_bad_image_stops_and_leaves_no_cache(tmp_path: Path) -> None:
    data_dir = with_bad_images(tmp_path)
    with pytest.raises(InputError, match=r"cat/3.jpg cannot be read: .*truncated.*on_bad=skip") as caught:
        load(data_dir, tmp_path / "cache")
    assert str(data_dir) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caches(tmp_path / "cache") == []


def test_bad_images_are_skipped_counted_and_listed(tmp_path: Path) -> None:
    data_dir = with_bad_images(tmp_path)
    for _ in range(2):  # decoded, then from the cache
        images = load(data_dir, tmp_path / "cache", on_bad="skip")
        assert [bad["name"] for bad in images.skipped] == ["cat/3.jpg", "dog/0.jpg", "dog/4.jpg"]
        assert "truncated" in images.skipped[0]["reason"]
        assert images.skipped[1]["reason"] == "the file is empty"
        assert "not an image" in images.skipped[2]["reason"]
        assert images.labels is not None
        assert images.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    whole = load(write_folder(tmp_path / "whole", [f"{n}.jpg" for n in range(10)]), tmp_path / "cache")
    np.testing.assert_array_equal(images.pixels, whole.pixels[[0, 1, 2, 4, 6, 7, 8]])
    with pytest.raises(InputError, match=r"cat/3.jpg cannot be read: .*\(and 2 more\)"):
        load(data_dir, tmp_path / "cache")  # a cache with holes does not satisfy on_bad=stop


def test_nothing_but_bad_images(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match="none is left"):
        load(tmp_path / "x", tmp_path / "cache", on_bad="skip")
    assert caches(tmp_path / "cache") == []


def test_zip_entry_with_a_wrong_checksum_is_a_bad_image(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", ["1.jpg", "2.jpg"], stored=True)
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xd9PK") - 40] ^= 0x55  # in the first JPEG's entropy-coded part: it would still decode
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"1.jpg cannot be read: Bad CRC-32"):
        load(path, tmp_path / "cache")
    assert len(load(path, tmp_path / "cache", on_bad="skip")) == 1


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_a_failing_disk_is_never_a_skip(tmp_path: Path) -> None:
    data_dir = write_folder(tmp_path / "x", ["1.jpg"])
    (data_dir / "2.jpg").symlink_to("/proc/self/mem")  # a file whose reading fails with EIO
    with pytest.raises(InputError, match=r"2.jpg cannot be read: Input/output error"):
        load(data_dir, tmp_path / "cache", on_bad="skip")
    assert caches(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": 0}, "image_size: 0 is not a positive whole number"),
        ({"image_size": -32}, "image_size: -32 is not a positive"),
        ({"image_size": 32.0}, "image_size: 32.0 is not a positive"),
        ({"workers": 0}, "workers: 0 is not a positive"),
        ({"dataset": "lsun"}, "dataset: 'lsun' is not one of celeba, eurosat, cifar10, folder, digits"),
        ({"split": "dev"}, "split: 'dev' is not one of train, valid, test, all"),
        ({"on_bad": "ignore"}, "on_bad: 'ignore' is not one of stop, skip"),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(tmp_path, tmp_path / "cache", **options)


# --- the disk -------------------------------------------------------------------------------------------


def test_too_little_space_is_seen_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir = write_folder(tmp_path / "x", [f"{n}.jpg" for n in range(10)])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(
        InputError, match=r"7.9 MB are needed for the decoded images, the disk has 1.0 MB free; make room"
    ):
        load(data_dir, tmp_path / "cache", image_size=512)
    assert caches(tmp_path / "cache") == []


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    prelude = "import sys\nfrom pathlib import Path\nfrom data.images.load import load_images\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


LOAD = """
data_dir, cache_dir, image_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
print(load_images("folder", image_size, data_dir=data_dir, cache_dir=cache_dir).fingerprint)
"""


def test_disk_that_fills_up_while_decoding(tmp_path: Path) -> None:
    """A real failing write: the process may write files of at most 100 kB, as if no more room were left."""
    data_dir = write_folder(tmp_path / "x", [f"{n}.jpg" for n in range(10)])
    code = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n" + LOAD
    process = run_python(code, data_dir, tmp_path / "cache", 128)
    _, errors = process.communicate(timeout=PATIENCE)
    assert "InputError" in errors
    assert "cannot keep the decoded images (File too large); 0.5 MB are needed; make room" in errors
    assert caches(tmp_path / "cache") == []


def test_no_space_left_is_told_with_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_header(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(image_cache, "_write_header", write_header)
    data_dir = write_folder(tmp_path / "x", ["1.jpg"])
    with pytest.raises(InputError, match=r"\(No space left on device\); 3.1 MB are needed; make room"):
        load(data_dir, tmp_path / "cache", image_size=1024)
    assert caches(tmp_path / "cache") == []


def test_cache_dir_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot keep the decoded images .* give a cache_dir that can be written"):
        load(write_folder(tmp_path / "x", ["1.jpg"]), tmp_path / "file")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip(where: float) -> Callable[[Path], None]:
    """Change one bit of a file, at the share `where` of its length."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(where * len(data))] ^= 4
        path.write_bytes(data)

    return damage


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *[(file, flip(where)) for file in ("pixels.npy", "meta.json") for where in (0, 0.3, 0.5, 0.999)],
        ("pixels.npy", cut),
        ("pixels.npy", lengthen),
        ("pixels.npy", lambda path: path.write_bytes(b"")),
        ("pixels.npy", lambda path: np.save(path, np.zeros((2, 3, 16, 8), dtype=np.uint8))),
        ("pixels.npy", lambda path: np.save(path, np.zeros((2, 3, 16, 16), dtype=np.int16))),
        ("pixels.npy", Path.unlink),
        ("meta.json", cut),
        ("meta.json", lambda path: path.write_text("[]")),
        ("meta.json", lambda path: path.write_text("{}")),
        ("meta.json", lambda path: path.write_bytes(b"\xff\xfe")),
        ("meta.json", Path.unlink),
    ],
)
def test_damaged_cache_is_made_anew(tmp_path: Path, capfd: pytest.CaptureFixture[str], file: str, damage: Any) -> None:
    data_dir = write_folder(tmp_path / "x", ["1.jpg", "2.jpg"])
    first = load(data_dir, tmp_path / "cache")
    whole = np.array(first.pixels)
    (folder,) = caches(tmp_path / "cache")
    damage(folder / file)
    again = load(data_dir, tmp_path / "cache")
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.pixels, whole)
    assert f"{folder}: damaged" in capfd.readouterr().err
    assert caches(tmp_path / "cache") == [folder]


@pytest.mark.parametrize("after", [0.0, 0.05, 0.15, 0.3])
def test_killed_while_decoding_leaves_nothing_half_written(tmp_path: Path, after: float) -> None:
    data_dir = write_folder(tmp_path / "x", [f"{n:03d}.jpg" for n in range(120)], size=(1000, 800))
    process = run_python(LOAD, data_dir, tmp_path / "cache", 256)
    deadline = time.monotonic() + PATIENCE
    while not caches(tmp_path / "cache") and time.monotonic() < deadline:
        time.sleep(0.005)  # until it has begun to write
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL, "it was too fast: this test needs larger images"
    assert all(path.name.startswith(".") for path in caches(tmp_path / "cache"))  # hidden leftovers at most
    images = load(data_dir, tmp_path / "cache", image_size=256)
    assert len(images) == 120
    (folder,) = caches(tmp_path / "cache")  # and they are gone
    assert not folder.name.startswith(".")


def test_two_processes_at_once_decode_once(tmp_path: Path) -> None:
    data_dir = write_folder(tmp_path / "x", [f"{n:03d}.jpg" for n in range(60)], size=(1000, 800))
    processes = [run_python(LOAD, data_dir, tmp_path / "cache", 64) for _ in range(3)]
    results = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], results
    assert len({output for output, _ in results}) == 1
    assert sum("image 60/60" in errors for _, errors in results) == 1  # one of them has decoded, and said so
    assert len(caches(tmp_path / "cache")) == 1


# --- batches --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("images")
    return load(write_folder(folder / "x", [f"{n:02d}.jpg" for n in range(50)]), folder / "cache", image_size=8)


def batches(images: ImageSet, batch_size: int = 8, flip: bool = True, seed: int = 3, **options: Any) -> ImageBatches:
    return ImageBatches(images, batch_size, seed=seed, device="cpu", flip=flip, **options)


def which(images: ImageSet, batch: torch.Tensor) -> list[tuple[int, bool]]:
    """For every image of a batch, its number in the set and whether it is mirrored."""
    pixels = ((batch + 1) * 127.5).round().to(torch.uint8).numpy()
    known = {image.tobytes(): (i, False) for i, image in enumerate(np.asarray(images.pixels))}
    known |= {image[:, :, ::-1].tobytes(): (i, True) for i, image in enumerate(np.asarray(images.pixels))}
    return [known[image.tobytes()] for image in pixels]


def test_batches_are_the_scaled_pixels(images: ImageSet) -> None:
    batch = next(batches(images, flip=False))
    assert batch.shape == (8, 3, 8, 8)
    assert batch.dtype == torch.float32
    numbers = [number for number, _ in which(images, batch)]
    expected = np.asarray(images.pixels)[numbers].astype(np.float32) / np.float32(127.5) - 1
    np.testing.assert_array_equal(batch.numpy(), expected)
    full = replace(images, pixels=np.broadcast_to(np.arange(256, dtype=np.uint8), (2, 3, 256, 256)).copy())
    extremes = next(batches(full, batch_size=2, flip=False))
    assert (extremes.min(), extremes.max()) == (-1, 1)


def test_an_epoch_has_every_image_at_most_once_and_epochs_differ(images: ImageSet) -> None:
    stream = batches(images)
    epochs = [[number for batch in islice(stream, 6) for number, _ in which(images, batch)] for _ in range(3)]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(set().union(*epochs)) == 50  # the two left out of one epoch come in another


def test_flips_are_fair_and_only_by_choice(images: ImageSet) -> None:
    flips = [flip for batch in islice(batches(images), 250) for _, flip in which(images, batch)]
    assert 0.45 < np.mean(flips) < 0.55  # 2,000 draws: 4.5 standard deviations
    assert not any(flip for batch in islice(batches(images, flip=False), 12) for _, flip in which(images, batch))


def test_flips_differ_between_batches_and_epochs(images: ImageSet) -> None:
    patterns = [tuple(flip for _, flip in which(images, batch)) for batch in islice(batches(images), 18)]
    assert len(set(patterns)) > 14  # of 256 possible ones


def test_same_seed_same_stream_other_seed_other_stream(images: ImageSet) -> None:
    for first, second in zip(islice(batches(images), 10), islice(batches(images), 10), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(next(batches(images)), next(batches(images, seed=4)))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    next(batches(images))
    assert torch.equal(before, torch.random.get_rng_state())  # the global generator is left alone


@pytest.mark.parametrize("done", [0, 1, 5, 6, 7, 17])
def test_resume_gives_the_same_stream(images: ImageSet, done: int) -> None:
    stream = batches(images)
    for _ in range(done):
        next(stream)
    state = json.loads(json.dumps(stream.state_dict()))
    assert state == {"epoch": done // 6, "batch": done % 6}
    resumed = batches(images)
    resumed.load_state_dict(state)
    for _ in range(14):
        assert torch.equal(next(stream), next(resumed))


@pytest.mark.parametrize("state", [{"epoch": 0, "batch": 6}, {"epoch": -1, "batch": 0}, {"epoch": 0, "batch": -1}])
def test_cursor_of_other_data_is_refused(images: ImageSet, state: dict[str, int]) -> None:
    with pytest.raises(InputError, match="an epoch has 6 batches"):
        batches(images).load_state_dict(state)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_are_the_single_process(images: ImageSet, world_size: int) -> None:
    single = batches(images)
    ranks = [batches(images, rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(14):
        parts = [next(rank) for rank in ranks]
        assert all(len(part) == 8 // world_size for part in parts)
        assert torch.equal(torch.cat(parts), next(single))
    assert all(rank.state_dict() == single.state_dict() for rank in ranks)


def test_batch_sizes_that_cannot_be(images: ImageSet) -> None:
    with pytest.raises(InputError, match=r"50 images do not fill one batch of batch_size=64; .* at most 50"):
        batches(images, batch_size=64)
    alone = replace(images, pixels=images.pixels[:1])
    with pytest.raises(InputError, match=r": 1 image does not fill one batch of batch_size=64; give more images$"):
        batches(alone, batch_size=64)  # a batch of one is none
    with pytest.raises(InputError, match="8 images cannot be shared evenly by 3 processes"):
        batches(images, world_size=3)
    with pytest.raises(InputError, match="batch_size: 0 is not a positive"):
        batches(images, batch_size=0)


@pytest.mark.gpu
@pytest.mark.parametrize("fits", [True, False])
def test_batches_on_the_gpu_are_those_of_the_cpu(images: ImageSet, monkeypatch: pytest.MonkeyPatch, fits: bool) -> None:
    monkeypatch.setattr("data.images.load.fits_on_gpu", lambda *_: fits)
    stream = ImageBatches(images, 8, seed=3, device="cuda", flip=True)
    for on_gpu, on_cpu in zip(islice(stream, 14), batches(images), strict=False):
        assert on_gpu.device.type == "cuda"
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=2e-7)


def test_what_was_made_of_the_files_is_told_once_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "x", ["1.jpg", "notes.txt"])
    for _ in range(2):
        load_images("folder", 16, "train", tmp_path / "x", tmp_path / "cache")
    assert capsys.readouterr().err.count(f"{tmp_path / 'x'}: left out as no images: 1 .txt\n") == 1


def test_images_left_out_and_enlarged_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_dir = with_bad_images(tmp_path)
    (data_dir / "dog" / "3.jpg").write_bytes(b"")
    for _ in range(2):  # decoded, then from the cache
        load_images("folder", 64, "train", data_dir, tmp_path / "cache", on_bad="skip")
        load_module._tell.cache_clear()  # as in another process
        told = capsys.readouterr().err
        assert re.search(
            r"x: 4 of 10 images left out: cat/3.jpg \(.*truncated.*\); dog/0.jpg \(the file is empty\); "
            r"dog/3.jpg \(the file is empty\); and 1 more\n",
            told,
        )
        assert "x: 6 of 10 images are smaller than 64 pixels, and were enlarged\n" in told
    load_images("digits", 32, "test", None, tmp_path / "cache")
    assert "enlarged" not in capsys.readouterr().err  # all of them are, always

"""dataset=celeba: CelebA's aligned faces, in torchvision's layout, as Kaggle packs them, or downloaded."""

import zipfile
from pathlib import Path

from common.errors import InputError
from data.images.download import Download, read_or_download
from data.images.files import ImageSource, entry_name, list_files, place_of, read_entry, read_file

CELEBA_SIZE = (178, 218)  # width and height of every aligned image
CELEBA_CROP = 178
PARTITIONS = ("train", "valid", "test")
"""What 0, 1 and 2 in the partition file say."""

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
        return _downloaded(Path(cache_dir).expanduser(), split)
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
        return ImageSource(description, list(files.values()), place_of(images), crop=CELEBA_CROP, size=CELEBA_SIZE)
    where, text = partition
    splits = parse_partition(text, where)
    names = [name for name, number in splits.items() if split in (PARTITIONS[number], "all")]
    if not names:
        raise InputError(f"{where}: lists no images of split {split!r}")
    return ImageSource(
        description,
        [files[name] for name in names if name in files],
        place_of(images),
        crop=CELEBA_CROP,
        size=CELEBA_SIZE,
        missing=[name for name in names if name not in files],
    )


def _celeba_partition(images: Path) -> tuple[str, bytes] | None:
    """(where it is, its bytes) of the partition file beside the images, or in their zip."""
    folders = [images.parent, *([images.parent.parent] if images.parent.name == "img_align_celeba" else [])]
    for path in (folder / name for folder in folders for name in CELEBA_PARTITIONS):
        if path.is_file():
            return str(path), read_file(path)
    if images.is_file():
        with zipfile.ZipFile(images) as archive:
            for info in archive.infolist():
                if entry_name(info).rsplit("/", 1)[-1] in CELEBA_PARTITIONS:
                    try:
                        return f"{images}, {info.filename}", read_entry(archive, info)
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


def _downloaded(root: Path, split: str) -> ImageSource:
    """The split of CelebA in `root/celeba`; downloaded where it is not there, or what is there is not whole."""

    def read() -> ImageSource | None:
        images = _find_celeba(root)
        return None if images is None else _celeba_in(images, split)

    return read_or_download(CELEBA, root, read)


def _fetch(root: Path) -> None:
    from torchvision.datasets import CelebA

    CelebA(str(root), split="all", download=True)


def _checksums() -> dict[str, str]:
    from torchvision.datasets.celeba import CelebA

    return {name: md5 for _, md5, name in CelebA.file_list}


CELEBA = Download(
    title="CelebA",
    folder="celeba",
    size="1.4 GB",
    n_bytes=3 * 10**9,  # the zip, and the folder that torchvision unpacks beside it
    fetch=_fetch,
    checksums=_checksums,
    where=CELEBA_HELP,
)

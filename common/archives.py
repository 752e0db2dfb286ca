"""What a zip archive promises, looked at before anything of it is unpacked."""

import zipfile
from pathlib import Path

LARGEST_GAIN = 100 * 2**20
"""Bytes by which a file of PyTorch may grow where it is read: tensors are stored as they are, and only a program's code
is packed."""


def check_unpacked_size(path: Path) -> None:
    """ValueError for a zip archive that would unpack to far more than its own size, which no file of PyTorch does.

    What is no zip, or a damaged one, is left to whoever reads it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception:  # a damaged directory fails in many ways
        return
    size = path.stat().st_size
    if unpacked > size + LARGEST_GAIN:
        raise ValueError(
            f"its {size / 1e6:,.1f} MB would unpack to {unpacked / 1e6:,.0f} MB, which no file of PyTorch does"
        )

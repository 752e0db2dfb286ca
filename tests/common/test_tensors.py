"""Files of tensors that people share."""

import os
from pathlib import Path

import pytest
import torch

from common.tensors import load_tensors, save_tensors


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_is_readable_as_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    path, before = tmp_path / "x.safetensors", os.umask(umask)
    try:
        save_tensors(path, {"a": torch.arange(3)})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    assert load_tensors(path)["a"].tolist() == [0, 1, 2]

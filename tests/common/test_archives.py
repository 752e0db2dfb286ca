"""Archives that would unpack to gigabytes are refused by every reader of PyTorch's files, before they are unpacked."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common import archives
from common.archives import check_unpacked_size
from common.errors import InputError
from evaluation.features import file_extractor, inception_extractor
from evaluation.foundation import foundation_extractor
from tracking.registry.models import open_program
from training.generators.foreign import load_any_generator
from training.generators.stored import load_generator

CPU = torch.device("cpu")

READERS: dict[str, Callable[[Path], Any]] = {
    "netG.pth": lambda path: load_generator(str(path), CPU),
    "generator.pt": lambda path: load_any_generator(str(path), 8, CPU),
    "features.pt": lambda path: file_extractor(path, CPU, open_program),
    "features.pt2": lambda path: file_extractor(path, CPU, open_program),
    "inception.pth": lambda path: inception_extractor(path, CPU, force=True),
    "dinov2.pth": lambda path: foundation_extractor("dinov2", CPU, path, force=True),
}
"""{file name: its reader}."""


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 4 MB of zeros in 20 kB, where 1 MB is the most that a file may grow."""
    monkeypatch.setattr(archives, "LARGEST_GAIN", 1_000_000)
    torch.save({"model_state_dict": {"l1.weight": torch.zeros(1_000_000)}, "global_step": 1}, tmp_path / "whole.pth")
    path = tmp_path / "packed.pth"
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
    assert path.stat().st_size < 20_000
    return path


@pytest.mark.parametrize("name", READERS)
def test_a_small_file_of_gigabytes_is_not_unpacked(packed: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.load(packed, weights_only=True)["global_step"] == 1  # torch itself unpacks it
    path = packed.rename(packed.with_name(name))
    for reader in ("torch.load", "torch.jit.load", "torch.export.load"):
        monkeypatch.setattr(reader, lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(InputError, match=r"MB would unpack to 4 MB, which no file of PyTorch does") as refused:
        READERS[name](path)
    assert name in str(refused.value)


def test_an_exported_program_of_gigabytes_is_not_unpacked(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered one comes here without the check of files."""
    monkeypatch.setattr("torch.export.load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(ValueError, match="MB would unpack to 4 MB"):
        open_program(packed)


def test_what_pytorch_writes_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program's code is packed."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU())).save(str(tmp_path / "b.pt"))  # type: ignore[no-untyped-call]
    (tmp_path / "text.pt").write_text("no archive")
    for name in ("a.pt", "b.pt", "text.pt", "absent.pt"):
        check_unpacked_size(tmp_path / name)

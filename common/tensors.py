"""Tensors in safetensors files with a checksum: a changed bit would otherwise be read as another number."""

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.archives import check_unpacked_size
from common.files import set_shared_mode

CHECKSUM = "sha256"


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, the SHA-256 of their bytes in its metadata; readable as the umask says."""
    # Cloned, since safetensors refuses tensors that share memory.
    own = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(own, path, metadata={CHECKSUM: _digest(own)})
    set_shared_mode(path, 0o666)  # safetensors writes for its owner alone


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. Files of others, without a checksum, are read as they are; these
    say nothing of themselves but `format`, so that a checksum whose name is damaged is not taken for none.

    Raises FileNotFoundError, another OSError, or ValueError with what is wrong with the file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except OSError:
        raise
    except Exception as error:  # SafetensorError, and what torch says to a damaged type or shape
        raise ValueError(f"not a whole safetensors file ({' '.join(str(error).split())[:150]})") from None
    if CHECKSUM not in metadata and set(metadata) - {"format"}:
        raise ValueError(f"it has no {CHECKSUM}, but {', '.join(sorted(metadata))[:60]}: a part of it has changed")
    if metadata.get(CHECKSUM, (found := _digest(tensors))) != found:
        raise ValueError("its checksum is not right: a part of it has changed")
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_torchscript(path: Path, device: torch.device | str) -> Any:
    """The module of a TorchScript file, in eval mode. ValueError for one that would unpack to far more than its size.

    torch advises its users to write other files than TorchScript; these files are there, and are read in silence.
    """
    check_unpacked_size(path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.load.*deprecated")
        return torch.jit.load(str(path), map_location=device).eval()

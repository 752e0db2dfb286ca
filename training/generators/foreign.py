"""Generators of others: a TorchScript file, or any MLflow model with a `python_function`, that maps codes to images.

Codes [n, nz] of N(0, I) in, images [n, 3, S, S] or [n, 1, S, S] in [-1, 1] out, the same for a code whatever its
neighbours. They can be measured, and sampled with a density ratio: I-SIR needs no gradient and no critic.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import InputError
from common.tensors import load_torchscript
from tracking.registry.models import NoWeights, load_pyfunc
from training.generators.stored import StoredNetwork, load_generator

TORCHSCRIPT = (".pt", ".ts", ".torchscript")


class ForeignGenerator(nn.Module):
    """Codes [n, nz] -> images [n, 3, S, S] by a function of somebody else; one channel becomes three."""

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.make = make

    def forward(self, z: Tensor) -> Tensor:
        """Codes [n, nz] -> images [n, 3, S, S]."""
        x = self.make(z)
        return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


def load_any_generator(uri: str | None, nz: int | None, device: torch.device) -> StoredNetwork:
    """The generator at `uri`: one of this project (`load_generator`), a TorchScript file, or a python_function.

    nz: size of the codes; not needed where the model says it. InputError for anything that makes no images.
    """
    if uri is not None and uri.endswith(TORCHSCRIPT):
        return _torchscript(Path(uri), nz, device)
    try:
        return load_generator(uri, device)
    except NoWeights as fault:
        found = None if uri is None else load_pyfunc(uri)
        if found is None:
            raise fault from None
        predict, known_nz, pinned_uri = found
        return _checked(
            lambda z: _as_tensor(predict(z.detach().cpu().numpy()), z),
            pinned_uri,
            known_nz or nz,
            device=device,
            fingerprint=pinned_uri,
        )


def _torchscript(path: Path, nz: int | None, device: torch.device) -> StoredNetwork:
    if not path.is_file():
        raise InputError(f"model_uri: {path}: no such file")
    try:
        network = load_torchscript(path, device)
    except Exception as error:
        fault = " ".join(str(error).split())[:150]
        raise InputError(f"model_uri: {path} is no TorchScript file ({fault})") from None
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return _checked(network, str(path), nz, device=device, fingerprint=hashlib.sha256(path.read_bytes()).hexdigest())


def _as_tensor(images: object, z: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(images, dtype=np.float32)).to(z.device)


@torch.no_grad()
def _checked(
    make: Callable[[Tensor], Tensor], uri: str, nz: int | None, device: torch.device, fingerprint: str
) -> StoredNetwork:
    """The generator, once a few codes have become images."""
    if not nz:
        raise InputError(f"nz: {uri} does not say how long its latent codes are; give nz, at least 1")
    z = torch.randn(3, nz, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        images = make(z)
    except Exception as error:
        fault = " ".join((str(error).strip() or repr(error)).splitlines()[-1].split())[:200]  # TorchScript's reason
        raise InputError(f"model_uri: {uri} makes nothing of codes [3, {nz}] ({fault}); is nz right?") from None
    shape = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) != 3:
        raise InputError(f"model_uri: {uri} makes {shape} of codes [3, {nz}], not images [3, 3, S, S] or [3, 1, S, S]")
    if images.shape[2] != images.shape[3]:
        raise InputError(f"model_uri: {uri} makes images {shape[2:]}, not square ones")
    low, high = float(images.min()), float(images.max())
    if not -1.01 <= low <= high <= 1.01:  # NaN, too, is no such value
        raise InputError(f"model_uri: the images of {uri} have values from {low:.3g} to {high:.3g}; needed is [-1, 1]")
    if not torch.allclose(make(z[:1]), images[:1], atol=1e-3):
        raise InputError(
            f"model_uri: {uri} makes another image of a code when others are beside it: is it in train mode?"
        )
    return StoredNetwork(
        network=ForeignGenerator(make).eval(),
        uri=uri,
        image_size=images.shape[2],
        nz=nz,
        trained_on={},
        fingerprint=fingerprint,
    )

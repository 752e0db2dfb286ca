"""Generators and critics from the registry, a run or a file, ready to be sampled."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from models import mimicry
from models.wgan import GENERATOR_PLANS, Critic, Generator
from tracking.models import load_weights, newest_model, run_of


@dataclass(frozen=True)
class StoredNetwork:
    """A network in eval mode with what its maker wrote beside it.

    uri: where it came from, versions resolved. trained_on: dataset, split, data_dir, preprocessing_hash, ...; empty where unknown.
    """

    network: nn.Module
    uri: str
    image_size: int
    nz: int
    trained_on: dict[str, Any]


def load_generator(uri: str | None, device: torch.device) -> StoredNetwork:
    """The generator at `uri` (`models:/`, `runs:/`, a folder, a .safetensors file, or a torch-mimicry checkpoint .pth).

    None: the newest registered `wgan-generator`. Raises InputError for anything else.
    """
    if uri is None or uri == "models:/wgan-generator":
        uri = newest_model("wgan-generator").uri
    if uri.endswith(".pth"):
        return _mimicry_generator(Path(uri), device)
    state, config = load_weights(uri)
    if not str(config.get("class", "")).startswith("generator"):
        raise InputError(f"model_uri: {uri} is a {config.get('class', 'model of another kind')}, not a generator")
    size, nz = int(config["image_size"]), int(config["nz"])
    if config.get("nets") == "mimicry":
        network, _ = mimicry.build_networks(size, nz=nz, ngf=int(config["ngf"]))
    else:
        network = Generator(size, nz, int(config["ngf"]))
    return StoredNetwork(_filled(network, state, uri, device), uri, size, nz, dict(config.get("trained_on", {})))


def load_critic(uri: str | None, generator: StoredNetwork, device: torch.device) -> StoredNetwork:
    """The critic at `uri`; None: the one that was trained with `generator`, by the same run."""
    if uri is None:
        if not re.match(r"(models|runs):/", generator.uri):
            raise InputError(f"critic_uri: the generator {generator.uri} is a file; name its critic's file, too")
        uri = f"runs:/{run_of(generator.uri)}/critic"
    state, config = load_weights(uri)
    if config.get("class") != "critic":
        raise InputError(f"critic_uri: {uri} is a {config.get('class', 'model of another kind')}, not a critic")
    size = int(config["image_size"])
    if size != generator.image_size:
        raise InputError(
            f"critic_uri: {uri} rates {size}-pixel images, the generator makes {generator.image_size}-pixel ones"
        )
    if config.get("nets") == "mimicry":
        _, network = mimicry.build_networks(size, ndf=int(config["ndf"]))
    else:
        network = Critic(size, int(config["ndf"]))
    return StoredNetwork(
        _filled(network, state, uri, device), uri, size, generator.nz, dict(config.get("trained_on", {}))
    )


def _mimicry_generator(path: Path, device: torch.device) -> StoredNetwork:
    try:
        state, _ = mimicry.load_checkpoint(path)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"model_uri: {error}") from None
    for size, (bottom, _, shifts) in GENERATOR_PLANS.items():
        last_norm = f"b{len(shifts) + 1}.weight"
        if "l1.weight" not in state or last_norm not in state:
            continue
        rows, nz = state["l1.weight"].shape
        ngf = rows // bottom**2 << shifts[0]
        if rows % bottom**2 == 0 and len(state[last_norm]) == ngf >> shifts[-1]:
            return StoredNetwork(_filled(Generator(size, nz, ngf), state, str(path), device), str(path), size, nz, {})
    raise InputError(f"model_uri: {path} is not a WGAN-GP generator of torch-mimicry at 32, 48, 64 or 128 pixels")


def _filled(network: nn.Module, state: dict[str, Tensor], uri: str, device: torch.device) -> nn.Module:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"model {uri}: its weights do not fit its config ({' '.join(str(error).split())[:150]})"
        ) from None
    return network.to(device).eval().requires_grad_(False)

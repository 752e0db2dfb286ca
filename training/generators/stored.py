"""Generators and critics from the registry, a run or a file, ready to be sampled."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.archives import check_unpacked_size
from common.errors import InputError
from models.gan import isir, mimicry
from models.gan.density_ratio import CoarsePixels, LogRatio, RatioSettings
from models.gan.networks import CRITIC_PLANS, GENERATOR_PLANS, IMAGE_SIZES, Critic, Generator
from tracking.registry.models import load_weights, pinned, run_of
from tracking.registry.programs import Program
from tracking.serving.flavour import Sampler
from training.generators.published import is_published, network_address

LARGEST_SIZE = 65_536
"""Of a layer, and of a latent code."""


@dataclass(frozen=True)
class StoredNetwork:
    """A network in eval mode, with what was stored beside its weights.

    uri: where it came from, with the version's number in place of an alias. trained_on: dataset, split, data_dir,
    preprocessing_hash, ...; empty where unknown. config: what was stored beside the weights; empty for a checkpoint of
    torch-mimicry. fingerprint: SHA-256 of the weights; empty for critics.
    """

    network: nn.Module
    uri: str
    image_size: int
    nz: int
    trained_on: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""


def load_generator(uri: str | None, device: torch.device) -> StoredNetwork:
    """The generator at `uri` (`models:/`, `runs:/`, a folder, one of published weights, too, a .safetensors file, or a
    torch-mimicry checkpoint .pth).

    None: the `wgan-generator` with the alias latest-good. Raises InputError for anything else.
    """
    uri = pinned(uri or "models:/wgan-generator@latest-good")
    if uri.endswith(".pth"):
        return _mimicry_generator(Path(uri), device)
    state, config = load_weights(network_address(uri, "generator"))
    if not str(config.get("class", "")).startswith("generator"):
        raise InputError(f"model_uri: {uri} is a {config.get('class', 'model of another kind')}, not a generator")
    size, nz, ngf = _sizes(config, uri, "image_size", "nz", "ngf")
    if config.get("nets") == "mimicry":
        network = _fitting(lambda: mimicry.build_networks(size, nz=nz, ngf=ngf)[0], state, uri)
    else:
        network = _fitting(lambda: Generator(size, nz, ngf, bool(config.get("grey", False))), state, uri)
    return StoredNetwork(
        network=_filled(network, state, uri, device),
        uri=uri,
        image_size=size,
        nz=nz,
        trained_on=_trained_on(config),
        config=config,
        fingerprint=fingerprint_of(state),
    )


def fingerprint_of(state: dict[str, Tensor]) -> str:
    """SHA-256 over names and values of weights."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def ratio_network(config: Mapping[str, Any]) -> nn.Sequential:
    """Images [n, 3, S, S] in [-1, 1] -> log density ratio [n, 1]: the network that the stored `config` describes.

    ValueError where it describes none.
    """
    try:
        cells, colour, settings = int(config["cells"]), bool(config["colour"]), RatioSettings(**config["settings"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"cells, colour or settings are missing or wrong: {error}") from None
    return nn.Sequential(CoarsePixels(cells, colour), LogRatio(cells**2 * (3 if colour else 1), settings))


def ratio_config(settings: RatioSettings, cells: int, colour: bool, generator: StoredNetwork) -> dict[str, Any]:
    """What is stored beside the weights of a density ratio: how to build it, and for which generator it is."""
    return {
        "class": "density-ratio",
        "image_size": generator.image_size,
        "cells": cells,
        "colour": colour,
        "settings": asdict(settings),
        "generator": generator.uri,
        "generator_fingerprint": generator.fingerprint,
    }


def load_density_ratio(uri: str, generator: StoredNetwork, device: torch.device) -> StoredNetwork:
    """The density ratio at `uri`, which takes the addresses of registered models. It must be this generator's: a ratio
    says how much more likely an image is among the real ones than among those of one generator.
    """
    uri = pinned(uri)
    state, config = load_weights(network_address(uri, "density_ratio"))
    if config.get("class") != "density-ratio":
        kind = config.get("class", "model of another kind")
        raise InputError(f"density ratio {uri}: it is a {kind}; give one that isir_fid registered")
    if config.get("generator_fingerprint") != generator.fingerprint:
        raise InputError(
            f"density ratio {uri}: it was fitted for another generator, {config.get('generator')}, not for "
            f"{generator.uri}: its weights would lead elsewhere; give that generator, or a ratio of this one, which "
            "isir_fid with calibration=fit makes"
        )
    return StoredNetwork(
        network=_filled(_fitting(lambda: ratio_network(config), state, uri), state, uri, device),
        uri=uri,
        image_size=generator.image_size,
        nz=generator.nz,
        trained_on={},
        config=config,
    )


def load_critic(uri: str | None, generator: StoredNetwork, device: torch.device) -> StoredNetwork:
    """The critic at `uri`, which takes the same addresses as a generator's.

    None: the critic that the run of `generator` trained with it, or that is published with it.
    """
    if uri is None and is_published(generator.uri):
        uri = generator.uri
    if uri is None:
        if not re.match(r"(models|runs):/", generator.uri):
            raise InputError(
                f"critic_uri: the generator {generator.uri} is a file; name its critic's, too (publish: --critic), "
                "or give isir_fid samplers=calibrated, which needs none"
            )
        uri = f"runs:/{run_of(generator.uri)}/critic"
    if uri.endswith(".pth"):
        return _mimicry_critic(Path(uri), generator, device)
    state, config = load_weights(network_address(uri, "critic"))
    if config.get("class") != "critic":
        raise InputError(f"critic_uri: {uri} is a {config.get('class', 'model of another kind')}, not a critic")
    size, ndf = _sizes(config, uri, "image_size", "ndf")
    if size != generator.image_size:
        raise InputError(
            f"critic_uri: {uri} rates {size}-pixel images, the generator makes {generator.image_size}-pixel ones"
        )
    if config.get("nets") == "mimicry":
        network = _fitting(lambda: mimicry.build_networks(size, ndf=ndf)[1], state, uri)
    else:
        network = _fitting(lambda: Critic(size, ndf), state, uri)
    return StoredNetwork(
        network=_filled(network, state, uri, device),
        uri=uri,
        image_size=size,
        nz=generator.nz,
        trained_on=_trained_on(config),
        config=config,
    )


def _sizes(config: Mapping[str, Any], uri: str, *names: str) -> list[int]:
    """The numbers of those names; InputError for one that is missing, no size, or of a network that is never built."""
    sizes = [config.get(name) for name in names]
    for name, size in zip(names, sizes, strict=True):
        allowed = IMAGE_SIZES if name == "image_size" else range(1, LARGEST_SIZE + 1)
        if type(size) is not int or size not in allowed:
            raise InputError(
                f"model {uri}: its config.json says {name}={str(size)[:40]}, which is no size of a network here: give "
                "another model, or the config.json that belongs to it"
            )
    return [size for size in sizes if size is not None]


def _trained_on(config: Mapping[str, Any]) -> dict[str, Any]:
    known = config.get("trained_on")
    return dict(known) if isinstance(known, dict) else {}


def sampler_with(
    critic: nn.Module | Program | None, ratio: nn.Module | Program | None = None, iterations: int = 5
) -> Sampler:
    """What lets a registered generator be served as a sampler, with I-SIR by `critic`, and by `ratio` in `iterations`
    where a request does not say how many.
    """
    return Sampler(critic, Path(isir.__file__), ratio, iterations)


def _mimicry_state(path: Path) -> dict[str, Tensor]:
    try:
        check_unpacked_size(path)
        state, _ = mimicry.load_checkpoint(path)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; give a checkpoint of torch-mimicry, such as netG_100000_steps.pth"
        ) from None
    except ValueError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    return state


def _mimicry_generator(path: Path, device: torch.device) -> StoredNetwork:
    state = _mimicry_state(path)
    first = state.get("l1.weight")
    for size, (bottom, _, shifts) in GENERATOR_PLANS.items():
        last_norm = state.get(f"b{len(shifts) + 1}.weight")
        if first is None or last_norm is None or first.dim() != 2:
            continue
        rows, nz = first.shape
        ngf = rows // bottom**2 << shifts[0]
        if rows and rows % bottom**2 == 0 and len(last_norm) == ngf >> shifts[-1]:
            network = _filled(Generator(size, nz, ngf), state, str(path), device)
            return StoredNetwork(
                network=network,
                uri=str(path),
                image_size=size,
                nz=nz,
                trained_on={},
                fingerprint=fingerprint_of(state),
            )
    raise InputError(f"{path} is not a WGAN-GP generator of torch-mimicry at 32, 48, 64 or 128 pixels")


def _mimicry_critic(path: Path, generator: StoredNetwork, device: torch.device) -> StoredNetwork:
    """A critic's weights do not say whether it is for 48 or 64 pixels: the generator does."""
    state, size = _mimicry_state(path), generator.image_size
    last = state.get(f"l{len(CRITIC_PLANS[size][1]) + 1}.weight")
    try:
        if last is None or last.dim() != 2:
            raise ValueError("the last layer is missing")
        network = Critic(size, last.shape[1])
    except ValueError as error:
        raise InputError(f"{path} is not a WGAN-GP critic of torch-mimicry at {size} pixels ({error})") from None
    filled = _filled(network, state, str(path), device)
    return StoredNetwork(network=filled, uri=str(path), image_size=size, nz=generator.nz, trained_on={})


def _fitting(build: Callable[[], nn.Module], state: Mapping[str, Tensor], uri: str) -> nn.Module:
    """The network, built once its sizes are known to be those of the weights: others may need any amount of memory."""
    try:
        with torch.device("meta"):
            expected = {name: value.shape for name, value in build().state_dict().items()}
    except (ValueError, RuntimeError) as error:  # no such width, or one whose memory overflows
        raise InputError(f"model {uri}: no network has the sizes of its config.json ({error})") from None
    found = {name: value.shape for name, value in state.items()}
    for name in (*expected, *found):
        if expected.get(name) != found.get(name):
            shapes = [list(shape) if shape is not None else "absent" for shape in (found.get(name), expected.get(name))]
            raise InputError(
                f"model {uri}: its weights do not fit its architecture ({name} is {shapes[0]}, expected {shapes[1]})"
            )
    return build()


def _filled(network: nn.Module, state: dict[str, Tensor], uri: str, device: torch.device) -> nn.Module:
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise InputError(
            f"model {uri}: its weights do not fit its architecture ({' '.join(str(error).split())[:150]})"
        ) from None
    return network.to(device).eval().requires_grad_(False)

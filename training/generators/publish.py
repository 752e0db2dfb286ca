r"""Make a folder of published weights of registered networks:

    python -m training.generators.publish models:/wgan-generator/1 weights/faces \
        --density_ratio models:/wgan-density-ratio/1

The critic is the one that the generator's run trained. What the networks were trained on goes with them, but for the
path of the images. training/generators/published.py says what is in the folder; docs/serving.md shows it.
"""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError, run_main
from common.files import atomic_folder
from common.tensors import save_tensors
from tracking.registry.models import CONFIG_NAME, WEIGHTS_NAME, load_weights
from training.generators.foreign import TORCHSCRIPT
from training.generators.published import is_published, network_address, published_networks, write_checksums
from training.generators.stored import load_critic, load_density_ratio, load_generator

CPU = torch.device("cpu")


def publish(folder: Path, generator_uri: str, critic_uri: str | None, ratio_uri: str | None) -> None:
    """Write the networks to `folder`, which must not exist. InputError for networks that do not belong together."""
    if folder.exists():
        raise InputError(f"{folder} exists: name another folder, or remove it")
    if generator_uri.endswith((*TORCHSCRIPT, ".pth")):
        raise InputError(
            f"generator: {generator_uri} is a file of another project, which its own authors publish; give a generator "
            "that wgan trained, such as models:/wgan-generator/1"
        )
    generator = load_generator(generator_uri, CPU)
    critic = load_critic(critic_uri, generator, CPU)
    addresses = {"generator": generator.uri, "critic": critic.uri}
    if ratio_uri is None and is_published(generator.uri) and "density_ratio" in published_networks(generator.uri):
        ratio_uri = generator.uri
    if ratio_uri is not None:
        addresses["density_ratio"] = load_density_ratio(ratio_uri, generator, CPU).uri
    networks = {name: load_weights(network_address(uri, name)) for name, uri in addresses.items()}
    with atomic_folder(folder) as temporary:
        for name, (state, config) in networks.items():
            _write(temporary / name, state, _without_paths(config, folder.name))
        write_checksums(temporary)


def _write(folder: Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    folder.mkdir()
    save_tensors(folder / WEIGHTS_NAME, state)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=1) + "\n")


def _without_paths(config: dict[str, Any], title: str) -> dict[str, Any]:
    """What is stored beside the weights, without the places of one machine and one registry."""
    known = dict(config)
    if isinstance(known.get("trained_on"), dict):
        known["trained_on"] = {**known["trained_on"], "data_dir": ""}
    if "generator" in known:  # a density ratio's
        known["generator"] = title
    return known


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.generators.publish", description=__doc__.splitlines()[0])
    parser.add_argument("generator", help="models:/wgan-generator/1, or another address of a stored generator")
    parser.add_argument("folder", type=Path, help="where to; it must not exist")
    parser.add_argument("--critic", help="default: the one that belongs to the generator")
    parser.add_argument(
        "--density_ratio",
        help="models:/wgan-density-ratio/1: the generator's; default: that of a published folder, else none",
    )
    arguments = parser.parse_args(argv)
    publish(arguments.folder, arguments.generator, arguments.critic, arguments.density_ratio)
    size = sum(file.stat().st_size for file in arguments.folder.rglob("*") if file.is_file())
    print(
        f"{arguments.folder}: {size / 1e6:.1f} MB; "
        f"python -m tracking import {shlex.quote(str(arguments.folder))} registers it"
    )
    return 0


if __name__ == "__main__":
    run_main(main)

r"""Make a folder of published weights of registered networks:

    python -m training.generators.publish models:/wgan-generator/1 weights/faces \
        --density_ratio models:/wgan-density-ratio/1

The critic is the one that the generator's run trained. What the networks were trained on goes with them, but for the
path of the images. training/generators/published.py says what is in the folder; docs/serving.md shows it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError, run_main
from common.files import atomic_folder
from common.tensors import save_tensors
from tracking.registry.models import CONFIG_NAME, WEIGHTS_NAME, load_weights
from training.generators.published import write_checksums
from training.generators.stored import load_critic, load_density_ratio, load_generator

CPU = torch.device("cpu")


def publish(folder: Path, generator_uri: str, critic_uri: str | None, ratio_uri: str | None) -> None:
    """Write the networks to `folder`, which must not exist. InputError for networks that do not belong together."""
    if folder.exists():
        raise InputError(f"{folder} exists: name another folder, or remove it")
    generator = load_generator(generator_uri, CPU)
    critic = load_critic(critic_uri, generator, CPU)
    networks = {"generator": load_weights(generator.uri), "critic": load_weights(critic.uri)}
    if ratio_uri is not None:
        networks["density_ratio"] = load_weights(load_density_ratio(ratio_uri, generator, CPU).uri)
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
    parser.add_argument("--critic", help="default: the critic that the generator's run registered")
    parser.add_argument("--density_ratio", help="models:/wgan-density-ratio/1: the generator's; default: none")
    arguments = parser.parse_args(argv)
    publish(arguments.folder, arguments.generator, arguments.critic, arguments.density_ratio)
    size = sum(file.stat().st_size for file in arguments.folder.rglob("*") if file.is_file())
    print(f"{arguments.folder}: {size / 1e6:.1f} MB; python -m tracking import {arguments.folder} registers it")
    return 0


if __name__ == "__main__":
    run_main(main)

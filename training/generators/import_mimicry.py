"""Register networks that torch-mimicry trained: `python -m training.generators.import_mimicry netG_100000_steps.pth
netD_100000_steps.pth`.

Only tensors and plain values are unpickled from the files. Afterwards `fid`, `isir_fid`, `promote` and `mlflow models
serve` take them like any generator of this project; docs/serving.md shows it.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError, run_main
from data.images.load import load_images
from data.images.sources import DATASETS
from tracking.run import start_run
from training.generators.registration import register_networks
from training.generators.stored import StoredNetwork, load_critic, load_generator

CPU = torch.device("cpu")


def trained_on(dataset: str | None, data_dir: Path | None, split: str, image_size: int) -> dict[str, Any]:
    """What `fid` needs to prepare its reference images as the training images were; empty without a dataset."""
    if dataset is None:
        return {}
    images = load_images(dataset, image_size, split, data_dir)
    return {
        "dataset": dataset,
        "split": split,
        "data_dir": str(data_dir.absolute()) if data_dir else None,
        "data_fingerprint": images.fingerprint,
        "split_fingerprint": images.fingerprint,
        "preprocessing_hash": images.preprocessing_hash,
    }


def described(
    generator: StoredNetwork, critic: StoredNetwork | None, facts: dict[str, Any]
) -> tuple[StoredNetwork, StoredNetwork | None]:
    """Both with what is stored beside weights of this project; torch-mimicry's checkpoints say nothing."""
    shape = {"image_size": generator.image_size, "nets": "own", "trained_on": facts}
    sizes = {"nz": generator.nz, "ngf": generator.network.ngf}
    generator = replace(generator, config={"class": "generator", **shape, **sizes, "weights": "raw"})
    if critic is not None:
        critic = replace(critic, config={"class": "critic", **shape, "ndf": critic.network.ndf})
    return generator, critic


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.generators.import_mimicry", description=__doc__.splitlines()[0]
    )
    parser.add_argument("generator", type=Path, help="netG_..._steps.pth of torch-mimicry's WGAN-GP")
    parser.add_argument("critic", type=Path, nargs="?", help="its netD_..._steps.pth: without it, no I-SIR")
    parser.add_argument("--name", default="wgan", help="registers NAME-generator and NAME-critic (default: wgan)")
    parser.add_argument("--dataset", choices=DATASETS, help="what it was trained on, so that fid knows its reference")
    parser.add_argument("--data_dir", type=Path, help="folder or zip of those images")
    parser.add_argument("--split", default="train", choices=("train", "valid", "test", "all"), help="default: train")
    arguments = parser.parse_args(argv)
    for path in (arguments.generator, arguments.critic):
        if path is not None and path.suffix != ".pth":
            raise InputError(f"{path}: torch-mimicry's checkpoints end in .pth (netG_100000_steps.pth)")
    generator = load_generator(str(arguments.generator), CPU)
    critic = load_critic(str(arguments.critic), generator, CPU) if arguments.critic else None
    facts = trained_on(arguments.dataset, arguments.data_dir, arguments.split, generator.image_size)
    generator, critic = described(generator, critic, facts)
    files = {"generator": str(arguments.generator), "critic": str(arguments.critic or "")}
    tags = {"source": "torch-mimicry", "image_size": generator.image_size}
    with start_run("import_mimicry", {**files, "name": arguments.name, **facts}) as run:
        registered = register_networks(run, arguments.name, generator=generator, critic=critic, ratio=None, tags=tags)
    for model in registered:
        print(f"{model.uri}: {generator.image_size} pixels")
    return 0


if __name__ == "__main__":
    run_main(main)

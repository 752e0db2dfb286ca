"""Register networks that torch-mimicry trained: `python -m training.generators.import_mimicry netG_100000_steps.pth
netD_100000_steps.pth`.

Only tensors and plain values are unpickled from the files. Afterwards `fid`, `isir_fid`, `promote` and `mlflow models
serve` take them like any generator of this project; docs/serving.md shows it.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError, run_main
from data.images.load import load_images
from data.images.sources import DATASETS
from tracking.registry.models import ModelInfo, log_model
from tracking.run import start_run
from training.generators.stored import StoredNetwork, load_critic, load_generator, sampler_with

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


def register(
    files: dict[str, Path], generator: StoredNetwork, critic: StoredNetwork | None, name: str, facts: dict[str, Any]
) -> list[ModelInfo]:
    """Register the networks by one run, the critic first; returns what was registered."""
    params = {"generator": str(files["generator"]), "critic": str(files.get("critic", "")), "name": name, **facts}
    shape = {"image_size": generator.image_size, "nets": "own", "trained_on": facts}
    tags = {"source": "torch-mimicry", "image_size": generator.image_size}
    z = torch.randn(4, generator.nz, generator=torch.Generator().manual_seed(0))
    registered = []
    with start_run("import_mimicry", params) as run, torch.no_grad():
        if critic is not None:
            registered.append(
                log_model(
                    run=run,
                    module=critic.network,
                    name="critic",
                    example=generator.network(z).numpy(),
                    registered_name=f"{name}-critic",
                    config={"class": "critic", **shape, "ndf": critic.network.ndf},
                    tags=tags,
                    metadata=tags,
                )
            )
        registered.append(
            log_model(
                run=run,
                module=generator.network,
                name="generator",
                example=z.numpy(),
                registered_name=f"{name}-generator",
                config={
                    "class": "generator",
                    **shape,
                    "nz": generator.nz,
                    "ngf": generator.network.ngf,
                    "weights": "raw",
                },
                tags=tags,
                metadata=tags,
                sampler=sampler_with(critic.network if critic else None),
            )
        )
    return registered


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
    files = {"generator": arguments.generator} | ({"critic": arguments.critic} if critic else {})
    registered = register(files=files, generator=generator, critic=critic, name=arguments.name, facts=facts)
    for model in registered:
        print(f"{model.uri}: {generator.image_size} pixels")
    return 0


if __name__ == "__main__":
    run_main(main)

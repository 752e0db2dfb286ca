"""Register networks that were not trained here: published weights and torch-mimicry's checkpoints."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError
from tracking.registry.models import ModelInfo, log_model, newest_model
from tracking.registry.programs import Program
from tracking.run import AnyRun, start_run
from training.generators.published import NETWORKS, SUMS, checksums, is_published
from training.generators.stored import (
    StoredNetwork,
    load_critic,
    load_density_ratio,
    load_generator,
    sampler_with,
)

CPU = torch.device("cpu")


@torch.no_grad()
def register_networks(
    run: AnyRun,
    name: str,
    *,
    generator: StoredNetwork,
    critic: StoredNetwork | None,
    ratio: StoredNetwork | None,
    tags: Mapping[str, Any],
) -> list[ModelInfo]:
    """Register NAME-critic, NAME-density-ratio and, last, NAME-generator, which serves as a sampler with both.

    The `config` of each network is what its constructor needs.
    """
    z = torch.randn(4, generator.nz, generator=torch.Generator().manual_seed(0))
    images, registered = generator.network(z).numpy(), []
    programs: dict[str, Program] = {}
    for part, rater in (("critic", critic), ("density_ratio", ratio)):
        if rater is not None:
            programs[part] = Program(rater.network, images)
            registered.append(
                log_model(
                    run=run,
                    module=programs[part],
                    name=part,
                    example=images,
                    registered_name=f"{name}-{part.replace('_', '-')}",
                    config=rater.config,
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
            config=generator.config,
            tags=tags,
            metadata=tags,
            sampler=sampler_with(programs.get("critic"), programs.get("density_ratio")),
        )
    )
    return registered


def register_published(folder: Path) -> ModelInfo:
    """Register the published weights in `folder` under its name; the generator. Those that are registered already are
    found again.
    """
    address = str(folder)
    if not is_published(address):
        raise InputError(
            f"{folder}: no folder of published weights (it has no {SUMS}); give one, such as pretrained/digits32"
        )
    there = {file.split("/")[0] for file in checksums(folder)}
    generator = load_generator(address, CPU)
    critic = load_critic(None, generator, CPU) if NETWORKS[1] in there else None
    ratio = load_density_ratio(address, generator, CPU) if NETWORKS[2] in there else None
    name = folder.absolute().name
    tags = {"published": hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()}
    try:
        return newest_model(f"{name}-generator", **tags)
    except InputError:  # it is not there yet
        with start_run("import", {"folder": address, "name": name}) as run:
            return register_networks(run, name, generator=generator, critic=critic, ratio=ratio, tags=tags)[-1]

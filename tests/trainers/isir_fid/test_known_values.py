"""Values that are looked up: the same chains, without the images."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.gan.isir import run_chains
from tests.models.gan.test_isir import linear_critic, networks
from trainers.isir_fid.known_values import KnownValues


def compute_all(z: Tensor, compute: Callable[[], Tensor]) -> Tensor:
    return compute()


@pytest.mark.parametrize("kernel", ["isir", "mala", "ex2mcmc"])
def test_known_values_change_nothing(kernel: Any) -> None:
    """Other weights, another beta and fewer chains under one seed, with what the first call has computed."""
    D, G = networks()
    known = KnownValues()
    for n, weights, beta in (
        (40, "importance", 1.0),
        (40, "density", 1.0),
        (40, "importance", 0.3),
        (18, "density", 3),
    ):
        alone, helped = (
            run_chains(
                D,
                G,
                n_chains=n,
                n_iterations=3,
                n_particles=10,
                n_z=6,
                kernel=kernel,
                weights=weights,  # type: ignore[arg-type]
                beta=beta,
                generator=torch.Generator().manual_seed(0),
                keep=(0, 2),
                lookup=lookup,
            )
            for lookup in (compute_all, known.of)
        )
        assert torch.equal(alone.z, helped.z)
        assert torch.equal(alone.value, helped.value)
        assert torch.equal(alone.kept[2], helped.kept[2])
        assert (alone.curves, alone.images) == (helped.curves, helped.images)


def test_images_under_one_seed_are_made_once() -> None:
    seen: list[int] = []

    def counting_generator(z: Tensor) -> Tensor:
        seen.append(len(z))
        return z

    def images_made(n: int, known: KnownValues, **settings: Any) -> int:
        seen.clear()
        random = torch.Generator().manual_seed(0)
        sizes = {"n_iterations": 5, "n_particles": 10, "n_z": 2, **settings}
        run_chains(linear_critic, counting_generator, n_chains=n, generator=random, lookup=known.of, **sizes)
        return sum(seen)

    known = KnownValues()
    assert images_made(1000, known) == 1000 * 51
    assert known.spared_seconds == 0
    assert images_made(1000, known, weights="density") == 0
    assert known.spared_seconds > 0
    assert images_made(1000, known, beta=3.0) == 0
    assert images_made(500, known) == 4 * 51  # an incomplete block of chains: 500 = 31 * 16 + 4
    assert images_made(500, known, n_particles=3) > 0
    assert images_made(16, known, n_z=3) == 16 * 51

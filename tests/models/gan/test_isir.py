"""I-SIR, MALA and Ex2MCMC on a toy whose targets are known exactly, and against the exercise's pseudo-code."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.isir import pseudo_code
from models.gan.isir import I_SIR, Chains, run_chains
from models.gan.networks import Critic, Generator

SLOPE = 1.0


def identity(z: Tensor) -> Tensor:
    return z


def linear_critic(x: Tensor) -> Tensor:
    """D(G(z)) = s z_1: then p* = N(s e_1, I), and the density weights' target is N(s/2 e_1, I/2)."""
    return SLOPE * x[:, :1]


def toy(n_chains: int = 4000, **settings: Any) -> Tensor:
    defaults: dict[str, Any] = {"n_iterations": 60, "n_particles": 20, "n_z": 2, "chunk_images": 10**6}
    generator = torch.Generator().manual_seed(1)
    return run_chains(
        linear_critic, identity, n_chains=n_chains, generator=generator, **{**defaults, **settings}
    ).z.double()


def assert_gaussian(z: Tensor, mean: float, variance: float) -> None:
    """z [n, 2] looks like N((mean, 0), variance I), to five standard errors of mean and variance."""
    n = len(z)
    error = 5 * math.sqrt(variance / n)
    assert z[:, 0].mean().item() == pytest.approx(mean, abs=error)
    assert z[:, 1].mean().item() == pytest.approx(0, abs=error)
    for dimension in (0, 1):
        assert z[:, dimension].var().item() == pytest.approx(variance, abs=5 * variance * math.sqrt(2 / n))


def test_importance_weights_reach_the_target_of_the_exercise() -> None:
    assert_gaussian(toy(weights="importance"), SLOPE, 1.0)


def test_density_weights_count_the_prior_twice() -> None:
    assert_gaussian(toy(weights="density"), SLOPE / 2, 0.5)


@pytest.mark.parametrize("weights", ["importance", "density"])
@pytest.mark.parametrize("kernel", ["mala", "ex2mcmc"])
def test_mala_and_ex2mcmc_reach_the_target_of_their_weights(kernel: str, weights: str) -> None:
    z = toy(kernel=kernel, weights=weights, step_size=0.3, n_particles=5)
    assert_gaussian(z, *((SLOPE, 1.0) if weights == "importance" else (SLOPE / 2, 0.5)))


def test_beta_scales_the_critic() -> None:
    assert_gaussian(toy(beta=0.5), SLOPE / 2, 1.0)


def test_a_critic_that_says_nothing_leaves_the_prior() -> None:
    z = run_chains(
        lambda x: torch.zeros(len(x)),
        identity,
        n_chains=4000,
        n_iterations=10,
        n_particles=5,
        n_z=2,
        generator=torch.Generator().manual_seed(0),
    ).z
    assert_gaussian(z.double(), 0.0, 1.0)


def networks() -> tuple[Critic, Generator]:
    torch.manual_seed(0)
    D, G = Critic(32, 16).eval(), Generator(32, 6, 16).eval()
    with torch.no_grad():
        D.linear.weight.mul_(30)  # enough for the critic to decide something
    return D, G


@pytest.mark.parametrize("weights", ["importance", "density"])
def test_equal_to_the_pseudo_code_for_equal_randomness(weights: Any) -> None:
    D, G = networks()
    z = I_SIR(N_i=4, N_s=20, N_p=5, n_z=6, D=D, G=G, weights=weights, generator=torch.Generator().manual_seed(3))
    assert z.shape == (20, 6)
    with torch.no_grad():
        expected = pseudo_code(N_i=4, N_s=20, N_p=5, n_z=6, D=D, G=G, seed=3, weights=weights)
    assert torch.equal(z, expected)


@pytest.mark.parametrize("kernel", ["isir", "mala", "ex2mcmc"])
def test_results_do_not_depend_on_the_chunking(kernel: Any) -> None:
    D, G = networks()
    results = [
        run_chains(
            D,
            G,
            n_chains=40,
            n_iterations=3,
            n_particles=4,
            n_z=6,
            kernel=kernel,
            chunk_images=chunk,
            generator=torch.Generator().manual_seed(0),
            keep=(0, 2),
        )
        for chunk in (16, 10_000)
    ]
    assert torch.allclose(results[0].z, results[1].z, atol=1e-5)
    assert torch.allclose(results[0].value, results[1].value, atol=1e-4)
    assert torch.equal(results[0].kept[0], results[1].kept[0])
    assert results[0].kept.keys() == {0, 2}
    for name, curve in results[0].curves.items():
        assert curve == pytest.approx(results[1].curves[name], abs=1e-3), name


def test_the_kept_particle_is_not_evaluated_again() -> None:
    seen = []

    def counting_generator(z: Tensor) -> Tensor:
        seen.append(len(z))
        return z

    chains = run_chains(
        linear_critic,
        counting_generator,
        n_chains=18,
        n_iterations=3,
        n_particles=4,
        n_z=2,
        generator=torch.Generator(),
    )
    assert sum(seen) == chains.images == 18 * (1 + 3 * 4)


def test_values_belong_to_the_particles() -> None:
    D, G = networks()
    for kernel in ("isir", "mala", "ex2mcmc"):
        chains = run_chains(
            D,
            G,
            n_chains=8,
            n_iterations=3,
            n_particles=4,
            n_z=6,
            kernel=kernel,
            generator=torch.Generator().manual_seed(0),
        )  # type: ignore[arg-type]
        with torch.no_grad():
            assert torch.allclose(chains.value, D(G(chains.z)).squeeze(1), atol=1e-4), kernel


def test_all_samplers_start_from_the_same_codes() -> None:
    starts = [
        run_chains(
            linear_critic,
            identity,
            n_chains=20,
            n_iterations=1,
            n_particles=p,
            n_z=2,
            kernel=kernel,
            weights=weights,
            generator=torch.Generator().manual_seed(0),
            keep=(0,),
        ).kept[0]
        for kernel, weights, p in (("isir", "importance", 2), ("isir", "density", 7), ("mala", "importance", 2))
    ]  # type: ignore[arg-type]
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2])


def test_curves_at_the_extremes() -> None:
    """Even weights: all particles count. A critic of huge scale: one does, and the chain stays where it is best."""
    common: dict[str, Any] = {"n_chains": 64, "n_iterations": 4, "n_particles": 3, "n_z": 2}
    flat = run_chains(lambda x: torch.zeros(len(x)), identity, generator=torch.Generator().manual_seed(0), **common)
    assert flat.curves["ess"] == pytest.approx([4.0] * 4)
    steep = run_chains(linear_critic, identity, beta=1e6, generator=torch.Generator().manual_seed(0), **common)
    assert steep.curves["ess"] == pytest.approx([1.0] * 4, abs=1e-3)
    assert steep.curves["critic"] == sorted(steep.curves["critic"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_iterations": 0}, "n_iterations=0"),
        ({"n_particles": 0}, "n_particles=0"),
        ({"step_size": 0.0}, "step_size=0.0"),
        ({"beta": math.nan}, "beta=nan"),
        ({"weights": "flat"}, "weights='flat'"),
        ({"kernel": "i-sir"}, "kernel='i-sir': allowed are isir, mala, ex2mcmc"),
        ({"keep": (0, 2)}, r"keep=\[0, 2\]"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], words: str) -> None:
    settings = {"n_chains": 4, "n_iterations": 1, "n_particles": 1, "n_z": 2, **change}
    with pytest.raises(ValueError, match=words):
        run_chains(linear_critic, identity, generator=torch.Generator(), **settings)


def test_without_a_generator_the_global_stream_is_drawn_from() -> None:
    D, G = networks()
    torch.manual_seed(0)
    first, second = (I_SIR(N_i=2, N_s=8, N_p=3, n_z=6, D=D, G=G) for _ in range(2))
    assert not torch.equal(first, second)  # batches of one evaluation must not be copies
    torch.manual_seed(0)
    assert torch.equal(I_SIR(N_i=2, N_s=8, N_p=3, n_z=6, D=D, G=G), first)


def test_a_generator_in_train_mode_is_refused() -> None:
    D, G = networks()
    with pytest.raises(ValueError, match="G is in train mode"):
        I_SIR(N_i=1, N_s=4, N_p=1, n_z=6, D=D, G=G.train())


def test_a_broken_critic_is_reported() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        I_SIR(N_i=1, N_s=4, N_p=1, n_z=2, D=lambda x: torch.full((len(x),), math.nan), G=identity)


@pytest.mark.parametrize(("kernel", "images"), [("mala", 1 + 5 * 3), ("ex2mcmc", 1 + 5 * (4 + 3))])
def test_mala_computes_no_place_twice(kernel: Any, images: int) -> None:
    """Neither between iterations nor at the start; Ex2MCMC looks anew at the chains that I-SIR has moved, and only
    there.
    """
    chains = toy_chains(kernel=kernel)
    moved = round(18 * sum(chains.curves.get("moved", [])))
    assert chains.images == 18 * images + moved
    assert chains.value.tolist() == pytest.approx((SLOPE * chains.z[:, 0]).tolist())


def test_mala_in_iterations_is_mala_in_one() -> None:
    """Three iterations of two steps from the same draws are one of six: nothing is lost or computed anew in between."""
    once, thrice = (toy_chains(kernel="mala", n_iterations=n, mala_steps=6 // n) for n in (1, 3))
    assert torch.equal(once.z, thrice.z)
    assert torch.equal(once.value, thrice.value)
    assert once.images == thrice.images == 18 * (1 + 6)


def toy_chains(**settings: Any) -> Chains:
    defaults: dict[str, Any] = {"n_iterations": 5, "n_particles": 4, "n_z": 2, "mala_steps": 3, "step_size": 0.3}
    generator = torch.Generator().manual_seed(1)
    return run_chains(linear_critic, identity, n_chains=18, generator=generator, **{**defaults, **settings})

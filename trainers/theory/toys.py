"""Data in the plane with gaps, where all is known: what I-SIR gains by a critic and by a density ratio.

A generator of few parameters maps N(0, I), which has no gaps, onto data that have some: a share of its points lies
between the modes. For each toy: data -> WGAN-GP -> density ratio of the frozen, averaged generator -> I-SIR with each
weight from the same start codes -> the share of points near the data, and distances from the truth.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.progress import Progress
from evaluation.calibration import Calibration, calibration_of, in_words
from evaluation.distances import wasserstein_of_samples
from models.gan.density_ratio import RatioSettings, fit_log_ratio, platt_scale
from models.gan.ema import GeneratorEMA
from models.gan.isir import Weights, run_chains
from models.gan.step import critic_step_gradients, generator_step_gradients
from trainers.theory.config import TheoryConfig

NZ, WIDTH, BATCH_SIZE, N_DIS, GP_SCALE, LEARNING_RATE = 2, 128, 256, 3, 1.0, 5e-4
N_PARTICLES = 10
NEAR = 4.0
"""A point is near the data within so many standard deviations; of the data themselves, 0.03 % are not."""
N_TRANSPORT, REPEATS = 1000, 3
"""Points of each side that are transported, and how often: the distance is the mean."""

RATIO = RatioSettings(
    noise=0.0,
    folds=2,
    hidden_layers=3,
    dropout=0.0,
    epochs=60,
    batch_size=256,
    learning_rate=3e-3,
    weight_decay=0.0,
)
"""Points in the plane need no coarsening and no noise: the two laws have densities, and they overlap."""


@dataclass(frozen=True)
class Toy:
    """A mixture in the plane: Gaussians of one standard deviation round `anchors` [k, 2], all of equal weight.

    Modes, or points so close on a curve that the mixture is the curve with noise. part: the mode, or the piece of the
    curve, that each anchor belongs to, int64 [k]; all parts have as many anchors. effort: share of `toy_steps` that is
    enough to train on it.
    """

    name: str
    anchors: Tensor
    part: Tensor
    effort: float
    sd: float = 0.05

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n points [n, 2]."""
        centres = self.anchors[torch.randint(len(self.anchors), (n,), generator=generator)]
        return centres + self.sd * torch.randn(n, 2, generator=generator)

    @property
    def n_parts(self) -> int:
        return int(self.part.max()) + 1


def gaussians_on_a_grid() -> Toy:
    """25 Gaussians on a grid of spacing 1 (Azadi et al. 2019, section 4.1)."""
    axis = torch.arange(-2.0, 3.0)
    return Toy("25 Gaussians", torch.cartesian_prod(axis, axis), torch.arange(25), effort=1.0)


def gaussians_on_a_ring() -> Toy:
    """8 Gaussians on a circle of radius 2."""
    angle = torch.arange(8) * (2 * math.pi / 8)
    return Toy("ring of 8", 2 * torch.stack([angle.cos(), angle.sin()], 1), torch.arange(8), effort=0.32)


def two_moons() -> Toy:
    """Two half circles of radius 1 that reach into each other (scikit-learn's make_moons), each in 10 pieces."""
    t = (torch.arange(200) + 0.5) * (math.pi / 200)
    upper, lower = torch.stack([t.cos(), t.sin()], 1), torch.stack([1 - t.cos(), 0.5 - t.sin()], 1)
    return Toy("two moons", torch.cat([upper, lower]), torch.arange(400) // 20, effort=0.32)


TOYS = {"grid": gaussians_on_a_grid, "ring": gaussians_on_a_ring, "moons": two_moons}


@dataclass(frozen=True)
class Quality:
    """Points beside the truth. near: share within NEAR standard deviations of an anchor. parts: how many parts have at
    least a tenth of their share of near points. total_variation: between the histogram over the parts and "near none",
    and the truth. wasserstein: W1 to fresh points of the data.
    """

    near: float
    parts: int
    total_variation: float
    wasserstein: float


def quality(x: Tensor, toy: Toy, truth: Tensor) -> Quality:
    """Points [n, 2] beside `truth`, as many fresh points of the toy."""
    distance, nearest = torch.cdist(x, toy.anchors).min(1)
    near = distance < NEAR * toy.sd
    share = torch.bincount(toy.part[nearest[near]], minlength=toy.n_parts).double() / len(x)
    n = min(N_TRANSPORT, len(x) // REPEATS)
    distances = [
        wasserstein_of_samples(*(points[i * n : (i + 1) * n].double().numpy() for points in (x, truth)))[0]
        for i in range(REPEATS)
    ]
    return Quality(
        near=float(near.double().mean()),
        parts=int((share >= 0.1 / toy.n_parts).sum()),
        total_variation=0.5 * float((share - 1 / toy.n_parts).abs().sum() + 1 - share.sum()),
        wasserstein=sum(distances) / REPEATS,
    )


@dataclass(frozen=True)
class ToyResult:
    """{sampler: points [n, 2]}, {sampler: quality}, and what critic and ratio are worth as log ratios."""

    toy: Toy
    points: dict[str, Tensor]
    qualities: dict[str, Quality]
    calibrations: dict[str, Calibration]

    @property
    def words(self) -> list[str]:
        """What the figures say about critic and ratio."""
        return [in_words(found, f"the {name}") for name, found in self.calibrations.items()]


def plain_network(inputs: int, outputs: int) -> nn.Sequential:
    """[n, inputs] -> [n, outputs]: three hidden layers."""
    layers: list[nn.Module] = []
    for width in (inputs, WIDTH, WIDTH):
        layers += [nn.Linear(width, WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, outputs))


def train_on(toy: Toy, steps: int, seed: int) -> tuple[nn.Module, nn.Module]:
    """(averaged generator, critic) of a WGAN-GP on the toy, frozen and in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        G, D = plain_network(NZ, 2), plain_network(2, 1)
    random, ema = torch.Generator().manual_seed(seed), GeneratorEMA(G, 0.99)
    optimizers = [torch.optim.Adam(net.parameters(), LEARNING_RATE, betas=(0.5, 0.9), fused=True) for net in (G, D)]
    progress = Progress(steps, unit="step")
    for step in range(1, steps + 1):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - (step - 1) / steps)
        for _ in range(N_DIS):
            real, alpha = toy.draw(BATCH_SIZE, random), torch.rand(BATCH_SIZE, generator=random)
            with torch.no_grad():
                fake = G(torch.randn(BATCH_SIZE, NZ, generator=random))
            critic_step_gradients(D, real, fake, alpha, gp_scale=GP_SCALE)
            optimizers[1].step()
        generator_step_gradients(G, D, torch.randn(BATCH_SIZE, NZ, generator=random))
        optimizers[0].step()
        ema.update(G, step)
        progress.advance(note=toy.name)
    progress.close()
    return ema.model, D.eval().requires_grad_(False)


def correct_toys(config: TheoryConfig) -> Iterator[ToyResult]:
    """Train on each toy of the config and correct its generator."""
    for name in config.toys:
        toy = TOYS[name]()
        G, D = train_on(toy, max(1, round(toy.effort * config.toy_steps)), config.seed)
        yield correct(toy, G, D, config)


@torch.no_grad()
def correct(toy: Toy, G: nn.Module, D: nn.Module, config: TheoryConfig) -> ToyResult:
    """The samplers on one toy. The points that measure them were seen by neither critic nor ratio."""
    n, seed, random = config.toy_points, config.seed, torch.Generator().manual_seed(config.seed + 1)
    fake, held_out, fresh = (G(torch.randn(m, NZ, generator=random)) for m in (4 * n, 2 * n, 2 * n))
    with Progress(RATIO.folds * RATIO.epochs, unit="epoch") as progress:
        ratio = fit_log_ratio(
            toy.draw(4 * n, random),
            fake,
            held_out,
            settings=RATIO,
            seed=seed,
            progress=lambda done: progress.advance(done, note=f"{toy.name}, density ratio"),
        )
    judges = toy.draw(2 * n, random)
    calibrations: dict[str, Calibration] = {}
    slopes: dict[str, float] = {}
    for name, network in (("critic", D), ("ratio", ratio)):
        real, generated = network(judges)[:, 0], network(fresh)[:, 0]
        slopes[name], offset = platt_scale(real, generated)
        calibrations[name] = calibration_of(real.numpy(), generated.numpy(), slopes[name], offset)

    def chains(network: nn.Module, beta: float = 1.0, weights: Weights = "importance") -> Tensor:
        found = run_chains(
            network,
            G,
            n_chains=n,
            n_iterations=config.toy_iterations,
            n_particles=N_PARTICLES,
            n_z=NZ,
            weights=weights,
            beta=beta,
            generator=torch.Generator().manual_seed(seed),
            chunk_images=50_000,
        )
        return G(found.z)

    points = {"data": toy.draw(n, random), "plain": G(torch.randn(n, NZ, generator=random)), "critic": chains(D)}
    if slopes["critic"] > 0:  # else its weights lead away from the data, and no scale mends that
        points["fitted critic"] = chains(D, slopes["critic"])
    points |= {"ratio": chains(ratio), "density": chains(D, weights="density")}
    truth = toy.draw(n, random)
    return ToyResult(toy, points, {name: quality(x, toy, truth) for name, x in points.items()}, calibrations)

"""Samplers that correct a generator's latent distribution by its critic: I-SIR, MALA, and both in turn (Ex2MCMC).

A generator maps z ~ q = N(0, I) to images, a critic D rates them. The exercise's target is

    p*(z)  proportional to  q(z) exp(beta D(G(z))),   beta = 1,

which moves mass to latent codes whose images the critic likes. I-SIR (Tjelmeland 2004, Andrieu et al. 2010; Samsonov et
al. 2022, "Local-Global MCMC kernels", arXiv 2111.02702, Algorithm 1) draws from it: each chain keeps its particle z^0,
draws z^1 .. z^Np from q, and takes particle i with probability w(z^i) / sum_j w(z^j). This leaves the density q w
invariant, whatever w > 0 is. Hence:

- `weights="importance"`: log w = beta D(G(z)) = log p* - log q. Its target is p*.
- `weights="density"`: log w = -|z|^2 / 2 + beta D(G(z)) = log p*, the letter of the exercise's algorithm. Its target is
  q p*: the prior counts twice, exp(-|z|^2 + beta D(G(z))), and the latent variance is halved where the critic says
  nothing.

docs/isir_fid.md shows both on a toy whose targets are known. G must be in eval mode: with batch norm in train mode a
particle's weight would depend on the others of its batch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Weights = Literal["importance", "density"]
Kernel = Literal["isir", "mala", "ex2mcmc"]
Network = Callable[[Tensor], Tensor]
Lookup = Callable[[Tensor, Callable[[], Tensor]], Tensor]
"""(codes [n, n_z], how to compute their values) -> their values [n]."""

BLOCK = 16
"""Chains that share a random stream. Memory is bounded by whole blocks, so that results do not depend on the bound."""


@dataclass
class Chains:
    """What `run_chains` returns.

    z: the chains' last particles [N_s, n_z]. value: beta-free critic values D(G(z)) [N_s].
    curves: {name: one mean over chains for each iteration}; `ess` is the effective number of particles (sum w)^2 / sum
    w^2, between 1 and N_p + 1; `moved` the share of chains that left their particle; `accepted` MALA's acceptance rate;
    `critic` and `squared_norm` the means of D(G(z)) and |z|^2 after the iteration.
    kept: {iteration: particles [N_s, n_z] after it} for the iterations asked for; 0 is the start.
    images: how many images the chains needed in all, those that were looked up among them.
    """

    z: Tensor
    value: Tensor
    curves: dict[str, list[float]]
    kept: dict[int, Tensor] = field(default_factory=dict)
    images: int = 0


def I_SIR(
    N_i: int,
    N_s: int,
    N_p: int,
    n_z: int,
    D: Network,
    G: Network,
    *,
    weights: Weights = "importance",
    beta: float = 1.0,
    generator: torch.Generator | None = None,
    chunk_images: int = 256,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The exercise's sampler: N_s chains of N_i iterations with N_p fresh particles each -> latent codes [N_s, n_z].

    Args:
        D: critic, images -> [n, 1] or [n]. G: generator in eval mode, codes [n, n_z] -> images.
        weights, beta: see the module docstring. generator: source of all randomness (CPU); None: torch's global one,
            as in torch.randn.
        chunk_images: how many images lie in memory at once; the result does not depend on it. device: of D and G, and
            of the codes.

    Raises ValueError as `run_chains` does.
    """
    if generator is None:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    return run_chains(
        D,
        G,
        n_chains=N_s,
        n_iterations=N_i,
        n_particles=N_p,
        n_z=n_z,
        weights=weights,
        beta=beta,
        generator=generator,
        chunk_images=chunk_images,
        device=device,
    ).z


def run_chains(
    D: Network,
    G: Network,
    *,
    n_chains: int,
    n_iterations: int,
    n_particles: int,
    n_z: int,
    generator: torch.Generator,
    kernel: Kernel = "isir",
    weights: Weights = "importance",
    beta: float = 1.0,
    mala_steps: int = 3,
    step_size: float = 0.1,
    keep: Sequence[int] = (),
    chunk_images: int = 256,
    device: torch.device | str = "cpu",
    lookup: Lookup = lambda z, compute: compute(),
    progress: Callable[[int], None] = lambda chain_iterations: None,
) -> Chains:
    """Run independent chains, each started at a draw from N(0, I), the same for every kernel, weight and beta under one
    seed.

    kernel: "isir"; "mala": `mala_steps` Metropolis-adjusted Langevin steps per iteration, no particles; "ex2mcmc": an
    I-SIR step, then the MALA steps (Samsonov et al. 2022, Algorithm 2).
    step_size: h of z' = z + h grad log p(z) + sqrt(2 h) noise. keep: iterations whose codes are kept (0: the start).
    chunk_images: chains run in groups that make at most this many images at once (at least one block of 16 chains).
    lookup: gives the values D(G(z)) of codes, for a caller that knows some already; the images of codes that it does
    not compute are not made. Chains under one seed meet the same codes with I-SIR whatever weights and beta are.
    progress: called with the number of chain iterations done since the last call.

    Raises ValueError for an unknown kernel or weights, sizes below 1, iterations to keep that are not run, a network in
    train mode, and a critic value that is not finite.
    """
    plan = _Plan(
        n_iterations=n_iterations,
        n_particles=n_particles,
        n_z=n_z,
        kernel=kernel,
        mala_steps=mala_steps,
        step_size=step_size,
        keep=frozenset(keep),
        chunk=max(chunk_images, BLOCK),
        device=torch.device(device),
        progress=progress,
    )
    plan.check()
    _check(n_chains=n_chains)
    for name, network in (("G", G), ("D", D)):
        if isinstance(network, nn.Module) and network.training:
            raise ValueError(f"{name} is in train mode; call {name}.eval() first, or weights depend on the batch")
    n_blocks = -(-n_chains // BLOCK)
    seeds = torch.randint(2**62, (n_blocks,), generator=generator).tolist()
    blocks_at_once = max(1, chunk_images // (BLOCK * plan.images_per_chain))
    target = _Target(D, G, weights, beta, lookup)
    groups = [
        _run_group(target, plan, seeds[first : first + blocks_at_once], n_chains - first * BLOCK)
        for first in range(0, n_blocks, blocks_at_once)
    ]
    return _joined(groups, target.images)


@dataclass(frozen=True)
class _Plan:
    """How every chain is run: the arguments of `run_chains`, but for the networks and the number of chains."""

    n_iterations: int
    n_particles: int
    n_z: int
    kernel: Kernel
    mala_steps: int
    step_size: float
    keep: frozenset[int]
    chunk: int
    device: torch.device
    progress: Callable[[int], None]

    @property
    def images_per_chain(self) -> int:
        """Fresh images of a chain in memory at once."""
        return self.n_particles if self.kernel != "mala" else 1

    def check(self) -> None:
        """Raise ValueError for what cannot be run."""
        if self.kernel not in get_args(Kernel):
            raise ValueError(f"kernel={self.kernel!r}: allowed are {', '.join(get_args(Kernel))}")
        if self.keep and not 0 <= min(self.keep) <= max(self.keep) <= self.n_iterations:
            raise ValueError(f"keep={sorted(self.keep)}: from 0, the start, to n_iterations={self.n_iterations}")
        _check(
            n_iterations=self.n_iterations,
            n_particles=self.n_particles,
            n_z=self.n_z,
            mala_steps=self.mala_steps,
        )
        if not self.step_size > 0:
            raise ValueError(f"step_size={self.step_size} must be positive")


@dataclass
class _Group:
    z: Tensor
    value: Tensor
    curves: dict[str, Tensor]  # [n_iterations, chains]
    kept: dict[int, Tensor]


def _joined(groups: Sequence[_Group], images: int) -> Chains:
    """The chains of all groups; curves become means over all of them."""
    sums = {name: torch.cat([group.curves[name] for group in groups], dim=1) for name in groups[0].curves}
    return Chains(
        z=torch.cat([group.z for group in groups]),
        value=torch.cat([group.value for group in groups]),
        curves={name: values.double().mean(dim=1).tolist() for name, values in sums.items()},
        kept={i: torch.cat([group.kept[i] for group in groups]) for i in groups[0].kept},
        images=images,
    )


class _Target:
    """Critic values of latent codes, and the log weight and log target made of them."""

    def __init__(self, D: Network, G: Network, weights: Weights, beta: float, lookup: Lookup) -> None:
        if weights not in get_args(Weights):
            raise ValueError(f"weights={weights!r}: allowed are {', '.join(get_args(Weights))}")
        if not math.isfinite(beta):
            raise ValueError(f"beta={beta} must be finite")
        self.D, self.G, self.beta, self.lookup, self.images = D, G, beta, lookup, 0
        self.prior_in_weight = 0.5 if weights == "density" else 0.0

    def values(self, z: Tensor, chunk: int) -> Tensor:
        """D(G(z)) for codes [n, n_z], `chunk` images at a time -> [n]."""
        self.images += len(z)
        return self.lookup(z, lambda: self._rated(z, chunk))

    @torch.no_grad()
    def _rated(self, z: Tensor, chunk: int) -> Tensor:
        values = torch.cat([self.D(self.G(part)).reshape(-1).float() for part in z.split(chunk)])
        _check_finite(values)
        return values

    def log_weight(self, z: Tensor, value: Tensor) -> Tensor:
        """log w of codes [..., n_z] whose critic values are [...]."""
        return self.beta * value - self.prior_in_weight * z.square().sum(-1)

    def place(self, z: Tensor, chunk: int) -> "_Place":
        """What MALA needs to know of codes [n, n_z]."""
        densities, gradients, values = [], [], []
        for part in z.split(chunk):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_(True)
                value = self.D(self.G(leaf)).reshape(-1).float()
                density = self.log_weight(leaf, value) - 0.5 * leaf.square().sum(-1)
                (gradient,) = torch.autograd.grad(density.sum(), leaf)
            densities.append(density.detach())
            gradients.append(gradient)
            values.append(value.detach())
        self.images += len(z)
        _check_finite(torch.cat(values))
        return _Place(torch.cat(densities), torch.cat(gradients), torch.cat(values))


@dataclass(frozen=True)
class _Place:
    """What MALA knows of codes [n, n_z]: log q w up to a constant [n], its gradient [n, n_z], D(G(z)) [n]."""

    density: Tensor
    gradient: Tensor
    value: Tensor

    def replaced(self, rows: Tensor, other: "_Place") -> "_Place":
        """With `other`, of all codes, in the rows [n] that are true."""
        return _Place(
            torch.where(rows, other.density, self.density),
            torch.where(rows.unsqueeze(1), other.gradient, self.gradient),
            torch.where(rows, other.value, self.value),
        )

    def renewed(self, target: _Target, plan: _Plan, z: Tensor, moved: Tensor) -> "_Place":
        """With the codes z [n, n_z] in the rows [n] that have moved; the others are not computed again."""
        rows = moved.nonzero().squeeze(1)
        if not len(rows):
            return self
        new = target.place(z[rows], plan.chunk)
        return _Place(
            self.density.index_copy(0, rows, new.density),
            self.gradient.index_copy(0, rows, new.gradient),
            self.value.index_copy(0, rows, new.value),
        )


def _run_group(target: _Target, plan: _Plan, seeds: Sequence[int], chains_left: int) -> _Group:
    random = _Streams(seeds, min(chains_left, BLOCK * len(seeds)), plan.device)
    z = random.normal(plan.n_z)
    chains = len(z)
    # What is known of the kept particle is carried along: N_p new images per iteration, not N_p + 1.
    place = None if plan.kernel == "isir" else target.place(z, plan.chunk)
    value = target.values(z, plan.chunk) if place is None else place.value
    kept = {0: z} if 0 in plan.keep else {}
    rows: dict[str, list[Tensor]] = {}
    for iteration in range(1, plan.n_iterations + 1):
        seen: dict[str, Tensor] = {}
        if plan.kernel != "mala":
            z, value, seen["ess"], seen["moved"] = _isir_step(target, plan, z, value=value, random=random)
        if place is not None:
            if "moved" in seen:
                place = place.renewed(target, plan, z, seen["moved"] > 0)
            z, place, seen["accepted"] = _mala_steps(target, plan, z, place=place, random=random)
            value = place.value
        seen |= {"critic": value, "squared_norm": z.square().sum(-1)}
        for name, values in seen.items():
            rows.setdefault(name, []).append(values.cpu())
        if iteration in plan.keep:
            kept[iteration] = z
        plan.progress(chains)
    return _Group(z, value, {name: torch.stack(values) for name, values in rows.items()}, kept)


def _isir_step(
    target: _Target, plan: _Plan, z: Tensor, *, value: Tensor, random: "_Streams"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One I-SIR iteration: (z [n, n_z], D(G(z)) [n], effective number of particles [n], whether the chain moved
    [n]).
    """
    n, n_z = z.shape
    fresh = random.normal(plan.n_particles, n_z)
    fresh_values = target.values(fresh.reshape(-1, n_z), plan.chunk).view(n, plan.n_particles)
    particles = torch.cat([z.unsqueeze(1), fresh], dim=1)  # [n, N_p + 1, n_z]
    values = torch.cat([value.unsqueeze(1), fresh_values], dim=1)
    log_w = target.log_weight(particles, values)
    # argmax(log w + Gumbel noise) is a draw from Categorical(w / sum w), with noise that is drawn chain by chain.
    chosen = (log_w + random.gumbel(plan.n_particles + 1)).argmax(dim=1)
    rows = torch.arange(n, device=z.device)
    p = log_w.softmax(dim=1)
    return particles[rows, chosen], values[rows, chosen], 1 / p.square().sum(dim=1), (chosen > 0).float()


def _mala_steps(
    target: _Target, plan: _Plan, z: Tensor, *, place: _Place, random: "_Streams"
) -> tuple[Tensor, _Place, Tensor]:
    """Metropolis-adjusted Langevin steps (Roberts and Tweedie 1996): (z, what is known of it, mean acceptance of each
    chain).
    """
    steps, h = plan.mala_steps, plan.step_size
    accepted = torch.zeros_like(place.density)
    for _ in range(steps):
        noise = random.normal(z.shape[1])
        z_there = z + h * place.gradient + math.sqrt(2 * h) * noise
        there = target.place(z_there, plan.chunk)
        back = (z - z_there - h * there.gradient).square().sum(-1) / (4 * h)
        forth = noise.square().sum(-1) / 2
        take = random.uniform().log() < there.density - place.density - back + forth
        z, place = torch.where(take.unsqueeze(1), z_there, z), place.replaced(take, there)
        accepted += take.float() / steps
    return z, place, accepted


class _Streams:
    """Random numbers for blocks of chains, each block from its own stream: what a chain gets does not depend on its
    neighbours.
    """

    def __init__(self, seeds: Sequence[int], chains: int, device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.chains, self.device = chains, device

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), [chains, *shape]."""
        return self._joined(torch.randn(BLOCK, *shape, generator=g) for g in self.generators)

    def uniform(self, *shape: int) -> Tensor:
        """U(0, 1), [chains, *shape]."""
        return self._joined(torch.rand(BLOCK, *shape, generator=g) for g in self.generators)

    def gumbel(self, *shape: int) -> Tensor:
        """Standard Gumbel noise, [chains, *shape]."""
        return self._joined(-torch.empty(BLOCK, *shape).exponential_(generator=g).log() for g in self.generators)

    def _joined(self, parts: Iterator[Tensor]) -> Tensor:
        return torch.cat(list(parts))[: self.chains].to(self.device)  # the last block may be incomplete


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: it must be at least 1")


def _check_finite(values: Tensor) -> None:
    if not values.isfinite().all():
        raise ValueError("the critic's values are NaN or infinite; its weights are broken")

"""Sample one generator with different samplers and settings, and score what comes out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from common.progress import Progress
from evaluation.features import Extractor, Features, extract
from evaluation.frechet import bootstrap_differences, frechet_of, interval, kernel_distance
from models.gan.isir import Chains, run_chains
from trainers.isir_fid.config import IsirFidConfig
from training.generators.measuring import Reference, images_of, scores
from training.generators.stored import StoredNetwork

SWEPT_ITERATIONS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
"""N_i of the sweep over iterations, as far as `n_iterations` goes."""


@dataclass(frozen=True)
class SamplerResult:
    """The chains of one sampler, and the features and scores of their images. `seconds`: of sampling alone."""

    chains: Chains
    features: Features
    scores: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Difference:
    """The Fréchet distance of a sampler minus that of plain sampling, and its 95 % interval; below zero is better."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SamplerEvaluation:
    """What all samplers of a run have in common: generator, critic, feature network and reference."""

    config: IsirFidConfig
    generator: StoredNetwork
    critic: StoredNetwork
    extractor: Extractor
    reference: Reference
    device: torch.device

    def evaluate(self, sampler: str) -> SamplerResult:
        """Sample `n_images` codes with the sampler and score their images."""
        chains, seconds = self.sample(sampler, sampler, n=self.config.n_images)
        return self._scored(chains, seconds)

    def evaluate_plain(self, z: Tensor) -> SamplerResult:
        """Score the images of the codes [n, nz] as they are: plain sampling from the prior."""
        seconds = self.generating_seconds(z)
        return self._scored(Chains(z=z, value=self.critic_values(z), curves={}, kept={}, images=len(z)), seconds)

    def _scored(self, chains: Chains, seconds: float) -> SamplerResult:
        features = self.features_of(chains.z)
        return SamplerResult(chains, features, scores(self.config, self.extractor, features, self.reference), seconds)

    def sample(
        self,
        sampler: str,
        label: str,
        *,
        n: int,
        particles: int | None = None,
        beta: float | None = None,
        keep: Sequence[int] = (),
    ) -> tuple[Chains, float]:
        """(chains, seconds) of n chains of a sampler; every sampler starts from the same codes.

        particles, beta: None: those of the config. keep: iterations whose codes are kept, besides the start.
        label: names the sampling in the progress line and in errors.
        """
        config = self.config
        kernel: Any = "isir" if sampler in ("importance", "density") else sampler
        weights: Any = sampler if kernel == "isir" else config.weights_of_mala
        progress = Progress(n * config.n_iterations, unit="chain iteration")
        began = time.monotonic()
        try:
            chains = run_chains(
                D=self.critic.network,
                G=self.generator.network,
                n_chains=n,
                n_iterations=config.n_iterations,
                n_particles=particles or config.n_particles,
                n_z=self.generator.nz,
                kernel=kernel,
                weights=weights,
                beta=config.beta if beta is None else beta,
                mala_steps=config.mala_steps,
                step_size=config.step_size,
                keep=(0, *keep),
                chunk_images=config.chunk_images,
                device=self.device,
                generator=torch.Generator().manual_seed(config.seed),
                progress=lambda done: progress.advance(done, note=label),
            )
        except ValueError as error:
            raise InputError(f"{label}: {error}") from None
        progress.close()
        return chains, time.monotonic() - began

    def features_of(self, z: Tensor) -> Features:
        """Features of the images of codes [n, nz]."""
        return extract(self.extractor, images_of(self.generator, z, self.config.batch_size, self.device))

    def generating_seconds(self, z: Tensor) -> float:
        """Seconds to generate the images of codes [n, nz], without the feature network: what plain sampling takes."""
        began = time.monotonic()
        for _ in images_of(self.generator, z, self.config.batch_size, self.device):
            pass
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic() - began

    @torch.no_grad()
    def critic_values(self, z: Tensor) -> Tensor:
        """D(G(z)) [n] of codes [n, nz]."""
        batches = z.split(self.config.batch_size)
        return torch.cat([self.critic.network(self.generator.network(part)).reshape(-1) for part in batches])

    def difference(self, plain: SamplerResult, corrected: SamplerResult) -> Difference:
        """The change of the Fréchet distance by the correction, with a paired-bootstrap interval."""
        draws = bootstrap_differences(
            a=plain.features.x,
            b=corrected.features.x,
            reference=self.reference.gaussian,
            draws=self.config.bootstrap,
            generator=torch.Generator().manual_seed(self.config.seed),
        )
        score = self.extractor.score
        return Difference(corrected.scores[score] - plain.scores[score], *interval(draws))

    def distances(self, z: Tensor) -> dict[str, float]:
        """Fréchet and kernel distance of the images of codes [n, nz], without the other scores: for the sweeps."""
        x = self.features_of(z).x
        generator = torch.Generator().manual_seed(self.config.seed)
        kernel, error = kernel_distance(x, self.reference.features.x, generator)
        return {
            self.extractor.score: frechet_of(x, self.reference.gaussian),
            self.extractor.kernel_score: kernel,
            f"{self.extractor.kernel_score}_se": error,
        }


Sweeps = dict[str, list[dict[str, float]]]
"""{swept parameter: a row of figures for each of its values}."""


def sweep(evaluation: SamplerEvaluation) -> Sweeps:
    """Importance weights with other N_i, N_p and beta, `n_sweep` chains each."""
    config = evaluation.config
    n, last = config.n_sweep, config.n_iterations
    iterations = [*(i for i in SWEPT_ITERATIONS if i < last), last]
    chains, _ = evaluation.sample("importance", "sweep over N_i", n=n, keep=iterations)
    rows: Sweeps = {
        "n_iterations": [{"n_iterations": i, **evaluation.distances(chains.kept[i])} for i in iterations],
        "n_particles": [],
        "beta": [],
    }
    # The settings of the config are a point of the other two sweeps.
    here, weights = rows["n_iterations"][-1], _final_weights(chains)
    rows["n_particles"].append({**here, "n_particles": config.n_particles, **weights})
    rows["beta"].append({**here, "beta": config.beta, **weights})
    for particles in config.sweep_particles:
        if particles != config.n_particles:
            chains, _ = evaluation.sample("importance", f"sweep, n_particles {particles}", n=n, particles=particles)
            figures = {**evaluation.distances(chains.z), **_final_weights(chains)}
            rows["n_particles"].append({"n_particles": particles, **figures})
    for beta in config.sweep_beta:
        if beta != config.beta:
            chains, _ = evaluation.sample("importance", f"sweep, beta {beta:g}", n=n, beta=beta)
            rows["beta"].append({"beta": beta, **evaluation.distances(chains.z), **_final_weights(chains)})
    return {name: sorted(values, key=itemgetter(name)) for name, values in rows.items()}


def _final_weights(chains: Chains) -> dict[str, float]:
    """Effective particles and share of moves in the last iteration."""
    return {"ess": chains.curves["ess"][-1], "moved": chains.curves["moved"][-1]}

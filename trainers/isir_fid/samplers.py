"""Sample one generator with different samplers and settings, and score what comes out."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from common.progress import Progress
from evaluation.features import Extractor, Features, extract
from evaluation.frechet import bootstrap_differences, frechet_of, interval, kernel_distance
from models.gan.isir import Chains, run_chains
from trainers.isir_fid.config import WEIGHTS, IsirFidConfig
from trainers.isir_fid.known_values import KnownValues
from training.generators.measuring import Reference, images_of, scores
from training.generators.stored import StoredNetwork

SWEPT_ITERATIONS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
"""N_i of the sweep over iterations, as far as `n_iterations` goes."""


@dataclass(frozen=True)
class SamplerResult:
    """The chains of one sampler, and the features and scores of their images.

    held_out: Fréchet and kernel distance to the held-out images; empty where there is no second reference. seconds: of
    sampling alone, without the help of values that another sampler had computed.
    """

    chains: Chains
    features: Features
    scores: dict[str, float]
    seconds: float
    held_out: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """The Fréchet distance of a sampler minus that of plain sampling, and its 95 % interval; below zero is better."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SamplerEvaluation:
    """What all samplers of a run have in common: generator, critic, density ratio, feature network and references.

    critic, ratio: None where no sampler needs them. held_out: the reference that nothing has seen; None: too few
    images. known: {uri of critic or ratio: its values of codes met so far}.
    """

    config: IsirFidConfig
    generator: StoredNetwork
    critic: StoredNetwork | None
    ratio: StoredNetwork | None
    extractor: Extractor
    reference: Reference
    held_out: Reference | None
    device: torch.device
    known: dict[str, KnownValues] = field(default_factory=dict)

    @property
    def described(self) -> str:
        """The first reference in words."""
        return f"{self.reference.images.source}, split {self.reference.images.split}"

    @property
    def headline(self) -> str:
        """The sampler that the sweeps and the values of plain samples are of."""
        return "calibrated" if self.ratio is not None else "importance"

    def weights_of(self, sampler: str) -> tuple[StoredNetwork, str, float]:
        """(network that rates images, weights of `run_chains`, beta) of a sampler."""
        target = sampler if sampler in WEIGHTS else self.config.weights_of_mala
        rater, weights, beta = (
            (self.ratio, "importance", 1.0) if target == "calibrated" else (self.critic, target, self.config.beta)
        )
        assert rater is not None, target
        return rater, weights, beta

    def evaluate(self, sampler: str) -> SamplerResult:
        """Sample `n_images` codes with the sampler and score their images."""
        chains, seconds = self.sample(sampler, sampler, n=self.config.n_images)
        return self._scored(chains, seconds, sampler)

    def evaluate_plain(self, z: Tensor) -> SamplerResult:
        """Score the images of the codes [n, nz] as they are: plain sampling from the prior."""
        seconds = self.generating_seconds(z)
        return self._scored(Chains(z=z, value=self.values(z), curves={}, kept={}, images=len(z)), seconds, "plain")

    def _scored(self, chains: Chains, seconds: float, label: str) -> SamplerResult:
        features = self.features_of(chains.z, label)
        held_out = {} if self.held_out is None else self.distances(features, self.held_out)
        found = scores(self.config, self.extractor, features, self.reference)
        return SamplerResult(chains, features, found, seconds=seconds, held_out=held_out)

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
        """(chains, seconds) of n chains of a sampler; every sampler starts from the same codes and draws the same.

        particles, beta: None: the config's; beta is 1 for the density ratio. keep: iterations whose codes are kept,
        besides the start. label: names the sampling in the progress line and in errors.
        """
        config = self.config
        kernel: Any = "isir" if sampler in WEIGHTS else sampler
        rater, weights, own_beta = self.weights_of(sampler)
        known = self.known.setdefault(rater.uri, KnownValues())
        spared_before = known.spared_seconds
        progress = Progress(n * config.n_iterations, unit="chain iteration")
        began = time.monotonic()
        try:
            chains = run_chains(
                D=rater.network,
                G=self.generator.network,
                n_chains=n,
                n_iterations=config.n_iterations,
                n_particles=particles or config.n_particles,
                n_z=self.generator.nz,
                kernel=kernel,
                weights="density" if weights == "density" else "importance",
                beta=own_beta if beta is None else beta,
                mala_steps=config.mala_steps,
                step_size=config.step_size,
                keep=(0, *keep),
                chunk_images=config.chunk_images,
                device=self.device,
                generator=torch.Generator().manual_seed(config.seed),
                lookup=known.of,
                progress=lambda done: progress.advance(done, note=label),
            )
        except ValueError as error:
            raise InputError(f"{label}: {error}") from None
        progress.close()
        return chains, time.monotonic() - began + known.spared_seconds - spared_before

    def features_of(self, z: Tensor, label: str) -> Features:
        """Features of the images of codes [n, nz]; label: names them in the progress line."""
        images = images_of(self.generator, z, self.config.batch_size, self.device)
        with Progress(len(z), unit="image") as progress:
            return extract(self.extractor, images, lambda n: progress.advance(n, note=f"features, {label}"))

    def generating_seconds(self, z: Tensor) -> float:
        """Seconds to generate the images of codes [n, nz], without the feature network: what plain sampling takes."""
        began = time.monotonic()
        for _ in images_of(self.generator, z, self.config.batch_size, self.device):
            pass
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic() - began

    @torch.no_grad()
    def values(self, z: Tensor) -> Tensor:
        """What the headline's network says of the images of codes [n, nz], [n]."""
        rate, make = self.weights_of(self.headline)[0].network, self.generator.network
        return torch.cat([rate(make(part)).reshape(-1) for part in z.split(self.config.batch_size)])

    def difference(self, plain: SamplerResult, corrected: SamplerResult, reference: Reference) -> Difference:
        """The change of the Fréchet distance from a reference by the correction, with a paired-bootstrap interval."""
        draws = bootstrap_differences(
            a=plain.features.x,
            b=corrected.features.x,
            reference=reference.gaussian,
            draws=self.config.bootstrap,
            generator=torch.Generator().manual_seed(self.config.seed),
        )
        before, after = (frechet_of(result.features.x, reference.gaussian) for result in (plain, corrected))
        return Difference(after - before, *interval(draws))

    def distances(self, features: Features, reference: Reference) -> dict[str, float]:
        """Fréchet and kernel distance of features to a reference, without the other scores."""
        x = features.x
        generator = torch.Generator().manual_seed(self.config.seed)
        kernel, error = kernel_distance(x, reference.features.x, generator)
        return {
            self.extractor.score: frechet_of(x, reference.gaussian),
            self.extractor.kernel_score: kernel,
            f"{self.extractor.kernel_score}_se": error,
        }


Sweeps = dict[str, list[dict[str, float]]]
"""{swept parameter: a row of figures for each of its values}."""


def sweep(evaluation: SamplerEvaluation) -> Sweeps:
    """The headline's sampler with other N_i, N_p and beta, `n_sweep` chains each."""
    config, sampler = evaluation.config, evaluation.headline
    n, last, own_beta = config.n_sweep, config.n_iterations, evaluation.weights_of(sampler)[2]
    iterations = [*(i for i in SWEPT_ITERATIONS if i < last), last]
    chains, _ = evaluation.sample(sampler, "sweep over N_i", n=n, keep=iterations)

    def distances(z: Tensor) -> dict[str, float]:
        return evaluation.distances(evaluation.features_of(z, "sweep"), evaluation.reference)

    rows: Sweeps = {
        "n_iterations": [{"n_iterations": i, **distances(chains.kept[i])} for i in iterations],
        "n_particles": [],
        "beta": [],
    }
    # The settings of the config are a point of the other two sweeps.
    here, weights = rows["n_iterations"][-1], _final_weights(chains)
    rows["n_particles"].append({**here, "n_particles": config.n_particles, **weights})
    rows["beta"].append({**here, "beta": own_beta, **weights})
    for particles in config.sweep_particles:
        if particles != config.n_particles:
            chains, _ = evaluation.sample(sampler, f"sweep, n_particles {particles}", n=n, particles=particles)
            figures = {**distances(chains.z), **_final_weights(chains)}
            rows["n_particles"].append({"n_particles": particles, **figures})
    for beta in config.sweep_beta:
        if beta != own_beta:
            chains, _ = evaluation.sample(sampler, f"sweep, beta {beta:g}", n=n, beta=beta)
            rows["beta"].append({"beta": beta, **distances(chains.z), **_final_weights(chains)})
    return {name: sorted(values, key=itemgetter(name)) for name, values in rows.items()}


def _final_weights(chains: Chains) -> dict[str, float]:
    """Effective particles and share of moves in the last iteration."""
    return {"ess": chains.curves["ess"][-1], "moved": chains.curves["moved"][-1]}


@dataclass(frozen=True)
class Findings:
    """Plain sampling beside the samplers: {sampler: result}, {sampler: difference} for each reference, sweeps."""

    plain: SamplerResult
    samplers: Mapping[str, SamplerResult]
    differences: Mapping[str, Difference]
    held_out_differences: Mapping[str, Difference]
    sweeps: Sweeps


def compare(evaluation: SamplerEvaluation) -> Findings:
    """Run all samplers and the sweeps, and measure them."""
    samplers = {name: evaluation.evaluate(name) for name in evaluation.config.samplers}
    start = next(iter(samplers.values())).chains.kept[0]  # every sampler starts from these codes
    plain = evaluation.evaluate_plain(start)

    references = [reference for reference in (evaluation.reference, evaluation.held_out) if reference is not None]
    progress = Progress(len(samplers) * len(references), unit="interval")

    def differences(reference: Reference | None) -> dict[str, Difference]:
        if reference is None:
            return {}
        found = {}
        for name, result in samplers.items():
            found[name] = evaluation.difference(plain, result, reference)
            progress.advance(note=f"{name} against plain")
        return found

    with progress:
        on_train, on_held_out = differences(evaluation.reference), differences(evaluation.held_out)
    return Findings(
        plain=plain,
        samplers=samplers,
        differences=on_train,
        held_out_differences=on_held_out,
        sweeps=sweep(evaluation),
    )

"""What I-SIR samples with a discriminator's logit and with a critic, with either weight."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from models.gan.isir import Weights, run_chains
from trainers.theory.config import TheoryConfig
from trainers.theory.networks import KINDS, Kind, build_network, generate, penalised_slope


@dataclass
class Correction:
    """y - theta_star after I-SIR [n_chains]; its (mean, variance) as theory has them, and as they were computed."""

    network: Kind
    weights: Weights
    theory: tuple[float, float]
    computed: tuple[float, float]
    y: np.ndarray


def corrections(config: TheoryConfig) -> Iterator[Correction]:
    """Train both networks between N(start, noise^2) and N(0, noise^2) along y; correct the first by I-SIR.

    A discriminator's logit has slope -start / noise^2, a critic's slope is a constant: docs/theory.md derives the four
    targets.
    """
    slopes = {
        "discriminator": -config.start / config.noise**2,
        "critic": -math.copysign(penalised_slope(config.start, config.gp_scale), config.start),
    }
    for kind in KINDS:
        network = build_network(config, kind)
        network.fit(4 * config.steps, config.start, 0.0, config.noise)
        for weights in get_args(Weights):
            chains = run_chains(
                D=network.layers.eval(),
                G=lambda z: generate(z, config.start, config.noise),
                n_chains=config.n_chains,
                n_iterations=config.n_iterations,
                n_particles=config.n_particles,
                n_z=2,
                weights=weights,
                generator=torch.Generator().manual_seed(config.seed),
                chunk_images=10**5,
            )
            y = generate(chains.z, config.start, config.noise)[:, 1].double().numpy()
            # Along z_2, log w is linear: it shifts N(0, 1), or N(0, 1/2) where the prior counts twice, by slope times
            # variance.
            variance = config.noise**2 * (1.0 if weights == "importance" else 0.5)
            yield Correction(
                network=kind,
                weights=weights,
                theory=(config.start + slopes[kind] * variance, variance),
                computed=(float(y.mean()), float(y.var())),
                y=y,
            )

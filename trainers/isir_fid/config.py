"""The parameters of `isir_fid`."""

from typing import Any, Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from evaluation.frechet import MIN_IMAGES
from training.config import CONFIG, Floats, Integers, OptionalStr, Strings, option
from training.generators.config import QUICK, MeasureConfig, photographs

WEIGHTS = ("calibrated", "importance", "density")
"""What I-SIR weighs by: the density ratio; the critic; the critic and, once more, the prior."""

SAMPLERS = (*WEIGHTS, "ex2mcmc", "mala")
"""I-SIR with each weight; I-SIR and MALA in turn, and MALA alone, both for the target of `weights_of_mala`."""


@dataclass(frozen=True, config=CONFIG)
class IsirFidConfig(MeasureConfig):
    """Sample a generator with its latent distribution corrected by a density ratio and by its critic (I-SIR), and
    measure the gain over plain sampling.
    """

    critic_uri: OptionalStr = option(None, "critic; not given: the one that the generator's run registered")
    samplers: Strings = option(WEIGHTS, "samplers to compare with plain sampling, separated by commas")
    weights_of_mala: Literal["calibrated", "importance", "density"] = option(
        "calibrated",
        "target of ex2mcmc and mala: calibrated, q times the density ratio; importance, q exp(beta D); density, q^2 "
        "exp(beta D)",
    )
    beta: float = option(1.0, "scale of the critic in the weights importance and density; the ratio has its own")
    # Density ratio
    calibration: str = option(
        "fit",
        "density ratio of the weights calibrated; fit: fit one and register it; or the address of one that was fitted "
        "for this generator, such as models:/wgan-density-ratio/1",
    )
    n_ratio: int = option(
        50_000, "generated images that the ratio is fitted on; 2/5 as many again set its scale", ge=100
    )
    ratio_cells: int = option(
        8, "cells per side of the grid over which the ratio sees images, each cell as its mean", ge=1
    )
    ratio_noise: float = option(0.3, "standard deviation of the noise on those means, while fitting", ge=0)
    ratio_folds: int = option(5, "networks of the ratio, each fitted without one fold of the real images", ge=2)
    n_iterations: int = option(10, "N_i: iterations of a chain", ge=1)
    n_particles: int = option(10, "N_p: fresh particles per iteration", ge=1)
    mala_steps: int = option(3, "MALA steps per iteration of ex2mcmc and mala", ge=1)
    step_size: float = option(0.02, "step h of MALA: z + h grad log p + sqrt(2 h) noise", gt=0)
    bootstrap: int = option(100, "bootstrap draws for the intervals of the differences", ge=20)
    n_sweep: int = option(
        10_000, "chains at each point of the sweeps; more than the features have dimensions", ge=MIN_IMAGES
    )
    sweep_particles: Integers = option((1, 3, 30), "N_p of the sweep over particles, at n_iterations, or none")
    sweep_beta: Floats = option((0.1, 0.3, 3.0), "beta of the sweep over the weights' scale, or none")
    chunk_images: int = option(256, "images in memory at once while sampling; the results do not depend on it", ge=16)

    @model_validator(mode="after")
    def _fields_agree(self) -> "IsirFidConfig":
        unknown = [name for name in self.samplers if name not in SAMPLERS]
        if unknown or not self.samplers:
            raise ValueError(f"samplers: {', '.join(unknown) or 'none given'}; allowed are {', '.join(SAMPLERS)}")
        if min(self.sweep_particles, default=1) < 1:
            raise ValueError(f"sweep_particles: {self.sweep_particles} has a number of particles below 1")
        if self.split == "test":
            raise ValueError("split: test is the second reference, which nothing may see; give train, valid or all")
        return self

    @property
    def weights_used(self) -> set[str]:
        """Which of WEIGHTS the samplers need."""
        return {name if name in WEIGHTS else self.weights_of_mala for name in self.samplers}


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        **QUICK,
        "n_images": 1000,
        "n_iterations": 5,
        "n_ratio": 5000,
        # What corrects digits best (benchmarks.isir_ratios, docs/isir_fid.md). Photographs gain from no ratio tried.
        "ratio_cells": 16,
        "ratio_noise": 0.1,
        "n_sweep": 500,
        "sweep_particles": (1, 3),
        "sweep_beta": (0.3, 3.0),
        "bootstrap": 200,
    },
    **{
        name: {
            **photographs(dataset),
            "n_images": 2000,
            "n_iterations": 5,
            "n_ratio": 10_000,
            "n_sweep": 1500,
            "sweep_particles": (),
            "sweep_beta": (),
        }
        for name, dataset in (("photos", "model"), ("eurosat", "eurosat"), ("cifar10", "cifar10"))
    },
    "celeba": {},
}

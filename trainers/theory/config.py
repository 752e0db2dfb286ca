"""The parameters of `theory`."""

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from training.config import CONFIG, Floats, RecordConfig, Seed, Strings, option

TOY_NAMES = ("grid", "ring", "moons")
"""25 Gaussians, a ring of 8, two moons."""


@dataclass(frozen=True, config=CONFIG)
class TheoryConfig(RecordConfig):
    """Answer the exercise's theoretical part: KL, JS and Wasserstein distance of two parallel segments, and check the
    answers.
    """

    theta_star: float = option(0.0, "height of the target segment")
    offsets: Floats = option(
        (-1.0, -0.5, -0.1, 0.0, 0.1, 0.5, 1.0), "theta - theta_star at which distances are computed"
    )
    sigmas: Floats = option((0.3, 0.1, 0.03, 0.01), "standard deviations of the Gaussian that smooths the segments")
    n_samples: int = option(500, "points of each sample for optimal transport", ge=2, le=5000)
    # Discriminator and critic
    width: int = option(64, "width of the two hidden layers of discriminator and critic", ge=1)
    steps: int = option(500, "training steps of discriminator and critic for each theta", ge=1)
    batch_size: int = option(256, "points per training step and side", ge=2)
    lr: float = option(0.005, "Adam's learning rate for discriminator and critic", gt=0)
    gp_scale: float = option(10.0, "weight of the critic's gradient penalty", gt=0)
    # Gradient descent on theta
    start: float = option(1.0, "theta - theta_star where gradient descent begins")
    lr_theta: float = option(0.02, "step size of gradient descent on theta", gt=0)
    theta_steps: int = option(150, "steps of gradient descent on theta", ge=1)
    n_dis: int = option(
        20, "updates of discriminator or critic per step of theta: the theory assumes optimal ones", ge=1
    )
    # Correction of the latent distribution
    noise: float = option(0.5, "standard deviation along y of the distributions that I-SIR corrects", gt=0)
    n_chains: int = option(4000, "chains of I-SIR", ge=2)
    n_iterations: int = option(30, "N_i: iterations of a chain", ge=1)
    n_particles: int = option(10, "N_p: fresh particles per iteration", ge=1)
    # Toys in the plane
    toys: Strings = option(TOY_NAMES, "data in the plane that critic and density ratio correct, or none")
    toy_steps: int = option(2500, "generator updates on 25 Gaussians; the others take a third", ge=1)
    toy_points: int = option(
        5000, "points that each sampler draws; the ratio is fitted on four times as many", ge=20, le=50_000
    )
    toy_iterations: int = option(10, "iterations of a chain on the toys", ge=1)
    seed: Seed = option(0, "seed of samples and networks")

    @model_validator(mode="after")
    def _fields_agree(self) -> "TheoryConfig":
        if not self.offsets:
            raise ValueError("offsets: none given; at least one number is needed, such as 0,0.5,1")
        if not self.sigmas or min(self.sigmas) < 0.001:
            raise ValueError(
                f"sigmas={self.sigmas}: give at least one, none below 0.001 (the grid would not fit into memory)"
            )
        if unknown := [name for name in self.toys if name not in TOY_NAMES]:
            raise ValueError(f"toys: {', '.join(unknown)}; allowed are {', '.join(TOY_NAMES)}, or none")
        if max(map(abs, self.offsets)) > 10 or abs(self.start) > 10 or self.start == 0:
            raise ValueError(
                f"offsets={self.offsets}, start={self.start}: give offsets from -10 to 10, and a start from -10 to "
                "10 that is not 0"
            )
        return self

"""The parameters of `fid`."""

from typing import Any

from pydantic.dataclasses import dataclass

from training.config import CONFIG, MachineConfig, option
from training.generators.config import QUICK, MeasureConfig, photographs


@dataclass(frozen=True, config=CONFIG)
class FidConfig(MeasureConfig, MachineConfig):
    """Measure a generator: Fréchet and kernel distance, precision, recall, and the Fréchet distance for infinitely many
    images.
    """

    n_sizes: int = option(8, "sample sizes at which the Fréchet distance is computed, to extrapolate it", ge=2)


PRESETS: dict[str, dict[str, Any]] = {
    "quick": QUICK,
    "photos": photographs("model"),
    "eurosat": photographs("eurosat"),
    "cifar10": photographs("cifar10"),
    "celeba": {},
}

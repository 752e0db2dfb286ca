"""A run's place in a study (`tune`): the few points at which a trainer lets a study look in.

A trainer takes a `StudyTrial` beside its config. The one defined here stands for no study at all: a run on its own.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from tracking.run import AnyRun


class Pruned(Exception):
    """The study gave this run up: others were better at this step."""


class StudyTrial:
    """A run outside any study. `trainers/tune/child.py` has the one inside.

    tags, experiment: of the run; experiment None: the usual one.
    searching: only validation data may be looked at, and nothing is registered.
    every: steps between two measurements, for trainers that do not measure by themselves; 0: none.
    alias: what registered models get; None: nothing that serving follows moves.
    """

    tags: Mapping[str, object] = {}
    experiment: str | None = None
    searching = False
    every = 0
    alias: str | None = "latest-good"

    def begin(self, run: AnyRun) -> None:
        """The run exists now."""

    def measure(self, network: nn.Module, example: Tensor) -> Mapping[str, float]:
        """Figures of `network` that its trainer has not itself, without test data; example: a batch of its inputs."""
        return {}

    def report(self, run: AnyRun, values: Mapping[str, float], step: int) -> None:
        """Figures on validation data, so far the best or the last ones. Raises Pruned where the study gives the run
        up.
        """

    def conclude(self, run: AnyRun, network: nn.Module, example: Tensor) -> None:
        """The network is final and about to be registered: the one moment to look at test data."""

"""Exponential moving average of a generator."""

import copy

import torch
from torch import nn


class GeneratorEMA:
    """A copy of a generator whose parameters follow it slowly: average <- d average + (1 - d) parameter.

    The decay d grows as (1 + step) / (10 + step) up to `decay`, so that the random weights of the first steps are soon
    forgotten. Buffers (the running statistics of batch norm) are copied. `model` is in eval mode and takes no gradient.
    """

    def __init__(self, generator: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: it must be at least 0 and below 1")
        self.decay = decay
        self.model = copy.deepcopy(generator).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, generator: nn.Module, step: int) -> None:
        """Take the parameters of `generator` in after its update number `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        # One call for all tensors instead of one each.
        torch._foreach_lerp_(list(self.model.parameters()), list(generator.parameters()), 1 - decay)
        for average, current in zip(self.model.buffers(), generator.buffers(), strict=True):
            average.copy_(current)

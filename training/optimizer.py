"""An optimiser's state from a checkpoint. Imports PyTorch alone, as a training loop must that runs without MLflow."""

from collections.abc import Mapping
from typing import Any

import torch


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the moments of `state`. Weight decay, betas and so on stay those of the present config, which may
    differ from the saved ones with allow_changes."""
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group.update(values)

"""The trainers that `tune` can tune: those whose folder has a `tuning.py`."""

import importlib
from pathlib import Path

from training.tuning import Target

TARGETS = tuple(sorted(path.parent.name for path in Path(__file__).parents[1].glob("*/tuning.py")))
"""Their names."""


def load_target(name: str) -> Target:
    """What the trainer `name` exports for `tune`."""
    target: Target = importlib.import_module(f"trainers.{name}.tuning").TARGET
    return target

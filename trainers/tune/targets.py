"""The trainers that `tune` can tune: those whose folder has a `tuning.py`."""

import importlib
from pathlib import Path

from common.errors import InputError
from training.tuning import Target

TARGETS = tuple(sorted(path.parent.name for path in Path(__file__).parents[1].glob("*/tuning.py")))
"""Their names."""


def load_target(name: str) -> Target:
    """What the trainer `name` exports for `tune`; InputError for one that exports nothing."""
    if name not in TARGETS:
        raise InputError(f"target: {name!r} cannot be tuned; choose one of {', '.join(TARGETS)}")
    target: Target = importlib.import_module(f"trainers.{name}.tuning").TARGET
    return target

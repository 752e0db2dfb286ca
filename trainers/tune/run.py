"""Search the parameters of a trainer: `mlflow run . -e tune -P target=wgan`, or `python -m trainers.tune --help`."""

import sys

from trainers.tune.config import PRESETS, TuneConfig
from trainers.tune.launcher import run_tune
from training.config import parse_config


def main(argv: list[str] | None = None) -> int:
    return run_tune(parse_config(TuneConfig, PRESETS, sys.argv[1:] if argv is None else argv, "tune"))

"""Search the parameters of a trainer: `mlflow run . -e tune -P target=wgan`, or `python -m trainers.tune --help`.

launcher.py starts workers and serves the study; leader.py repeats the best few over seeds, trains the winner a last
time and closes the study; worker.py runs the trials. storage.py says where a study is kept and which trials count,
trainers/NAME/tuning.py what is searched and judged of each trainer. docs/tune.md explains.
"""

import sys

from trainers.tune.config import PRESETS, TuneConfig
from trainers.tune.launcher import run_tune
from training.config import parse_config


def main(argv: list[str] | None = None) -> int:
    return run_tune(parse_config(TuneConfig, PRESETS, sys.argv[1:] if argv is None else argv, "tune"))

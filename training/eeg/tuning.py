"""What the EEG trainers' `tuning.py` share: objectives, people held out, and the latency of a network."""

import statistics
import time

import torch
from torch import Tensor, nn

from common.errors import InputError
from tracking.run import AnyRun
from training.eeg.config import EegConfig
from training.eeg.load import load_data
from training.tuning import Measure

OBJECTIVES = {"log_loss": "minimize", "accuracy": "maximize", "latency_ms": "minimize"}

EVERY_TRIAL = {"baselines": False, "leakage_check": False}

EVERY_RUN = {"run_folds": 1, "validation_share": 0.34}
"""One group of people is held out to the end. A third of the others choose: one person alone would be a coin toss."""

LATENCY_ROUNDS = 25


def check_recordings(config: EegConfig) -> None:
    """InputError where a study would choose by people that it trains on, or cannot train on these recordings.

    They are read, and kept for the workers.
    """
    if config.split != "cross_subject":
        raise InputError(f"fixed: split={config.split}; a study holds people out, so it needs split=cross_subject")
    load_data(config, quiet=False)


def measure_latency(config: EegConfig, objectives: tuple[str, ...], run: AnyRun, features: str | None) -> Measure:
    """`latency` where it is an objective. Accuracy and log-loss are reported by the trainers."""
    return latency if "latency_ms" in objectives else lambda network, example: {}


def test_metrics_of(name: str) -> tuple[str, ...]:
    """The test figures of the network that a trainer's metrics call `name`."""
    return f"{name}_subject_mean", f"{name}_trial_log_loss", f"{name}_trial_accuracy"


@torch.no_grad()
def latency(network: nn.Module, example: Tensor) -> dict[str, float]:
    """Milliseconds of one window through the network in eval mode: the lower quartile of LATENCY_ROUNDS passes.

    example: [batch, ...]; its first window is taken. On the CPU it is the CPU time of one thread, which other workers
    disturb little.
    """
    was_training, threads = network.training, torch.get_num_threads()
    network.eval()
    x = example[:1].to(next(network.parameters()).device)  # windows may lie on the CPU where the network does not
    torch.set_num_threads(1)
    try:
        taken = []
        for _ in range(LATENCY_ROUNDS):
            if x.is_cuda:
                torch.cuda.synchronize()
            began = time.perf_counter() if x.is_cuda else time.thread_time()
            network(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            taken.append((time.perf_counter() if x.is_cuda else time.thread_time()) - began)
    finally:
        torch.set_num_threads(threads)
        network.train(was_training)
    return {"latency_ms": 1000 * statistics.quantiles(taken, n=4)[0]}

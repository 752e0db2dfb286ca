"""What the EEG trainers' tuning shares."""

import torch

from training.eeg.tuning import latency


def test_latency_takes_the_example_to_where_the_network_is() -> None:
    network = torch.nn.Linear(3, 2, device="meta").train()
    assert latency(network, torch.randn(4, 3))["latency_ms"] > 0
    assert network.training

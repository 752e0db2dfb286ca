"""The generator's moving average against its closed form."""

import pytest
import torch
from torch import nn

from models.gan.ema import GeneratorEMA


def test_average_follows_its_recursion_and_copies_buffers() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = GeneratorEMA(net, 0.5)
    expected = net[0].weight.detach().clone()
    for step in range(1, 20):
        with torch.no_grad():
            net[0].weight += 1.0
        net(torch.randn(4, 2))
        ema.update(net, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * net[0].weight.detach()
    torch.testing.assert_close(ema.model[0].weight, expected)
    assert torch.equal(ema.model[1].running_mean, net[1].running_mean)
    assert ema.model[1].num_batches_tracked == 19
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_decay_zero_is_the_network_itself() -> None:
    net = nn.Linear(2, 2)
    ema = GeneratorEMA(net, 0.0)
    with torch.no_grad():
        net.weight.fill_(3.0)
    ema.update(net, 1)
    assert torch.equal(ema.model.weight, net.weight)


def test_decay_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="decay=1"):
        GeneratorEMA(nn.Linear(1, 1), 1.0)

"""Counted operations: a closed form, and the same count on tensors with numbers."""

import pytest
import torch
from torch import nn

from benchmarks.cost import operations, wgan_operations
from models.gan.networks import Critic, Generator
from models.gan.step import critic_step_gradients, generator_step_gradients
from trainers.wgan.config import WganConfig


def test_a_convolution_costs_what_it_costs() -> None:
    conv, x = nn.Conv2d(3, 5, 3, padding=1, device="meta"), torch.empty(2, 3, 8, 8, device="meta")
    with torch.no_grad():
        assert operations(lambda: conv(x)) == 2 * 2 * 8 * 8 * 5 * 3 * 3 * 3
    # forward, and the gradient of the weights (the input needs none)
    assert operations(lambda: conv(x).sum().backward()) == 2 * 2 * 2 * 8 * 8 * 5 * 3 * 3 * 3


def test_training_steps_cost_as_much_with_numbers() -> None:
    counted = wgan_operations(WganConfig(image_size=32, nz=8, ngf=16, ndf=16), n=2)
    G, D = Generator(32, 8, 16), Critic(32, 16)
    x, z = torch.randn(2, 3, 32, 32), torch.randn(2, 8)
    critic = operations(lambda: critic_step_gradients(D, x, x.flip(0), torch.rand(2), gp_scale=10.0))
    with torch.no_grad():
        critic += operations(lambda: G(z))
    assert counted["critic step"] == critic / 2
    by_hand = operations(lambda: generator_step_gradients(G, D, z)) / 2
    assert counted["generator step"] == pytest.approx(by_hand, rel=1e-5)
    assert counted["critic step"] > 3 * counted["D(x)"] > 0
    assert counted["gradient of D(G(z))"] == pytest.approx(2 * (counted["G(z)"] + counted["D(x)"]), rel=0.05)

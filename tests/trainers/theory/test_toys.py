"""Toys in the plane: points whose quality is known, and corrections of a generator that is known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from trainers.theory import toys
from trainers.theory.config import TOY_NAMES, TheoryConfig
from trainers.theory.toys import TOYS, correct, quality, train_on

SMALL = TheoryConfig(toy_points=300, toy_iterations=5)


@pytest.mark.parametrize("name", TOY_NAMES)
def test_the_data_themselves_are_near_and_spread_evenly(name: str) -> None:
    toy, random = TOYS[name](), torch.Generator().manual_seed(0)
    found = quality(toy.draw(3000, random), toy, toy.draw(3000, random))
    assert found.near > 0.998
    assert found.parts == toy.n_parts
    assert found.total_variation < 0.07
    assert found.wasserstein < 0.25
    assert torch.bincount(toy.part).unique().numel() == 1  # all parts have as many anchors


def test_quality_of_points_that_are_known() -> None:
    toy = TOYS["ring"]()
    truth = toy.anchors.repeat(6, 1)
    exact = quality(truth, toy, truth)
    assert (exact.near, exact.parts, exact.total_variation) == (1.0, 8, 0.0)
    assert exact.wasserstein == pytest.approx(0, abs=1e-6)
    half = truth.clone()
    half[::2] += torch.tensor([10.0, 0.0])  # every other mode, far away
    found = quality(half, toy, truth)
    assert (found.near, found.parts, found.total_variation) == (0.5, 4, 0.5)
    assert found.wasserstein > 3


class Scaled(nn.Module):
    """z -> factor z: the generator; or the critic: minus the distance from a circle of radius 2, times factor."""

    def __init__(self, factor: float, critic: bool = False) -> None:
        super().__init__()
        self.factor, self.critic = factor, critic

    def forward(self, x: Tensor) -> Tensor:
        return -self.factor * (x.norm(dim=1, keepdim=True) - 2).abs() if self.critic else self.factor * x


def test_the_ratio_brings_points_to_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toys, "RATIO", replace(toys.RATIO, epochs=15))
    found = correct(TOYS["ring"](), Scaled(1.5).eval(), Scaled(1.0, critic=True).eval(), SMALL)
    assert list(found.points) == ["data", "plain", "critic", "fitted critic", "ratio", "density"]
    assert all(points.shape == (300, 2) for points in found.points.values())
    near = {name: q.near for name, q in found.qualities.items()}
    assert near["data"] > 0.98
    assert near["ratio"] > 2 * near["plain"]
    assert found.calibrations["critic"].slope > 1  # the scale that this critic lacks
    assert len(found.words) == 2


def test_a_critic_that_leads_away_is_not_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toys, "RATIO", replace(toys.RATIO, epochs=1))
    found = correct(TOYS["ring"](), Scaled(1.5).eval(), Scaled(-1.0, critic=True).eval(), SMALL)
    assert "fitted critic" not in found.points
    assert "the critic rates generated images above real ones" in found.words[0]


def test_training_moves_points_towards_the_data_and_keeps_the_global_state() -> None:
    toy, before = TOYS["ring"](), torch.get_rng_state()
    first, _ = train_on(toy, 1, seed=0)
    G, D = train_on(toy, 60, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(p.requires_grad for p in [*G.parameters(), *D.parameters()])
    z = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    radius = [float(net(z).norm(dim=1).mean()) for net in (first, G)]
    assert abs(radius[1] - 2) < 0.7 * abs(radius[0] - 2)
    assert all(map(math.isfinite, radius))

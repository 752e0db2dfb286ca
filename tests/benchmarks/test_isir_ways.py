"""Drawing rows in proportion to weights: each way beside what it should give in the mean."""

import math

import torch
from torch import Tensor

from benchmarks.isir_ways import COST, best, pool, pool_once, rejection, sir

N, SEEDS = 400, 20
HEAVY = torch.rand(COST * N, generator=torch.Generator().manual_seed(1000)) < 0.5  # a seed of its own
WEIGHT = torch.where(HEAVY, 3.0, 1.0)
LOG_W = WEIGHT.log()
EXPECTED = float(WEIGHT[HEAVY].sum() / WEIGHT.sum())
"""Share of heavy rows among those drawn in proportion to the weights."""
NEAR = 4 * math.sqrt(EXPECTED * (1 - EXPECTED) / (N * SEEDS))
"""Four standard errors of the share among all rows of all seeds."""
ONE_ROW = torch.tensor([0.0, -50.0, -50.0])


def share_of_heavy(rows: list[Tensor]) -> float:
    return float(HEAVY[torch.cat(rows)].double().mean())


def test_one_draw_of_each_group_in_proportion_to_the_weights() -> None:
    rows = [sir(LOG_W, N, seed) for seed in range(SEEDS)]
    assert torch.equal(rows[0] // COST, torch.arange(N))  # each from a group of its own
    groups, heavy = WEIGHT.reshape(N, COST), HEAVY.reshape(N, COST)
    expected = float(((groups * heavy).sum(1) / groups.sum(1)).mean())
    assert abs(share_of_heavy(rows) - expected) < NEAR


def test_the_pool_with_repeats() -> None:
    rows = [pool(LOG_W, N, seed) for seed in range(SEEDS)]
    assert len(rows[0]) == N
    assert abs(share_of_heavy(rows) - EXPECTED) < NEAR
    assert pool(ONE_ROW, 3, 0).tolist() == [0, 0, 0]


def test_the_pool_without_repeats() -> None:
    rows = [pool_once(LOG_W, N, seed) for seed in range(SEEDS)]
    assert len(rows[0].unique()) == N
    assert abs(share_of_heavy(rows) - EXPECTED) < NEAR
    assert sorted(pool_once(ONE_ROW, 3, 0).tolist()) == [0, 1, 2]


def test_rejection_takes_about_n_in_proportion_to_the_weights() -> None:
    """Also where no weight stands out, so that the bound is far above all of them."""
    rows = [rejection(LOG_W, N, seed) for seed in range(SEEDS)]
    assert abs(sum(len(each) for each in rows) / SEEDS - N) < 4 * math.sqrt(N / SEEDS)
    assert abs(share_of_heavy(rows) - EXPECTED) < NEAR


def test_the_best_are_those_rated_highest() -> None:
    assert sorted(best(torch.tensor([0.1, 3.0, -1.0, 2.0]), 2, 0).tolist()) == [1, 3]

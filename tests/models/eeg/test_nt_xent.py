"""NT-Xent against its formula written out, in values and gradients, and at the cases that are known."""

import math

import pytest
import torch
from torch import Tensor

from models.eeg.nt_xent import alignment, nt_xent, uniformity


def by_definition(z_a: Tensor, z_b: Tensor, tau: float, group: Tensor | None = None) -> Tensor:
    """The exercise's formula, pair by pair."""
    z = torch.cat([z_a, z_b])
    n = len(z_a)
    groups = None if group is None else torch.cat([group, group])
    total = z.new_zeros(())
    for i in range(2 * n):
        j = (i + n) % (2 * n)

        def s(a: int, b: int) -> Tensor:
            return torch.dot(z[a], z[b]) / (z[a].norm() * z[b].norm()) / tau

        others = [k for k in range(2 * n) if k != i and (groups is None or k == j or groups[k] != groups[i])]
        total = total - (s(i, j) - torch.stack([s(i, k) for k in others]).logsumexp(0))
    return total / (2 * n)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
def test_value_and_gradients_by_the_definition(tau: float, grouped: bool) -> None:
    torch.manual_seed(0)
    z_a, z_b = (torch.randn(6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    group = torch.tensor([0, 0, 1, 2, 2, 2]) if grouped else None
    ours, expected = nt_xent(z_a, z_b, tau, group), by_definition(z_a, z_b, tau, group)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (z_a, z_b)), torch.autograd.grad(expected, (z_a, z_b)), strict=True
    ):
        assert torch.allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("tau", [0.05, 0.5])
@pytest.mark.parametrize("peer", ["lightly", "pytorch-metric-learning"])
def test_value_and_gradients_are_those_of_peers(peer: str, tau: float) -> None:
    if peer == "lightly":
        theirs = pytest.importorskip("lightly.loss").NTXentLoss(temperature=tau)
    else:
        losses = pytest.importorskip("pytorch_metric_learning.losses")
        theirs = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=tau))
    torch.manual_seed(0)
    z_a, z_b = (torch.randn(9, 32, requires_grad=True) for _ in range(2))
    ours, expected = nt_xent(z_a, z_b, tau), theirs(z_a, z_b)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, other in zip(
        torch.autograd.grad(ours, (z_a, z_b)), torch.autograd.grad(expected, (z_a, z_b)), strict=True
    ):
        assert torch.allclose(mine, other, atol=1e-6)


def test_known_values() -> None:
    """Equal projections everywhere: log(2N - 1). Orthogonal pairs that agree: log(1 + (2N - 2) e^(-1/tau))."""
    same = torch.ones(4, 3, dtype=torch.float64)
    assert nt_xent(same, same, 0.1).item() == pytest.approx(math.log(7))
    basis = torch.eye(4, dtype=torch.float64)
    assert nt_xent(basis, 3 * basis, 0.5).item() == pytest.approx(math.log(1 + 6 * math.exp(-2)))


def test_pairs_of_one_group_alone_teach_nothing() -> None:
    z_a = torch.randn(3, 4, requires_grad=True)
    loss = nt_xent(z_a, torch.randn(3, 4), 0.1, torch.zeros(3, dtype=torch.int64))
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, z_a)[0], torch.zeros(3, 4))


def test_order_of_the_views_and_scale_do_not_matter() -> None:
    torch.manual_seed(0)
    z_a, z_b = torch.randn(5, 4), torch.randn(5, 4)
    assert nt_xent(z_a, z_b).item() == pytest.approx(nt_xent(z_b, z_a).item(), rel=1e-5)
    assert nt_xent(z_a, z_b).item() == pytest.approx(nt_xent(7 * z_a, 0.1 * z_b).item(), rel=1e-5)


def test_similarity_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    z_a, z_b = torch.randn(8, 16), torch.randn(8, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(z_a, z_b)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(nt_xent(z_a, z_b).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "tau", "words"),
    [
        ((3, 2), (4, 2), 0.1, "shapes"),
        ((3,), (3,), 0.1, "shapes"),
        ((1, 2), (1, 2), 0.1, "no negatives"),
        ((3, 2), (3, 2), 0.0, "tau=0.0"),
    ],
)
def test_wrong_sizes_are_refused(a: tuple[int, ...], b: tuple[int, ...], tau: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        nt_xent(torch.ones(a), torch.ones(b), tau)


def test_alignment_and_uniformity() -> None:
    z = torch.randn(20, 3)
    assert alignment(z, 2 * z).item() == pytest.approx(0, abs=1e-6)
    assert alignment(z, -z).item() == pytest.approx(4, rel=1e-5)
    assert uniformity(torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-6)
    basis = torch.eye(4)
    assert uniformity(basis).item() == pytest.approx(-4, rel=1e-5)

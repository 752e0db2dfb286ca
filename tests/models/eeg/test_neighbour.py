"""The contrast of neighbours and the few-shot head, against a double loop, scikit-learn and the mirror."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from models.eeg.lateral import OddTangent
from models.eeg.neighbour import (
    FewShotHead,
    NeighbourClassifier,
    NeighbourContrast,
    NeighbourEncoder,
    fit_head,
    head_loss,
)
from tests.eeg_montage import mirror_64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_loss_is_that_of_a_plain_loop_over_pairs() -> None:
    after, before, contrast = random(5, 2, 3), random(7, 4, 3, seed=1), NeighbourContrast().double()
    contrast.threshold.data.fill_(0.3)

    def mean_loss(z: np.ndarray, sign: float) -> float:
        losses = []
        for trial in z:
            for k in range(len(trial) - 1):
                p_after = 1 / (1 + math.exp(-(float(np.dot(trial[k], trial[k + 1])) - 0.3)))
                losses.append(-math.log(p_after if sign > 0 else 1 - p_after))
        return sum(losses) / len(losses)

    expected = mean_loss(after.numpy(), 1.0) + mean_loss(before.numpy(), -1.0)
    assert contrast(after, before).item() == pytest.approx(expected, abs=1e-12)


def test_where_nothing_is_learned_the_loss_is_log_4() -> None:
    assert NeighbourContrast()(torch.zeros(3, 2, 1), torch.zeros(4, 3, 1)).item() == pytest.approx(math.log(4))


def test_gradients_of_the_contrast_and_of_the_head() -> None:
    contrast = NeighbourContrast().double()
    after, before = random(4, 2, 2).requires_grad_(), random(4, 3, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(contrast, (after, before))
    x, z, label = random(6, 3).requires_grad_(), random(6, 1, seed=2).requires_grad_(), torch.tensor([0, 1] * 3)
    head = FewShotHead(3, 1, strength=2.0).double()
    head.gain.data.fill_(0.4)
    assert torch.autograd.gradcheck(lambda x, z: head_loss(head, x, z, label, 0.1), (x, z))


def test_mirrored_trials_get_the_other_answer() -> None:
    mirror = mirror_64()
    trials = random(4, 2, 64, 200)
    covariance = trials @ trials.transpose(2, 3) / 200
    tangent = OddTangent(mirror)
    encoder, head = NeighbourEncoder(torch.randn(999, 5)), FewShotHead(5, 1, strength=3.0)
    head.gain.data.fill_(0.7)
    head.correction.data.normal_()
    network = NeighbourClassifier(encoder, head)
    vectors, mirrored = tangent(covariance), tangent(covariance[..., mirror, :][..., mirror])
    assert torch.allclose(encoder(mirrored), -encoder(vectors), atol=1e-4)
    assert torch.allclose(network(mirrored), network(vectors).flip(1), atol=1e-4)
    assert not torch.allclose(network(vectors)[:, 0], network(vectors)[:, 1], atol=1e-2)


def test_without_z_the_head_is_scikit_learns_logistic_regression() -> None:
    x = random(60, 4)
    label = (x[:, 0] + random(60, seed=1) > 0).long()
    for c in (0.01, 1.0):
        head = fit_head(FewShotHead(4, 0, strength=0.0).double(), x, x[:, :0], label, c)
        theirs = LogisticRegression(C=c, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x.numpy(), label.numpy())
        assert np.allclose(head.correction.detach().numpy(), theirs.coef_[0], atol=1e-4)


def test_the_penalty_draws_the_head_to_z_as_far_as_strength_says() -> None:
    """z doubles the first component: the best head has weights in proportion to strength on z, and 1 on x."""
    x = random(40, 3)
    z, label = x[:, :1].clone(), (x[:, 0] > 0).long()
    head = fit_head(FewShotHead(3, 1, strength=4.0).double(), x, z, label, 0.01)
    assert head.gain[0].item() == pytest.approx(4 * head.correction[0].item(), rel=1e-3)
    assert head.gain[0].item() > 0.05
    scratch = fit_head(FewShotHead(3, 1, strength=0.0).double(), x, z, label, 0.01)
    assert scratch.gain.abs()[0].item() == 0.0

"""The attention over slices, and what is served."""

import numpy as np
import pytest
import torch

from data.eeg.recording import fir_kernel
from models.eeg.lateral import Slice
from models.eeg.slice_transformer import LateralEpochClassifier, LateralTransformer, SliceWeighing, slice_context
from tests.eeg_montage import mirror_64

SLICES = (Slice(0, 0.5), Slice(1, 4, 7, 14, 0.1))


def trained(attention: str = "sdpa") -> LateralTransformer:
    """With weights as after a training: none of them zero."""
    torch.manual_seed(0)
    network = LateralTransformer(2, 999, n_networks=2, attention=attention)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.5)
    network.directions.normal_()
    network.usual_context.normal_()
    return network.eval()


@pytest.mark.parametrize("attention", ["sdpa", "none"])
def test_a_mirrored_trial_gets_the_other_answer(attention: str) -> None:
    network, x, context = trained(attention), torch.randn(5, 2, 999), torch.randn(5, 2, 2)
    assert torch.allclose(network(-x, context), network(x, context).flip(1), atol=1e-5)
    assert torch.allclose(network(x, context).exp().sum(1), torch.ones(5))


def test_attention_weighs_by_trial_and_person_and_none_does_not() -> None:
    evidence, context = torch.randn(6, 4), torch.randn(6, 4, 2)
    torch.manual_seed(0)
    attends, plain = SliceWeighing(4).eval(), SliceWeighing(4, "none")
    start = attends.weights(evidence, context)
    assert torch.allclose(start, torch.full((6, 4), 0.25))  # before training: the same for all
    torch.nn.init.normal_(attends.score.weight)
    assert attends.weights(evidence, context).std(0).min() > 1e-4
    assert torch.equal(attends.weights(evidence, context)[:1], attends.weights(evidence[:1], context[:1]))
    torch.nn.init.normal_(plain.prior)
    assert plain.weights(evidence, context).std(0).max() == 0


def test_the_context_is_size_and_agreement() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=1000)
    evidence = np.stack([2 * common, common, rng.normal(size=1000)], 1)
    size, agreement = slice_context(torch.from_numpy(evidence)).numpy().T
    assert np.allclose(size, np.log(np.sqrt((evidence**2).mean(0))))
    r = [float(np.dot(evidence[:, 0], evidence[:, 2]) / np.prod(np.linalg.norm(evidence[:, [0, 2]], axis=0)))]
    assert np.isclose(agreement[0], (1 + r[0]) / 2)
    assert abs(agreement[2]) < 0.1 < agreement[1]


def served(network: LateralTransformer) -> LateralEpochClassifier:
    kernel = torch.from_numpy(fir_kernel(160.0, 7.0, 30.0))
    reference = 100.0 * torch.eye(64, dtype=torch.float64).expand(2, 64, 64)
    return LateralEpochClassifier(
        network,
        kernel,
        SLICES,
        mirror_64(),
        reference,
        tmin=-1.0,
        sfreq=160.0,
        step=2,
        passed=(7.0, 30.0),
        shrinkage=0.05,
        n_usual=5,
    )


def test_served_epochs_mirrored_get_the_other_probability() -> None:
    model = served(trained())
    x = 2e-5 * torch.randn(4, 64, 801, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = model(x)
    assert p.shape == (4, 2)
    assert torch.allclose(p.sum(1), torch.ones(4, dtype=p.dtype))
    assert torch.allclose(model(x[:, mirror_64()]), p.flip(1), atol=1e-4)


def test_an_answer_depends_on_the_persons_other_epochs_but_not_on_their_order() -> None:
    model = served(trained())
    x = 2e-5 * torch.randn(6, 64, 801, generator=torch.Generator().manual_seed(1))
    together, order = model.vectors(x), torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.allclose(model.vectors(x[order]), together[order], atol=1e-4)
    alone = model.vectors(x[:1])
    assert torch.isfinite(alone).all()
    assert (alone - together[:1]).abs().max() > 0.01

"""Neighbouring slices after the cue told from neighbouring slices before it: a contrast that looks across the midline.

Slices are described by their odd tangent vectors (models/eeg/lateral.py), aligned by person. All that is learned here
is linear in them and without a bias, hence odd under the mirror: a trial with left and right electrodes swapped and the
other label is learned at once with the trial itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.eeg.epoch_vectors import EpochVectors
from models.eeg.lateral import Slice


class NeighbourEncoder(nn.Module):
    """Odd tangent vectors of slices [..., n_features], less their person's mean -> z [..., n_latent].

    x = vectors @ components, z = W x. components [n_features, n_components]: principal axes of unlabelled people's
    vectors, fixed; `project` holds W, which the contrast learns.
    """

    components: Tensor

    def __init__(self, components: Tensor, n_latent: int = 1) -> None:
        super().__init__()
        self.register_buffer("components", components)
        self.project = nn.Linear(components.shape[1], n_latent, bias=False)

    def reduce(self, vectors: Tensor) -> Tensor:
        """x, [..., n_components]."""
        return vectors @ self.components

    def forward(self, vectors: Tensor) -> Tensor:
        return self.project(self.reduce(vectors))


class NeighbourContrast(nn.Module):
    """The loss of telling pairs of neighbouring slices after the cue from pairs at the same distance before it.

        s(a, b) = z_a . z_b
        L = mean over pairs after the cue of softplus(c - s) + mean over pairs before it of softplus(s - c)

    This is binary noise-contrastive estimation (Gutmann and Hyvarinen 2010, Noise-contrastive estimation, AISTATS, eq.
    3, as many noise samples as data) with the seconds before the cue as noise and a learned threshold c. Two neighbours
    of a trial agree for many reasons (slow drift, an electrode, muscle, the samples they share). All of these hold
    before the cue as well, and cancel; what is left is what a trial gains after its cue: a side.
    """

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(()))

    def forward(self, after: Tensor, before: Tensor) -> Tensor:
        """after [n, n_slices, n_latent], before [m, n_slices', n_latent], in the order of time, each less its run's
        mean -> a scalar; neighbours are consecutive slices. It is log 4 where nothing is learned (z = 0, c = 0).
        """
        positive = (after[:, 1:] * after[:, :-1]).sum(-1)
        negative = (before[:, 1:] * before[:, :-1]).sum(-1)
        return F.softplus(self.threshold - positive).mean() + F.softplus(negative - self.threshold).mean()


class FewShotHead(nn.Module):
    """x [N, n_components] and z [N, n_latent] of trials -> logit of "right" [N].

        logit = strength * gain . z + correction . x

    Since z is linear in x, it is one linear classifier of x, whose penalty (`squared_norm`) makes the direction found
    without labels cheaper than any other: it is shrunk towards the pre-trained one instead of towards zero (L2-SP, Li,
    Grandvalet and Davoine 2018, arXiv:1802.01483, eq. 2). strength = 0 is the same classifier from scratch.
    """

    def __init__(self, n_components: int, n_latent: int, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self.gain = nn.Parameter(torch.zeros(n_latent))
        self.correction = nn.Parameter(torch.zeros(n_components))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.strength * (z @ self.gain) + x @ self.correction

    def squared_norm(self) -> Tensor:
        return self.gain.square().sum() + self.correction.square().sum()


def head_loss(head: FewShotHead, x: Tensor, z: Tensor, label: Tensor, c: float) -> Tensor:
    """Mean cross-entropy of labels 0 or 1 [N] plus squared_norm / (2 c N): c is scikit-learn's C. Convex."""
    cross_entropy = F.binary_cross_entropy_with_logits(head(x, z), label.to(x.dtype))
    return cross_entropy + head.squared_norm() / (2 * c * len(label))


def fit_head(head: FewShotHead, x: Tensor, z: Tensor, label: Tensor, c: float) -> FewShotHead:
    """Bring `head` to the minimum of `head_loss` by L-BFGS; there is nothing to stop early and no randomness."""
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = head_loss(head, x, z, label=label, c=c)
        loss.backward()
        return loss

    optimizer.step(closure)
    return head


class NeighbourClassifier(nn.Module):
    """Odd tangent vectors of a trial's slices [N, n_slices, n_features] -> log-probabilities of (left, right) [N, 2].

    The head sees the mean over the slices.
    """

    def __init__(self, encoder: NeighbourEncoder, head: FewShotHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, vectors: Tensor) -> Tensor:
        x = self.encoder.reduce(vectors.mean(1))
        logit = self.head(x, self.encoder.project(x))
        return torch.stack([-logit / 2, logit / 2], dim=1).log_softmax(1)


class NeighbourEpochClassifier(EpochVectors):
    """What is served: raw epochs in volts [N, n_chans, n_times] -> probabilities of (left, right) [N, 2].

    The epochs of one call are one person's, see `EpochVectors`, which says what the arguments are.
    """

    def __init__(
        self,
        network: NeighbourClassifier,
        kernel: Tensor,
        slices: Sequence[Slice],
        mirror: Tensor,
        reference: Tensor,
        *,
        tmin: float,
        sfreq: float,
        step: int,
        passed: tuple[float, float],
        shrinkage: float,
        n_usual: float,
    ) -> None:
        super().__init__(
            kernel,
            tuple(slices),
            mirror,
            reference,
            tmin=tmin,
            sfreq=sfreq,
            step=step,
            passed=passed,
            shrinkage=shrinkage,
            n_usual=n_usual,
        )
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.vectors(x)).exp()

"""A Transformer encoder that weighs the slices of a trial, for left against right; and what is served of it.

A trial is a sequence of slices (models/eeg/lateral.py), each with its own evidence for "right", a linear function of
its odd tangent vector. Which slices to believe in this trial of this person is decided by attention (Vaswani et al.
2017, arXiv:1706.03762), from the evidences of all slices and from how strong and how consistent each slice's evidence
is over the person's unlabelled trials.

The logit is exactly odd under the mirror: a trial with left and right electrodes swapped gets the negated logit, so
that mirrored trials with the other label would add nothing to training.
"""

import torch
from torch import Tensor, nn

from models.attention.spec import AttentionSpec
from models.eeg.epoch_vectors import EpochVectors
from models.eeg.lateral import Slice
from models.transformer import Encoder, EncoderLayer

N_CONTEXT = 2


def slice_context(evidence: Tensor) -> Tensor:
    """What a person's unlabelled trials tell of each slice: evidence [n_trials, n_slices] -> [n_slices, 2].

    The logarithm of the evidence's root mean square over the trials, and its mean correlation with the evidences of the
    other slices (0 where a slice does not vary). Uncentred: a person's vectors, and so the evidences, have mean 0.
    """
    rms = evidence.square().mean(0).sqrt()
    unit = evidence / (evidence.norm(dim=0) + 1e-12)
    agreement = unit.T @ unit
    others = (agreement.sum(1) - agreement.diagonal()) / max(evidence.shape[1] - 1, 1)
    return torch.stack([rms.clamp_min(1e-3).log(), others], dim=1)


class SliceWeighing(nn.Module):
    """Evidences [N, n_slices] and contexts [N, n_slices, 2] -> logit of "right" [N], a weighted sum of the evidences.

    Args:
        n_slices: which is which must not change after training, since positions are learned.
        attention: a mechanism of `models.attention`. "none": every slice has one weight for all trials and people.
        d_model, n_heads, n_layers, dropout: of the encoder; d_ff is 2 d_model.

    The scores start at zero: before training all slices weigh the same.
    """

    def __init__(
        self,
        n_slices: int,
        attention: AttentionSpec | str = "sdpa",
        *,
        d_model: int = 16,
        n_heads: int = 4,
        n_layers: int = 1,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.prior = nn.Parameter(torch.zeros(n_slices))
        self.log_scale = nn.Parameter(torch.tensor(0.5))
        self.attends = (attention if isinstance(attention, str) else attention.name) != "none"
        if not self.attends:
            return
        self.embed = nn.Linear(1 + N_CONTEXT, d_model)
        self.position = nn.Parameter(0.2 * torch.randn(n_slices, d_model))
        layers = [
            EncoderLayer(
                d_model,
                n_heads,
                d_ff=2 * d_model,
                dropout=dropout,
                activation="gelu",
                norm_first=True,
                attention=attention,
            )
            for _ in range(n_layers)
        ]
        self.encoder = Encoder(layers, nn.LayerNorm(d_model))
        self.score = nn.Linear(d_model, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def weights(self, evidence: Tensor, context: Tensor) -> Tensor:
        """Weights of the slices, [N, n_slices], that sum to 1; the same for a mirrored trial."""
        scores = self.prior.expand_as(evidence)
        if self.attends:
            both = self._scores(torch.cat([evidence, -evidence]), torch.cat([context, context]))
            scores = scores + (both[: evidence.shape[0]] + both[evidence.shape[0] :]) / 2
        return scores.softmax(1)

    def forward(self, evidence: Tensor, context: Tensor) -> Tensor:
        return self.log_scale.exp() * (self.weights(evidence, context) * evidence).sum(1)

    def _scores(self, evidence: Tensor, context: Tensor) -> Tensor:
        tokens = self.embed(torch.cat([evidence[..., None], context], dim=-1)) + self.position
        return self.score(self.encoder(tokens)[0])[..., 0]


class LateralTransformer(nn.Module):
    """Odd tangent vectors [N, n_slices, n_features] and contexts [N, n_slices, 2] -> log-probabilities [N, 2].

    The mean logit of several `SliceWeighing` of different seeds. directions [n_slices, n_features]: the linear evidence
    of each slice, about 1 in size; usual_context [n_slices, 2]: the mean context of the people trained on. Both are
    fitted in closed form, and zero until they are set.
    """

    directions: Tensor
    usual_context: Tensor

    def __init__(
        self, n_slices: int, n_features: int, n_networks: int = 5, attention: AttentionSpec | str = "sdpa"
    ) -> None:
        super().__init__()
        self.register_buffer("directions", torch.zeros(n_slices, n_features))
        self.register_buffer("usual_context", torch.zeros(n_slices, N_CONTEXT))
        self.networks = nn.ModuleList(SliceWeighing(n_slices, attention) for _ in range(n_networks))

    def evidence(self, vectors: Tensor) -> Tensor:
        """Each slice's evidence for "right", [N, n_slices]."""
        return (vectors * self.directions).sum(-1)

    def weights(self, evidence: Tensor, context: Tensor) -> Tensor:
        """Mean weights of the slices over the networks, [N, n_slices]."""
        return torch.stack([network.weights(evidence, context) for network in self.networks]).mean(0)  # type: ignore[operator]

    def context_of(self, evidence: Tensor, n_usual: float) -> Tensor:
        """Context [n_slices, 2] of a person with these evidences [n_trials, n_slices].

        The usual one counts as n_usual trials.
        """
        n = evidence.shape[0]
        return (n_usual * self.usual_context + n * slice_context(evidence)) / (n_usual + n)

    def forward(self, vectors: Tensor, context: Tensor) -> Tensor:
        evidence = self.evidence(vectors)
        logit = torch.stack([network(evidence, context) for network in self.networks]).mean(0)
        return torch.stack([-logit / 2, logit / 2], dim=1).log_softmax(1)


class LateralEpochClassifier(EpochVectors):
    """What is served: raw epochs in volts [N, n_chans, n_times] -> probabilities of (left, right) [N, 2].

    The epochs of one call are one person's, see `EpochVectors`, which says what the other arguments are. Slices are
    weighed by the epochs' own context, to which the training people's counts as `n_usual` epochs.

    Args:
        network: of `slices`, for channels with this `mirror`.
    """

    def __init__(
        self,
        network: LateralTransformer,
        kernel: Tensor,
        slices: tuple[Slice, ...],
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
            slices,
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
        vectors = self.vectors(x)
        context = self.network.context_of(self.network.evidence(vectors), self.n_usual)
        return self.network(vectors, context.expand(x.shape[0], -1, -1)).exp()

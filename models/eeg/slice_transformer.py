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
from models.eeg.lateral import OddTangent, Slice, bands_of, shrinkages, slice_covariances
from models.eeg.whitening import whitening
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


class LateralEpochClassifier(nn.Module):
    """What is served: raw epochs in volts [N, n_chans, n_times] -> probabilities of (left, right) [N, 2].

    The epochs of one call are one person's, in any order. They are whitened by their own mean covariance and centred on
    their own mean vector, and slices weighed by their own context, to which the training people's count as `n_usual`
    epochs: so a single epoch has an answer too, and past trials of the person, sent along with the present one, make
    its answer better. Give one person a call.

    Args:
        network: of `slices`, for channels with this `mirror`. kernel: FIR band-pass of training; the epoch's ends are
            mirrored, where training saw the recording go on. step: every how many samples are kept after it.
        tmin, sfreq: of the epochs as they come. passed: the kernel's band in Hz.
        reference: training people's mean covariance in each band, square microvolts [n_bands, n_chans, n_chans].
        shrinkage: of the covariance whitened by.
    """

    kernel: Tensor
    reference: Tensor
    shrinkages: Tensor
    band_of: Tensor

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
        super().__init__()
        if kernel.dim() != 1 or len(kernel) % 2 == 0:
            raise ValueError(f"the kernel has shape {list(kernel.shape)}; an odd number of taps is needed")
        self.network, self.slices, self.tangent = network, slices, OddTangent(mirror)
        self.tmin, self.sfreq, self.step, self.passed = tmin, sfreq, step, passed
        self.shrinkage, self.n_usual = shrinkage, n_usual
        self.register_buffer("kernel", kernel.float())
        self.register_buffer("reference", reference.double())
        self.register_buffer("shrinkages", shrinkages(slices))
        bands = bands_of(slices)
        self.register_buffer("band_of", torch.tensor([bands.index(s.band) for s in slices]))

    def vectors(self, x: Tensor) -> Tensor:
        """Odd tangent vectors [N, n_slices, n_features] of raw epochs, aligned and centred as one person's."""
        x = x.to(self.kernel.dtype)  # MNE's epochs are float64
        n, n_chans, n_times = x.shape
        half = len(self.kernel) // 2
        padded = nn.functional.pad((x * 1e6).reshape(n * n_chans, 1, n_times), (half, half), mode="reflect")
        filtered = nn.functional.conv1d(padded, self.kernel.view(1, 1, -1), stride=self.step).view(n, n_chans, -1)
        parts, whole = slice_covariances(
            filtered, self.slices, tmin=self.tmin, sfreq=self.sfreq / self.step, passed=self.passed
        )
        mean = (self.n_usual * self.reference + whole.double().sum(0)) / (self.n_usual + n)
        whiten = torch.stack([whitening(covariance, self.shrinkage) for covariance in mean.unbind()])[self.band_of]
        found = self.tangent(whiten @ parts.double() @ whiten, self.shrinkages)
        return found - found.sum(0) / (self.n_usual + n)

    def forward(self, x: Tensor) -> Tensor:
        vectors = self.vectors(x)
        context = self.network.context_of(self.network.evidence(vectors), self.n_usual)
        return self.network(vectors, context.expand(x.shape[0], -1, -1)).exp()

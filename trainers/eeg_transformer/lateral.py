"""The training of network=lateral: slices' evidences in closed form, then the attention that weighs them.

`fit_lateral` reads top to bottom: principal components of each slice -> a ridge regression on each -> evidences of the
training trials by regressions that did not see the person -> several networks that weigh them, by AdamW for a fixed
number of updates. Nothing in it sees a person to be tested, or the order of trials, and nothing is stopped early.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention.spec import AttentionSpec
from models.eeg.lateral import Slice
from models.eeg.slice_transformer import LateralTransformer, SliceWeighing, slice_context
from training.eeg.baselines import TANGENT_C
from training.eeg.fit import warm_cosine
from training.eeg.slices import REFERENCE_TRIALS

WIDE, LOW, HIGH = (7.0, 30.0), (7.0, 14.0), (14.0, 30.0)
SLICES = (
    Slice(0, 0.5, *WIDE),
    Slice(0.125, 0.375, *WIDE, shrinkage=0.3),
    Slice(0.25, 0.75, *WIDE),
    Slice(0.5, 1, *WIDE),
    Slice(1, 1.5, *WIDE),
    Slice(0, 0.5, *HIGH),
    Slice(0.25, 0.75, *HIGH),
    Slice(0, 2, *LOW, shrinkage=0.1),
    Slice(1, 4, *LOW, shrinkage=0.1),
)
"""Chosen on 46 of the people 1-69 (docs/eeg_transformer.md)."""
N_COMPONENTS = 96
RIDGE = 7.0
N_GROUPS = 5


@dataclass(frozen=True)
class WeighingSettings:
    """How the networks that weigh the slices are trained."""

    n_networks: int = 5
    n_updates: int = 150
    batch_size: int = 128
    lr: float = 0.003
    weight_decay: float = 0.1
    warmup: float = 0.1
    label_smoothing: float = 0.1


def principal_axes(vectors: Tensor, n_components: int = N_COMPONENTS) -> np.ndarray:
    """[n_slices, n_features, k] of each slice over the trials [n, n_slices, n_features], float32; k is n_components, or
    the number of trials or features where that is smaller.

    Scaled so that a slice's vectors have mean squared norm 1 before the small components are left out.
    """
    axes = []
    for x in vectors.unbind(1):
        n, d = x.shape
        if n < d:  # the singular vectors are the same axes; the covariance would take many times as long
            found = scipy.linalg.svd(x.double().numpy(), full_matrices=False)[2][:n_components].T
            size = float((x.double() ** 2).sum()) / n
        else:
            covariance = (x.T @ x / n).double().numpy()
            found = scipy.linalg.eigh(covariance, subset_by_index=[max(0, d - n_components), d - 1])[1][:, ::-1]
            size = float(np.trace(covariance))
        axes.append(found / math.sqrt(size or 1.0))
    return np.stack(axes).astype(np.float32)


def ridge_directions(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Ridge regression of -1 (left) and +1 (right) on each slice, no intercept: [n, n_slices, d] -> [n_slices, d].

    The penalty is RIDGE times the slice's mean squared norm.
    """
    target, weights = 2.0 * label - 1, []
    for a in np.moveaxis(x.astype(np.float64), 1, 0):
        size = float((a**2).sum(1).mean()) or 1.0
        weights.append(np.linalg.solve(a.T @ a / size + RIDGE * np.eye(a.shape[1]), a.T @ target / size))
    return np.stack(weights)


def cross_fitted_evidence(x: np.ndarray, label: np.ndarray, group: np.ndarray, seed: int) -> np.ndarray:
    """Evidence [n, n_slices] of the training trials by regressions that did not see their group.

    What a regression says of those it was fitted on is surer than what it will say of new ones: weights learned from
    that would trust the slices that overfit most. With a single group, its trials are dealt to five.
    """
    if len(np.unique(group)) == 1:
        group = np.arange(len(group)) % N_GROUPS
    names = np.random.default_rng(seed).permutation(np.unique(group))
    evidence = np.empty(x.shape[:2])
    for part in np.array_split(names, min(N_GROUPS, len(names))):
        out = np.isin(group, part)
        evidence[out] = np.einsum("ntd,td->nt", x[out], ridge_directions(x[~out], label[~out]))
    return evidence


def contexts(evidence: Tensor, group: np.ndarray) -> Tensor:
    """`slice_context` of every trial's group: evidence [n, n_slices] -> [n, n_slices, 2]."""
    found = torch.empty(*evidence.shape, 2)
    for g in np.unique(group):
        own = torch.from_numpy(group == g)
        found[own] = slice_context(evidence[own])
    return found


def train_weighing(
    network: SliceWeighing, evidence: Tensor, context: Tensor, label: Tensor, *, settings: WeighingSettings, seed: int
) -> list[float]:
    """Train in place: AdamW with warm-up and cosine for a fixed number of updates; returns the loss of each."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), settings.lr, weight_decay=settings.weight_decay)
    network.train()
    losses = []
    for update in range(settings.n_updates):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * warm_cosine((update + 1) / settings.n_updates, settings.warmup)
        chosen = torch.from_numpy(rng.choice(len(label), min(settings.batch_size, len(label)), replace=False))
        logit = network(evidence[chosen], context[chosen])
        logits = torch.stack([-logit / 2, logit / 2], dim=1)
        loss = F.cross_entropy(logits, label[chosen], label_smoothing=settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    network.eval()
    return losses


def fit_lateral(
    vectors: Tensor,
    label: np.ndarray,
    group: np.ndarray,
    *,
    attention: AttentionSpec | str,
    settings: WeighingSettings,
    seed: int,
) -> tuple[LateralTransformer, list[float]]:
    """The network fitted to trials, and the mean loss over its networks after each update.

    vectors [n, n_slices, n_features]; label 0 or 1 [n]; group [n]: whose trials were aligned together.
    """
    axes = principal_axes(vectors)
    x = np.stack([v.numpy() @ a for v, a in zip(vectors.unbind(1), axes, strict=True)], 1)
    raw = cross_fitted_evidence(x, label, group, seed)
    size = raw.std(axis=0) + 1e-12
    directions = np.einsum("tdk,tk->td", axes, ridge_directions(x, label) / size[:, None])
    evidence = torch.from_numpy(raw / size).float()
    context = contexts(evidence, group)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, n_slices, n_features = vectors.shape
        network = LateralTransformer(n_slices, n_features, settings.n_networks, attention)
        network.directions.copy_(torch.from_numpy(directions))
        network.usual_context.copy_(torch.stack([context[group == g][0] for g in np.unique(group)]).mean(0))
        losses = [
            train_weighing(
                one,  # type: ignore[arg-type]
                evidence,
                context,
                torch.from_numpy(label),
                settings=settings,
                seed=seed + k,
            )
            for k, one in enumerate(network.networks)
        ]
    return network.eval(), np.mean(losses, axis=0).tolist()


def linear_log_p(vectors: Tensor, label: np.ndarray, tested: Tensor) -> Tensor:
    """What one logistic regression on all slices side by side says of trials `tested`: log-probabilities [n, 2].

    It sees what the Transformer sees: each slice's vectors of mean squared norm 1, no intercept, the penalty of the
    single slice's baseline.
    """
    from sklearn.linear_model import LogisticRegression

    size = vectors.square().sum(-1).mean(0).clamp_min(1e-12).sqrt()[:, None] * math.sqrt(vectors.shape[1])
    model = LogisticRegression(C=TANGENT_C, fit_intercept=False, max_iter=1000)
    model.fit((vectors / size).flatten(1).numpy(), label)
    return torch.from_numpy(model.predict_log_proba((tested / size).flatten(1).numpy())).double()


@torch.no_grad()
def predict_lateral(network: LateralTransformer, vectors: Tensor, group: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probabilities [n, 2], evidences [n, n_slices], weights [n, n_slices]) with contexts of all of a group."""
    evidence = network.evidence(vectors)
    context = contexts(evidence, group)
    return network(vectors, context).double(), evidence, network.weights(evidence, context)


@torch.no_grad()
def predict_causal(network: LateralTransformer, vectors: Tensor, group: np.ndarray) -> Tensor:
    """Log-probabilities [n, 2] of `causal_vectors`, with contexts of the trials of the group before each."""
    evidence = network.evidence(vectors)
    context = torch.empty(*evidence.shape, 2)
    for g in np.unique(group):
        rows = np.flatnonzero(group == g)
        for k, row in enumerate(rows):
            before = evidence[torch.from_numpy(rows[:k])]
            context[row] = network.context_of(before, REFERENCE_TRIALS) if k else network.usual_context
    return network(vectors, context).double()

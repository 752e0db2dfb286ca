"""pretext=neighbour: slices of trials, pre-training without labels, and classifiers of few labelled trials.

`curve_of` reads top to bottom: a number of labelled trials is drawn -> the head that is shrunk towards the pre-trained
direction, the same from scratch, and other linear classifiers are fitted to these -> their logits of the test trials.
All are convex and fitted to their minimum: no epoch is chosen. Nothing here sees a person to be tested.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.eeg.load import EegData
from models.eeg.lateral import Slice
from models.eeg.neighbour import FewShotHead, NeighbourContrast, NeighbourEncoder, fit_head
from trainers.eeg_simclr.config import OWN
from training.eeg.baselines import EARLY_SECONDS, RULE_SECONDS, inside, rule_difference
from training.eeg.load import group_of, recording_of
from training.eeg.slices import TrialCovariances, aligned_vectors, trial_covariances

TASK_SECONDS = ((0.0, 0.5), (0.25, 0.75))
REST_SECONDS = ((-1.0, -0.5), (-0.75, -0.25), (-0.5, 0.0))
"""Neighbouring slices after the cue, and at the same distance before it. These and the rest up to FINE were chosen on
people 1 to 46 (docs/eeg_simclr.md)."""
N_COMPONENTS = 100
WEIGHT_PENALTY, LR, N_UPDATES = 0.2, 0.01, 100
FINE = ((30, 10.0, 0.001), (200, 3.0, 0.003), (math.inf, 1.0, 0.01))
"""Settings of fine-tuning: (largest number of labelled trials, strength, C)."""
PENALTIES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
"""Values of C that each rival's is chosen from, for each number of labelled trials."""
N_RANDOM, PROBE_C = 8, 1.0

ALL_LABELS = "all"
TUNED = ("scratch", "random_probe", "tangent")
"""Linear classifiers whose C is chosen on people of the training part, see `tuned_penalties`."""

Curve = dict[str, dict[str, Tensor]]
"""{classifier: {number of labelled trials, or "all": logits of "right" [n_draws, n_test]}}."""


@dataclass(frozen=True, eq=False)
class NeighbourTrials:
    """The trials in one set of electrodes, as odd tangent vectors, aligned and centred by person.

    task, rest: [n_trials, n_slices, n_features], in the order of time. early: [n_trials, n_features], of the first
    second. rule: how much less power C3 has than C4, less the person's median, float32 [n_trials]. run: of each trial,
    the number of its recording.
    """

    task: Tensor
    rest: Tensor
    early: Tensor
    rule: Tensor
    label: np.ndarray
    run: np.ndarray


def vector_slices(band: tuple[float, float]) -> tuple[Slice, ...]:
    """The slices after the cue, those before it, and the first second."""
    return tuple(Slice(*seconds, *band) for seconds in (*TASK_SECONDS, *REST_SECONDS, EARLY_SECONDS))


def neighbour_trials(
    data: EegData, split: str, sets: Mapping[str, Sequence[str]]
) -> tuple[dict[str, NeighbourTrials], TrialCovariances]:
    """{set of electrodes: its trials}, and the covariances of `vector_slices` of all electrodes."""
    band, group = (data.preprocessing.l_freq, data.preprocessing.h_freq), group_of(data, split)
    covariances = trial_covariances(data, vector_slices(band))
    power = trial_covariances(data, (Slice(*inside(data, RULE_SECONDS), *band),)).parts[:, 0]
    less_power = -rule_difference(power, data)
    for g in np.unique(group):
        less_power[group == g] -= np.median(less_power[group == g])
    rule, run = torch.from_numpy(less_power).float(), recording_of(data)
    found = {}
    for name, electrodes in sets.items():
        vectors = aligned_vectors(covariances.pick(electrodes), group)
        n_task, n_rest = len(TASK_SECONDS), len(REST_SECONDS)
        task, rest, early = vectors.split([n_task, n_rest, 1], dim=1)
        found[name] = NeighbourTrials(task, rest, early[:, 0], rule=rule, label=data.label, run=run)
    return found, covariances


def less_mean(x: Tensor, group: np.ndarray) -> Tensor:
    """Rows of x [n, ...] less the mean of their group's rows."""
    out = x.clone()
    for g in np.unique(group):
        rows = torch.from_numpy(np.flatnonzero(group == g))
        out[rows] -= x[rows].mean(0)
    return out


def principal_components(task: Tensor, rest: Tensor) -> Tensor:
    """[n_features, n_components] of all slices, over the deviation of the slices before the cue along them."""
    slices = torch.cat([task.flatten(0, 1), rest.flatten(0, 1)])
    axes = torch.linalg.eigh(slices.T @ slices / len(slices))[1].flip(1)[:, :N_COMPONENTS]
    return axes / (rest @ axes).std()


def pretrain(trials: NeighbourTrials, rows: np.ndarray, seed: int) -> tuple[NeighbourEncoder, list[float]]:
    """The encoder of the contrast on the unlabelled trials `rows`, and the loss before each update.

    Full batches, Adam, half a cosine to zero. Of these trials z and the mean component of x then have deviation 1.
    """
    index = torch.from_numpy(rows)
    task, rest, run = trials.task[index], trials.rest[index], trials.run[rows]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, contrast = NeighbourEncoder(principal_components(task, rest)), NeighbourContrast()
        weight = encoder.project.weight
        torch.nn.init.normal_(weight, std=0.1 / math.sqrt(weight.shape[1]))
    after, before = encoder.reduce(less_mean(task, run)), encoder.reduce(less_mean(rest, run))
    optimizer = torch.optim.Adam([weight, contrast.threshold], LR)
    losses = []
    for update in range(N_UPDATES):
        for group in optimizer.param_groups:
            group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * update / N_UPDATES))
        loss = contrast(encoder.project(after), encoder.project(before))
        optimizer.zero_grad()
        (loss + WEIGHT_PENALTY * weight.square().sum()).backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        x = encoder.reduce(task.mean(1))
        size = x.std()
        encoder.components /= size
        weight *= size / encoder.project(x).std()
    return encoder.requires_grad_(False), losses


def draw_labelled(label: np.ndarray, rows: np.ndarray, n: int | None, draw: int) -> np.ndarray:
    """n of the rows, half of each class; a smaller n is part of a larger one of the same draw. None: all rows."""
    if n is None:
        return rows
    rng = np.random.default_rng([1000 + draw])
    return np.concatenate([rng.permutation(rows[label[rows] == side])[: n // 2] for side in (0, 1)])


def usable_budgets(budgets: Sequence[int], label: np.ndarray, rows: np.ndarray) -> list[int | None]:
    """The numbers of labelled trials that the rows have, half of each class; last None, for all."""
    smaller_class = min(int((label[rows] == side).sum()) for side in (0, 1))
    return [*(n for n in sorted(set(budgets)) if n // 2 < smaller_class), None]


def named(n: int | None) -> str:
    """4 -> "4", None -> "all"."""
    return ALL_LABELS if n is None else str(n)


def fine_settings(n_labelled: int) -> tuple[float, float]:
    """(strength, C) of fine-tuning on n_labelled trials."""
    return next((strength, c) for most, strength, c in FINE if n_labelled <= most)


def fit_linear(x: Tensor, label: Tensor, c: float) -> FewShotHead:
    """Logistic regression without an intercept: the head without any z."""
    return fit_head(FewShotHead(x.shape[1], 0, strength=0.0), x, x[:, :0], label=label, c=c)


def features_of(trials: NeighbourTrials, encoder: NeighbourEncoder, rows: np.ndarray, seed: int) -> dict[str, Tensor]:
    """{classifier: its features of all trials}, in one scale, so that a C means the same: x's and z's of `pretrain`.

    scratch: x. probe: z. random_probe: N_RANDOM random projections of x. tangent: vectors of the first second.
    """
    x = encoder.reduce(trials.task.mean(1))
    z = encoder.project(x)
    random = torch.randn(x.shape[1], N_RANDOM, generator=torch.Generator().manual_seed(seed))
    size = trials.early[torch.from_numpy(rows)].square().sum(1).mean().sqrt()
    tangent = trials.early * (math.sqrt(x.shape[1]) / size)
    return {"scratch": x, "probe": z, "random_probe": x @ random / math.sqrt(x.shape[1]), "tangent": tangent}


@torch.no_grad()
def head_logits(head: FewShotHead, x: Tensor, z: Tensor) -> Tensor:
    return head(x, z)


def tuned_penalties(
    features: Mapping[str, Tensor],
    label: np.ndarray,
    train: np.ndarray,
    judges: np.ndarray,
    *,
    budgets: Sequence[int | None],
    n_draws: int,
    beyond: Sequence[int | None],
) -> dict[str, dict[str, float]]:
    """{classifier: {number of labelled trials: its best C}}, fitted on draws from `train`, judged on trials `judges`.

    Both are of the training part. All labels of the judges are used, which favours these classifiers. beyond: numbers
    to answer for; those that `train` does not have (missing in `budgets`) get the C of all its labels.
    """
    y, judged = torch.from_numpy(label), torch.from_numpy(judges)
    best: dict[str, dict[str, float]] = {}
    for name, x in features.items():
        best[name] = {}
        for n in budgets:
            right = np.zeros(len(PENALTIES))
            for draw in range(n_draws if n else 1):
                rows = torch.from_numpy(draw_labelled(label, train, n, draw))
                for k, c in enumerate(PENALTIES):
                    logit = head_logits(fit_linear(x[rows], y[rows], c), x[judged], x[judged, :0])
                    right[k] += ((logit > 0).numpy() == label[judges]).mean()
            best[name][named(n)] = PENALTIES[int(right.argmax())]
        best[name] = {named(n): best[name].get(named(n), best[name][ALL_LABELS]) for n in beyond}
    return best


def fit_fine(features: Mapping[str, Tensor], rows: np.ndarray, label: np.ndarray) -> FewShotHead:
    """The head fine-tuned from the pre-trained direction on the labelled trials `rows`."""
    index, (x, z) = torch.from_numpy(rows), (features["scratch"], features["probe"])
    strength, c = fine_settings(len(rows))
    head = FewShotHead(x.shape[1], z.shape[1], strength)
    return fit_head(head, x[index], z[index], label=torch.from_numpy(label)[index], c=c)


def curve_of(
    features: Mapping[str, Tensor],
    trials: NeighbourTrials,
    train: np.ndarray,
    test: np.ndarray,
    *,
    penalties: Mapping[str, Mapping[str, float]],
    budgets: Sequence[int | None],
    n_draws: int,
) -> Curve:
    """Logits of the test trials by every classifier in `penalties`, and by simclr, probe and those without labels."""
    label, y, tested = trials.label, torch.from_numpy(trials.label), torch.from_numpy(test)
    x, z = features["scratch"], features["probe"]
    # Which end of z is "right" is known without labels: there C3 has less power than C4.
    side = torch.sign((z[torch.from_numpy(train), 0] * trials.rule[torch.from_numpy(train)]).sum())
    curve: Curve = {
        "no_label": {ALL_LABELS: (side * z[tested, 0])[None]},
        "rule": {ALL_LABELS: trials.rule[tested][None]},
    }
    found: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for n in budgets:
        for draw in range(n_draws if n else 1):
            rows = draw_labelled(label, train, n, draw)
            index = torch.from_numpy(rows)
            found[OWN][named(n)].append(head_logits(fit_fine(features, rows, label), x[tested], z[tested]))
            for name in (*penalties, "probe"):
                c = PROBE_C if name == "probe" else penalties[name][named(n)]
                head, own = fit_linear(features[name][index], y[index], c), features[name][tested]
                found[name][named(n)].append(head_logits(head, own, own[:, :0]))
    return curve | {name: {n: torch.stack(logits) for n, logits in by_n.items()} for name, by_n in found.items()}

"""What the EEG trainers' networks are judged beside, on the same folds and terms.

All see all channels, aligned and centred by person without labels, and learn from mirrored trials with the other label,
where there is a mirror image of every electrode and of every class. Windows, filters and penalties were chosen on
development people; where two windows were close there, the one that did better on all people is taken, in the
baselines' favour (docs/eeg_transformer.md).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from common.progress import Progress
from data.eeg.load import EegData
from data.eeg.sides import class_mirror
from data.eeg.splits import Fold
from data.eeg.windows import Windows
from models.eeg.lateral import OddTangent, Slice, log_covariance, mirror_of
from training.eeg.config import EegConfig
from training.eeg.load import group_of
from training.eeg.results import Result, evaluate, trial_predictions
from training.eeg.slices import aligned_covariances, has_mirror, trial_covariances

CLASSICAL = ("rule", "csp_lda", "fbcsp", "tangent_lr")
RULE_SECONDS = (0.5, 3.5)
EARLY_SECONDS = (0.0, 1.0)
"""Part of a trial, from the cue, that the trained baselines see."""
N_BANDS = 7
CSP_SHRINKAGE = 0.05
TANGENT_SHRINKAGE, TANGENT_C = 0.2, 0.5


def training_trials(windows: Windows, fold: Fold) -> np.ndarray:
    """Trials to train on where nothing is stopped early: those of the training and the validation windows."""
    return np.unique(windows.trial[np.concatenate([fold.train, fold.validation])])


def tested_trials(windows: Windows, fold: Fold) -> np.ndarray:
    """The fold's test trials, ascending."""
    return np.unique(windows.trial[fold.test])


def filter_bank(low: float, high: float) -> list[tuple[float, float]]:
    """N_BANDS overlapping bands from low to high; of 7 to 30 Hz, each is 4 Hz wide."""
    width = (high - low) * 4 / 23
    return [(start, start + width) for start in np.linspace(low, high - width, N_BANDS).tolist()]


def inside(data: EegData, seconds: tuple[float, float]) -> tuple[float, float]:
    """The part of the trials in `seconds`, or all of them where they have less than 0.1 s of it."""
    first, last = float(data.times[0]), float(data.times[-1])
    start, stop = max(seconds[0], first), min(seconds[1], last)
    return (start, stop) if stop - start > 0.1 else (first, last)


@dataclass(frozen=True, eq=False)
class BaselineInputs:
    """What the classical baselines see, float32 and float64.

    rule [n_trials]: log power of C3 less that of C4, None without these two. wide [n_trials, n_chans, n_chans] and
    banks [n_trials, N_BANDS, n_chans, n_chans]: aligned covariances of EARLY_SECONDS. mirror: image of each channel,
    swap: of each class; None where the montage or the classes have none. group [n_trials]: see `group_of`.
    """

    rule: np.ndarray | None
    wide: Tensor
    banks: Tensor
    mirror: np.ndarray | None
    swap: np.ndarray | None
    group: np.ndarray
    label: np.ndarray


def laplacian(ch_names: Sequence[str], centre: str, around: Sequence[str]) -> Tensor:
    """The channel less the mean of those around it, as a spatial filter [n_chans]."""
    weights = torch.zeros(len(ch_names))
    weights[ch_names.index(centre)] = 1
    for name in around:
        weights[ch_names.index(name)] = -1 / len(around)
    return weights


AROUND = {"C3": ("FC3", "CP3", "C1", "C5"), "C4": ("FC4", "CP4", "C2", "C6")}
"""Neighbours of a small Laplacian; where a cap lacks one, the four nearest electrodes."""


def neighbours(data: EegData, centre: str) -> tuple[str, ...]:
    """AROUND, or the four electrodes nearest to `centre`."""
    if set(AROUND[centre]) <= set(data.ch_names):
        return AROUND[centre]
    distance = np.linalg.norm(data.positions - data.positions[data.ch_names.index(centre)], axis=1)
    return tuple(data.ch_names[k] for k in np.argsort(distance)[1:5])


def has_rule(data: EegData) -> bool:
    """Whether C3 and C4 are there, each with others around it, and the classes are a left and a right one."""
    return {"C3", "C4"} <= set(data.ch_names) and len(data.ch_names) > 4 and class_mirror(data.classes) == (1, 0)


def rule_difference(covariance: Tensor, data: EegData) -> np.ndarray:
    """Log power of C3 less that of C4, small Laplacians, from covariances [n, n_chans, n_chans]: float64 [n]."""
    sides = [laplacian(data.ch_names, centre, neighbours(data, centre)) for centre in ("C3", "C4")]
    power = [torch.einsum("c,ncd,d->n", w, covariance, w).clamp_min(1e-12).log() for w in sides]
    return (power[0] - power[1]).double().numpy()


def mirrors_of(data: EegData) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """(the mirror image of each channel, of each class), or none where the montage or the classes have none."""
    swap = class_mirror(data.classes)
    if swap is None or not has_mirror(data, data.ch_names):
        return None, None
    return mirror_of(torch.from_numpy(data.positions), data.ch_names), torch.tensor(swap)


def baseline_inputs(data: EegData, split: str) -> BaselineInputs:
    """Computed once for all folds: no person's inputs depend on another's, or on a label."""
    p, group = data.preprocessing, group_of(data, split)
    passed, early = (p.l_freq, p.h_freq), inside(data, EARLY_SECONDS)
    found = trial_covariances(data, (Slice(*inside(data, RULE_SECONDS), *passed), Slice(*early, *passed)))
    rule = rule_difference(found.parts[:, 0], data) if has_rule(data) else None
    wide = aligned_covariances(found, group)[:, 1]
    banks = torch.empty(len(wide), N_BANDS, *wide.shape[1:])
    for k, band in enumerate(filter_bank(*passed)):  # one at a time: all together take 1.3 GB of 69 people
        banks[:, k] = aligned_covariances(trial_covariances(data, (Slice(*early, *band),)), group)[:, 0]
    mirror, swap = mirrors_of(data)
    return BaselineInputs(
        rule=rule,
        wide=wide,
        banks=banks,
        mirror=None if mirror is None else mirror.numpy(),
        swap=None if swap is None else swap.numpy(),
        group=group,
        label=data.label,
    )


def classical_results(config: EegConfig, data: EegData, windows: Windows, folds: Sequence[Fold]) -> dict[str, Result]:
    """All figures of every classical classifier on the folds."""
    inputs, results = baseline_inputs(data, config.split), {}
    names = CLASSICAL if inputs.rule is not None else CLASSICAL[1:]
    with Progress(len(names), unit="classical classifier") as progress:
        for name in names:
            began = time.perf_counter()
            log_p = [
                classical_log_probabilities(name, inputs, training_trials(windows, fold), tested_trials(windows, fold))
                for fold in folds
            ]
            seconds = (time.perf_counter() - began) / len(folds)
            results[name] = evaluate(trial_predictions(log_p, data, windows, folds), seconds)
            progress.advance(note=name)
    return results


def classical_log_probabilities(name: str, inputs: BaselineInputs, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """A classical classifier's log-probabilities [n_test, n_classes] of the trials `test`.

    "rule": less power at C3 than at C4 (small Laplacians, 0.5 to 3.5 s) than in the person's median trial is a right
    fist; it is trained on nothing. "csp_lda": six common spatial patterns and linear discriminant analysis. "fbcsp":
    four patterns in each of seven bands, all features (Ang et al. 2008). "tangent_lr": logistic regression on the odd
    half of the tangent vector; without intercept, it is that on whole vectors of trials and mirrored trials. Where left
    cannot be compared with right, it is that on whole vectors.
    """
    if name == "rule":
        return rule_log_probabilities(inputs, train, test)
    if name == "tangent_lr":
        return tangent_log_probabilities(inputs, train, test)
    covariances = [(inputs.wide, 6)] if name == "csp_lda" else [(bank, 4) for bank in inputs.banks.unbind(1)]
    return csp_log_probabilities(covariances, inputs, train, test)


def centred(x: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Rows less the mean of their group's rows."""
    out = np.array(x, dtype=np.float64)
    for g in np.unique(group):
        out[group == g] -= out[group == g].mean(axis=0)
    return out


def rule_log_probabilities(inputs: BaselineInputs, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """How far the difference of log powers lies below the person's median, in deviations of training people."""
    assert inputs.rule is not None, "without C3 and C4 there is no rule"
    group, difference = inputs.group[test], inputs.rule[test]
    below = np.zeros(len(test))
    for g in np.unique(group):
        below[group == g] = np.median(difference[group == g]) - difference[group == g]
    logit = below / (centred(inputs.rule[train], inputs.group[train]).std() + 1e-12)
    return np.stack([-np.logaddexp(0, logit), -np.logaddexp(0, -logit)], axis=1)


def csp_log_probabilities(
    covariances: Sequence[tuple[Tensor, int]], inputs: BaselineInputs, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """CSP on each of the covariances with its number of filters, log power less the person's mean, shrinkage LDA."""
    from pyriemann.spatialfilters import CSP
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    label, group = inputs.label[train], inputs.group[train]
    if inputs.mirror is not None and inputs.swap is not None:
        label, group = np.concatenate([label, inputs.swap[label]]), np.concatenate([group, -1 - group])
    learn, judge = [], []
    for c, n_filters in covariances:
        x = c.double().numpy()
        x = x / np.trace(x, axis1=1, axis2=2)[:, None, None]
        x = (1 - CSP_SHRINKAGE) * x + CSP_SHRINKAGE * np.eye(x.shape[1]) / x.shape[1]
        csp = CSP(nfilter=min(n_filters, x.shape[1]), metric="euclid", log=True)
        learnt = x[train]
        if inputs.mirror is not None:
            learnt = np.concatenate([learnt, learnt[:, inputs.mirror][:, :, inputs.mirror]])
        learn.append(csp.fit_transform(learnt, label))
        judge.append(csp.transform(x[test]))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    model.fit(centred(np.hstack(learn), group), label)
    log_p = model.predict_log_proba(centred(np.hstack(judge), inputs.group[test]))
    return of_all_classes(log_p, model.classes_, inputs)


def of_all_classes(log_p: np.ndarray, classes: np.ndarray, inputs: BaselineInputs) -> np.ndarray:
    """Log-probabilities [n, n_classes] from those of the classes that were trained on: of others, of almost nothing."""
    whole = np.full((len(log_p), int(inputs.label.max()) + 1), math.log(1e-12))
    whole[:, classes] = log_p
    return whole


def tangent_log_probabilities(inputs: BaselineInputs, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Logistic regression on tangent vectors, odd ones where there is a mirror, centred by person, of mean squared norm
    1.
    """
    from sklearn.linear_model import LogisticRegression

    is_odd = inputs.swap is not None and inputs.swap.tolist() == [1, 0]
    tangent: Callable[[Tensor, float], Tensor] = whole_tangent
    if is_odd and inputs.mirror is not None:
        tangent = OddTangent(torch.from_numpy(inputs.mirror))

    def vectors(rows: np.ndarray) -> np.ndarray:
        return centred(tangent(inputs.wide[torch.from_numpy(rows)], TANGENT_SHRINKAGE).numpy(), inputs.group[rows])

    x = vectors(train)
    size = math.sqrt((x**2).sum(1).mean()) or 1.0
    model = LogisticRegression(C=TANGENT_C, fit_intercept=not is_odd, max_iter=1000).fit(x / size, inputs.label[train])
    return of_all_classes(model.predict_log_proba(vectors(test) / size), model.classes_, inputs)


def whole_tangent(covariance: Tensor, shrinkage: float) -> Tensor:
    """Upper half of the matrix logarithm, off the diagonal times sqrt 2: [n, n_chans, n_chans] -> [n, n_features]."""
    log = log_covariance(covariance, shrinkage)
    rows, columns = torch.triu_indices(log.shape[-1], log.shape[-1])
    weight = torch.where(rows == columns, 1.0, math.sqrt(2.0)).double()
    return (log[..., rows, columns] * weight).float()


def build_eegnet(data: EegData, window: int) -> nn.Module:
    """torcheeg's EEGNet (Lawhern et al. 2018) for windows [N, n_chans, window] -> logits [N, n_classes]."""
    import mne

    level = mne.set_log_level("WARNING", return_old_level=True)
    from torcheeg.models import EEGNet

    mne.set_log_level(level)  # torcheeg silences MNE for the whole process
    network = EEGNet(
        chunk_size=window,
        num_electrodes=data.trials.shape[1],
        F1=8,
        F2=16,
        D=2,
        kernel_1=64,
        kernel_2=16,
        dropout=0.25,
        num_classes=len(data.classes),
    )
    return nn.Sequential(Unsqueeze(), network)


class Unsqueeze(nn.Module):
    """[N, n_chans, n_times] -> [N, 1, n_chans, n_times]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1)

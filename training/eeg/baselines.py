"""What the EEG trainers' networks are judged beside, on the same folds and terms.

All see 64 channels, aligned and centred by person without labels, and learn from mirrored trials with the other label.
Windows, filters and penalties were chosen on development people; where two windows were close there, the one that did
better on all people is taken, in the baselines' favour (docs/eeg_transformer.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from data.eeg.load import EegData
from data.eeg.splits import Fold
from data.eeg.windows import Windows
from models.eeg.lateral import OddTangent, Slice, mirror_of
from training.eeg.config import EegConfig
from training.eeg.results import Result, evaluate, trial_predictions
from training.eeg.slices import aligned_covariances, trial_covariances

CLASSICAL = ("rule", "csp_lda", "fbcsp", "tangent_lr")
RULE_SECONDS = (0.5, 3.5)
EARLY_SECONDS = (0.0, 1.0)
"""Part of a trial, from the cue, that the trained baselines see."""
N_BANDS = 7
CSP_SHRINKAGE = 0.05
TANGENT_SHRINKAGE, TANGENT_C = 0.2, 0.5


def group_of(data: EegData, split: str) -> np.ndarray:
    """Whose trials are aligned and centred together, [n_trials]: a person's, or, in within_subject, a run's."""
    return data.subject if split == "cross_subject" else data.subject * 1000 + data.run


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

    rule [n_trials]: log power of C3 less that of C4. wide [n_trials, n_chans, n_chans] and banks
    [n_trials, N_BANDS, n_chans, n_chans]: aligned covariances of EARLY_SECONDS. group [n_trials]: see `group_of`.
    """

    rule: np.ndarray
    wide: Tensor
    banks: Tensor
    mirror: np.ndarray
    group: np.ndarray
    label: np.ndarray


def laplacian(ch_names: Sequence[str], centre: str, around: Sequence[str]) -> Tensor:
    """The channel less the mean of those around it, as a spatial filter [n_chans]."""
    weights = torch.zeros(len(ch_names))
    weights[ch_names.index(centre)] = 1
    for name in around:
        weights[ch_names.index(name)] = -1 / len(around)
    return weights


def rule_difference(covariance: Tensor, ch_names: Sequence[str]) -> np.ndarray:
    """Log power of C3 less that of C4, small Laplacians, from covariances [n, n_chans, n_chans]: float64 [n]."""
    left = laplacian(ch_names, "C3", ("FC3", "CP3", "C1", "C5"))
    right = laplacian(ch_names, "C4", ("FC4", "CP4", "C2", "C6"))
    power = [torch.einsum("c,ncd,d->n", w, covariance, w).clamp_min(1e-12).log() for w in (left, right)]
    return (power[0] - power[1]).double().numpy()


def baseline_inputs(data: EegData, split: str) -> BaselineInputs:
    """Computed once for all folds: no person's inputs depend on another's, or on a label."""
    p, group = data.preprocessing, group_of(data, split)
    passed = (p.l_freq, p.h_freq)
    slices = (
        Slice(*inside(data, RULE_SECONDS), *passed),
        Slice(*inside(data, EARLY_SECONDS), *passed),
        *(Slice(*inside(data, EARLY_SECONDS), *band) for band in filter_bank(*passed)),
    )
    found = trial_covariances(data, slices)
    aligned = aligned_covariances(found, group)
    return BaselineInputs(
        rule=rule_difference(found.parts[:, 0], data.ch_names),
        wide=aligned[:, 1],
        banks=aligned[:, 2:],
        mirror=mirror_of(data.ch_names).numpy(),
        group=group,
        label=data.label,
    )


def classical_results(config: EegConfig, data: EegData, windows: Windows, folds: Sequence[Fold]) -> dict[str, Result]:
    """All figures of every classical classifier on the folds."""
    inputs, results = baseline_inputs(data, config.split), {}
    for name in CLASSICAL:
        log_p = [
            classical_log_probabilities(name, inputs, training_trials(windows, fold), tested_trials(windows, fold))
            for fold in folds
        ]
        results[name] = evaluate(trial_predictions(log_p, data, windows, folds))
    return results


def classical_log_probabilities(name: str, inputs: BaselineInputs, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """A classical classifier's log-probabilities [n_test, 2] of the trials `test`.

    "rule": less power at C3 than at C4 (small Laplacians, 0.5 to 3.5 s) than in the person's median trial is a right
    fist; it is trained on nothing. "csp_lda": six common spatial patterns and linear discriminant analysis. "fbcsp":
    four patterns in each of seven bands, all features (Ang et al. 2008). "tangent_lr": logistic regression on the odd
    half of the tangent vector; without intercept, it is that on whole vectors of trials and mirrored trials.
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

    mirror, label = inputs.mirror, inputs.label[train]
    both = np.concatenate([label, 1 - label])
    learn, judge = [], []
    for c, n_filters in covariances:
        x = c.double().numpy()
        x = x / np.trace(x, axis1=1, axis2=2)[:, None, None]
        x = (1 - CSP_SHRINKAGE) * x + CSP_SHRINKAGE * np.eye(x.shape[1]) / x.shape[1]
        csp = CSP(nfilter=n_filters, metric="euclid", log=True)
        learn.append(csp.fit_transform(np.concatenate([x[train], x[train][:, mirror][:, :, mirror]]), both))
        judge.append(csp.transform(x[test]))
    group = inputs.group[train]
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    model.fit(centred(np.hstack(learn), np.concatenate([group, -1 - group])), both)
    return np.asarray(model.predict_log_proba(centred(np.hstack(judge), inputs.group[test])))


def tangent_log_probabilities(inputs: BaselineInputs, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Logistic regression on odd tangent vectors, centred by person, of mean squared norm 1."""
    from sklearn.linear_model import LogisticRegression

    tangent = OddTangent(torch.from_numpy(inputs.mirror))

    def vectors(rows: np.ndarray) -> np.ndarray:
        return centred(tangent(inputs.wide[torch.from_numpy(rows)], TANGENT_SHRINKAGE).numpy(), inputs.group[rows])

    x = vectors(train)
    size = math.sqrt((x**2).sum(1).mean()) or 1.0
    model = LogisticRegression(C=TANGENT_C, fit_intercept=False, max_iter=1000).fit(x / size, inputs.label[train])
    return np.asarray(model.predict_log_proba(vectors(test) / size))


def build_eegnet(data: EegData, window: int) -> nn.Module:
    """torcheeg's EEGNet (Lawhern et al. 2018) for windows [N, n_chans, window] -> logits [N, 2]."""
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
        num_classes=2,
    )
    return nn.Sequential(Unsqueeze(), network)


class Unsqueeze(nn.Module):
    """[N, n_chans, n_times] -> [N, 1, n_chans, n_times]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1)

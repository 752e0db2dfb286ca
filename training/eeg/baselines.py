"""What the EEG trainers' networks are judged beside, on the same folds: CSP + LDA, tangent space, EEGNet."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from data.eeg.load import EegData
from data.eeg.splits import Fold
from data.eeg.windows import Windows
from training.eeg.config import EegConfig
from training.eeg.results import Result, evaluate, trial_predictions

TASK_SECONDS = (0.5, 3.5)
"""Part of a trial, from the cue, that the classical baselines see: after the response to the cue itself."""


CLASSICAL = ("csp_lda", "tangent_lr")


def classical_results(config: EegConfig, data: EegData, windows: Windows, folds: Sequence[Fold]) -> dict[str, Result]:
    """All figures of every classical classifier on the folds."""
    results = {}
    for name in CLASSICAL:
        log_p = [
            classical_log_probabilities(name, data, windows=windows, fold=fold, split=config.split) for fold in folds
        ]
        results[name] = evaluate(trial_predictions(log_p, data, windows, folds))
    return results


def classical_log_probabilities(name: str, data: EegData, windows: Windows, fold: Fold, split: str) -> np.ndarray:
    """A classical classifier's log-probabilities [n_trials, 2] of the fold's test trials, ascending.

    "csp_lda": common spatial patterns and linear discriminant analysis (scikit-learn, MNE). "tangent_lr": covariances
    aligned to the identity by subject (Euclidean alignment, He and Wu 2020; it uses the test subject's trials, not
    their labels), tangent space, centred by subject in the same way, logistic regression (pyriemann, scikit-learn).
    Both see 0.5 to 3.5 s after the cue of whole trials (all of those that have nothing there), and train on training
    and validation trials, since they stop nothing early.
    """
    train = np.unique(windows.trial[np.concatenate([fold.train, fold.validation])])
    test = np.unique(windows.trial[fold.test])
    inside = np.flatnonzero((data.times >= TASK_SECONDS[0]) & (data.times <= TASK_SECONDS[1]))
    inside = inside if len(inside) > 1 else np.arange(len(data.times))
    x = np.asarray(data.trials[:, :, inside], dtype=np.float64) * 1e6
    if name == "csp_lda":
        from mne.decoding import CSP
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
        from sklearn.pipeline import make_pipeline

        model = make_pipeline(CSP(n_components=6, reg="ledoit_wolf", log=True), LinearDiscriminantAnalysis())
        import mne

        with mne.utils.use_log_level("ERROR"):
            model.fit(x[train], data.label[train])
            return np.asarray(model.predict_log_proba(x[test]))
    from pyriemann.estimation import Covariances
    from pyriemann.tangentspace import TangentSpace
    from pyriemann.utils.base import invsqrtm
    from sklearn.linear_model import LogisticRegression

    covariances = Covariances("oas").fit_transform(x)
    group = data.subject if split == "cross_subject" else data.subject * 1000 + data.run
    for g in np.unique(group):
        whiten = invsqrtm(covariances[group == g].mean(0))
        covariances[group == g] = whiten @ covariances[group == g] @ whiten
    vectors = TangentSpace().fit(covariances[train]).transform(covariances)
    for g in np.unique(group):
        vectors[group == g] -= vectors[group == g].mean(0)
    # Balanced: under so strong a penalty, one trial more of a class would decide every prediction by the intercept.
    model = LogisticRegression(C=0.001, class_weight="balanced", max_iter=1000).fit(vectors[train], data.label[train])
    return np.asarray(model.predict_log_proba(vectors[test]))


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

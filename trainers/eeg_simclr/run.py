"""Pre-training without labels on EEG, then classification from few labelled trials: `mlflow run . -e eeg_simclr`.

`run_neighbour` reads from top to bottom: recordings and folds -> vectors of slices -> for each fold and set of
electrodes: an encoder pre-trained without labels, penalties of its rivals chosen, classifiers fitted to 4, 12, ... and
all labelled trials -> figures over people: does pre-training help? -> a last encoder and classifier for the registry ->
summary. pretext=channel is in channel.py. training/eeg/ has what the EEG trainers share; docs/eeg_simclr.md explains.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from common.errors import InputError
from common.progress import Progress
from data.eeg.windows import Windows
from models.eeg.neighbour import FewShotHead, NeighbourClassifier, NeighbourEncoder
from trainers.eeg_simclr.channel import run_channel
from trainers.eeg_simclr.config import OF_PRETEXT, OWN, PRESETS, EegSimclrConfig
from trainers.eeg_simclr.curves import Found, found_of, record_curves, results_with_all_labels
from trainers.eeg_simclr.neighbour import (
    TUNED,
    Curve,
    NeighbourTrials,
    curve_of,
    features_of,
    fine_settings,
    fit_fine,
    head_logits,
    neighbour_trials,
    pretrain,
    tuned_penalties,
    usable_budgets,
    vector_slices,
)
from trainers.eeg_simclr.registry import register_neighbour
from training.config import launch_processes, parse_config
from training.eeg.baselines import classical_results, has_rule, tested_trials, training_trials
from training.eeg.config import note_without_effect, presets_for
from training.eeg.fit import ADVICE
from training.eeg.load import group_of, load_for, served_trials, shuffled_trial_labels
from training.eeg.records import end_with_summary, log_figures, log_recordings, log_results, results_text
from training.eeg.results import Leakage, leakage_of
from training.eeg.slices import ALL, check_slices, electrode_sets, lateral_mirror, reference_covariances
from training.session import Session
from training.summary import render_summary
from training.trial import StudyTrial


class Parts(NamedTuple):
    """A fold's trials. judges: those of `train` by whom the rivals' penalties are chosen."""

    train: np.ndarray
    judges: np.ndarray
    test: np.ndarray


@dataclass
class NeighbourFits:
    """The fits of a run with pretext=neighbour; what an earlier process of the run finished is not made again."""

    session: Session
    progress: Progress
    config: EegSimclrConfig
    trials: dict[str, NeighbourTrials]

    def pretrain(self, key: str, electrodes: str, rows: np.ndarray) -> dict[str, Any]:
        """{"weights", "losses"} of the encoder pre-trained on the trials `rows` without labels."""
        result = self.session.once(key, lambda: self._pretrain(key, electrodes, rows))
        self.progress.advance(note=key)
        return result

    def _pretrain(self, key: str, electrodes: str, rows: np.ndarray) -> dict[str, Any]:
        encoder, losses = pretrain(self.trials[electrodes], rows, self.config.seed)
        for step, loss in enumerate(losses, 1):
            if step % 10 == 0:
                self.session.run.log_metrics({f"{key}_train_loss": loss}, step=step)
        return {"weights": encoder.state_dict(), "losses": losses}

    def curve(self, electrodes: str, number: int, part: Parts) -> Curve:
        """Every classifier's logits of the fold's test trials; with some electrodes only, of fewer rivals."""
        where, trials, session = f"{electrodes}_fold_{number}", self.trials[electrodes], self.session
        pretraining = f"pretrain_fold_{number}" if electrodes == ALL else f"pretrain_{where}"
        encoder = restored(self.pretrain(pretraining, electrodes, part.train))
        features = features_of(trials, encoder, part.train, self.config.seed)
        budgets = usable_budgets(self.config.labelled_trials, trials.label, part.train)
        penalties = session.once(f"penalties_{where}", lambda: self._penalties(features, electrodes, part, budgets))
        self.progress.advance(note=f"{where}: penalties")
        curve = session.once(
            f"curve_{where}",
            lambda: curve_of(
                features,
                trials,
                part.train,
                part.test,
                penalties=penalties,
                budgets=budgets,
                n_draws=self.config.n_draws,
            ),
        )
        self.progress.advance(note=f"{where}: learning curve")
        return curve

    def _penalties(
        self, features: Mapping[str, torch.Tensor], electrodes: str, part: Parts, budgets: list[int | None]
    ) -> dict[str, Any]:
        """The rivals' penalties, chosen by some of the training people."""
        config, label = self.config, self.trials[electrodes].label
        learners = np.setdiff1d(part.train, part.judges)
        rivals = {name: features[name] for name in (TUNED if electrodes == ALL else TUNED[:1])}
        kept = usable_budgets(config.labelled_trials, label, learners)
        return tuned_penalties(
            rivals, label, learners, part.judges, budgets=kept, n_draws=config.n_draws, beyond=budgets
        )

    def leakage(self, encoder: NeighbourEncoder, part: Parts, dealt: np.ndarray) -> Leakage:
        """Fine-tuned on all labels of the fold, shuffled: it must be at chance."""
        logit = self.session.once("leakage", lambda: self._shuffled(encoder, part, dealt))["logit"].numpy()
        return leakage_of(np.stack([-logit, logit], axis=1), dealt[part.test])

    def _shuffled(self, encoder: NeighbourEncoder, part: Parts, dealt: np.ndarray) -> dict[str, Any]:
        features = features_of(self.trials[ALL], encoder, part.train, self.config.seed)
        head, tested = fit_fine(features, part.train, dealt), torch.from_numpy(part.test)
        return {"logit": head_logits(head, features["scratch"][tested], features["probe"][tested])}

    def final(self, rows: np.ndarray) -> NeighbourClassifier:
        """The classifier to be served: pre-trained on the trials `rows`, fine-tuned on all their labels."""
        # With test_subjects, who are trained on nowhere, the trials are those of the only fold.
        encoder = restored(
            self.pretrain("pretrain_fold_1" if self.config.test_subjects else "pretrain_final", ALL, rows)
        )
        weights = self.session.once("final", lambda: self._fine_tuned(encoder, rows))["weights"]
        head = FewShotHead(len(weights["correction"]), 1, fine_settings(len(rows))[0])
        head.load_state_dict(weights)
        return NeighbourClassifier(encoder, head).requires_grad_(False).eval()

    def _fine_tuned(self, encoder: NeighbourEncoder, rows: np.ndarray) -> dict[str, Any]:
        trials = self.trials[ALL]
        features = features_of(trials, encoder, rows, self.config.seed)
        return {"weights": fit_fine(features, rows, trials.label).state_dict()}


def restored(pretrained: dict[str, Any]) -> NeighbourEncoder:
    """The encoder of a finished pre-training."""
    encoder = NeighbourEncoder(torch.empty_like(pretrained["weights"]["components"]))
    encoder.load_state_dict(pretrained["weights"])
    return encoder.requires_grad_(False)


def parts_of(windows: Windows, folds: list[Any]) -> list[Parts]:
    """The trials of every fold. Nothing is stopped early: the validation trials are trained on too."""
    return [
        Parts(training_trials(windows, fold), np.unique(windows.trial[fold.validation]), tested_trials(windows, fold))
        for fold in folds
    ]


def run_eeg_simclr(config: EegSimclrConfig, trial: StudyTrial | None = None) -> int:
    """Pre-train, train, compare, record, register; the exit status. trial: the run's place in a study."""
    other = "neighbour" if config.pretext == "channel" else "channel"
    note_without_effect(config, PRESETS, OF_PRETEXT[other], f"pretext={other}")
    return run_channel(config, trial) if config.pretext == "channel" else run_neighbour(config, trial)


def run_neighbour(config: EegSimclrConfig, trial: StudyTrial | None = None) -> int:
    """The same for pretext=neighbour."""
    session = Session("eeg_simclr", config, trial, advice=ADVICE)
    data, windows, folds = load_for(session, config)
    slices = vector_slices((config.l_freq, config.h_freq))
    check_slices(slices, data, hint="; pretext=channel has no slices")
    lateral_mirror(data, "give pretext=channel")
    if not has_rule(data):  # which end of the pre-trained direction is right is known by C3 and C4
        raise InputError("pretext=neighbour needs electrodes C3 and C4 with others around them; give pretext=channel")
    parts, sets = parts_of(windows, folds), electrode_sets(data)
    dealt = shuffled_trial_labels(windows, config.seed)

    with session:
        run, began = session.run, time.monotonic()
        log_recordings(session, config, data, windows=windows, folds=folds)
        trials, covariances = neighbour_trials(data, config.split, sets)
        with Progress(3 * len(sets) * len(parts) + 1, unit="part") as progress:
            work = NeighbourFits(session, progress, config, trials)
            curves = {name: [work.curve(name, k, part) for k, part in enumerate(parts, 1)] for name in sets}
            encoder = restored(session.done["pretrain_fold_1"])
            leakage = work.leakage(encoder, parts[0], dealt) if config.leakage_check else None
            final = work.final(served_trials(config, data))
        session.end_training()
        run.log_checkpoint()

        tests = [part.test for part in parts]
        results = results_with_all_labels(curves[ALL], data, tests)
        if config.baselines:
            results |= classical_results(config, data, windows, folds)
        log_results(run, data, results, leakage, step=1)
        log_figures(run, config, data, own=OWN, results=results, curves={})
        found: dict[str, Found] = {name: found_of(curves[name], data, tests) for name in sets}
        losses = {key: part["losses"] for key, part in session.done.items() if key.startswith("pretrain_fold")}
        record_curves(run, found, losses, f"{config.dataset}, {config.split}", best=ALL)

        if leakage is None or not leakage.leaks:  # else the classifier is not to be served
            group = group_of(data, config.split)
            reference = reference_covariances(covariances, group, served_trials(config, data))
            metrics, alias = results[OWN].metrics(OWN), session.trial.alias
            register_neighbour(run, config, data, network=final, reference=reference, metrics=metrics, alias=alias)
        common = results_text(config, data, OWN, results=results, leakage=leakage)
        parts_of_text = {"results": common, "comparison": None, "found": found, "best": ALL, "is_own": data.is_own}
        text = render_summary(Path(__file__).parent, **parts_of_text)
        end_with_summary(session, text, leakage, seconds=time.monotonic() - began)
    return session.status


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    config = parse_config(EegSimclrConfig, presets_for(PRESETS, argv), argv, "eeg_simclr")
    status = launch_processes(config.nproc, "trainers.eeg_simclr", argv, config.max_restarts)
    return run_eeg_simclr(config) if status is None else status

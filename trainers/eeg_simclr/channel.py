"""pretext=channel: the contrast of single channels of Mohsenvand et al. 2020, then classification.

`run_channel` reads from top to bottom: recordings, windows and folds -> for each fold: an encoder pre-trained on
channels of the training people without labels, then fine-tuned, frozen, probed, and the same network trained from
scratch, over shares of the labels -> baselines on the same folds -> figures over subjects: does pre-training help? ->
encoder and classifier for the registry -> summary. training/eeg/ has what the EEG trainers share; docs/eeg_simclr.md
explains.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.progress import Progress
from data.eeg.load import EegData
from data.eeg.pool import ChannelPool, check_pretraining, labelled_share, pretraining_rows
from data.eeg.splits import Fold, shuffled_labels
from data.eeg.windows import Windows
from tracking.run import AnyRun
from trainers.eeg_simclr.comparison import percent, record_comparison
from trainers.eeg_simclr.config import OWN, EegSimclrConfig, frozen_fit
from trainers.eeg_simclr.frozen import FrozenEncoder, fit_probe, probe
from trainers.eeg_simclr.networks import RIVALS, shape_of
from trainers.eeg_simclr.pretraining import (
    Pretraining,
    build_pool,
    pretraining_epochs,
    pretraining_key,
)
from trainers.eeg_simclr.registry import register_networks
from training.eeg.baselines import build_eegnet, classical_results
from training.eeg.fit import ADVICE, Fitting, final_fit, seeded
from training.eeg.load import load_for, load_trials
from training.eeg.records import (
    curves_by_fold,
    end_with_summary,
    log_figures,
    log_recordings,
    log_results,
    results_text,
)
from training.eeg.results import check_leakage, network_results
from training.session import Session
from training.summary import render_summary
from training.trial import StudyTrial

WHOLE = 1.0
"""The share of the labels that is all of them."""


def load_unlabelled(config: EegSimclrConfig) -> EegData | None:
    """The further recordings to pre-train on, without labels; None where none are asked for."""
    if not config.unlabelled_runs:
        return None
    unlabelled = load_trials(config, config.subjects, config.unlabelled_runs, labelled=False)
    return unlabelled.by_session() if config.split == "cross_session" else unlabelled


def shares_of(config: EegSimclrConfig) -> list[float]:
    """The shares of the labels, all of them first."""
    return sorted({*config.label_fractions, WHOLE}, reverse=True)


def n_epochs(config: EegSimclrConfig, n_folds: int) -> int:
    """All epochs of a run, for the progress shown."""
    pretrainings = n_folds + 1 + len([tau for tau in config.tau_sweep if tau != config.tau])
    comparisons = n_folds * len(shares_of(config))
    whole_networks = 2 * comparisons + config.leakage_check + 1 + n_folds * config.baselines
    return pretrainings * config.pretrain_epochs + whole_networks * config.epochs + comparisons * config.frozen_epochs


@dataclass
class ChannelFits:
    """The fits of a run with pretext=channel, and what they share."""

    session: Session
    progress: Progress
    config: EegSimclrConfig
    data: EegData
    windows: Windows
    pool: ChannelPool
    unlabelled: EegData | None

    def pretrain(self, fold: Fold, tau: float | None = None) -> dict[str, Any]:
        """The finished pre-training for `fold`, at the temperature `tau` instead of the run's, if given:
        {"weights": of the encoder, "projector": ..., "curve": ...}.
        """
        config = self.config if tau is None else replace(self.config, tau=tau)
        key = pretraining_key(fold) + ("" if tau is None else f"_tau_{tau:g}")
        end = self.progress.done + config.pretrain_epochs
        result = self.session.once(key, lambda: self._pretrain(key, fold, config))
        self.progress.advance_to(end)
        return result

    def _pretrain(self, key: str, fold: Fold, config: EegSimclrConfig) -> dict[str, Any]:
        work = self.pretraining(fold, config)
        for _ in pretraining_epochs(self.session, self.progress, key, work):
            pass
        return work.result()

    def pretraining(self, fold: Fold, config: EegSimclrConfig) -> Pretraining:
        """One that has not begun, for the training people of `fold`, without a label. InputError where they are too
        few.
        """
        rows = pretraining_rows(self.pool, self.windows, fold, config.split)
        check_pretraining(self.pool, rows, self.windows, fold=fold, split=config.split)
        return Pretraining(
            config,
            self.pool,
            train=rows,
            validation=fold.validation,
            processes=self.session.processes,
            pool_fingerprint="" if self.unlabelled is None else self.unlabelled.fingerprint,
        )

    def encoder(self, weights: Mapping[str, torch.Tensor] | None) -> FrozenEncoder:
        """The encoder with these weights; None: untrained."""
        shape = shape_of(self.config, self.data)
        return FrozenEncoder(self.config, shape, weights, windows=self.windows, device=self.session.device)

    def fit(self, name: str, key: str, encoder: FrozenEncoder, fold: Fold, label: np.ndarray) -> dict[str, Any]:
        """The finished fit `key` of the network `name` on `encoder`, with the labels of the fold's training windows."""
        session, progress, config = self.session, self.progress, self.config
        if name.endswith("probe"):
            return session.once(key, lambda: probe(encoder, label, train=fold.train, asked=fold.test))
        if name == "frozen":
            config = frozen_fit(config)
        encoded = name == "frozen" and encoder.may_encode() and key not in session.done
        windows = encoder.encoded if encoded else self.windows
        return Fitting(session, progress, config, windows).fit(key, encoder.network(name, encoded), fold, label)


def train_fold(work: ChannelFits, number: int, fold: Fold) -> dict[float, dict[str, dict[str, Any]]]:
    """{share of the labels: {network: its finished fit on the fold}}: pre-trained without labels, then all networks."""
    pretrained, untrained = work.encoder(work.pretrain(fold)["weights"]), work.encoder(None)
    fits: dict[float, dict[str, dict[str, Any]]] = {}
    for share in shares_of(work.config):
        labelled = labelled_share(fold, work.windows, share, work.config.seed)
        fits[share] = {}
        for name in (OWN, *RIVALS):
            encoder = untrained if name in ("scratch", "random_probe") else pretrained
            key = f"{name}_fold{number}" if share == WHOLE else f"{name}_{percent(share)}_fold{number}"
            fits[share][name] = work.fit(name, key, encoder, fold=labelled, label=work.windows.label)
    return fits


def sweep_tau(work: ChannelFits, fold: Fold) -> None:
    """Pre-train `fold` at several temperatures; a probe of each is judged on its validation people."""
    for tau in work.config.tau_sweep:
        own = tau == work.config.tau  # the fold's own pre-training, finished and counted before
        pretrained = work.session.done[pretraining_key(fold)] if own else work.pretrain(fold, tau)
        work.session.once(f"probe_tau_{tau:g}", partial(probe_of_tau, work, pretrained, fold))


def probe_of_tau(work: ChannelFits, pretrained: Mapping[str, Any], fold: Fold) -> dict[str, Any]:
    """What a probe says of the validation windows, and how the pre-training went."""
    encoder = work.encoder(pretrained["weights"])
    found = probe(encoder, work.windows.label, train=fold.train, asked=fold.validation)
    return {"log_p": found["log_p"], "weights": None, "curve": pretrained["curve"]}


def search(work: ChannelFits, fold: Fold) -> None:
    """A study's trial: the pre-training alone, judged on the validation people four times."""
    key = pretraining_key(fold)
    work.session.once(key, lambda: judged_pretraining(work, key, fold))


def judged_pretraining(work: ChannelFits, key: str, fold: Fold) -> dict[str, Any]:
    """Pre-train, and report to the study what a linear probe reaches. Raises Pruned by the study."""
    every = max(1, work.config.pretrain_epochs // 4)
    pretraining = work.pretraining(fold, work.config)
    for _ in pretraining_epochs(work.session, work.progress, key, pretraining):
        if pretraining.epoch % every == 0 or pretraining.finished:
            report_probe(work, pretraining, fold)
    return pretraining.result()


def report_probe(work: ChannelFits, pretraining: Pretraining, fold: Fold) -> None:
    """Tell the study what a linear probe of the encoder reaches on the validation windows of `fold`."""
    session, windows = work.session, work.windows
    encoder = work.encoder(pretraining.result()["weights"])
    network = encoder.network("probe").to(session.device)
    log_p = fit_probe(network, encoder.pooled, windows.label, train=fold.train, asked=fold.validation)
    y = torch.from_numpy(windows.label[fold.validation])
    figures = {"log_loss": float(F.nll_loss(log_p, y)), "accuracy": float((log_p.argmax(1) == y).float().mean())}
    measured = session.trial.measure(network, windows.gather(fold.validation[:1]))
    session.trial.report(session.run, {**figures, **measured}, pretraining.epoch)


def train_eegnet(work: ChannelFits, folds: Sequence[Fold]) -> list[dict[str, Any]]:
    """EEGNet's finished fit on each fold, with all labels."""
    fitting, fits = Fitting(work.session, work.progress, work.config, work.windows), []
    for number, fold in enumerate(folds, 1):
        with seeded(work.config.seed):
            network = build_eegnet(work.data, work.config.window)
        fits.append(fitting.fit(f"eegnet_fold{number}", network, fold, work.windows.label))
    return fits


def log_unlabelled(run: AnyRun, unlabelled: EegData | None) -> None:
    """Record which further recordings were pre-trained on."""
    if unlabelled is not None:
        name = f"{unlabelled.dataset}-unlabelled"
        run.log_data(name, unlabelled.fingerprint, unlabelled.summary(), "pre-training")


def register_trained(
    work: ChannelFits,
    weights: Mapping[str, torch.Tensor],
    encoder_weights: Mapping[str, torch.Tensor],
    metrics: Mapping[str, float],
) -> None:
    """Register the encoder, and the classifier with these weights."""
    network = work.encoder(None).network(OWN)
    network.load_state_dict(weights)
    register_networks(
        work.session.run,
        work.config,
        data=work.data,
        network=network.eval(),
        metrics=metrics,
        encoder_weights=encoder_weights,
        alias=work.session.trial.alias,
    )


def run_channel(config: EegSimclrConfig, trial: StudyTrial | None = None) -> int:
    """Pre-train, train, compare, record, register; the exit status. trial: the run's place in a study."""
    session = Session("eeg_simclr", config, trial, advice=ADVICE)
    unlabelled = load_unlabelled(config)
    data, windows, folds = load_for(session, config)
    pool = build_pool(config, data, windows, unlabelled)
    dealt = shuffled_labels(windows, config.seed)
    final_key, served = final_fit(config, OWN, windows, folds)

    with session:
        run, began = session.run, time.monotonic()
        log_recordings(session, config, data, windows=windows, folds=folds)
        with Progress(n_epochs(config, len(folds)), unit="epoch", quiet=not session.is_first) as progress:
            work = ChannelFits(session, progress, config, data=data, windows=windows, pool=pool, unlabelled=unlabelled)
            if session.trial.searching:
                search(work, folds[0])
                return 0
            by_fold = [train_fold(work, number, fold) for number, fold in enumerate(folds, 1)]
            eegnet = train_eegnet(work, folds) if config.baselines else []
            shuffled = None
            if config.leakage_check:
                encoder = work.encoder(session.done[pretraining_key(folds[0])]["weights"])
                shuffled = work.fit(OWN, "leakage", encoder, fold=folds[0], label=dealt)
            encoder_weights = work.pretrain(served)["weights"]
            final = work.fit(OWN, final_key, work.encoder(encoder_weights), fold=served, label=windows.label)
            sweep_tau(work, folds[0])
        session.end_training()
        if not session.is_first:
            return 0
        run.log_checkpoint()

        fits = {
            share: {name: [fold[share][name] for fold in by_fold] for name in (OWN, *RIVALS)} for share in by_fold[0]
        }
        results = network_results({**fits[WHOLE], **({"eegnet": eegnet} if eegnet else {})}, windows, folds)
        if config.baselines:
            results |= classical_results(config, data, windows, folds)
        leakage = check_leakage(shuffled, windows, folds[0], dealt)
        log_results(run, data, results, leakage, step=config.epochs)
        log_figures(run, config, data, own=OWN, results=results, curves=curves_by_fold(fits[WHOLE][OWN]))
        log_unlabelled(run, unlabelled)
        comparison = record_comparison(
            run,
            config,
            data,
            windows=windows,
            folds=folds,
            fits=fits,
            results=results,
            done=session.done,
            shown=last_networks(work, fits[WHOLE]),
            device=session.device,
        )

        if leakage is None or not leakage.leaks:  # else the network is not to be served
            register_trained(work, final["weights"], encoder_weights, results[OWN].metrics(OWN))
        common = results_text(config, data, OWN, results=results, leakage=leakage)
        text = render_summary(Path(__file__).parent, results=common, comparison=comparison, found=None)
        end_with_summary(session, text, leakage, seconds=time.monotonic() - began)
    return session.status


def last_networks(work: ChannelFits, fits: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, nn.Module]:
    """The networks of the last fold, with all labels, whose embeddings are drawn."""
    shown = {}
    for title, name in (("pre-trained", "frozen"), ("fine-tuned", OWN)):
        shown[title] = work.encoder(None).network(name).to(work.session.device)
        shown[title].load_state_dict(fits[name][-1]["weights"])
    return shown

"""network=windows: a Transformer on windows of a second or more, stopped early by validation people.

`run_windows` reads from top to bottom: recordings, windows and folds -> a network for each fold, EEGNet beside it ->
classical classifiers on the same folds -> figures over subjects -> what the network looks at -> a last network for the
registry -> summary. training/eeg/ has what the EEG trainers share; docs/eeg_transformer.md explains.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from common.progress import Progress
from data.eeg.load import EegData
from data.eeg.splits import shuffled_labels
from trainers.eeg_transformer.config import OWN, EegTransformerConfig, build_network, load_channel_encoder
from trainers.eeg_transformer.explain import record_explanations
from trainers.eeg_transformer.registry import register_transformer
from training.eeg.baselines import build_eegnet, classical_results
from training.eeg.fit import ADVICE, Fitting, final_fit, seeded
from training.eeg.load import load_for
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


def fresh_network(config: EegTransformerConfig, data: EegData, name: str = OWN) -> nn.Module:
    """The network called `name` with weights drawn from the seed."""
    with seeded(config.seed):
        if name == "eegnet":
            return build_eegnet(data, config.window)
        return build_network(config, data.trials.shape[1], len(data.classes))


def run_windows(config: EegTransformerConfig, trial: StudyTrial | None = None) -> int:
    """Train, compare, record, register; the exit status. trial: the run's place in a study."""
    if config.encoder_uri:
        load_channel_encoder(config)  # what is wrong with it is said before the run begins
    session = Session("eeg_transformer", config, trial, advice=ADVICE)
    data, windows, folds = load_for(session, config)
    dealt = shuffled_labels(windows, config.seed)
    final_key, served = final_fit(config, OWN, windows, folds)
    names = (OWN, "eegnet") if config.baselines else (OWN,)

    with session:
        run, began = session.run, time.monotonic()
        log_recordings(session, config, data, windows=windows, folds=folds)
        n_fits = 1 if session.trial.searching else len(names) * len(folds) + config.leakage_check + 1
        fits: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        with Progress(n_fits * config.epochs, unit="epoch", quiet=not session.is_first) as progress:
            fitting = Fitting(session, progress, config, windows)
            if session.trial.searching:  # judged on validation windows; no test window is looked at
                untested = replace(folds[0], test=np.array([], dtype=int))
                fitting.fit(f"{OWN}_fold1", fresh_network(config, data), untested, windows.label)
                return 0
            for name in names:
                for number, fold in enumerate(folds, 1):
                    network = fresh_network(config, data, name)
                    fits[name].append(fitting.fit(f"{name}_fold{number}", network, fold, windows.label))
            shuffled = None
            if config.leakage_check:
                shuffled = fitting.fit("leakage", fresh_network(config, data), folds[0], dealt)
            final = fitting.fit(final_key, fresh_network(config, data), served, windows.label)
        session.end_training()
        if not session.is_first:
            return 0
        run.log_checkpoint()

        results = network_results(fits, windows, folds)
        if config.baselines:
            results |= classical_results(config, data, windows, folds)
        leakage = check_leakage(shuffled, windows, folds[0], dealt)
        log_results(run, data, results, leakage, step=config.epochs)
        log_figures(run, config, data, own=OWN, results=results, curves=curves_by_fold(fits[OWN]))
        last = fresh_network(config, data).to(session.device)
        last.load_state_dict(fits[OWN][-1]["weights"])
        costly_channels = record_explanations(
            run, config, data=data, windows=windows, fold=folds[-1], network=last, device=session.device
        )

        if leakage is None or not leakage.leaks:  # else the network is not to be served
            network = fresh_network(config, data)
            network.load_state_dict(final["weights"])
            metrics = results[OWN].metrics(OWN)
            register_transformer(
                run, config, data, network=network.eval(), metrics=metrics, own=OWN, alias=session.trial.alias
            )
        common = results_text(config, data, OWN, results=results, leakage=leakage)
        text = render_summary(Path(__file__).parent, results=common, costly_channels=costly_channels, lateral=None)
        end_with_summary(session, text, leakage, seconds=time.monotonic() - began)
    return session.status

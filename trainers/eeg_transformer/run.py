"""Classify imagined fist movements with a Transformer written from scratch: `mlflow run . -e eeg_transformer`.

`run_lateral` reads from top to bottom: recordings and folds -> vectors of slices -> on each fold the Transformer, the
same without attention and with fewer electrodes, and EEGNet -> classical classifiers -> figures over people -> what is
attended to and where it lies on the scalp -> a last network for the registry -> summary. network=windows is in
windows.py. training/eeg/ has what the EEG trainers share; docs/eeg_transformer.md explains.
"""

import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.progress import Progress
from data.eeg.load import EegData
from data.eeg.windows import Windows
from evaluation.classification import least_sign_flip_p
from models.attention.spec import AttentionSpec
from models.eeg.slice_transformer import LateralTransformer
from trainers.eeg_transformer.config import OF_NETWORK, OWN, PRESETS, EegTransformerConfig
from trainers.eeg_transformer.explain_lateral import explain, record_explanation
from trainers.eeg_transformer.lateral import (
    SLICES,
    WeighingSettings,
    fit_lateral,
    linear_log_p,
    predict_causal,
    predict_lateral,
)
from trainers.eeg_transformer.registry import register_lateral
from trainers.eeg_transformer.windows import run_windows
from training.config import launch_processes, parse_config
from training.eeg.baselines import (
    classical_results,
    tested_trials,
    training_trials,
)
from training.eeg.config import note_without_effect, presets_for
from training.eeg.deep_baselines import aligned_signals, check_braindecode, fit_network, predict_network
from training.eeg.fit import ADVICE
from training.eeg.load import group_of, load_for, served_trials, shuffled_trial_labels
from training.eeg.records import end_with_summary, log_figures, log_recordings, log_results, results_text
from training.eeg.results import Predictions, Result, evaluate, leakage_of, mean_seconds, sign_tests
from training.eeg.slices import (
    ALL,
    TrialCovariances,
    aligned_vectors,
    causal_vectors,
    check_slices,
    electrode_sets,
    lateral_mirror,
    reference_covariances,
    trial_covariances,
)
from training.session import Session
from training.summary import render_summary
from training.trial import StudyTrial

BASELINE_UPDATES = 6
"""A deep baseline's updates for each of the Transformer's."""


class Parts(NamedTuple):
    """A fold's trials. Those for early stopping are trained on too: nothing is stopped early."""

    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, eq=False)
class LateralTrials:
    """What all fits see. vectors: {set of electrodes: [n_trials, n_slices, n_features]}, aligned with a person's whole
    recording. label: 0 or 1; dealt: the same shuffled within recordings; group: whose trials are aligned together.
    """

    covariances: TrialCovariances
    vectors: dict[str, Tensor]
    label: np.ndarray
    dealt: np.ndarray
    group: np.ndarray


def lateral_trials(config: EegTransformerConfig, data: EegData, windows: Windows) -> LateralTrials:
    """The slices of all trials as vectors. Seconds for a dozen people, minutes for seventy."""
    group, covariances = group_of(data, config.split), trial_covariances(data, SLICES)
    sets = electrode_sets(data) if config.baselines else {ALL: data.ch_names}
    vectors = {}
    with Progress(len(sets), unit="set") as progress:
        for name, chosen in sets.items():
            vectors[name] = aligned_vectors(covariances.pick(chosen), group)
            progress.advance(note=f"{name}: vectors")
    dealt = shuffled_trial_labels(windows, config.seed)
    return LateralTrials(covariances, vectors, data.label, dealt=dealt, group=group)


def fit_and_test(
    config: EegTransformerConfig,
    trials: LateralTrials,
    train: np.ndarray,
    test: np.ndarray,
    *,
    attention: str,
    electrodes: str = ALL,
    shuffled: bool = False,
) -> dict[str, Any]:
    """The network fitted to the trials `train`, and what it says of the trials `test` (there may be none).

    {"weights": ..., "curve": loss after each update, and, of test trials, "log_p" [n, 2], "evidence" and "attention"
    [n, n_slices]}; tensors on the CPU.
    """
    vectors, group = trials.vectors[electrodes], trials.group
    network, curve = fit_lateral(
        vectors[train],
        (trials.dealt if shuffled else trials.label)[train],
        group[train],
        attention=AttentionSpec.for_length(attention, len(SLICES)),
        settings=WeighingSettings(n_networks=config.n_networks, n_updates=config.n_updates),
        seed=config.seed,
    )
    result: dict[str, Any] = {"weights": network.state_dict(), "curve": curve}
    if len(test):
        log_p, evidence, weights = predict_lateral(network, vectors[test], group[test])
        result |= {"log_p": log_p, "evidence": evidence, "attention": weights}
    return result


def causal_log_p(
    config: EegTransformerConfig, trials: LateralTrials, fit: dict[str, Any], train: np.ndarray, test: np.ndarray
) -> Tensor:
    """What a fitted network says of the trials `test` [n, 2], knowing of each person the trials before alone."""
    network = restored(config, trials, fit)
    reference = reference_covariances(trials.covariances, trials.group, train)
    vectors = causal_vectors(trials.covariances.rows(test), trials.group[test], reference)
    return predict_causal(network, vectors, trials.group[test])


def restored(config: EegTransformerConfig, trials: LateralTrials, fit: dict[str, Any]) -> LateralTransformer:
    """The network of a finished fit with all electrodes."""
    spec = AttentionSpec.for_length(config.attention, len(SLICES))
    _, n_slices, n_features = trials.vectors[ALL].shape
    network = LateralTransformer(n_slices, n_features, config.n_networks, spec)
    network.load_state_dict(fit["weights"])
    return network.eval()


def train_all(
    session: Session, config: EegTransformerConfig, data: EegData, trials: LateralTrials, parts: list[Parts]
) -> dict[str, list[dict[str, Any]]]:
    """{name: what it says on each fold}: every network, the leakage check and the one to be served.

    A part that an earlier process of the run finished is taken from the checkpoint. Raises Stopped after the one in
    which a signal came.
    """
    signals = aligned_signals(data, trials.group) if config.baselines else torch.empty(0)
    mirror = trials.covariances.mirror
    nobody, served = np.array([], dtype=int), served_trials(config, data)

    def fit(name: str, train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
        if name in config.deep_baselines:
            updates, label = BASELINE_UPDATES * config.n_updates, trials.label[train]
            network = fit_network(name, signals[train], label, mirror, n_updates=updates, seed=config.seed)
            return {"log_p": predict_network(network, signals[test], mirror)}
        if name == "tangent_slices":
            vectors = trials.vectors[ALL]
            return {"log_p": linear_log_p(vectors[train], trials.label[train], vectors[test])}
        attention = "none" if name == "no_attention" else config.attention
        electrodes = name if name in trials.vectors else ALL
        result = fit_and_test(
            config, trials, train, test, attention=attention, electrodes=electrodes, shuffled=name == "leakage"
        )
        if name == OWN:
            result["causal"] = causal_log_p(config, trials, result, train=train, test=test)
        return result

    def timed_fit(name: str, part: Parts) -> dict[str, Any]:
        began = time.perf_counter()
        return {**fit(name, part.train, part.test), "seconds": time.perf_counter() - began}

    beside = ["tangent_slices", *config.deep_baselines, *(name for name in trials.vectors if name != ALL)]
    names = [OWN, "no_attention", *(beside if config.baselines else [])]
    plan = [(name, f"{name}_fold{k}", part) for k, part in enumerate(parts, 1) for name in names]
    plan += [("leakage", "leakage", parts[0])] * config.leakage_check
    # With test_subjects, who are trained on nowhere, the fit that was measured is registered.
    plan += [("final", f"{OWN}_fold1", parts[0]) if config.test_subjects else ("final", "final", Parts(served, nobody))]
    fits: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with Progress(len(plan), unit="fit") as progress:
        for name, key, part in plan:
            fits[name].append(session.once(key, partial(timed_fit, name, part)))
            progress.advance(note=key)
    return fits


def results_of(
    fits: dict[str, list[dict[str, Any]]], data: EegData, parts: list[Parts]
) -> tuple[dict[str, Result], dict[str, Result]]:
    """All figures of the networks, the causal variant among them; and those of the sets of electrodes."""

    def result(name: str, what: str = "log_p") -> Result:
        test = np.concatenate([part.test for part in parts])
        log_p = np.concatenate([fit[what].numpy() for fit in fits[name]])
        predictions = Predictions(log_p, data.label[test], data.subject[test], trial=test, position=None)
        return evaluate(predictions, mean_seconds(fits[name]))

    sets = electrode_sets(data)
    networks = {name: result(name) for name in fits if name not in (*sets, "leakage", "final")}
    electrodes = {name: result(name) for name in sets if name in fits}
    return {**networks, f"{OWN}_causal": result(OWN, "causal")}, {ALL: networks[OWN], **electrodes}


def run_eeg_transformer(config: EegTransformerConfig, trial: StudyTrial | None = None) -> int:
    """Train, compare, record, register; the exit status. trial: the run's place in a study."""
    other = "lateral" if config.network == "windows" else "windows"
    note_without_effect(config, PRESETS, OF_NETWORK[other], f"network={other}")
    return run_windows(config, trial) if config.network == "windows" else run_lateral(config, trial)


def run_lateral(config: EegTransformerConfig, trial: StudyTrial | None = None) -> int:
    """The same for network=lateral."""
    if config.baselines:
        check_braindecode(config.deep_baselines)
    session = Session("eeg_transformer", config, trial, advice=ADVICE)
    data, windows, folds = load_for(session, config)
    check_slices(SLICES, data, hint="; network=windows has no slices")
    lateral_mirror(data, "give network=windows")
    parts = [Parts(training_trials(windows, fold), tested_trials(windows, fold)) for fold in folds]

    with session:
        run, began = session.run, time.monotonic()
        log_recordings(session, config, data, windows=windows, folds=folds)
        trials = lateral_trials(config, data, windows)
        fits = train_all(session, config, data, trials=trials, parts=parts)
        session.end_training()
        run.log_checkpoint()

        results, electrodes = results_of(fits, data, parts)
        if config.baselines:
            results |= classical_results(config, data, windows, folds)
        leakage = None
        if config.leakage_check:
            leakage = leakage_of(fits["leakage"][0]["log_p"].numpy(), trials.dealt[parts[0].test])
        log_results(run, data, results, leakage, step=config.n_updates)
        log_figures(run, config, data, own=OWN, results=results, curves={})
        explanation = explain(data, trials.vectors[ALL], parts=parts, fits=fits[OWN], results=results)
        record_explanation(
            run, config, data=data, explanation=explanation, electrodes=electrodes, results=results, fits=fits[OWN]
        )

        if leakage is None or not leakage.leaks:  # else the network is not to be served
            network = restored(config, trials, fits["final"][0])
            reference = reference_covariances(trials.covariances, trials.group, served_trials(config, data))
            metrics = results[OWN].metrics(OWN)
            register_lateral(
                run, config, data, network=network, reference=reference, metrics=metrics, alias=session.trial.alias
            )
        common = results_text(config, data, OWN, results=results, leakage=leakage)
        lateral = {"explanation": explanation, "electrodes": electrodes, "signs": sign_tests(results, OWN)}
        lateral |= {"is_own": data.is_own, "least_p": least_sign_flip_p(len(results[OWN].by_subject))}
        text = render_summary(Path(__file__).parent, results=common, costly_channels=None, lateral=lateral)
        end_with_summary(session, text, leakage, seconds=time.monotonic() - began)
    return session.status


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    config = parse_config(EegTransformerConfig, presets_for(PRESETS, argv), argv, "eeg_transformer")
    status = launch_processes(config.nproc, "trainers.eeg_transformer", argv, config.max_restarts)
    return run_eeg_transformer(config) if status is None else status

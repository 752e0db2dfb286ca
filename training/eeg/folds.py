"""The run of an EEG trainer: every fold and classifier in turn, resumable at every epoch, then figures, registry and
report.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from common.progress import Progress
from data.eeg.align import AlignedWindows
from data.eeg.figures import recording_figures
from data.eeg.load import EegData
from data.eeg.splits import Fold, shuffled_labels
from data.eeg.windows import EegWindows, Windows
from evaluation.classification import (
    calibration_figure,
    chance_bounds,
    confusion,
    confusion_figure,
    positions_figure,
    subjects_figure,
    trial_means,
)
from evaluation.figures import loss_curves
from models.sync_norm import synchronise_batch_norms
from tracking.checkpoint import StopRequest, find_checkpoint, load_checkpoint, save_checkpoint
from tracking.registry.models import ModelInfo
from tracking.resuming import find_resumable
from tracking.run import Run, start_run
from tracking.silent_run import SilentRun
from training.config import as_params, check_unchanged, operational_fields
from training.eeg.baselines import build_eegnet, classical_log_probabilities
from training.eeg.config import EegConfig
from training.eeg.fit import Fit
from training.eeg.load import load_data
from training.eeg.results import Result, evaluate, report, subjects_table, trial_predictions, window_predictions
from training.processes import Processes, join_processes
from training.trial import Pruned, StudyTrial

CLASSICAL = ("csp_lda", "tangent_lr")

C = TypeVar("C", bound=EegConfig)
W = TypeVar("W", bound="Resumable")


@dataclass
class Outcome:
    """The folds, the networks trained on the last one by name, every classifier's figures, and all finished fits by
    key.
    """

    folds: list[Fold]
    last_networks: dict[str, nn.Module]
    results: Mapping[str, Result]
    done: Mapping[str, dict[str, Any]]

    @property
    def last_fold(self) -> Fold:
        return self.folds[-1]


class Resumable(Protocol):
    """Training that goes on epoch by epoch, and from a state saved between two: `Fit` is one."""

    epoch: int

    @property
    def finished(self) -> bool: ...

    def run_epoch(self) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def result(self) -> dict[str, Any]: ...


class Stopped(Exception):
    """SIGTERM or Ctrl-C came; everything is in the checkpoint."""


class Progressing:
    """What a run has finished, fit by fit, and the checkpoint it goes on from.

    done: {key of a fit: {"log_p": its test log-probabilities, "weights": its best weights or None, "curve": ...}}.
    """

    def __init__(
        self,
        run: Run | SilentRun,
        config: EegConfig,
        data: EegData,
        processes: Processes,
        stop: StopRequest,
        checkpoint: Mapping[str, Any] | None,
        study_trial: StudyTrial,
    ) -> None:
        self.study_trial = study_trial
        self.run, self.config, self.data, self.processes, self.stop = run, config, data, processes, stop
        self.done: dict[str, dict[str, Any]] = dict(checkpoint["done"]) if checkpoint else {}
        self.under_way: Mapping[str, Any] | None = checkpoint["under_way"] if checkpoint else None

    def save(self, under_way: Mapping[str, Any] | None) -> None:
        if self.processes.is_first:
            state = {
                "config": as_params(self.config),
                "data": self.data.fingerprint,
                "done": self.done,
                "under_way": under_way,
                "backlog": self.run.backlog(),
            }
            save_checkpoint(self.run.checkpoint_path, state)

    def finish(
        self, key: str, make: Callable[[], W], epochs: int, progress: Progress, look: Callable[[W], None] | None = None
    ) -> dict[str, Any]:
        """The finished work `key`: from the checkpoint, or done now, at most `epochs`, with a checkpoint after every
        one.

        look: called after every epoch, to report to a study.
        """
        if key in self.done:
            progress.advance(epochs)
            return self.done[key]
        work = make()
        if self.under_way is not None and self.under_way["key"] == key:
            work.load_state_dict(self.under_way["fit"])
            progress.advance(work.epoch)
        while not work.finished:
            point = work.run_epoch()
            self.run.log_metrics({f"{key}_{name}": value for name, value in point.items()}, step=work.epoch)
            name = "accuracy" if "validation_accuracy" in point else "loss"
            progress.advance(note=f"{key}: validation {name} {point[f'validation_{name}']:.3f}")
            if look is not None:
                look(work)
            asked = self.processes.any(self.stop.requested)
            self.save({"key": key, "fit": work.state_dict()})
            if asked:
                raise Stopped
        progress.advance(epochs - work.epoch)
        self.done[key] = work.result()
        self.save(None)
        return self.done[key]

    def fit(
        self,
        key: str,
        build: Callable[[], nn.Module],
        windows: Windows,
        fold: Fold,
        label: np.ndarray,
        progress: Progress,
        config: EegConfig | None = None,
    ) -> dict[str, Any]:
        """The finished fit `key` of a network that `build` makes; config: how it is trained, if not as all are."""
        how = self.config if config is None else config

        def make() -> Fit:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(how.seed)
                network = build().to(self.processes.device)
            if self.processes.world_size > 1:
                synchronise_batch_norms(network)
            return Fit(how, network, windows, fold, self.processes, label)

        def look(fit: Fit) -> None:
            measured = self.study_trial.measure(fit.network, windows.gather(fold.validation[:1]))
            self.study_trial.report(self.run, {**fit.best_point(), **measured}, fit.epoch)

        return self.finish(key, make, how.epochs, progress, look if self.study_trial.searching else None)


@dataclass(frozen=True)
class Procedure:
    """How a trainer's networks are trained where that is more than one fit for each network and fold.

    train(state, name, key, windows, fold, label, progress): the finished fit `key` of network `name`. also(state,
    windows, folds, progress): more fits, whose results stay in `state.done`. epochs(n_folds): of all of them, for the
    progress shown; those of the baseline are counted apart.
    """

    train: Callable[["Progressing", str, str, Windows, Fold, np.ndarray, Progress], dict[str, Any]]
    also: Callable[["Progressing", Windows, list[Fold], Progress], None]
    epochs: Callable[[int], int]


def final_fold(windows: Windows, folds: list[Fold]) -> Fold:
    """For the registered network: the first fold's validation windows to stop by, all others to train on, none to
    test.
    """
    everything = np.arange(len(windows))
    held_out = folds[0].validation
    return Fold("all", np.setdiff1d(everything, held_out), held_out, np.array([], dtype=int))


def record_figures(
    run: Run | SilentRun,
    config: EegConfig,
    data: EegData,
    own: str,
    results: Mapping[str, Result],
    curves: Mapping[str, list[dict[str, float]]],
) -> None:
    """Confusion, subjects, window positions, calibration, loss curves of every fold, and the recordings themselves."""
    what = f"{config.dataset}, {config.split}"
    for name, result in results.items():
        trials = result.trials
        counts = confusion(trials.label, trials.p_right)
        run.log_figure(confusion_figure(counts, f"{name}, per trial: {what}"), f"figures/confusion_{name}.png")
    per_subject = len(results[own].trials.label) // len(results[own].by_subject)
    tables = {name: result.by_subject for name, result in results.items()}
    run.log_figure(subjects_figure(tables, per_subject, f"Accuracy per trial: {what}"), "figures/subjects.png")
    first = data.times[0]
    step = config.window - config.overlap
    positions = {name: r.by_position for name, r in results.items() if r.by_position is not None}
    centres = [first + (k * step + config.window / 2) / data.sfreq for k in range(len(next(iter(positions.values()))))]
    run.log_figure(positions_figure(centres, positions, f"Accuracy by window: {what}"), "figures/positions.png")
    trials = results[own].trials
    run.log_figure(
        calibration_figure(trials.label, trials.p_right, f"{own}: calibration, {what}"), "figures/calibration.png"
    )
    longest = max(len(curve) for curve in curves.values())
    panels = {
        panel: {
            f"{key} {part}": [point[f"{part}_{panel}"] for point in curve] + [math.nan] * (longest - len(curve))
            for key, curve in curves.items()
            for part in ("train", "validation")
        }
        for panel in ("loss", "accuracy")
    }
    run.log_figure(loss_curves(range(1, longest + 1), panels, f"{own}: {what}", "epoch"), "figures/loss_curves.png")
    for name, figure in recording_figures(data).items():
        run.log_figure(figure, f"figures/recording_{name}.png")


def run_eeg(
    entry_point: str,
    own: str,
    config: C,
    build: Callable[[EegData, str], nn.Module],
    explain: Callable[[Run | SilentRun, C, EegData, Windows, Outcome, torch.device], str],
    register: Callable[[Run | SilentRun, C, EegData, nn.Module, Mapping[str, float], str | None], ModelInfo],
    rivals: Sequence[str] = (),
    procedure: Procedure | None = None,
    study_trial: StudyTrial | None = None,
    check: Callable[[C, EegData], None] | None = None,
) -> int:
    """Train `build(data, name)` for own and rivals on every fold beside the baselines, record and register; the exit
    status.

    own: what the network that is registered is called in tables and metrics. rivals: other networks of the same
    builder. explain: logs more than the common figures, and returns text for the end of the report. register: registers
    the network with an alias (its last argument), unless the leakage check finds a leak. procedure: how own and rivals
    are trained, if not by one fit each.
    study_trial: the run's place in a study; while that searches, `own` alone is trained, on the first fold, and no test
    window is looked at. check: raises InputError for what does not fit the recordings, before the run begins.
    """
    study_trial = study_trial or StudyTrial()
    processes = join_processes(config.device)
    device = processes.device
    run_id = find_resumable(config.resume, entry_point, config.output_dir) if processes.is_first else None
    path = find_checkpoint(config.output_dir, run_id) if run_id else None
    checkpoint = processes.share(load_checkpoint(path) if path else None)
    data, windows, folds = load_data(config, quiet=not processes.is_first)
    if check is not None:
        check(config, data)
    if checkpoint is not None:
        other_data = None if checkpoint["data"] == data.fingerprint else "the recordings are others"
        check_unchanged(
            config, checkpoint["config"], operational_fields(type(config)), other_data, config.allow_changes
        )
    if isinstance(windows, EegWindows | AlignedWindows):
        windows.to(device)

    run = start_run(
        entry_point,
        as_params(config),
        tags={"world_size": processes.world_size, "device": device.type, **study_trial.tags},
        output_dir=config.output_dir,
        experiment=study_trial.experiment,
        run_name=config.run_name,
        resume=run_id,
    )
    began = time.monotonic()
    with run:
        study_trial.begin(run)
        if checkpoint is not None:
            run.restore(checkpoint["backlog"])
        run.log_data(data.dataset, data.fingerprint, data.summary())
        if processes.is_first:
            run.log_text(data.table(), "recordings.txt")
            print(
                f"{config.dataset}: {len(data.trials)} trials, {len(windows)} windows, {len(np.unique(data.subject))} "
                f"subjects, {len(folds)} folds; run {run.run_id}"
            )
        fits = (1 + len(rivals)) * len(folds) + config.leakage_check + 1
        epochs = procedure.epochs(len(folds)) if procedure else fits * config.epochs
        epochs += len(folds) * config.epochs if config.baselines else 0
        progress = Progress(epochs, unit="epoch", quiet=not processes.is_first)

        # Only as long as there is training to stop between two epochs. Afterwards a signal ends the run at once
        # (KILLED), and what goes on with it has all fits in the checkpoint.
        with StopRequest() as stop:
            state = Progressing(run, config, data, processes, stop, checkpoint, study_trial)

            def train(name: str, key: str, fold: Fold, label: np.ndarray) -> dict[str, Any]:
                if name == "eegnet":
                    return state.fit(key, lambda: build_eegnet(data, config.window), windows, fold, label, progress)
                if procedure is not None:
                    return procedure.train(state, name, key, windows, fold, label, progress)
                return state.fit(key, partial(build, data, name), windows, fold, label, progress)

            try:
                if study_trial.searching:
                    train(own, f"{own}_fold1", replace(folds[0], test=np.array([], dtype=int)), windows.label)
                    progress.close()
                    run.finish()
                    return 0
                log_p = {
                    name: [train(name, f"{name}_fold{i + 1}", fold, windows.label) for i, fold in enumerate(folds)]
                    for name in (own, *rivals, *(["eegnet"] if config.baselines else []))
                }
                dealt = shuffled_labels(windows, config.seed)
                shuffled = train(own, "leakage", folds[0], dealt) if config.leakage_check else None
                final = train(own, "final", final_fold(windows, folds), windows.label)
                if procedure is not None:
                    procedure.also(state, windows, folds, progress)
                if processes.any(stop.requested):  # in the last of these, where nobody asked any more
                    raise Stopped
            except Stopped:
                progress.close()
                run.log_checkpoint()
                run.finish("KILLED")
                print(f"stopped; go on with resume={run.run_id}", file=sys.stderr)
                return stop.exit_code or 143
            except Pruned as verdict:
                progress.close()
                run.set_tags({"pruned": str(verdict)})
                run.finish("KILLED")
                return 0
            except FloatingPointError as fault:
                progress.close()
                run.set_tags({"error": str(fault)})
                run.finish("FAILED")
                print(f"error: {fault}; the run is marked failed. Lower lr, or look at the recordings", file=sys.stderr)
                return 1
        progress.close()
        if not processes.is_first:
            return 0
        run.log_checkpoint()

        results = {
            name: evaluate(window_predictions([fit["log_p"].numpy() for fit in fits_], windows, folds))
            for name, fits_ in log_p.items()
        }
        if config.baselines:
            for name in CLASSICAL:
                found = [classical_log_probabilities(name, data, windows, fold, config.split) for fold in folds]
                results[name] = evaluate(trial_predictions(found, data, windows, folds))
        leakage, leaks = None, False
        if shuffled is not None:
            trial, mean = trial_means(shuffled["log_p"].numpy(), windows.trial[folds[0].test])
            first = np.unique(windows.trial[folds[0].test], return_index=True)[1]
            leakage = (float((mean.argmax(1) == dealt[folds[0].test][first]).mean()), len(trial))
            low, high = chance_bounds(leakage[1], 0.999)
            leaks = not low <= leakage[0] <= high
        metrics = {key: value for name, result in results.items() for key, value in result.metrics(name).items()}
        if leakage is not None:
            metrics["leakage_check_accuracy"] = leakage[0]
        run.log_metrics(metrics, step=config.epochs)

        record_figures(
            run, config, data, own, results, {f"fold {i + 1}": fit["curve"] for i, fit in enumerate(log_p[own])}
        )
        last = {name: build(data, name).to(device) for name in (own, *rivals)}
        for name, trained in last.items():
            trained.load_state_dict(log_p[name][-1]["weights"])
        more = explain(run, config, data, windows, Outcome(folds, last, results, state.done), device)
        registered = "nothing registered"
        if not leaks:  # else the figures are not to be trusted, nor is the network to be served
            network = build(data, own)
            network.load_state_dict(final["weights"])
            own_metrics = results[own].metrics(own)
            registered = f"model {register(run, config, data, network.eval(), own_metrics, study_trial.alias).uri}"
        text = report(config, data, own, results, leakage) + more
        run.log_text(text, "report.md")
        run.log_dict({name: result.by_subject for name, result in results.items()}, "subjects.json")
        run.log_text(subjects_table(results), "subjects.csv")
        if leaks:
            run.set_tags({"error": "the leakage check did not end at chance"})
        run.finish("FAILED" if leaks else "FINISHED")
        print(f"\n{text}\n{time.monotonic() - began:.0f} s; {registered}\nrun {run.run_id}\nopen it: {run.url()}")
    return 1 if leaks else 0

"""What every EEG trainer records: the recordings, figures of the results, tables by subject, and the common summary."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.eeg.figures import recording_figures
from data.eeg.load import EegData
from data.eeg.splits import Fold
from data.eeg.windows import Windows
from evaluation.classification import (
    confusion,
    plot_calibration,
    plot_confusion,
    plot_positions,
    plot_subjects,
)
from evaluation.figures import plot_step_curves
from tracking.run import AnyRun
from training.eeg.config import EegConfig
from training.eeg.results import (
    MOABB_TABLE,
    Leakage,
    Result,
    chance_verdict,
    comparisons,
    moabb_table,
    subjects_table,
)
from training.session import Session
from training.summary import SUMMARY, render_summary


def log_recordings(session: Session, config: EegConfig, data: EegData, windows: Windows, folds: list[Fold]) -> None:
    """Record what was read, and print it in a line."""
    session.run.log_data(data.dataset, data.fingerprint, data.summary())
    if session.is_first:
        session.run.log_text(data.table(), "recordings.txt")
        print(
            f"{config.dataset}: {len(data.trials)} trials, {len(windows)} windows, {len(np.unique(data.subject))} "
            f"subjects, {len(folds)} folds; run {session.run.run_id}"
        )


def curves_by_fold(fits: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """{"fold 1": the curve of its finished fit, ...}, for the figure of the losses."""
    return {f"fold {number}": fit["curve"] for number, fit in enumerate(fits, 1)}


def log_figures(
    run: AnyRun,
    config: EegConfig,
    data: EegData,
    own: str,
    results: Mapping[str, Result],
    curves: Mapping[str, list[dict[str, float]]],
) -> None:
    """Confusion, subjects, window positions (of classifiers of windows), calibration, loss curves of every fold (if
    there are any), and the recordings themselves.
    """
    what = f"{config.dataset}, {config.split}"
    for name, result in results.items():
        trials = result.trials
        counts, title = confusion(trials.label, trials.p), f"{name}, per trial: {what}"
        run.log_figure(plot_confusion(counts, title, data.classes), f"figures/confusion_{name}.png")
    tables = {name: result.by_subject for name, result in results.items()}
    run.log_figure(
        plot_subjects(tables, usual_counts(results[own]), f"Accuracy per trial: {what}", names=data.names.subject),
        "figures/subjects.png",
    )
    first = data.times[0]
    step = config.window - config.overlap
    positions = {name: r.by_position for name, r in results.items() if r.by_position is not None}
    if positions:
        n_positions = len(next(iter(positions.values())))
        centres = [first + (k * step + config.window / 2) / data.sfreq for k in range(n_positions)]
        title = f"Accuracy by window: {what}"
        run.log_figure(plot_positions(centres, positions, title, len(data.classes)), "figures/positions.png")
    trials = results[own].trials
    run.log_figure(
        plot_calibration(trials.label, trials.p, f"{own}: calibration, {what}", classes=data.classes),
        "figures/calibration.png",
    )
    if curves:
        longest = max(len(curve) for curve in curves.values())
        panels = {
            panel: {
                f"{key} {part}": [point[f"{part}_{panel}"] for point in curve] + [math.nan] * (longest - len(curve))
                for key, curve in curves.items()
                for part in ("train", "validation")
            }
            for panel in ("loss", "accuracy")
        }
        run.log_figure(
            plot_step_curves(range(1, longest + 1), panels, f"{own}: {what}", "epoch"), "figures/loss_curves.png"
        )
    for name, figure in recording_figures(data).items():
        run.log_figure(figure, f"figures/recording_{name}.png")


def usual_counts(result: Result) -> tuple[int, ...]:
    """How many trials of each class a test subject has on average: rounded, and the last class has the rest."""
    counts, per_subject = result.trials.counts, len(result.trials.label) // len(result.by_subject)
    first = [round(per_subject * n / sum(counts)) for n in counts[:-1]]
    return (*first, per_subject - sum(first))


def log_results(
    run: AnyRun,
    data: EegData,
    results: Mapping[str, Result],
    leakage: Leakage | None,
    step: int,
) -> None:
    """Every classifier's figures as metrics at `step`, and the tables by subject, MOABB's among them."""
    metrics = {key: value for name, result in results.items() for key, value in result.metrics(name).items()}
    if leakage is not None:
        metrics["leakage_check_accuracy"] = leakage.accuracy
    run.log_metrics(metrics, step=step)
    run.log_dict({name: result.by_subject for name, result in results.items()}, "subjects.json")
    run.log_text(subjects_table(results, data.names.subject), "subjects.csv")
    run.log_text(moabb_table(data, results), MOABB_TABLE)


def results_text(
    config: EegConfig, data: EegData, own: str, results: Mapping[str, Result], leakage: Leakage | None
) -> str:
    """What was obtained, in Markdown, from the figures alone; it says if the baselines won."""
    best = max(results, key=lambda name: results[name].interval[0])
    return render_summary(
        Path(__file__).parent,
        config=config,
        data=data,
        own=own,
        results=results,
        leakage=leakage,
        chance=chance_verdict(results[own], data.classes),
        comparisons=comparisons(results, own),
        best=best,
        isfinite=math.isfinite,
    )


def end_with_summary(session: Session, text: str, leakage: Leakage | None, seconds: float) -> None:
    """Record the summary, end the run (FAILED where labels leaked), and print what was found and where it is."""
    run = session.run
    run.log_text(text, SUMMARY)
    if leakage is not None and leakage.leaks:
        session.fail("the leakage check did not end at chance")
    else:
        run.finish()
    print(f"\n{text}\n{seconds:.0f} s\nrun {run.run_id}\nopen it: {run.url()}")

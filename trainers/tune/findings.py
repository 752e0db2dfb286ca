"""What a study found: its best configurations, tables, and the summary."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from trainers.tune.study import retried, retry_history, used
from training.summary import render_summary

BEST_SHOWN = 8
"""Trials in the summary's table at most."""

# ----------------------------------------------------------------------------------------------------------------
# the best


@dataclass(frozen=True)
class Candidate:
    """A configuration of the search and its repetitions: {seed: objectives}."""

    number: int
    params: Mapping[str, Any]
    by_seed: Mapping[int, tuple[float, ...]]

    def mean(self, objective: int = 0) -> float | None:
        """Mean of an objective over the repetitions; None without any."""
        return statistics.fmean(values[objective] for values in self.by_seed.values()) if self.by_seed else None

    def spread(self, objective: int = 0) -> float | None:
        """Standard deviation of an objective over the repetitions; None for fewer than two."""
        values = [values[objective] for values in self.by_seed.values()]
        return statistics.stdev(values) if len(values) > 1 else None

    def best_seed(self, study: optuna.Study) -> int:
        """The seed of the repetition whose first objective is best."""
        ascending = sorted(self.by_seed, key=lambda seed: self.by_seed[seed][0])
        return ascending[0 if sign(study) > 0 else -1]


def sign(study: optuna.Study) -> int:
    """1 where less is better in the first objective, -1 where more is."""
    return 1 if study.directions[0] == StudyDirection.MINIMIZE else -1


def ranked(study: optuna.Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Finished trials, best first objective first; of several objectives those of the Pareto front before all
    others.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE and all(map(math.isfinite, t.values))]
    front = {t.number for t in study.best_trials} if len(study.directions) > 1 and complete else set()
    return sorted(complete, key=lambda t: (t.number not in front, sign(study) * t.values[0], t.values[1:]))


def best_value(study: optuna.Study, trials: Sequence[FrozenTrial]) -> float | None:
    """The best first objective of the finished trials, None without any."""
    values = [t.values[0] for t in trials if t.state == TrialState.COMPLETE and math.isfinite(t.values[0])]
    return min(values, key=lambda value: sign(study) * value, default=None)


def default_trial(study: optuna.Study) -> int | None:
    """The number of the trial that has the trainer's own settings; None if it failed or there is none."""
    defaults, trials = study.user_attrs.get("defaults"), study.get_trials(deepcopy=False)
    return next((t.number for t in trials if t.params == defaults and t.state != TrialState.FAIL), None)


def repetition_of(trial: FrozenTrial) -> tuple[int, int] | None:
    """(number of the trial of the search, seed) of a repetition; None for one that nobody queued."""
    given = {**trial.params, **trial.user_attrs}  # parameters in studies of earlier versions
    return (given["candidate"], given["seed"]) if "candidate" in given else None


def candidates_of(study: optuna.Study, repeats: optuna.Study, numbers: Sequence[int]) -> list[Candidate]:
    """The configurations of the trials `numbers` with what their repetitions gave."""
    found: dict[int, dict[int, tuple[float, ...]]] = {number: {} for number in numbers}
    for t in repeats.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        repetition = repetition_of(t)
        if repetition is not None and repetition[0] in found:
            found[repetition[0]][repetition[1]] = tuple(t.values)
    trials = study.get_trials(deepcopy=False)
    return [Candidate(number, trials[number].params, found[number]) for number in numbers]


def best_candidate(study: optuna.Study, candidates: Sequence[Candidate]) -> Candidate | None:
    """The one with the best mean, of those with the most repetitions; None where nothing was completed.

    A configuration that diverged with some seed does not win where another came through with all.
    """
    most = max(len(c.by_seed) for c in candidates)
    complete = [(c, mean) for c in candidates if len(c.by_seed) == most and (mean := c.mean()) is not None]
    return min(complete, key=lambda pair: sign(study) * pair[1], default=(None, 0.0))[0]


# ----------------------------------------------------------------------------------------------------------------
# lines and tables


def trial_line(trial: FrozenTrial, objectives: Sequence[str]) -> str:
    """`kernel_distance 0.123; gp_scale 4.2, n_dis 2`, or why there is no figure."""
    if trial.state == TrialState.COMPLETE:
        found = ", ".join(f"{name} {value:.4g}" for name, value in zip(objectives, trial.values, strict=True))
    else:
        found = _why_without_values(trial, objectives[0])
    params = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items())
    return f"{found}; {params}" if params else found


def _why_without_values(trial: FrozenTrial, objective: str) -> str:
    if "diverged" in trial.user_attrs:
        return "diverged"
    for key in ("refused", "failure"):
        if key in trial.user_attrs:
            return f"{key}: {trial.user_attrs[key]}"
    if not trial.intermediate_values:
        return "given up"
    step = max(trial.intermediate_values)
    return f"given up at step {step} with {objective} {trial.intermediate_values[step]:.4g}"


def trial_table(study: optuna.Study, objectives: Sequence[str]) -> str:
    """All trials as CSV, with the parameters searched or, of repetitions, the number of the trial repeated."""
    trials = study.get_trials(deepcopy=False)
    settings = [{**t.params, **{k: v for k, v in t.user_attrs.items() if k == "candidate"}} for t in trials]
    names = sorted({name for values in settings for name in values} - {"seed"})
    again = retried(trials)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["trial", "state", "repeats_trial", *objectives, *names, "seed", "steps_reported", "run_id", "note"]
    )
    for t, values in zip(trials, settings, strict=True):
        history = retry_history(t)
        found = t.values if t.values and len(t.values) == len(objectives) else [""] * len(objectives)
        row = [t.number, t.state.name, history[-1] if history else "", *found, *(values.get(n, "") for n in names)]
        row += [t.user_attrs.get("seed", ""), len(t.intermediate_values), t.user_attrs.get("run_id", "")]
        writer.writerow([*row, "stopped or killed, done again" if t.number in again else _note(t)])
    return text.getvalue()


def _note(trial: FrozenTrial) -> str:
    """What became of a trial that has no figures of its own."""
    notes = [k for k in ("failure", "refused", "diverged", "surplus") if k in trial.user_attrs]
    return f"{notes[0]}: {trial.user_attrs[notes[0]]}" if notes else ""


def fanova() -> optuna.importance.BaseImportanceEvaluator:
    """Functional ANOVA (Hutter et al. 2014). Optuna's default, PED-ANOVA, would ask what makes a figure low, also an
    accuracy.
    """
    return optuna.importance.FanovaImportanceEvaluator(seed=0)


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of the variance of the first objective that each parameter explains (fANOVA); empty where there is none."""
    try:
        return optuna.importance.get_param_importances(study, evaluator=fanova(), target=lambda t: t.values[0])
    except (RuntimeError, ValueError):
        return {}


# ----------------------------------------------------------------------------------------------------------------
# summary


def study_summary(
    study: optuna.Study,
    *,
    objectives: Sequence[str],
    space: Mapping[str, str],
    candidates: Sequence[Candidate],
    winner: Candidate,
    final: Mapping[str, Any],
    tested: Mapping[str, float],
    models: Sequence[str],
) -> str:
    """The study in Markdown, from its figures alone.

    final: the winner's last training: its `settings`, and the `command` that trains it again; tested: its test figures;
    models: what it registered.
    """
    trials = study.get_trials(deepcopy=False)
    states = [t.state for t in used(trials)]
    default = default_trial(study)
    repeated_default = next((c for c in candidates if c.number == default), None)
    return render_summary(
        Path(__file__).parent,
        study=study.study_name,
        n_counted=len(states),
        n_complete=states.count(TrialState.COMPLETE),
        n_pruned=states.count(TrialState.PRUNED),
        n_failed=states.count(TrialState.FAIL),
        n_retried=len(retried(trials)),
        space=space,
        objectives=objectives,
        best_trials=ranked(study, trials)[:BEST_SHOWN],
        default=default,
        n_seeds=max(len(c.by_seed) for c in candidates),
        candidates=candidates,
        winner=winner,
        defaults_searched=study.user_attrs.get("defaults") is not None,
        defaults_repeated=repeated_default is not None,
        beside_defaults=beside_defaults(study, winner, repeated_default) if repeated_default else None,
        importances=importances(study),
        final=final,
        tested=tested,
        models=models,
    )


def beside_defaults(study: optuna.Study, winner: Candidate, default: Candidate) -> dict[str, float] | None:
    """The winner beside the trainer's defaults in the first objective, over the seeds that both completed: the mean
    difference, and the seeds the winner is better with; None without such seeds.
    """
    seeds = set(default.by_seed) & set(winner.by_seed)
    differences = [winner.by_seed[seed][0] - default.by_seed[seed][0] for seed in sorted(seeds)]
    if not differences:
        return None
    n_better = sum(sign(study) * difference < 0 for difference in differences)
    return {"difference": statistics.fmean(differences), "n_better": n_better, "n_seeds": len(differences)}

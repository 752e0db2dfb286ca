"""What a study found: its best configurations, tables, figures by Optuna, and the summary."""

import csv
import io
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from matplotlib.figure import Figure
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tracking.run import AnyRun
from trainers.tune.storage import retried, retry_history, used
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


def is_better(study: optuna.Study, a: float, b: float) -> bool:
    """Whether a is better than b in the first objective."""
    return a < b if study.directions[0] == StudyDirection.MINIMIZE else a > b


def ranked(study: optuna.Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Finished trials, best first objective first; of several objectives those of the Pareto front before all
    others.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE and all(map(math.isfinite, t.values))]
    front = {t.number for t in study.best_trials} if len(study.directions) > 1 and complete else set()
    sign = 1 if study.directions[0] == StudyDirection.MINIMIZE else -1
    return sorted(complete, key=lambda t: (t.number not in front, sign * t.values[0], t.values[1:]))


def best_value(study: optuna.Study, trials: Sequence[FrozenTrial]) -> float | None:
    """The best first objective of the finished trials, None without any."""
    values = [t.values[0] for t in trials if t.state == TrialState.COMPLETE and math.isfinite(t.values[0])]
    choose = min if study.directions[0] == StudyDirection.MINIMIZE else max
    return choose(values, default=None)


def candidates_of(study: optuna.Study, repeats: optuna.Study, numbers: Sequence[int]) -> list[Candidate]:
    """The configurations of the trials `numbers` with what their repetitions gave."""
    by_number = {t.number: t for t in study.get_trials(deepcopy=False)}
    found: dict[int, dict[int, tuple[float, ...]]] = {number: {} for number in numbers}
    for t in repeats.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if t.params["candidate"] in found:
            found[t.params["candidate"]][t.params["seed"]] = tuple(t.values)
    return [Candidate(number, by_number[number].params, found[number]) for number in numbers]


def best_candidate(study: optuna.Study, candidates: Sequence[Candidate]) -> Candidate | None:
    """The one with the best mean, of those with the most repetitions; None where nothing was completed.

    A configuration that diverged with some seed does not win where another came through with all.
    """
    most = max(len(c.by_seed) for c in candidates)
    complete = [(c, mean) for c in candidates if len(c.by_seed) == most and (mean := c.mean()) is not None]
    sign = 1 if study.directions[0] == StudyDirection.MINIMIZE else -1
    return min(complete, key=lambda pair: sign * pair[1], default=(None, 0.0))[0]


# ----------------------------------------------------------------------------------------------------------------
# tables and figures


def trial_table(study: optuna.Study, objectives: Sequence[str]) -> str:
    """All trials as CSV."""
    trials = study.get_trials(deepcopy=False)
    names = sorted({name for t in trials for name in t.params} - {"seed"})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["trial", "state", "repeats_trial", *objectives, *names, "seed", "steps_reported", "run_id", "note"]
    )
    again = retried(trials)
    for t in trials:
        note = next(
            (f"{k}: {t.user_attrs[k]}" for k in ("failure", "refused", "diverged", "surplus") if k in t.user_attrs), ""
        )
        if t.number in again:
            note = "stopped or killed, done again"
        history = retry_history(t)
        values = t.values if t.values and len(t.values) == len(objectives) else [""] * len(objectives)
        row = [t.number, t.state.name, history[-1] if history else "", *values]
        seed = t.params.get("seed", t.user_attrs.get("seed", ""))
        row += [*(t.params.get(name, "") for name in names), seed, len(t.intermediate_values)]
        writer.writerow([*row, t.user_attrs.get("run_id", ""), note])
    return text.getvalue()


def plot_study(study: optuna.Study, objectives: Sequence[str]) -> dict[str, Figure]:
    """{name: figure}: history, importances, slices, intermediate values, the Pareto front; those that the trials
    allow.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from optuna.visualization import matplotlib as optuna_plots

    trials = study.get_trials(deepcopy=False)
    drawn: dict[str, Any] = {}
    with warnings.catch_warnings(), plt.rc_context({"figure.figsize": (7.5, 4.5)}):
        warnings.simplefilter("ignore")
        for i, objective in enumerate(objectives):
            suffix = f"_{objective}" if len(objectives) > 1 else ""
            drawn |= {f"{name}{suffix}": axes for name, axes in plot_objective(study, i, objective).items()}
        if any(t.intermediate_values for t in trials):
            drawn["intermediate_values"] = plot_intermediate_values(study, objectives[0])
        if len(objectives) == 2 and any(t.state == TrialState.COMPLETE for t in trials):
            drawn["pareto_front"] = optuna_plots.plot_pareto_front(study, target_names=list(objectives))
        return {name: _with_title(axes, study.study_name, name) for name, axes in drawn.items()}


def plot_objective(study: optuna.Study, index: int, objective: str) -> dict[str, Any]:
    """{history, importances, slices: axes} of one objective."""
    from matplotlib import pyplot as plt
    from optuna.visualization import matplotlib as optuna_plots

    complete = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    varied = [n for n in {n for t in complete for n in t.params} if len({str(t.params.get(n)) for t in complete}) > 1]
    if not complete:
        return {}

    def value(t: FrozenTrial) -> float:
        return float(t.values[index])

    target = value if len(study.directions) > 1 else None
    history = optuna_plots.plot_optimization_history(study, target=target, target_name=objective)
    drawn: dict[str, Any] = {"history": history}
    if len(complete) > 2 and varied:
        try:
            drawn["importances"] = optuna_plots.plot_param_importances(
                study, evaluator=fanova(), target=value, target_name=objective
            )
        except (RuntimeError, ValueError):  # all values alike: nothing is important
            plt.close("all")
    if varied:
        slices = optuna_plots.plot_slice(study, params=sorted(varied), target=value, target_name=objective)
        for axis in getattr(slices, "flat", [slices]):  # a logarithmic axis has many labels
            axis.tick_params(axis="x", which="both", labelrotation=60, labelsize=7)
        drawn["slices"] = slices
    return drawn


def plot_intermediate_values(study: optuna.Study, objective: str) -> Any:
    """Axes with what the pruner saw: a line a trial over steps."""
    from optuna.visualization import matplotlib as optuna_plots

    axes = optuna_plots.plot_intermediate_values(study)
    axes.set_ylabel(objective)
    legend = axes.get_legend()
    if legend is not None and len(study.trials) > 12:
        legend.remove()
    return axes


def _with_title(axes: Any, study_name: str, name: str) -> Figure:
    """The figure of the axes. The study's name is the title where there is one pair of axes."""
    from matplotlib.ticker import MaxNLocator

    if hasattr(axes, "flat"):
        return axes.flat[0].figure
    if not name.startswith(("importances", "pareto_front", "slices")):  # their x are trials and steps
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("", loc="left")
    axes.set_title(f"{study_name}: {name.replace('_', ' ')}", fontsize=10)
    return axes.figure


def log_figures(run: AnyRun, study: optuna.Study, objectives: Sequence[str]) -> None:
    """Put all figures into the run."""
    from matplotlib import pyplot as plt

    for name, figure in plot_study(study, objectives).items():
        run.log_figure(figure, f"figures/{name}.png")
    plt.close("all")


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


@dataclass(frozen=True)
class BesideDefaults:
    """The winner beside the trainer's defaults in the first objective, over the seeds that both completed.

    case: outside: the defaults do not lie in the space; not repeated: their trial was not completed; won: they are the
    winner; no shared seed: nothing to compare; compared: with the mean difference, and the seeds the winner is better
    with.
    """

    case: Literal["outside", "not repeated", "won", "no shared seed", "compared"]
    difference: float | None = None
    n_better: int = 0
    n_seeds: int = 0


def beside_defaults(
    study: optuna.Study, candidates: Sequence[Candidate], winner: Candidate, default: int | None
) -> BesideDefaults:
    """Compare the winner with the candidate number `default`."""
    base = next((c for c in candidates if c.number == default), None)
    if base is None:
        return BesideDefaults("outside" if study.user_attrs.get("defaults") is None else "not repeated")
    if base.number == winner.number:
        return BesideDefaults("won")
    shared = sorted(set(base.by_seed) & set(winner.by_seed))
    if not shared:
        return BesideDefaults("no shared seed")
    pairs = [(winner.by_seed[seed][0], base.by_seed[seed][0]) for seed in shared]
    return BesideDefaults(
        "compared",
        difference=statistics.fmean(ours - theirs for ours, theirs in pairs),
        n_better=sum(is_better(study, ours, theirs) for ours, theirs in pairs),
        n_seeds=len(shared),
    )


def study_summary(
    study: optuna.Study,
    *,
    objectives: Sequence[str],
    space: Mapping[str, str],
    candidates: Sequence[Candidate],
    winner: Candidate,
    default: int | None,
    tested: Mapping[str, float],
    models: Sequence[str],
    final_settings: Mapping[str, Any],
    command: str,
) -> str:
    """The study in Markdown, from its figures alone.

    default: number of the trial that has the trainer's defaults. tested: test figures of the winner's last training,
    which had `final_settings` and registered `models`; command: trains it again.
    """
    trials = study.get_trials(deepcopy=False)
    counted = used(trials)
    states = [t.state for t in counted]
    return render_summary(
        Path(__file__).parent,
        study=study.study_name,
        n_counted=len(counted),
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
        beside_defaults=beside_defaults(study, candidates, winner, default),
        importances=importances(study),
        final_settings=final_settings,
        tested=tested,
        models=models,
        command=command,
    )

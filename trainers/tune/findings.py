"""What a study found: figures by Optuna, tables, and the written report."""

import csv
import io
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from matplotlib.figure import Figure
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tracking.run import AnyRun
from trainers.tune.storage import retried, retry_history, used


@dataclass(frozen=True)
class Candidate:
    """A configuration of the search and its repetitions: {seed: objectives}."""

    number: int
    params: Mapping[str, Any]
    by_seed: Mapping[int, tuple[float, ...]]

    def mean(self, objective: int = 0) -> float:
        return statistics.fmean(values[objective] for values in self.by_seed.values()) if self.by_seed else math.nan

    def spread(self, objective: int = 0) -> float:
        values = [values[objective] for values in self.by_seed.values()]
        return statistics.stdev(values) if len(values) > 1 else math.nan


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
    """The repeated configurations `numbers` with what their repetitions gave."""
    by_number = {t.number: t for t in study.get_trials(deepcopy=False)}
    found: dict[int, dict[int, tuple[float, ...]]] = {number: {} for number in numbers}
    for t in repeats.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if t.params["candidate"] in found:
            found[t.params["candidate"]][t.params["seed"]] = tuple(t.values)
    return [Candidate(number, by_number[number].params, found[number]) for number in numbers]


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


def figures(study: optuna.Study, objectives: Sequence[str]) -> dict[str, Figure]:
    """{name: figure}: history, importances, slices, intermediate values, the Pareto front; those the trials allow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator
    from optuna.visualization import matplotlib as draw

    complete = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    varied = [n for n in {n for t in complete for n in t.params} if len({str(t.params.get(n)) for t in complete}) > 1]
    made: dict[str, Figure] = {}

    def add(name: str, axes: Any) -> None:
        figure = axes.flat[0].figure if hasattr(axes, "flat") else axes.figure
        if not hasattr(axes, "flat"):
            if not name.startswith(("importances", "pareto_front", "slices")):  # their x are trials and steps
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_title("", loc="left")
            axes.set_title(f"{study.study_name}: {name.replace('_', ' ')}", fontsize=10)
        made[name] = figure

    with warnings.catch_warnings(), plt.rc_context({"figure.figsize": (7.5, 4.5)}):
        warnings.simplefilter("ignore")
        for i, objective in enumerate(objectives):
            suffix = f"_{objective}" if len(objectives) > 1 else ""

            def value(t: FrozenTrial, i: int = i) -> float:
                return t.values[i]

            one: dict[str, Any] = {"target": value, "target_name": objective}
            if complete:
                single = one if len(objectives) > 1 else {"target_name": objective}
                add(f"history{suffix}", draw.plot_optimization_history(study, **single))
            if len(complete) > 2 and varied:
                try:
                    add(f"importances{suffix}", draw.plot_param_importances(study, evaluator=fanova(), **one))
                except (RuntimeError, ValueError):  # all values alike: nothing is important
                    plt.close("all")
            if complete and varied:
                slices = draw.plot_slice(study, params=sorted(varied), **one)
                for axis in getattr(slices, "flat", [slices]):  # a logarithmic axis has many labels
                    axis.tick_params(axis="x", which="both", labelrotation=60, labelsize=7)
                add(f"slices{suffix}", slices)
        if any(t.intermediate_values for t in study.get_trials(deepcopy=False)):
            axes = draw.plot_intermediate_values(study)
            axes.set_ylabel(objectives[0])
            legend = axes.get_legend()
            if legend is not None and len(study.trials) > 12:
                legend.remove()
            add("intermediate_values", axes)
        if len(objectives) == 2 and complete:
            add("pareto_front", draw.plot_pareto_front(study, target_names=list(objectives)))
    return made


def log_figures(run: AnyRun, study: optuna.Study, objectives: Sequence[str]) -> None:
    """Put all figures into the run."""
    from matplotlib import pyplot as plt

    for name, figure in figures(study, objectives).items():
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


def report(
    study: optuna.Study,
    objectives: Sequence[str],
    space: Mapping[str, str],
    candidates: Sequence[Candidate],
    winner: Candidate,
    default: int | None,
    tested: Mapping[str, float],
    command: str,
    models: Sequence[str],
    final_note: str,
) -> str:
    """The study in Markdown, from its figures alone."""
    trials = study.get_trials(deepcopy=False)
    counted = used(trials)
    states = {
        state: sum(t.state == state for t in counted)
        for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    }
    text = [
        f"# Study {study.study_name}",
        "",
        f"{len(counted)} trials: {states[TrialState.COMPLETE]} complete, {states[TrialState.PRUNED]} given up early, "
        f"{states[TrialState.FAIL]} failed; {len(retried(trials))} stopped or killed and done again. Searched: "
        + ", ".join(f"`{name}` {dimension}" for name, dimension in space.items())
        + ".",
        "",
        "All figures but those called test are on validation data.",
        "",
        "## Best trials (one seed each)",
        "",
        "| trial | " + " | ".join([*objectives, *space]) + " |",
        "|---|" + "---|" * (len(objectives) + len(space)),
    ]
    for t in ranked(study, trials)[:8]:
        cells = [*(f"{v:.4g}" for v in t.values), *(_short(t.params.get(name, "")) for name in space)]
        text.append(f"| {t.number}{' (defaults)' if t.number == default else ''} | " + " | ".join(cells) + " |")
    seeds = max(len(c.by_seed) for c in candidates)
    text += [
        "",
        f"## Repeated over {seeds} other seed{'s' if seeds > 1 else ''}",
        "",
        "| trial | " + " | ".join(f"{name}, mean | sd" for name in objectives) + " |",
        "|---|" + "---|---|" * len(objectives),
    ]
    for c in candidates:
        figures_ = [value for i in range(len(objectives)) for value in (c.mean(i), c.spread(i))]
        cells = ["" if math.isnan(value) else f"{value:.4g}" for value in figures_]
        mark = " **winner**" if c.number == winner.number else ""
        text.append(f"| {c.number}{' (defaults)' if c.number == default else ''}{mark} | " + " | ".join(cells) + " |")
    text += ["", "## What was found", ""]
    text.append("- Winner: " + ", ".join(f"`{name}={_short(value)}`" for name, value in winner.params.items()) + ".")
    base = next((c for c in candidates if c.number == default), None)
    if base is None and study.user_attrs.get("defaults") is None:
        text.append("- The trainer's defaults do not lie in this space, so nothing is said about them.")
    elif base is None:
        text.append(
            "- The trial of the trainer's defaults was given up, refused or failed, so they were not repeated, and "
            "nothing is said about them."
        )
    elif base.number == winner.number:
        text.append("- **The trainer's defaults won**: the search found nothing better when repeated.")
    elif not (shared := sorted(set(base.by_seed) & set(winner.by_seed))):
        text.append(
            "- Against the trainer's defaults nothing can be said: no repetition of the defaults was completed with a "
            "seed of the winner's."
        )
    else:
        differences = [winner.by_seed[s][0] - base.by_seed[s][0] for s in shared]
        better = sum(is_better(study, winner.by_seed[s][0], base.by_seed[s][0]) for s in shared)
        text.append(
            f"- Against the trainer's defaults, on the same seeds: {objectives[0]} "
            f"{statistics.fmean(differences):+.4g} on average, better in {better} of {len(shared)}."
            + ("" if better == len(shared) else " **That it is better, these seeds do not show.**")
        )
    found = importances(study)
    if found:
        text.append(
            "- Importance for " + objectives[0] + ": " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()) + "."
        )
    text.append(
        f"- Last training{final_note}, test data looked at this once: "
        + (", ".join(f"{name} {value:.4g}" for name, value in tested.items()) or "no test data")
        + "."
    )
    text.append(f"- Registered: {', '.join(models) or 'nothing'}.")
    text += ["", "Train it again:", "", "```", command, "```", ""]
    return "\n".join(text)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

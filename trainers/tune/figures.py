"""Figures of a study, by Optuna: its history, what its parameters did, what the pruner saw, the Pareto front."""

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from tracking.run import AnyRun
from trainers.tune.findings import fanova


def log_figures(run: AnyRun, study: optuna.Study, objectives: Sequence[str]) -> None:
    """Put all figures into the run."""
    from matplotlib import pyplot as plt

    for name, figure in plot_study(study, objectives).items():
        run.log_figure(figure, f"figures/{name}.png")
    plt.close("all")


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

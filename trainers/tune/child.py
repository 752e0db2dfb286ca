"""A run below the study's own: a trial, a repetition, or the winner's last training."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from torch import Tensor, nn

from tracking.run import AnyRun
from trainers.tune.config import TuneConfig
from trainers.tune.study import recorded, this_host
from training.trial import Pruned, StudyTrial
from training.tuning import Measure


class ChildRun(StudyTrial):
    """The run's place in the study: its tags, its figures on validation data, and the pruner that sees them.

    A study may train small networks for a short time, so no alias moves that is served; a closed study says `tuned`.
    """

    alias = None

    def __init__(
        self,
        config: TuneConfig,
        study: optuna.Study,
        *,
        part: str,
        every: int,
        measure: Measure,
        trial: optuna.Trial | None = None,
        test: Measure | None = None,
        on_begin: Callable[[str], None] | None = None,
    ) -> None:
        """study: the search, whose run is the parent. part: trial, repeat or winner. every: steps between two calls of
        `measure`, on validation data. trial: None for the winner. test: on test data, taken once at the end. on_begin:
        is given the run's id.
        """
        self.trial, self.objectives, self.every = trial, config.objectives(), every
        self.experiment = study.user_attrs["experiment"]
        self.tags: dict[str, Any] = {
            "mlflow.parentRunId": study.user_attrs["run_id"],
            "objective": ", ".join(self.objectives),
            "study": config.study_name(),
            "part": part,
        }
        if trial is not None:
            self.tags["trial"] = trial.number
        self.searching = trial is not None
        self.pruned = False
        self.values: dict[str, float] = {}
        self._measure, self._on_begin, self._test = measure, on_begin, test
        self._reported = set(recorded(trial).intermediate_values) if trial is not None else set()

    def begin(self, run: AnyRun) -> None:
        if self.trial is not None:
            self.trial.set_user_attr("run_id", run.run_id)
            self.trial.set_user_attr("run_host", this_host())
        if self._on_begin is not None:
            self._on_begin(run.run_id)

    def measure(self, network: nn.Module, example: Tensor) -> Mapping[str, float]:
        return self._measure(network, example)

    def report(self, run: AnyRun, values: Mapping[str, float], step: int) -> None:
        run.log_metrics({f"validation_{name}": value for name, value in values.items()}, step)
        self.values = dict(values)
        if self.trial is None:
            return
        self.trial.set_user_attr("values", self.values)
        if not all(math.isfinite(values[name]) for name in self.objectives):
            self._give_up(f"not finite at step {step}")
        if len(self.objectives) == 1 and step not in self._reported:
            self._reported.add(step)
            self.trial.report(values[self.objectives[0]], step)
            if self.trial.should_prune():
                self._give_up(f"at step {step}")

    def _give_up(self, why: str) -> None:
        self.pruned = True
        raise Pruned(why)

    def conclude(self, run: AnyRun, network: nn.Module, example: Tensor) -> None:
        if self._test is not None:
            values = self._test(network, example)
            run.log_metrics({f"test_{name}": value for name, value in values.items()}, 0)

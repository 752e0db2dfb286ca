"""A worker of a study: a process that takes one trial after the other and has the trainer run it.

    python -m trainers.tune.worker < settings.json        # `tune` starts it so

A trial is claimed from the study's storage, so workers share nothing else: on one machine, or on many with the same
storage.
"""

import contextlib
import json
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState
from torch import Tensor, nn

from common.errors import InputError, run_main
from common.parent import stop_without_parent
from tracking.checkpoint import StopRequest
from tracking.children import end_killed
from tracking.resuming import run_folder
from tracking.run import AnyRun
from tracking.silent_run import SilentRun
from trainers.tune.config import TuneConfig
from trainers.tune.space import parse_space, suggest
from trainers.tune.storage import (
    is_dead,
    is_decided,
    open_storage,
    repeats_queued,
    this_host,
    this_process,
    under_way,
    used,
)
from trainers.tune.targets import load_target
from training.config import build_config
from training.session import Stopped
from training.trial import Pruned, StudyTrial
from training.tuning import Measure, Target

IDLE_SECONDS = 0.5


class Failed(Exception):
    """The trainer failed on this trial; the worker goes on with another."""


class NotWanted(Exception):
    """This trial is one too many: another worker took the last one that was wanted."""


def steps_of(trial: optuna.Trial) -> set[int]:
    """Steps that a trial which is done again has reported before."""
    return set(trial.study._storage.get_trial(trial._trial_id).intermediate_values)


class ChildRun(StudyTrial):
    """A run inside a study: a child of the study's run, whose figures go to the pruner.

    trial: None for the winner's last training. tags: of the run. measure: of a network on validation data; every: steps
    between two of them. on_begin: is given the run's id.
    test: measure on test data, taken once at the end.
    """

    def __init__(
        self,
        trial: optuna.Trial | None,
        *,
        objectives: tuple[str, ...],
        parent: str,
        experiment: str,
        tags: Mapping[str, object],
        measure: Measure,
        every: int,
        on_begin: Callable[[str], None] | None = None,
        test: Measure | None = None,
    ) -> None:
        self.trial, self.objectives, self.experiment = trial, objectives, experiment
        self.tags = {"mlflow.parentRunId": parent, "objective": ", ".join(objectives), **tags}
        self.searching, self.every = trial is not None, every
        self.pruned = False
        # A study may train small networks for a short time: what is served, latest-good, stays. When it is closed it
        # says `tuned`.
        self.alias = None
        self._measure, self._on_begin, self._test = measure, on_begin, test
        self._reported = steps_of(trial) if trial is not None else set()
        self.values: dict[str, float] = {}

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


# ----------------------------------------------------------------------------------------------------------------
# a trial


class TrialRunner:
    """Has the trainer run the trials of one study: of the search, or of the repetitions of its best few."""

    def __init__(self, config: TuneConfig, target: Target, facts: Mapping[str, Any]) -> None:
        self.config, self.target, self.facts = config, target, facts
        self.objectives = config.objectives(target)
        self.space = parse_space(config.space_of(target))
        self._measure: Measure | None = None

    def search(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """One trial of the search: new values, its own seed."""
        self.claim(trial, self.config.n_trials_of(trial.study))
        # Every trial draws from a seed of its own: what it tries depends on what is known, not on who asks.
        trial.study.sampler = sampler(self.config, trial.number)
        values = suggest(trial, self.space)
        seed = trial.user_attrs.get("seed", self.config.seed + 1000 + trial.number)
        return self.train(trial, values, seed, f"trial {trial.number}")

    def repeat(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """One repetition of a configuration of the search, with another seed."""
        queued = trial.study._storage.get_trial(trial._trial_id).system_attrs
        if "fixed_params" not in queued and "retry_history" not in queued:
            trial.set_user_attr("surplus", True)
            raise NotWanted
        number = trial.suggest_int("candidate", 0, 10**9)
        seed = trial.suggest_int("seed", 0, 2**31 - 1)
        candidate = next(t for t in self.facts["study"].get_trials(deepcopy=False) if t.number == number)
        return self.train(trial, candidate.params, seed, f"repeat of {number}, seed {seed}")

    def claim(self, trial: optuna.Trial, budget: int) -> None:
        """Raise NotWanted where enough trials before this one are done or under way."""
        trials = trial.study.get_trials(deepcopy=False)
        before = {t.number for t in [*used(trials), *under_way(trials)] if t.number < trial.number}
        if len(before) >= budget:
            trial.set_user_attr("surplus", True)
            raise NotWanted

    def train(self, trial: optuna.Trial, values: Mapping[str, Any], seed: int, name: str) -> float | tuple[float, ...]:
        """Run the trainer on one configuration; its objectives on validation data."""
        trial.set_user_attr("owner", this_process())
        trial.set_user_attr("seed", seed)
        config = self.trainer_config(trial, values, seed, name)
        if self._measure is None:
            self._measure = self.target.validation(config, self.objectives, SilentRun(), self.config.features)
        child = ChildRun(
            trial,
            objectives=self.objectives,
            parent=self.facts["run_id"],
            experiment=self.facts["experiment"],
            tags={"study": self.config.study_name(), "trial": trial.number, "part": name.split()[0]},
            measure=self._measure,
            every=self.target.report_every(config),
        )
        status = self.run_trainer(trial, config, child)
        if status >= 128:
            trial.set_user_attr("stopped", True)
            raise Stopped
        discard_checkpoint(trial, config.output_dir)
        if child.pruned:
            raise TrialPruned
        if status:
            trial.set_user_attr("diverged", True)
            raise TrialPruned
        found = child.values or trial.user_attrs["values"]  # none new, if it was resumed at its last step
        if len(self.objectives) == 1:
            return float(found[self.objectives[0]])
        return tuple(float(found[objective]) for objective in self.objectives)

    def trainer_config(self, trial: optuna.Trial, values: Mapping[str, Any], seed: int, name: str) -> Any:
        """The trainer's config of this trial, which resumes the run of a trial that it repeats.

        Values that do not go together, as n_heads=8 with d_model=12, make a pruned trial.
        """
        resume = trial.user_attrs.get("run_id")
        if resume and trial.user_attrs.get("run_host") != this_host():
            end_killed(resume)  # its checkpoint is on another machine: begin anew
            resume = None
        try:
            return self.target.build(
                self.config.preset,
                {
                    **self.target.every_trial,
                    **self.config.fixed_values(),
                    **values,
                    **self.config.places(self.target),
                    "seed": seed,
                    "run_name": f"{self.config.study_name()}, {name}",
                    "resume": resume,
                },
            )
        except InputError as fault:
            trial.set_user_attr("refused", str(fault))
            raise TrialPruned(str(fault)) from None

    def run_trainer(self, trial: optuna.Trial, config: Any, child: ChildRun) -> int:
        """The trainer's exit status. What it raises is kept with the trial."""
        try:
            return self.target.train(config, child)
        except UpdateFinishedTrialError:
            raise  # taken for dead meanwhile (no heartbeat got through) and given to another worker
        except InputError as fault:
            trial.set_user_attr("failure", str(fault))
            raise
        except Exception as fault:
            trial.set_user_attr("failure", f"{type(fault).__name__}: {fault}")
            traceback.print_exc()
            raise Failed from fault


def discard_checkpoint(trial: optuna.Trial, output_dir: Path) -> None:
    """A trial that is decided needs none; fifty of them would fill a disk."""
    folder = run_folder(output_dir, trial.study._storage.get_trial(trial._trial_id).user_attrs["run_id"])
    for path in folder.glob("checkpoint.pt*"):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "files" / "checkpoint", ignore_errors=True)


def sampler(config: TuneConfig, number: int) -> optuna.samplers.BaseSampler:
    """Optuna's tree-structured Parzen estimator; workers keep away from what others are trying (constant liar)."""
    startup = min(10, max(3, config.n_trials // 3))
    return TPESampler(seed=config.seed * 100_003 + number, n_startup_trials=startup, constant_liar=True)


# ----------------------------------------------------------------------------------------------------------------
# a worker


def run_one_trial(study: optuna.Study, limit: int | None, objective: Callable[[optuna.Trial], Any], new: bool) -> bool:
    """Run one trial that waits or, where `new`, a new one as long as fewer than `limit` are used or under way.

    Returns whether one was run. None is run while `limit` is not known (None).
    """
    trials = study.get_trials(deepcopy=False)
    waiting = any(t.state == TrialState.WAITING for t in trials)
    if limit is None or not (waiting or (new and len(used(trials)) + len(under_way(trials)) < limit)):
        return False
    with contextlib.suppress(UpdateFinishedTrialError):
        study.optimize(objective, n_trials=1, catch=(Failed, NotWanted))
    return True


def load_repeats(config: TuneConfig, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """The repetitions. Nothing is given up there, else configurations would be compared over other seeds than their
    own.

    (Where no pruner is named, Optuna takes one: the median's, from the sixth trial on.)
    """
    return optuna.load_study(
        study_name=f"{config.study_name()}/repeats",
        storage=storage,
        sampler=RandomSampler(seed=config.seed),
        pruner=optuna.pruners.NopPruner(),
    )


def work(config: TuneConfig, launcher: int) -> int:
    """Serve the search and the repetitions until both are done; the exit status."""
    target = load_target(config.target)
    with StopRequest() as stop:
        stop_without_parent(launcher)
        storage = open_storage(config.storage, config.journal())
        name = config.study_name()
        study = optuna.load_study(
            study_name=name, storage=storage, sampler=sampler(config, 0), pruner=config.build_pruner(target)
        )
        repeats = load_repeats(config, storage)
        runner: TrialRunner | None = None
        while not stop.requested:
            facts = study.user_attrs
            if "run_id" in facts and runner is None:  # else the leader is still making the study's run
                run = {"run_id": facts["run_id"], "experiment": facts["experiment"], "study": study}
                runner = TrialRunner(config, target, run)
            wanted = config.n_trials_of(study)
            queued = repeats_queued(repeats, wanted)
            if is_decided(study, wanted) and is_decided(repeats, queued):
                return 0
            try:
                if runner is None or not (
                    run_one_trial(study, wanted, runner.search, True)
                    or run_one_trial(repeats, queued, runner.repeat, False)
                ):
                    time.sleep(IDLE_SECONDS)
            except Stopped:
                break
        if os.getppid() != launcher:
            end_study_without_leader(study)
    return 143


def end_study_without_leader(study: optuna.Study) -> None:
    """End the study's run (KILLED) where its launcher was killed and no other leads: nobody else would."""
    run_id, leader = study.user_attrs.get("run_id"), study.user_attrs.get("leader")
    if run_id and leader is not None and is_dead(leader["owner"]):
        end_killed(run_id)


def main(argv: list[str] | None = None) -> int:
    settings = json.load(sys.stdin)
    return work(build_config(TuneConfig, settings["config"]), settings["launcher"])


if __name__ == "__main__":
    run_main(main)

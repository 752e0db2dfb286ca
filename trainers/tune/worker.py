"""A worker of a study: a process that takes one trial after the other and has the trainer run it.

    python -m trainers.tune.worker < settings.json        # `tune` starts it so

A trial is claimed from the study's storage, so workers share nothing else: on one machine, or on many with the same
storage. A worker goes on until it is stopped.
"""

import contextlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import optuna
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage

from common.errors import InputError, run_main
from common.parent import stop_without_parent
from tracking.checkpoint import StopRequest
from tracking.children import end_killed
from tracking.resuming import run_folder
from tracking.silent_run import SilentRun
from trainers.tune.child import ChildRun
from trainers.tune.config import TuneConfig
from trainers.tune.space import suggest
from trainers.tune.storage import open_storage
from trainers.tune.study import has_room, has_waiting, is_dead, is_here, this_process, under_way, used
from training.config import build_config
from training.session import Stopped
from training.tuning import Measure

IDLE_SECONDS = 0.5


class NoResult(Exception):
    """This trial has none: the trainer failed, or another worker took the last one that was wanted."""


# ----------------------------------------------------------------------------------------------------------------
# a trial


class TrialRunner:
    """Has the trainer run the trials of the search (`study`), and the repetitions of its best few."""

    def __init__(self, config: TuneConfig, study: optuna.Study, repeats: optuna.Study) -> None:
        self.config, self.study, self.repeats = config, study, repeats
        self.trainer, self.objectives, self.space = config.trainer, config.objectives(), config.search_space()
        self._measure: Measure | None = None

    def run_next(self) -> bool:
        """Run a trial of the search or, where none is wanted at present, a repetition; whether there was one."""
        if has_waiting(self.study) or has_room(self.study, self.config.n_trials_of(self.study)):
            study, objective = self.study, self.search
        elif has_waiting(self.repeats):
            study, objective = self.repeats, self.repeat
        else:
            return False
        with contextlib.suppress(UpdateFinishedTrialError):
            study.optimize(objective, n_trials=1, catch=(NoResult,))
        return True

    def search(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """One trial of the search: new values, its own seed."""
        trials = self.study.get_trials(deepcopy=False)
        before = {t.number for t in [*used(trials), *under_way(trials)] if t.number < trial.number}
        if len(before) >= self.config.n_trials_of(self.study):
            leave(trial)
        # Every trial draws from a seed of its own: what it tries depends on what is known, not on who asks.
        self.study.sampler = sampler(self.config, trial.number)
        values = suggest(trial, self.space)
        seed = trial.user_attrs.get("seed", self.config.seed + 1000 + trial.number)
        return self.train(trial, values, seed, f"trial {trial.number}")

    def repeat(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """One repetition of a configuration of the search, with another seed: both are the trial's attributes."""
        if "candidate" not in trial.user_attrs:  # nobody queued it: another worker took the last one
            leave(trial)
        number, seed = trial.user_attrs["candidate"], trial.user_attrs["seed"]
        params = self.study.get_trials(deepcopy=False)[number].params
        return self.train(trial, params, seed, f"repeat of {number}, seed {seed}")

    def train(self, trial: optuna.Trial, params: Mapping[str, Any], seed: int, name: str) -> float | tuple[float, ...]:
        """Run the trainer on one configuration; its objectives on validation data."""
        trial.set_user_attr("owner", this_process())
        trial.set_user_attr("seed", seed)
        config = self.trainer_config(trial, params, seed, name)
        if self._measure is None:
            self._measure = self.trainer.validation(config, self.objectives, SilentRun(), self.config.features)
        child = ChildRun(
            self.config,
            self.study,
            part=name.split()[0],
            every=self.trainer.report_every(config),
            measure=self._measure,
            trial=trial,
        )
        status = self.run_trainer(trial, config, child)
        if status >= 128:
            trial.set_user_attr("stopped", True)
            raise Stopped
        discard_checkpoint(run_folder(config.output_dir, trial.user_attrs["run_id"]))
        if status:
            trial.set_user_attr("diverged", True)
        if status or child.pruned:
            raise TrialPruned
        found = child.values or trial.user_attrs["values"]  # none new, if it was resumed at its last step
        values = tuple(float(found[objective]) for objective in self.objectives)
        return values if len(values) > 1 else values[0]

    def trainer_config(self, trial: optuna.Trial, params: Mapping[str, Any], seed: int, name: str) -> Any:
        """The trainer's config of this trial, which resumes the run of a trial that it repeats.

        Values that do not go together, as n_heads=8 with d_model=12, make a pruned trial.
        """
        resume = trial.user_attrs.get("run_id")
        if resume and not is_here(trial.user_attrs.get("run_host", "")):
            end_killed(resume)  # its checkpoint is on another machine: begin anew
            resume = None
        run_name = f"{self.config.study_name()}, {name}"
        try:
            return self.config.trial_config(params, seed=seed, run_name=run_name, resume=resume)
        except InputError as fault:
            trial.set_user_attr("refused", str(fault))
            raise TrialPruned(str(fault)) from None

    def run_trainer(self, trial: optuna.Trial, config: Any, child: ChildRun) -> int:
        """The trainer's exit status. What it raises is kept with the trial."""
        try:
            return self.trainer.train(config, child)
        except UpdateFinishedTrialError:
            raise  # taken for dead meanwhile (no heartbeat got through) and given to another worker
        except InputError as fault:
            trial.set_user_attr("failure", str(fault))
            raise
        except Exception as fault:
            trial.set_user_attr("failure", f"{type(fault).__name__}: {fault}")
            traceback.print_exc()
            raise NoResult from fault


def leave(trial: optuna.Trial) -> NoReturn:
    """End a trial that is one too many, so that it does not count."""
    trial.set_user_attr("surplus", True)
    raise NoResult


def discard_checkpoint(folder: Path) -> None:
    """A trial that is decided needs none; fifty of them would fill a disk."""
    for path in folder.glob("checkpoint.pt*"):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / "files" / "checkpoint", ignore_errors=True)


# ----------------------------------------------------------------------------------------------------------------
# a worker


def sampler(config: TuneConfig, number: int) -> TPESampler:
    """Optuna's tree-structured Parzen estimator; workers keep away from what others are trying (constant liar)."""
    startup = min(10, max(3, config.n_trials // 3))
    return TPESampler(seed=config.seed * 100_003 + number, n_startup_trials=startup, constant_liar=True)


def load_runner(config: TuneConfig, storage: BaseStorage) -> TrialRunner:
    """The runner of a study that its launcher has made.

    No repetition is given up, else configurations would be compared over other seeds than their own. (Where no pruner
    is named, Optuna takes one: the median's, from the sixth trial on.)
    """
    name = config.study_name()
    study = optuna.load_study(
        study_name=name, storage=storage, sampler=sampler(config, 0), pruner=config.build_pruner()
    )
    repeats = optuna.load_study(study_name=f"{name}/repeats", storage=storage, pruner=optuna.pruners.NopPruner())
    return TrialRunner(config, study, repeats)


def work(config: TuneConfig, launcher: int) -> int:
    """Serve the search and the repetitions until a signal comes; the exit status."""
    with StopRequest() as stop:
        stop_without_parent(launcher)
        runner = load_runner(config, open_storage(config.storage, config.journal()))
        while not stop.requested:
            begun = "run_id" in runner.study.user_attrs  # else the leader is still making the study's run
            try:
                if not (begun and runner.run_next()):
                    time.sleep(IDLE_SECONDS)
            except Stopped:
                break
        if os.getppid() != launcher:
            end_study_without_leader(runner.study)
    return 143


def end_study_without_leader(study: optuna.Study) -> None:
    """End the study's run (KILLED) where its launcher was killed and no other leads: nobody else would."""
    run_id, leader = study.user_attrs.get("led_run"), study.user_attrs.get("leader")
    if run_id and leader is not None and is_dead(leader["owner"]):
        end_killed(run_id)


def main() -> int:
    settings = json.load(sys.stdin)
    return work(build_config(TuneConfig, settings["config"]), settings["launcher"])


if __name__ == "__main__":
    run_main(main)

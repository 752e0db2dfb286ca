"""What the leading launcher of a study does: lost trials, progress, repetitions of the best few, the winner's last
training, the summary.
"""

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from common.errors import InputError
from tracking.children import alias_models, end_orphans, experiment_of, metrics_of
from tracking.run import Run, start_run
from trainers.tune.child import ChildRun
from trainers.tune.config import TuneConfig
from trainers.tune.figures import log_figures
from trainers.tune.findings import (
    Candidate,
    best_candidate,
    best_value,
    candidates_of,
    default_trial,
    ranked,
    repetition_of,
    study_summary,
    trial_line,
    trial_table,
)
from trainers.tune.space import values_within
from trainers.tune.storage import without_password
from trainers.tune.study import fail_dead, is_decided, is_here, requeue, this_host, used
from training.config import as_params
from training.summary import SUMMARY

ALIAS = "tuned"


def start_leading(config: TuneConfig, study: optuna.Study, repeats: optuna.Study) -> "Leader":
    """Start or resume the study's run, and make what all workers need."""
    study.set_user_attr("result", None)
    run = start_run(
        "tune",
        {**as_params(config), "storage": without_password(config.storage or str(config.journal()))},
        tags={"study": study.study_name, "target": config.target},
        output_dir=config.output_dir,
        run_name=config.run_name or study.study_name,
        resume=study.user_attrs.get("run_id"),
    )
    assert isinstance(run, Run)
    try:
        if run.run_id.startswith("offline-"):
            raise InputError(
                "the tracking server does not answer; the runs of a study are children of its own run, so tune needs "
                "the server to begin"
            )
        study.set_user_attr("led_run", run.run_id)  # for the workers, should this process be killed
        base = config.trial_config({})
        config.trainer.prepare(base, run, config.features)
        if "run_id" not in study.user_attrs:
            defaults = values_within(config.search_space(), as_params(base))
            if defaults is not None:
                study.enqueue_trial(defaults, skip_if_exists=True)
                study.set_user_attr("defaults", defaults)
            study.set_user_attr("experiment", experiment_of(run.run_id))
            study.set_user_attr("tracking_store", run.store())
            study.set_user_attr("run_id", run.run_id)  # last: from now on there are trials
    except BaseException:
        run.finish("FAILED")
        raise
    return Leader(config, study, repeats, run)


class Leader:
    """The study's run, and what is done for the study as a whole."""

    def __init__(self, config: TuneConfig, study: optuna.Study, repeats: optuna.Study, run: Run) -> None:
        self.config, self.study, self.repeats, self.run = config, study, repeats, run
        self.trainer, self.objectives = config.trainer, config.objectives()
        self._announced = {
            s.study_name: {t.number for t in s.get_trials() if t.state.is_finished()} for s in self._both
        }

    @property
    def _both(self) -> tuple[optuna.Study, optuna.Study]:
        return self.study, self.repeats

    # ------------------------------------------------------------------------------------------------------------
    # while workers run trials

    def update(self) -> None:
        """Queue lost trials again and announce finished ones."""
        for study in (self.study, self.repeats):
            fail_dead(study)
            for trial in requeue(study):
                what = "was stopped" if "stopped" in trial.user_attrs else "lost its process"
                print(f"{study.study_name}: trial {trial.number} {what}; it is queued again", flush=True)
            announced = self._announced[study.study_name]
            new = [t for t in used(study.get_trials(deepcopy=False)) if t.number not in announced]
            for trial in sorted(new, key=lambda t: t.datetime_complete or t.number):
                announced.add(trial.number)
                self._announce(study, trial)

    def _announce(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """One line and, of a trial of the search, a point of the study's curves."""
        line = trial_line(trial, self.objectives)
        repetition = repetition_of(trial)
        if study is self.repeats:
            if repetition is not None and trial.state == TrialState.COMPLETE:
                print(f"repeat of trial {repetition[0]}, seed {repetition[1]}: {line}", flush=True)
            return
        decided = used(study.get_trials(deepcopy=False))
        print(f"trial {trial.number} ({len(decided)} of {self.config.n_trials_of(study)}): {line}", flush=True)
        if trial.state == TrialState.COMPLETE:
            self.run.log_metrics(dict(zip(self.objectives, trial.values, strict=True)), trial.number)
            # Against the trials done, not the trial's number: they do not end in that order.
            done = [t for t in decided if t.number in self._announced[study.study_name]]
            best = best_value(study, done)
            if best is not None:
                self.run.log_metrics({f"best_{self.objectives[0]}": best}, len(done))

    # ------------------------------------------------------------------------------------------------------------
    # repetitions

    def search_is_decided(self) -> bool:
        return is_decided(self.study, self.config.n_trials_of(self.study))

    def repeated_numbers(self) -> list[int]:
        """Numbers of the best few trials and of the defaults'; InputError where no trial was completed."""
        trials = self.study.get_trials(deepcopy=False)
        best = [t.number for t in ranked(self.study, trials)]
        if not best:
            reasons = sorted(str(t.user_attrs[k]) for t in trials for k in ("failure", "refused") if k in t.user_attrs)
            raise InputError(
                f"study {self.study.study_name}: none of {len(used(trials))} trials was completed"
                + (f" ({reasons[0][:200]})" if reasons else "; all diverged or were given up")
                + f"; logs are in {self.config.output_dir.absolute() / 'studies'}; correct the space, and give the "
                "study another name"
            )
        numbers, default = best[: self.config.n_best], default_trial(self.study)
        return [*numbers, default] if default in best and default not in numbers else numbers

    def repeat(self, numbers: list[int]) -> bool:
        """Queue these trials for other seeds, each once; whether all repetitions are decided."""
        seeds = [self.config.seed + 1 + i for i in range(self.config.n_seeds)]
        queued = {repetition_of(t) for t in self.repeats.get_trials(deepcopy=False)} - {None}
        missing = sorted({(number, seed) for number in numbers for seed in seeds} - queued)
        for number, seed in missing:
            self.repeats.enqueue_trial({}, user_attrs={"candidate": number, "seed": seed})
        return is_decided(self.repeats, len(queued) + len(missing))

    def choose(self, numbers: list[int]) -> tuple[list[Candidate], Candidate]:
        """(all candidates, the one with the best mean over its repetitions)."""
        candidates = candidates_of(self.study, self.repeats, numbers)
        winner = best_candidate(self.study, candidates)
        if winner is None:
            raise InputError(
                f"study {self.study.study_name}: no repetition was completed; logs are in "
                f"{self.config.output_dir.absolute() / 'studies'}"
            )
        return candidates, winner

    # ------------------------------------------------------------------------------------------------------------
    # the winner

    def last_training(self, winner: Candidate) -> int:
        """Train the winner with the best of its seeds, measure it on test data, register; the trainer's exit status."""
        final: dict[str, Any] = {
            "candidate": winner.number,
            "seed": winner.best_seed(self.study),
            "settings": self.config.final_values(),
        }
        before = self.study.user_attrs.get("final") or {}
        same = final.items() <= before.items()
        if same and before["done"]:
            return 0
        resume = before["run_id"] if same and is_here(before["host"]) else None
        run_name = f"{self.study.study_name}, winner"
        config = self.config.final_config(winner.params, seed=final["seed"], run_name=run_name, resume=resume)
        final["command"] = self.trainer.command(config)

        def keep(run_id: str, done: bool = False) -> None:
            self.study.set_user_attr("final", {**final, "run_id": run_id, "host": this_host(), "done": done})

        print("\nthe winner's last training", flush=True)
        child = ChildRun(
            self.config,
            self.study,
            part="winner",
            every=self.trainer.report_every(config),
            measure=self.trainer.validation(config, self.objectives, self.run, self.config.features),
            test=self.trainer.test(config, self.objectives, self.run, self.config.features),
            on_begin=keep,
        )
        status = self.trainer.train(config, child)
        if status == 0:
            keep(self.study.user_attrs["final"]["run_id"], done=True)
        return status

    def close(self, candidates: list[Candidate], winner: Candidate) -> None:
        """Figures, tables, aliases, the summary; the study's run is finished."""
        final = self.study.user_attrs["final"]
        own = self.trainer.test_metrics(self.config.final_config(winner.params, seed=final["seed"]))
        tested = {k: v for k, v in metrics_of(final["run_id"]).items() if k.startswith("test_") or k in own}
        summary = study_summary(
            self.study,
            objectives=self.objectives,
            space=self.config.declared_space(),
            candidates=candidates,
            winner=winner,
            final=final,
            tested=tested,
            models=[f"{uri} (alias {ALIAS})" for uri in alias_models(final["run_id"], ALIAS)],
        )
        log_figures(self.run, self.study, self.objectives)
        self.run.log_text(trial_table(self.study, self.objectives), "trials.csv")
        self.run.log_text(trial_table(self.repeats, self.objectives), "repeats.csv")
        self.run.log_text(summary, SUMMARY)
        self.run.log_dict(
            {"params": dict(winner.params), "seed": final["seed"], "command": final["command"]}, "best.json"
        )
        means = {
            f"winner_{name}": mean for i, name in enumerate(self.objectives) if (mean := winner.mean(i)) is not None
        }
        self.run.log_metrics(means | tested, self.study.get_trials(deepcopy=False)[-1].number)
        self.run.set_tags(
            {f"best.{name}": value for name, value in winner.params.items()} | {"retrain": final["command"]}
        )
        end_orphans(self.run.run_id, [])
        self.run.finish()
        self.study.set_user_attr("result", {"asked": self.config.asked_of(self.study), "summary": summary})
        print(f"\n{summary}\nrun {self.run.run_id}\nopen it: {self.run.url()}")

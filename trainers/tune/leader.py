"""What the leading launcher of a study does: lost trials, progress, repetitions of the best few, the winner's last
training, the summary.
"""

import json
import time
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from common.errors import InputError
from tracking.children import alias_models, end_orphans, experiment_of, metrics_of
from tracking.run import Run, start_run
from trainers.tune.config import TuneConfig
from trainers.tune.findings import (
    Candidate,
    best_candidate,
    best_value,
    candidates_of,
    log_figures,
    ranked,
    study_summary,
    trial_table,
)
from trainers.tune.space import parse_space, values_within
from trainers.tune.storage import fail_dead, is_decided, repeats_queued, requeue, this_host, used, without_password
from trainers.tune.worker import ChildRun
from training.config import as_params
from training.summary import SUMMARY
from training.tuning import Target

ALIAS = "tuned"


class Leader:
    """The study's run, and what is done for the study as a whole."""

    def __init__(
        self, config: TuneConfig, target: Target, *, study: optuna.Study, repeats: optuna.Study, run: Run
    ) -> None:
        self.config, self.target, self.study, self.repeats, self.run = config, target, study, repeats, run
        self.objectives = config.objectives(target)
        self._announced: set[tuple[str, int]] = {
            (s.study_name, t.number)
            for s in (study, repeats)
            for t in s.get_trials(deepcopy=False)
            if t.state.is_finished()
        }

    # ------------------------------------------------------------------------------------------------------------
    # while workers run trials

    def update(self) -> None:
        """Queue lost trials again and announce finished ones."""
        for study in (self.study, self.repeats):
            fail_dead(study)
            for trial in requeue(study):
                what = "was stopped" if "stopped" in trial.user_attrs else "lost its process"
                print(f"{study.study_name}: trial {trial.number} {what}; it is queued again", flush=True)
            for trial in self._newly_finished(study):
                self._announced.add((study.study_name, trial.number))
                if study is self.study:
                    self._announce_trial(trial)
                elif trial.state == TrialState.COMPLETE:
                    number, seed = trial.params["candidate"], trial.params["seed"]
                    print(f"repeat of trial {number}, seed {seed}: {self.line(trial)}", flush=True)

    def _newly_finished(self, study: optuna.Study) -> list[FrozenTrial]:
        decided = used(study.get_trials(deepcopy=False))
        new = [t for t in decided if (study.study_name, t.number) not in self._announced]
        return sorted(new, key=lambda t: t.datetime_complete or t.number)

    def _announce_trial(self, trial: FrozenTrial) -> None:
        """One line, and a point of the study's curves."""
        decided = used(self.study.get_trials(deepcopy=False))
        wanted = self.config.n_trials_of(self.study)
        print(f"trial {trial.number} ({len(decided)} of {wanted}): {self.line(trial)}", flush=True)
        if trial.state == TrialState.COMPLETE:
            self.run.log_metrics(dict(zip(self.objectives, trial.values, strict=True)), trial.number)
            # Against the trials done, not the trial's number: they do not end in that order.
            done = [t for t in decided if (self.study.study_name, t.number) in self._announced]
            best = best_value(self.study, done)
            if best is not None:
                self.run.log_metrics({f"best_{self.objectives[0]}": best}, len(done))

    def line(self, trial: FrozenTrial) -> str:
        """`kernel_distance 0.123; gp_scale 4.2, n_dis 2`."""
        params = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in trial.params.items()
            if k not in ("candidate", "seed")
        )
        if trial.state == TrialState.COMPLETE:
            values = ", ".join(f"{n} {v:.4g}" for n, v in zip(self.objectives, trial.values, strict=True))
            return f"{values}; {params}" if params else values
        return f"{self._why_without_values(trial)}; {params}"

    def _why_without_values(self, trial: FrozenTrial) -> str:
        if "diverged" in trial.user_attrs:
            return "diverged"
        for key in ("refused", "failure"):
            if key in trial.user_attrs:
                return f"{key}: {trial.user_attrs[key]}"
        if not trial.intermediate_values:
            return "given up"
        step = max(trial.intermediate_values)
        return f"given up at step {step} with {self.objectives[0]} {trial.intermediate_values[step]:.4g}"

    # ------------------------------------------------------------------------------------------------------------
    # repetitions

    def default_trial(self) -> int | None:
        """The number of the trial that has the trainer's own settings; None if it failed or there is none."""
        values = self.study.user_attrs.get("defaults")
        if values is None:
            return None
        trials = self.study.get_trials(deepcopy=False)
        return next((t.number for t in trials if t.params == values and t.state != TrialState.FAIL), None)

    def queue_repeats(self) -> list[int]:
        """Queue the best few (and the defaults) for other seeds, each once; their numbers."""
        numbers = self._repeated_numbers()
        wanted = {(number, self.config.seed + 1 + i) for number in numbers for i in range(self.config.n_seeds)}
        queued = {pair for t in self.repeats.get_trials(deepcopy=False) if (pair := _number_and_seed(t))}
        for number, seed in sorted(wanted - queued):
            self.repeats.enqueue_trial({"candidate": number, "seed": seed})
        announced = {"after": self.config.n_trials_of(self.study), "repeats": len(queued | wanted)}
        if self.repeats.user_attrs.get("queued") != announced:
            self.repeats.set_user_attr("queued", announced)
        return numbers

    def _repeated_numbers(self) -> list[int]:
        """Numbers of the best few trials and of the defaults'; InputError where no trial was completed."""
        trials = self.study.get_trials(deepcopy=False)
        best = [t.number for t in ranked(self.study, trials)]
        if not best:
            reasons = sorted(
                {str(t.user_attrs[k]) for t in trials for k in ("failure", "refused") if k in t.user_attrs}
            )
            raise InputError(
                f"study {self.study.study_name}: none of {len(used(trials))} trials was completed"
                + (f" ({reasons[0][:200]})" if reasons else "; all diverged or were given up")
                + f"; logs are in {self.config.output_dir / 'studies'}; correct the space, and give the study another "
                "name"
            )
        numbers = best[: self.config.n_best]
        default = self.default_trial()
        return [*numbers, default] if default in best and default not in numbers else numbers

    def repeats_done(self) -> bool:
        """Whether all repetitions are decided."""
        return is_decided(self.repeats, repeats_queued(self.repeats, self.config.n_trials_of(self.study)))

    def choose(self, numbers: list[int]) -> tuple[list[Candidate], Candidate]:
        """(all candidates, the one with the best mean over its repetitions)."""
        candidates = candidates_of(self.study, self.repeats, numbers)
        winner = best_candidate(self.study, candidates)
        if winner is None:
            raise InputError(
                f"study {self.study.study_name}: no repetition was completed; logs are in "
                f"{self.config.output_dir / 'studies'}"
            )
        return candidates, winner

    # ------------------------------------------------------------------------------------------------------------
    # the winner

    def final_config(self, winner: Candidate, seed: int, resume: str | None = None) -> Any:
        """The trainer's config of the winner's last training."""
        return self.target.build(
            self.config.preset,
            {
                **self.config.fixed_values(),
                **winner.params,
                **self.config.final_values(self.target),
                **self.config.places(self.target),
                "seed": seed,
                "run_name": f"{self.study.study_name}, winner",
                "resume": resume,
            },
        )

    def last_training(self, winner: Candidate) -> int:
        """Train the winner with the best of its seeds, measure it on test data, register; the trainer's exit status."""
        worst_first = sorted(winner.by_seed, key=lambda s: winner.by_seed[s][0])
        minimize = self.study.directions[0] == optuna.study.StudyDirection.MINIMIZE
        seed = worst_first[0] if minimize else worst_first[-1]
        before = self.study.user_attrs.get("final") or {}
        final: dict[str, Any] = {
            "candidate": winner.number,
            "seed": seed,
            "settings": self.config.final_values(self.target),
        }
        same = all(before.get(key) == json.loads(json.dumps(value)) for key, value in final.items())
        if same and before.get("done"):
            return 0
        resume = before.get("run_id") if same and before.get("host") == this_host() else None
        config = self.final_config(winner, seed, resume)
        final["command"] = self.target.command(config)

        def keep_run_id(run_id: str) -> None:
            self.study.set_user_attr("final", {**final, "run_id": run_id, "host": this_host(), "done": False})

        print("\nthe winner's last training", flush=True)
        status = self.target.train(config, self._winner_run(config, keep_run_id))
        if status == 0:
            self.study.set_user_attr("final", {**self.study.user_attrs["final"], "done": True})
        return status

    def _winner_run(self, config: Any, on_begin: Any) -> ChildRun:
        features = self.config.features
        return ChildRun(
            None,
            objectives=self.objectives,
            parent=self.run.run_id,
            experiment=self.study.user_attrs["experiment"],
            tags={"study": self.study.study_name, "part": "winner"},
            measure=self.target.validation(config, self.objectives, self.run, features),
            every=self.target.report_every(config),
            on_begin=on_begin,
            test=self.target.test(config, self.objectives, self.run, features),
        )

    def close(self, candidates: list[Candidate], winner: Candidate) -> None:
        """Figures, tables, aliases, the summary; the study's run is finished."""
        final = self.study.user_attrs["final"]
        own = self.target.test_metrics(self.final_config(winner, final["seed"]))
        tested = {k: v for k, v in metrics_of(final["run_id"]).items() if k.startswith("test_") or k in own}
        summary = study_summary(
            self.study,
            objectives=self.objectives,
            space=self.config.space_of(self.target),
            candidates=candidates,
            winner=winner,
            default=self.default_trial(),
            tested=tested,
            models=[f"{uri} (alias {ALIAS})" for uri in alias_models(final["run_id"], ALIAS)],
            final_settings=final["settings"],
            command=final["command"],
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
        self.run.log_metrics(means | tested, max(t.number for t in self.study.get_trials(deepcopy=False)))
        self.run.set_tags(
            {f"best.{name}": value for name, value in winner.params.items()} | {"retrain": final["command"]}
        )
        end_orphans(self.run.run_id, [])
        self.run.finish()
        self.study.set_user_attr("summary", summary)
        self.study.set_user_attr("closed_with", asked_of(self.study, self.config))
        self.study.set_user_attr("closed", time.time())
        print(f"\n{summary}\nrun {self.run.run_id}\nopen it: {self.run.url()}")


def asked_of(study: optuna.Study, config: TuneConfig) -> dict[str, Any]:
    """What the command asks of a study besides its search."""
    return {
        "n_trials": config.n_trials_of(study),
        "n_best": config.n_best,
        "n_seeds": config.n_seeds,
        "final": config.final or "",
    }


def _number_and_seed(trial: FrozenTrial) -> tuple[int, int] | None:
    """(candidate, seed) of a repetition; None for one that nobody queued."""
    params = trial.params or trial.system_attrs.get("fixed_params", {})
    return (params["candidate"], params["seed"]) if "surplus" not in trial.user_attrs and params else None


def start_leading(config: TuneConfig, target: Target, study: optuna.Study, repeats: optuna.Study) -> Leader:
    """Start or resume the study's run, and make what all workers need."""
    study.set_user_attr("closed", None)
    params = {**as_params(config), "storage": without_password(config.storage or str(config.journal()))}
    run = start_run(
        "tune",
        params,
        tags={"study": study.study_name, "target": target.name},
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
        base = target.build(config.preset, {**target.every_trial, **config.fixed_values(), **config.places(target)})
        target.prepare(base, run, config.features)
        repeats.set_user_attr("queued", None)  # n_best and n_seeds may be others than the last time
        if "run_id" not in study.user_attrs:
            defaults = values_within(parse_space(config.space_of(target)), as_params(base))
            if defaults is not None:
                study.enqueue_trial(defaults, skip_if_exists=True)
                study.set_user_attr("defaults", defaults)
            study.set_user_attr("experiment", experiment_of(run.run_id))
            study.set_user_attr("tracking_store", run.store())
            study.set_user_attr("run_id", run.run_id)
    except BaseException:
        run.finish("FAILED")
        raise
    return Leader(config, target, study=study, repeats=repeats, run=run)

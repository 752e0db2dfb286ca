"""Starts a study's workers, looks after it, and closes it: repetitions of the best few, the winner's last training, the
report.

Any number of launchers may serve one study, on one machine or many. One of them leads (`Lease`); if it dies another
takes over.
"""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from common.errors import InputError
from tracking.checkpoint import StopRequest
from tracking.children import alias_models, end_orphans, experiment_of, metrics_of
from tracking.reading import Reader
from tracking.run import Run, start_run
from trainers.tune.config import TuneConfig
from trainers.tune.findings import (
    Candidate,
    best_value,
    candidates_of,
    is_better,
    log_figures,
    ranked,
    report,
    trial_table,
)
from trainers.tune.space import inside, parse_space
from trainers.tune.storage import (
    Lease,
    fail_dead,
    is_decided,
    open_storage,
    open_study,
    repeats_queued,
    requeue,
    shown,
    this_host,
    used,
)
from trainers.tune.targets import load_target
from trainers.tune.worker import InStudy
from trainers.tune.workers import Workers
from training.config import as_params
from training.tuning import Target

ALIAS = "tuned"
POLL_SECONDS = 1.0


# ----------------------------------------------------------------------------------------------------------------- the
# leader


class Leader:
    """What the leading launcher does: the study's run, lost trials, progress, repetitions, the last training."""

    def __init__(
        self, config: TuneConfig, target: Target, study: optuna.Study, repeats: optuna.Study, run: Run
    ) -> None:
        self.config, self.target, self.study, self.repeats, self.run = config, target, study, repeats, run
        self.objectives = config.objectives(target)
        self._told: set[tuple[str, int]] = {
            (s.study_name, t.number)
            for s in (study, repeats)
            for t in s.get_trials(deepcopy=False)
            if t.state.is_finished()
        }

    def look_after(self) -> None:
        """Find what died, queue it again, say what finished."""
        for study in (self.study, self.repeats):
            fail_dead(study)
            for trial in requeue(study):
                what = "was stopped" if "stopped" in trial.user_attrs else "lost its process"
                print(f"{study.study_name}: trial {trial.number} {what}; it is queued again", flush=True)
            self.tell(study)

    def tell(self, study: optuna.Study) -> None:
        """One line, and a point of the study's curves, for each trial that finished since the last time."""
        trials = study.get_trials(deepcopy=False)
        new = [t for t in used(trials) if (study.study_name, t.number) not in self._told]
        for t in sorted(new, key=lambda t: t.datetime_complete or t.number):
            self._told.add((study.study_name, t.number))
            if study is self.study:
                wanted = self.config.n_trials_of(study)
                print(f"trial {t.number} ({len(used(trials))} of {wanted}): {self.line(t)}", flush=True)
                if t.state == TrialState.COMPLETE:
                    self.run.log_metrics(dict(zip(self.objectives, t.values, strict=True)), t.number)
                    # Against the trials done, not the trial's number: they do not end in that order.
                    done = [u for u in used(trials) if (study.study_name, u.number) in self._told]
                    best = best_value(study, done)
                    self.run.log_metrics({f"best_{self.objectives[0]}": best} if best is not None else {}, len(done))
            elif t.state == TrialState.COMPLETE:
                print(f"repeat of trial {t.params['candidate']}, seed {t.params['seed']}: {self.line(t)}", flush=True)

    def line(self, t: FrozenTrial) -> str:
        """`kernel_distance 0.123; gp_scale 4.2, n_dis 2`."""
        params = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in t.params.items()
            if k not in ("candidate", "seed")
        )
        if t.state == TrialState.COMPLETE:
            values = ", ".join(f"{n} {v:.4g}" for n, v in zip(self.objectives, t.values, strict=True))
            return f"{values}; {params}" if params else values
        why = "given up"
        if t.intermediate_values:
            step = max(t.intermediate_values)
            why += f" at step {step} with {self.objectives[0]} {t.intermediate_values[step]:.4g}"
        for key in ("failure", "refused", "diverged"):
            if key in t.user_attrs:
                why = f"{key}: {t.user_attrs[key]}" if key != "diverged" else "diverged"
        return f"{why}; {params}"

    def default_trial(self) -> int | None:
        """The number of the trial that has the trainer's own settings."""
        values = self.study.user_attrs.get("defaults")
        if values is None:
            return None
        return next(
            (
                t.number
                for t in self.study.get_trials(deepcopy=False)
                if t.params == values and t.state != TrialState.FAIL
            ),
            None,
        )

    def queue_repeats(self) -> list[int]:
        """Queue the best few (and the defaults) for other seeds, once; returns their numbers."""
        trials = self.study.get_trials(deepcopy=False)
        best = ranked(self.study, trials)
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
        numbers = [t.number for t in best[: self.config.n_best]]
        default = self.default_trial()
        if default is not None and default not in numbers and any(t.number == default for t in best):
            numbers.append(default)
        seeds = [self.config.seed + 1 + i for i in range(self.config.n_seeds)]
        wanted = {(number, seed) for number in numbers for seed in seeds}
        there = {self._pair(t) for t in self.repeats.get_trials(deepcopy=False)}
        for number, seed in sorted(wanted - there):
            self.repeats.enqueue_trial({"candidate": number, "seed": seed})
        queued = {"after": self.config.n_trials_of(self.study), "repeats": len((there | wanted) - {None})}
        if self.repeats.user_attrs.get("queued") != queued:
            self.repeats.set_user_attr("queued", queued)
        return numbers

    def _pair(self, t: FrozenTrial) -> tuple[int, int] | None:
        params = t.params or t.system_attrs.get("fixed_params", {})
        return (params["candidate"], params["seed"]) if "surplus" not in t.user_attrs and params else None

    def choose(self, numbers: list[int]) -> tuple[list[Candidate], Candidate]:
        """(all candidates, the one with the best mean over its repetitions)."""
        candidates = candidates_of(self.study, self.repeats, numbers)
        winner = None
        most = max(len(c.by_seed) for c in candidates)
        for c in candidates:  # one that diverged with some seed is no winner where another came through with all
            if len(c.by_seed) == most > 0 and (winner is None or is_better(self.study, c.mean(), winner.mean())):
                winner = c
        if winner is None:
            raise InputError(
                f"study {self.study.study_name}: no repetition was completed; logs are in "
                f"{self.config.output_dir / 'studies'}"
            )
        return candidates, winner

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
        """Train the winner with the best of its seeds, look at the test data, register; the trainer's exit status."""
        best_first = sorted(winner.by_seed, key=lambda s: winner.by_seed[s][0])
        seed = best_first[0] if self.study.directions[0] == optuna.study.StudyDirection.MINIMIZE else best_first[-1]
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

        def begun(run_id: str) -> None:
            self.study.set_user_attr("final", {**final, "run_id": run_id, "host": this_host(), "done": False})

        in_study = InStudy(
            None,
            self.objectives,
            self.run.run_id,
            self.study.user_attrs["experiment"],
            {"study": self.study.study_name, "part": "winner"},
            self.target.validation(config, self.objectives, self.run, self.config.features),
            self.target.report_every(config),
            on_begin=begun,
            test=self.target.test(config, self.objectives, self.run, self.config.features),
        )
        print("\nthe winner's last training", flush=True)
        status = self.target.train(config, in_study)
        if status == 0:
            self.study.set_user_attr("final", {**self.study.user_attrs["final"], "done": True})
        return status

    def close(self, candidates: list[Candidate], winner: Candidate) -> None:
        """Figures, tables, aliases, the report; the study's run is finished."""
        final = self.study.user_attrs["final"]
        models = alias_models(final["run_id"], ALIAS)
        own = self.target.test_metrics(self.final_config(winner, final["seed"]))
        tested = {k: v for k, v in metrics_of(final["run_id"]).items() if k.startswith("test_") or k in own}
        settings = ", ".join(f"{k}={v}" for k, v in final["settings"].items())
        text = report(
            self.study,
            self.objectives,
            self.config.space_of(self.target),
            candidates,
            winner,
            self.default_trial(),
            tested,
            final["command"],
            [f"{uri} (alias {ALIAS})" for uri in models],
            f" ({settings})" if settings else "",
        )
        log_figures(self.run, self.study, self.objectives)
        self.run.log_text(trial_table(self.study, self.objectives), "trials.csv")
        self.run.log_text(trial_table(self.repeats, self.objectives), "repeats.csv")
        self.run.log_text(text, "report.md")
        self.run.log_dict(
            {"params": dict(winner.params), "seed": final["seed"], "command": final["command"]}, "best.json"
        )
        step = max(t.number for t in self.study.get_trials(deepcopy=False))
        self.run.log_metrics({f"winner_{n}": winner.mean(i) for i, n in enumerate(self.objectives)} | tested, step)
        self.run.set_tags(
            {f"best.{name}": value for name, value in winner.params.items()} | {"retrain": final["command"]}
        )
        end_orphans(self.run.run_id, [])
        self.run.finish()
        self.study.set_user_attr("closed", time.time())
        print(f"\n{text}\nrun {self.run.run_id}\nopen it: {self.run.url()}")


def start_leading(config: TuneConfig, target: Target, study: optuna.Study, repeats: optuna.Study) -> Leader:
    """Start or go on with the study's run, and make what all workers need."""
    params = {**as_params(config), "storage": shown(config.storage or str(config.journal()))}
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
                "the tracking server does not answer; a study's runs stand below its own, so tune needs it to begin"
            )
        base = target.build(config.preset, {**target.every_trial, **config.fixed_values(), **config.places(target)})
        target.prepare(base, run, config.features)
        repeats.set_user_attr("queued", None)  # n_best and n_seeds may be others than the last time
        if "run_id" not in study.user_attrs:
            defaults = inside(parse_space(config.space_of(target)), as_params(base))
            if defaults is not None:
                study.enqueue_trial(defaults, skip_if_exists=True)
                study.set_user_attr("defaults", defaults)
            study.set_user_attr("experiment", experiment_of(run.run_id))
            study.set_user_attr("run_id", run.run_id)
    except BaseException:
        run.finish("FAILED")
        raise
    return Leader(config, target, study, repeats, run)


@contextlib.contextmanager
def renewed(lease: Lease) -> Iterator[None]:
    """Keep the lead while this process is busy with a training."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(10):
            lease.hold()

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


# ----------------------------------------------------------------------------------------------------------------------
# main


def run_tune(config: TuneConfig) -> int:
    """Serve the study until it is closed; the exit status: 0, 1 where the last training failed, 128 + signal where one
    came.
    """
    target = load_target(config.target)
    config.check(target)
    storage: BaseStorage = open_storage(config.storage, config.journal())
    Reader().experiments()  # InputError where the tracking store does not answer: runs stand below the study's own
    directions = [target.objectives[name] for name in config.objectives(target)]
    where = shown(config.storage or str(config.journal()))
    study = open_study(storage, config.study_name(), directions, config.spec(target), where)
    study.set_user_attr("n_trials", config.n_trials_of(study))
    repeats = open_study(storage, f"{config.study_name()}/repeats", directions, {"repeats": config.study_name()}, where)
    counted = len(used(study.get_trials(deepcopy=False)))
    print(
        f"study {study.study_name} in {where}: {counted} of {config.n_trials_of(study)} "
        f"trials done; {config.n_workers} workers"
    )
    lease, workers, leader = Lease(study), Workers(config), None
    with StopRequest() as stop:
        try:
            while not stop.requested:
                if leader is None and lease.hold():
                    study.set_user_attr("closed", None)
                    leader = start_leading(config, target, study, repeats)
                    if not workers.alive():
                        workers.start()
                elif (
                    leader is None
                    and not workers.alive()
                    and "run_id" in study.user_attrs
                    and not study.user_attrs.get("closed")
                ):
                    workers.start()
                if leader is None and study.user_attrs.get("closed"):
                    return 0
                if leader is not None:
                    lease.hold()
                    leader.look_after()
                    if is_decided(study, config.n_trials_of(study)):
                        numbers = leader.queue_repeats()
                        if is_decided(repeats, repeats_queued(repeats, config.n_trials_of(study))):
                            candidates, winner = leader.choose(numbers)
                            with renewed(lease):
                                status = leader.last_training(winner)
                            if status >= 128:
                                break
                            if status:
                                leader.run.finish("FAILED")
                                return status
                            leader.close(candidates, winner)
                            return 0
                workers.check()
                time.sleep(POLL_SECONDS)
            workers.stop()
            if leader is not None:
                leader.look_after()
                end_orphans(leader.run.run_id, _running(study, repeats))
                leader.run.finish("KILLED")
            print("stopped; the same command goes on with the study", file=sys.stderr)
            return stop.exit_code or 143
        except BaseException as error:
            workers.stop()
            if leader is not None:
                leader.run.set_tags({"error": str(error)})
                with contextlib.suppress(Exception):
                    end_orphans(leader.run.run_id, _running(study, repeats))
                leader.run.finish("FAILED")
            raise
        finally:
            workers.stop()
            lease.release()


def _running(*studies: optuna.Study) -> list[str]:
    """Ids of the runs whose trials are under way, on this machine or another."""
    states = (TrialState.RUNNING,)
    return [t.user_attrs.get("run_id", "") for s in studies for t in s.get_trials(deepcopy=False, states=states)]

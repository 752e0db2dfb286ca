"""Starts a study's workers and serves the study until it is closed.

Any number of launchers may serve one study, on one machine or many. One of them leads (`Lease`, `Leader`); if
it dies another takes over.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

import optuna
from optuna.trial import TrialState

from common.errors import InputError
from tracking.checkpoint import StopRequest
from tracking.children import end_inherited, end_orphans
from tracking.reading import Reader
from trainers.tune.config import TuneConfig
from trainers.tune.leader import Leader, asked_of, start_leading
from trainers.tune.storage import Lease, is_decided, open_storage, open_study, used, without_password
from trainers.tune.targets import load_target
from trainers.tune.workers import Workers
from training.tuning import Target

POLL_SECONDS = 1.0


def run_tune(config: TuneConfig) -> int:
    """Serve the study until it is closed; the exit status: 0, 1 where the last training failed, 128 + signal where one
    came.
    """
    target = load_target(config.target)
    config.check(target)
    study, repeats = open_studies(config, target)
    if done := result_of(study, config):
        end_inherited(study.user_attrs["run_id"])
        print(done)
        return 0
    launcher = Launcher(config, target, study, repeats)
    with StopRequest() as stop:
        try:
            while not stop.requested:
                status = launcher.serve()
                if status is not None and status < 128:
                    return status
                if status is not None:
                    break
                time.sleep(POLL_SECONDS)
            launcher.stop()
            print("stopped; the same command continues the study", file=sys.stderr)
            return stop.exit_code or 143
        except BaseException as error:
            launcher.fail(error)
            raise
        finally:
            launcher.workers.stop()
            launcher.lease.release()


def open_studies(config: TuneConfig, target: Target) -> tuple[optuna.Study, optuna.Study]:
    """(the search, the repetitions of its best few), made where there are none.

    InputError where the storage or the tracking store cannot be used, or the study searches something else.
    """
    where = without_password(config.storage or str(config.journal()))
    storage = open_storage(config.storage, config.journal())
    Reader().experiments()  # InputError where the tracking store does not answer: runs stand below the study's own
    directions = [target.objectives[name] for name in config.objectives(target)]
    name = config.study_name()
    study = open_study(storage, name, directions, config.spec(target), where=where)
    check_store(study)
    study.set_user_attr("n_trials", config.n_trials_of(study))
    repeats = open_study(storage, f"{name}/repeats", directions, {"repeats": name}, where=where)
    n_done = len(used(study.get_trials(deepcopy=False)))
    print(f"study {name} in {where}: {n_done} of {config.n_trials_of(study)} trials done; {config.n_workers} workers")
    return study, repeats


def check_store(study: optuna.Study) -> None:
    """InputError where the study's runs are in another tracking store than the one in use."""
    run_id, reader = study.user_attrs.get("run_id"), Reader()
    if run_id is None or study.user_attrs.get("tracking_store") == reader.uri:
        return
    try:
        reader.run(run_id)  # the same store under another address
    except InputError:
        known = study.user_attrs.get("tracking_store", "another store")
        raise InputError(
            f"study: the runs of {study.study_name} are in {known}, and the tracking store in use is {reader.uri}: "
            f"set MLFLOW_TRACKING_URI to that one, or give another name, such as study={study.study_name}-2"
        ) from None
    study.set_user_attr("tracking_store", reader.uri)


def result_of(study: optuna.Study, config: TuneConfig) -> str | None:
    """What to say where the study is finished and this command asks for nothing more; else None."""
    facts = study.user_attrs
    if not facts.get("closed") or facts.get("closed_with") != asked_of(study, config):
        return None
    name, n_trials = study.study_name, config.n_trials_of(study)
    return (
        f"\n{facts['summary']}\nstudy {name} is finished (run {facts['run_id']}); nothing was done. To go on, give "
        f"n_trials above {n_trials}, or another n_best, n_seeds or final; to begin anew, another name, such as "
        f"study={name}-2"
    )


class Launcher:
    """This process: its workers, and the lead if it has it."""

    def __init__(self, config: TuneConfig, target: Target, study: optuna.Study, repeats: optuna.Study) -> None:
        self.config, self.target, self.study, self.repeats = config, target, study, repeats
        self.lease, self.workers = Lease(study), Workers(config)
        self.leader: Leader | None = None

    def serve(self) -> int | None:
        """Do what is due; the exit status once the study is closed or the winner's last training has ended badly."""
        if self.leader is None and self.lease.hold():
            self.leader = start_leading(self.config, self.target, self.study, self.repeats)
            self.start_workers()
        if self.leader is None:
            facts = self.study.user_attrs
            if facts.get("closed"):
                return 0
            if "run_id" in facts:  # else the leader is still making the study's run
                self.start_workers()
            status = None
        else:
            self.lease.hold()
            self.leader.update()
            status = self.conclude(self.leader)
        if status is None:
            self.workers.check()
        return status

    def start_workers(self) -> None:
        """Start the workers where none is alive."""
        if not self.workers.alive():
            self.workers.start()

    def conclude(self, leader: Leader) -> int | None:
        """After the search queue repetitions, after these train the winner and close; None while trials are left."""
        if not is_decided(self.study, self.config.n_trials_of(self.study)):
            return None
        numbers = leader.queue_repeats()
        if not leader.repeats_done():
            return None
        candidates, winner = leader.choose(numbers)
        with renewed(self.lease):
            status = leader.last_training(winner)
        if status == 0:
            leader.close(candidates, winner)
        elif status < 128:
            leader.run.finish("FAILED")
        return status

    def stop(self) -> None:
        """Stop the workers in good order; the study's run ends as KILLED."""
        self.workers.stop()
        if self.leader is not None:
            self.leader.update()
            end_orphans(self.leader.run.run_id, self._running())
            self.leader.run.finish("KILLED")

    def fail(self, error: BaseException) -> None:
        """Stop the workers; the study's run ends as FAILED, with the error as a tag."""
        self.workers.stop()
        if self.leader is not None:
            with contextlib.suppress(Exception):
                end_orphans(self.leader.run.run_id, self._running())
            self.leader.run.end(error)

    def _running(self) -> list[str]:
        """Ids of the runs whose trials are under way, on this machine or another."""
        states = (TrialState.RUNNING,)
        studies = (self.study, self.repeats)
        return [t.user_attrs.get("run_id", "") for s in studies for t in s.get_trials(deepcopy=False, states=states)]


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

"""Search the parameters of a trainer: `mlflow run . -e tune -P target=wgan`, or `python -m trainers.tune --help`.

This process, a launcher, starts workers and serves the study until it is closed. Any number of launchers may serve one
study, on one machine or many; one of them leads (`Lease`), and if it dies another takes over.

config.py has the parameters, trainers/NAME/tuning.py what is searched and judged of each trainer. workers.py starts
the processes of worker.py, which run trials. leader.py repeats the best few over seeds, trains the winner a last time
and closes the study; findings.py says what was found. storage.py says where a study is kept, study.py which of its
trials count. docs/tune.md explains.
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
from trainers.tune.config import PRESETS, TuneConfig, presets_for
from trainers.tune.leader import Leader, start_leading
from trainers.tune.storage import open_storage, place_of
from trainers.tune.study import Lease, open_study, used
from trainers.tune.workers import Workers
from training.config import parse_config

POLL_SECONDS = 1.0


def run_tune(config: TuneConfig) -> int:
    """Serve the study until it is closed; the exit status: 0, 1 where the last training failed, 128 + signal where one
    came.
    """
    config.check()
    study, repeats = open_studies(config)
    if done := result_of(study, config):
        end_inherited(study.user_attrs["run_id"])
        print(done)
        return 0
    launcher = Launcher(config, study, repeats)
    with StopRequest() as stop:
        try:
            status = launcher.serve()
            while status is None and not stop.requested:
                time.sleep(POLL_SECONDS)
                status = launcher.serve()
            if status is not None and status < 128:
                return status
            launcher.stop()
            print("stopped; the same command continues the study", file=sys.stderr)
            return stop.exit_code or 143
        except BaseException as error:
            launcher.fail(error)
            raise
        finally:
            launcher.workers.stop()
            launcher.lease.release()


# ----------------------------------------------------------------------------------------------------------------
# before anything is started


def open_studies(config: TuneConfig) -> tuple[optuna.Study, optuna.Study]:
    """(the search, the repetitions of its best few), made where there are none.

    InputError where the storage or the tracking store cannot be used, or the study searches something else.
    """
    where = place_of(config.storage, config.journal())
    storage = open_storage(config.storage, config.journal())
    Reader().experiments()  # InputError where the tracking store does not answer: runs stand below the study's own
    directions = [config.trainer.objectives[name] for name in config.objectives()]
    name = config.study_name()
    study = open_study(storage, name, directions, config.spec(), where=where)
    check_store(study)
    n_trials = config.n_trials_of(study)
    study.set_user_attr("n_trials", n_trials)
    repeats = open_study(storage, f"{name}/repeats", directions, {"repeats": name}, where=where)
    n_done = len(used(study.get_trials(deepcopy=False)))
    print(f"study {name} in {where}: {n_done} of {n_trials} trials done; {config.n_workers} workers")
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
    result = study.user_attrs.get("result")
    if not result or result["asked"] != config.asked_of(study):
        return None
    name, run_id = study.study_name, study.user_attrs["run_id"]
    return (
        f"\n{result['summary']}\nstudy {name} is finished (run {run_id}); nothing was done. To go on, give "
        f"n_trials above {config.n_trials_of(study)}, or another n_best, n_seeds or final; to begin anew, another "
        f"name, such as study={name}-2"
    )


# ----------------------------------------------------------------------------------------------------------------
# serving the study


class Launcher:
    """This process: its workers, and the lead if it has it."""

    def __init__(self, config: TuneConfig, study: optuna.Study, repeats: optuna.Study) -> None:
        self.config, self.study, self.repeats = config, study, repeats
        self.lease, self.workers = Lease(study), Workers(config)
        self.leader: Leader | None = None

    def serve(self) -> int | None:
        """Do what is due; the exit status once the study is closed or the winner's last training has ended badly."""
        if self.lease.hold() and self.leader is None:
            self.workers.start()  # before the study's run is made, which they end if this process is killed
            self.leader = start_leading(self.config, self.study, self.repeats)
        if self.leader is None and self.study.user_attrs.get("result"):
            return 0
        if "run_id" in self.study.user_attrs:  # else the leader is still making the study's run
            self.workers.start()
        status = None
        if self.leader is not None:
            self.leader.update()
            status = self.conclude(self.leader)
        if status is None:
            self.workers.check()
        return status

    def conclude(self, leader: Leader) -> int | None:
        """After the search queue repetitions, after these train the winner and close; None while trials are left."""
        if not leader.search_is_decided():
            return None
        numbers = leader.repeated_numbers()
        if not leader.repeat(numbers):
            return None
        candidates, winner = leader.choose(numbers)
        self.workers.stop()  # they would have nothing to do, and keep memory
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


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    return run_tune(parse_config(TuneConfig, presets_for(PRESETS, argv), argv, "tune"))

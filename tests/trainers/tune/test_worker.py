"""A study's worker: that trials which fall behind are given up, with a real trainer, and that no trial is made
twice.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import mlflow
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from tests.running import client, runs
from tracking.run import start_run
from trainers.tune.config import PRESETS, TuneConfig
from trainers.tune.storage import open_storage
from trainers.tune.study import open_study, requeue, used
from trainers.tune.worker import TrialRunner, load_runner
from training.config import parse_config

FIXED = "steps=16, batch_size=8, ngf=16, ndf=16, nz=8, sample_every=16, checkpoint_every=16, n_samples=4"


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with a store, in which this process works."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    yield folder
    mlflow.set_tracking_uri(None)


@contextlib.contextmanager
def started(folder: Path, argv: list[str]) -> Iterator[TrialRunner]:
    """What a worker has of a study that its launcher has just begun."""
    config = parse_config(TuneConfig, PRESETS, argv, "tune")
    storage, name = open_storage(None, folder / "journal"), config.study_name()
    study = open_study(storage, name, ["minimize"], config.spec())
    open_study(storage, f"{name}/repeats", ["minimize"], {"repeats": name})
    with start_run("tune", {}, output_dir=folder / "runs") as parent:
        study.set_user_attr("run_id", parent.run_id)
        study.set_user_attr("experiment", "wgan-eeg")
        yield load_runner(config, storage)


def done_well(study: optuna.Study, steps: range, n: int) -> None:
    """n finished trials that were better at every step than any generator can be."""
    for _ in range(n):
        trial = study.ask({"gp_scale": FloatDistribution(0.1, 100, log=True)})
        for step in steps:
            trial.report(-1.0, step)
            assert not trial.should_prune()
        study.tell(trial, -1.0)


@pytest.mark.parametrize(("pruner", "others", "at"), [("median", 3, 4), ("hyperband", 20, 6)])
def test_a_training_that_falls_behind_is_given_up(here: Path, pruner: str, others: int, at: int) -> None:
    argv = ["--pruner", pruner, "--n_trials", "40", "--fixed", FIXED, "--space", "gp_scale=log:0.1..100"]
    with started(here, argv) as runner:
        study = runner.study
        done_well(study, range(2, 17, 2), others)
        assert runner.run_next()
    trial = study.trials[-1]
    assert trial.state == TrialState.PRUNED
    assert max(trial.intermediate_values) <= at  # of 16
    assert used(study.trials)[-1].number == trial.number  # it counts
    child = next(run for run in runs(here) if run.info.run_id == trial.user_attrs["run_id"])
    assert child.info.status == "KILLED"
    assert child.data.tags["pruned"] == f"at step {max(trial.intermediate_values)}"
    assert child.data.tags["mlflow.parentRunId"] == study.user_attrs["run_id"]
    assert not list((here / "runs" / child.info.run_id).glob("checkpoint*"))
    assert not client(here).search_model_versions("name = 'wgan-generator'")


def test_a_repetition_that_falls_behind_goes_on(here: Path) -> None:
    argv = ["--n_trials", "1", "--fixed", FIXED, "--space", "gp_scale=log:0.1..100"]
    with started(here, argv) as runner:
        repeats = runner.repeats
        done_well(runner.study, range(2, 17, 2), 1)
        done_well(repeats, range(2, 17, 2), 6)
        repeats.enqueue_trial({}, user_attrs={"candidate": 0, "seed": 5})
        assert runner.run_next()
        assert not runner.run_next()
    trial = repeats.trials[-1]
    assert trial.state == TrialState.COMPLETE
    assert max(trial.intermediate_values) == 16


def test_a_repetition_that_nobody_queued_is_left(here: Path) -> None:
    """Another worker took the last one between the look at the queue and the next trial."""
    with started(here, ["--n_trials", "1"]) as runner:
        repeats = runner.repeats
        repeats.enqueue_trial({})
        done_well(runner.study, range(2, 17, 2), 1)
        assert runner.run_next()
    assert [t.user_attrs for t in repeats.trials] == [{"surplus": True}]
    assert used(repeats.trials) == []
    assert requeue(repeats) == []

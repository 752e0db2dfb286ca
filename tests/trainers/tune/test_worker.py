"""A study's worker: that trials which fall behind are given up, with a real trainer, and that no trial is made
twice.
"""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from tests.running import client, runs
from tracking.run import start_run
from trainers.tune.config import PRESETS, TuneConfig
from trainers.tune.storage import is_decided, open_storage, open_study, repeats_queued, requeue, under_way, used
from trainers.tune.targets import load_target
from trainers.tune.worker import TrialRunner, load_repeats, run_one_trial
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
    config = parse_config(TuneConfig, PRESETS, argv, "tune")
    target = load_target("wgan")
    storage = open_storage(None, here / "journal")
    open_study(storage, "s", ["minimize"], {})
    study = optuna.load_study(study_name="s", storage=storage, pruner=config.build_pruner(target))
    done_well(study, range(2, 17, 2), others)
    with start_run("tune", {}, output_dir=here / "runs") as parent:
        facts = {"run_id": parent.run_id, "experiment": "wgan-eeg", "study": study}
        runner = TrialRunner(config, target, facts)
        assert run_one_trial(study, 40, runner.search, True)
    trial = study.trials[-1]
    assert trial.state == TrialState.PRUNED
    assert max(trial.intermediate_values) <= at  # of 16
    assert used(study.trials)[-1].number == trial.number  # it counts
    child = next(run for run in runs(here) if run.info.run_id == trial.user_attrs["run_id"])
    assert child.info.status == "KILLED"
    assert child.data.tags["pruned"] == f"at step {max(trial.intermediate_values)}"
    assert child.data.tags["mlflow.parentRunId"] == parent.run_id
    assert not list((here / "runs" / child.info.run_id).glob("checkpoint*"))
    assert not client(here).search_model_versions("name = 'wgan-generator'")


def test_a_repetition_that_falls_behind_goes_on(here: Path) -> None:
    argv = ["--study", "s", "--fixed", FIXED, "--space", "gp_scale=log:0.1..100"]
    config = parse_config(TuneConfig, PRESETS, argv, "tune")
    storage = open_storage(None, here / "journal")
    study = open_study(storage, "s", ["minimize"], {})
    done_well(study, range(2, 17, 2), 1)
    open_study(storage, "s/repeats", ["minimize"], {})
    repeats = load_repeats(config, storage)
    done_well(repeats, range(2, 17, 2), 6)
    repeats.enqueue_trial({"candidate": 0, "seed": 5})
    with start_run("tune", {}, output_dir=here / "runs") as parent:
        facts = {"run_id": parent.run_id, "experiment": "wgan-eeg", "study": study}
        runner = TrialRunner(config, load_target("wgan"), facts)
        assert run_one_trial(repeats, 7, runner.repeat, False)
    trial = repeats.trials[-1]
    assert trial.state == TrialState.COMPLETE
    assert max(trial.intermediate_values) == 16


def test_a_lost_trial_leaves_no_room_for_another(tmp_path: Path) -> None:
    study = open_study(open_storage(None, tmp_path / "j"), "s", ["minimize"], {})
    study.tell(study.ask(), 1.0)
    study.tell(study.ask(), state=TrialState.FAIL)  # its process was killed, and the leader has not looked yet
    assert [t.number for t in under_way(study.trials)] == [1]
    done: list[int] = []

    def objective(trial: optuna.Trial) -> float:
        done.append(trial.number)
        return 0.0

    assert not run_one_trial(study, 2, objective, True)
    assert not is_decided(study, 2)
    requeue(study)
    assert under_way(study.trials) == []
    assert not is_decided(study, 2)
    assert run_one_trial(study, 2, objective, False)
    assert done == [2]
    assert is_decided(study, 2)
    assert not run_one_trial(study, 2, objective, True)
    assert run_one_trial(study, 3, objective, True)


def test_repetitions_of_a_shorter_search_are_not_the_end_of_a_longer_one(tmp_path: Path) -> None:
    repeats = open_study(open_storage(None, tmp_path / "j"), "s/repeats", ["minimize"], {})
    assert repeats_queued(repeats, 4) is None
    repeats.set_user_attr("queued", {"after": 4, "repeats": 1})
    repeats.add_trial(create_trial(value=1.0))
    assert is_decided(repeats, repeats_queued(repeats, 4))
    assert not is_decided(repeats, repeats_queued(repeats, 8))
    assert not run_one_trial(repeats, repeats_queued(repeats, 8), lambda trial: 0.0, False)

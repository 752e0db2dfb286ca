"""The tune entry point: its language, its rules of counting, and whole studies whose workers are killed and stopped."""

import dataclasses
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from common.errors import InputError
from tests.conftest import PATIENCE
from tests.running import client, command, environment, history, runs
from tests.stack.services import PASSWORD, Postgres, postgres_folder
from trainers.tune import storage as study_storage
from trainers.tune.config import PRESETS, TuneConfig
from trainers.tune.findings import Candidate, best_value, ranked, study_summary
from trainers.tune.launcher import check_store, result_of
from trainers.tune.leader import Leader, asked_of
from trainers.tune.run import main
from trainers.tune.space import parse_space, split_settings, values_within
from trainers.tune.storage import (
    MAX_RETRIES,
    Lease,
    fail_dead,
    is_dead,
    open_storage,
    open_study,
    requeue,
    retried,
    this_process,
    used,
)
from trainers.tune.targets import TARGETS, load_target
from trainers.tune.worker import ChildRun
from training.config import as_params, parse_config
from training.trial import StudyTrial

TINY: dict[str, object] = {
    "n_trials": 4,
    "n_best": 1,
    "n_seeds": 1,
    "n_workers": 2,
    "pruner": "none",
    "final": "steps=10",
    "fixed": "steps=8, batch_size=8, nz=8, sample_every=8, checkpoint_every=2, n_samples=4",
    "space": "gp_scale=log:0.1..100, lr_critic=log:0.0001..0.002",
}

# --------------------------------------------------------------------------------------------------------------- the
# language


def test_space_is_read_as_written() -> None:
    space = parse_space(
        split_settings("gp_scale=log:0.1..100, n_layers=1..4, n_dis=1|2|5, pool=cls|mean, noise=0,0.1|0,1", "space")
    )
    assert space == {
        "gp_scale": FloatDistribution(0.1, 100, log=True),
        "n_layers": IntDistribution(1, 4),
        "n_dis": CategoricalDistribution([1, 2, 5]),
        "pool": CategoricalDistribution(["cls", "mean"]),
        "noise": CategoricalDistribution(["0,0.1", "0,1"]),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gp_scale=5", ["gp_scale=5", "nothing to choose"]),
        ("gp_scale=3..1", ["gp_scale=3..1", "low first"]),
        ("gp_scale=log:0..1", ["above 0"]),
        ("gp_scale=a..b", ["two numbers"]),
        ("n_dis=1|1", ["different"]),
        ("gp_scale", ["name=value"]),
        ("a=1..2, a=1..3", ["twice"]),
        ("gp_scale=0..inf", ["two numbers"]),
    ],
)
def test_space_refuses_what_is_no_space(text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        parse_space(split_settings(text, "space"))
    assert all(word in str(error.value) for word in words), error.value


def test_the_defaults_are_found_in_a_space_or_not_at_all() -> None:
    space = parse_space({"gp_scale": "log:0.1..100", "noise": "0,0.2|0,1", "n_dis": "1|2"})
    found = {"gp_scale": 10.0, "noise": "0,0.2", "n_dis": 2}
    assert values_within(space, {"gp_scale": 10.0, "noise": (0.0, 0.2), "n_dis": 2}) == found
    assert values_within(space, {"gp_scale": 10.0, "noise": (0.0, 0.3), "n_dis": 2}) is None
    assert values_within(space, {"gp_scale": 1000.0, "noise": (0.0, 0.2), "n_dis": 2}) is None


@pytest.mark.parametrize("name", TARGETS)
def test_every_value_of_a_declared_space_is_one_that_the_trainer_takes(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    config = parse_config(TuneConfig, PRESETS, ["--target", name], "tune")
    config.check(target)
    space = parse_space({**target.space_of("quick"), **target.space_of("physionet")})
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    for _ in range(25):
        values = study.ask(space).params
        built = target.build("quick", {**target.every_trial, **values, **config.places(target), "seed": 3})
        shown = shlex.split(target.command(built))
        # by itself, efficient_attention compares mechanisms and registers the exact one
        by_hand = load_target("eeg_transformer" if name == "efficient_attention" else name)
        assert shown[:3] == ["python", "-m", f"trainers.{by_hand.name}"]
        again = as_params(parse_config(by_hand.config, by_hand.presets, shown[3:], by_hand.name))
        wanted = as_params(built)
        if by_hand.name != name:
            wanted = {**again, **wanted, "network": "windows", "attention": built.mechanisms[0]}
        here = {k: again[k] for k in ("output_dir", "cache_dir")}
        assert again == {k: wanted[k] for k in again} | here


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--target vgg", ["vgg", "wgan", "eeg_simclr"]),
        ("--space {}", ["nothing to search"]),
        ("--space depth=1..2", ["wgan has no parameter depth"]),
        ("--fixed depth=1", ["no parameter depth"]),
        ("--fixed gp_scale=1", ["gp_scale is searched as well"]),
        ("--fixed nproc=2", ["n_workers"]),
        ("--fixed seed=1", ["set by tune itself"]),
        ("--fixed split=all", ["test images"]),
        ("--fixed validation_share=0", ["no images to choose by"]),
        ("--objective loss", ["kernel_distance"]),
        ("--target eeg_transformer --fixed split=within_subject", ["cross_subject"]),
        ("--preset physionet", ["quick, eurosat, cifar10, celeba"]),
        ("--storage postgresql://me:s3cret@h/d", ["$NAME", "me:***@h"]),
        ("--storage postgresql://me@127.0.0.1:9/d", ["refused"]),
        ("--storage nosuch://h/d", ["nosuch"]),
        ("--storage /dev/null/journal", ["/dev/null/journal"]),
    ],
)
def test_refusals(argv: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        main(argv.split())
    assert all(word in str(error.value) for word in words), error.value
    assert "s3cret" not in str(error.value)
    assert not list(tmp_path.rglob("mlflow.db"))


def test_an_unreachable_tracking_server_is_one_line_and_status_2(folder: Path) -> None:
    variables = {**environment(folder), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = subprocess.run(command("tune"), cwd=folder, env=variables, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("error: tracking store http://127.0.0.1:9: ")
    assert "start it, or correct MLFLOW_TRACKING_URI" in line
    assert not list(folder.rglob("offline-*"))


def test_a_study_of_another_shape_is_refused(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path / "j")
    spec = {"target": "wgan", "space": {"a": "1..2"}}
    open_study(storage, "s", ["minimize"], spec)
    open_study(storage, "s", ["minimize"], spec)  # the same goes on
    with pytest.raises(InputError, match=r"space was \{'a': '1..2'\}, now \{'a': '1..3'\}"):
        open_study(storage, "s", ["minimize"], {**spec, "space": {"a": "1..3"}})
    optuna.create_study(storage=storage, study_name="theirs").ask()
    with pytest.raises(InputError, match="tune did not make"):
        open_study(storage, "theirs", ["minimize"], spec)
    (tmp_path / "text").write_text("not a journal\n")
    text = str(tmp_path / "text")
    with pytest.raises(InputError, match="text"):
        open_study(open_storage(text, tmp_path / "j"), "s", ["minimize"], spec, where=text)


# --------------------------------------------------------------------------------------------------------- counting and
# retrying


def dead_process() -> dict[str, Any]:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = {**this_process(), "pid": child.pid, "started": psutil.Process(child.pid).create_time()}
    assert not is_dead(owner)
    child.kill()
    child.wait()
    return owner


def test_a_killed_trial_is_done_again_with_its_values_and_counted_once(tmp_path: Path) -> None:
    study = open_study(open_storage(None, tmp_path / "j"), "s", ["minimize"], {})
    alive, killed = study.ask(), study.ask()
    alive.set_user_attr("owner", this_process())
    values = (killed.suggest_float("x", 0, 1), killed.suggest_int("n", 1, 9))
    for key, value in {"owner": dead_process(), "seed": 7, "run_id": "r"}.items():
        killed.set_user_attr(key, value)
    killed.report(0.5, 3)
    fail_dead(study)
    assert [t.state for t in study.trials] == [TrialState.RUNNING, TrialState.FAIL]
    assert [t.number for t in requeue(study)] == [1]
    assert requeue(study) == []  # once
    assert used(study.trials) == []
    again = study.ask()
    assert again.number == 2
    assert (again.suggest_float("x", 0, 1), again.suggest_int("n", 1, 9)) == values
    assert again.user_attrs == {"seed": 7, "run_id": "r"}
    fail_dead(study)  # nobody's name is on it yet, but it is young
    study.tell(again, 0.25)
    study.tell(alive, 0.5)
    assert [t.number for t in used(study.trials)] == [0, 2]
    assert retried(study.trials) == {1}


def test_killed_trials_are_given_up_after_a_while_and_stopped_ones_never() -> None:
    study = optuna.create_study()
    study.ask()
    for attempt in range(MAX_RETRIES + 1):
        assert len(used(study.trials)) == 0, attempt
        study.tell(attempt, state=TrialState.FAIL)
        requeue(study)
        if attempt < MAX_RETRIES:
            assert study.ask().number == attempt + 1
    assert len(used(study.trials)) == 1
    stopped = optuna.create_study()
    for attempt in range(MAX_RETRIES + 3):
        trial = stopped.ask()
        assert trial.number == attempt
        trial.set_user_attr("stopped", True)
        stopped.tell(trial, state=TrialState.FAIL)
        assert len(requeue(stopped)) == 1
    assert used(stopped.trials) == []


def test_failures_count_and_surplus_trials_do_not() -> None:
    study = optuna.create_study()
    for key in ("failure", "surplus"):
        trial = study.ask()
        trial.set_user_attr(key, "x")
        study.tell(trial, state=TrialState.FAIL)
    study.tell(study.ask(), state=TrialState.PRUNED)
    assert requeue(study) == []
    assert [t.number for t in used(study.trials)] == [0, 2]


def test_one_process_leads_until_it_lets_go_or_dies(tmp_path: Path) -> None:
    study = open_study(open_storage(None, tmp_path / "j"), "s", ["minimize"], {})
    first, second = Lease(study), Lease(study)
    assert first.hold()
    assert not second.hold()
    first.release()
    assert second.hold()
    assert not first.hold()
    leader = {"id": "x", "time": time.time()}
    study.set_user_attr("leader", {**leader, "owner": dead_process()})
    assert first.hold()
    far = {**this_process(), "host": "elsewhere/1"}
    study.set_user_attr("leader", {**leader, "owner": far})
    assert not Lease(study).hold()
    study.set_user_attr("leader", {**leader, "owner": far, "time": time.time() - 2 * study_storage.LEASE})
    assert Lease(study).hold()


def test_the_best_come_first_and_the_front_before_all_others() -> None:
    one = optuna.create_study(direction="maximize")
    for value in (0.1, 0.9, float("inf"), 0.5):
        one.add_trial(optuna.create_trial(value=value))
    assert [t.number for t in ranked(one, one.trials)] == [1, 3, 0]
    assert best_value(one, one.trials) == 0.9
    assert best_value(one, one.trials[2:3]) is None
    two = optuna.create_study(directions=["maximize", "minimize"])
    for values in ((0.8, 5.0), (0.9, 9.0), (0.85, 9.5), (0.7, 1.0)):
        two.add_trial(optuna.create_trial(values=values))
    assert [t.number for t in ranked(two, two.trials)] == [1, 0, 3, 2]
    assert Candidate(0, {}, {1: (1.0,), 2: (3.0,)}).mean() == 2.0


def summary_of(defaults: dict[str, Any] | None, candidates: list[Candidate], state: TrialState) -> str:
    """The summary of a study whose trial 0, in `state`, has the defaults, and whose trial 1 won."""
    study = optuna.create_study()
    study.set_user_attr("defaults", defaults)
    for params, how in (({"x": 1.0}, state), ({"x": 2.0}, TrialState.COMPLETE)):
        value = 0.5 if how == TrialState.COMPLETE else None
        dimensions = {"x": FloatDistribution(0, 9)}
        study.add_trial(optuna.create_trial(state=how, value=value, params=params, distributions=dimensions))
    default = 0 if defaults and state != TrialState.FAIL else None
    return study_summary(
        study,
        objectives=["loss"],
        space={"x": "0..9"},
        candidates=candidates,
        winner=candidates[-1],
        default=default,
        tested={},
        models=[],
        final_settings={},
        command="train",
    )


def test_the_summary_tells_defaults_outside_the_space_from_defaults_given_up() -> None:
    outside, no_repetition = "do not lie in this space", "no repetition of the defaults was completed"
    winner = Candidate(1, {"x": 2.0}, {1: (0.4,), 2: (0.6,)})
    text = summary_of(None, [winner], TrialState.COMPLETE)
    assert outside in text
    for state in (TrialState.PRUNED, TrialState.FAIL):
        text = summary_of({"x": 1.0}, [winner], state)
        assert outside not in text
        assert "trial of the trainer's defaults was given up, refused or failed" in text
    for by_seed in ({}, {3: (0.1,)}):
        text = summary_of({"x": 1.0}, [Candidate(0, {"x": 1.0}, by_seed), winner], TrialState.COMPLETE)
        assert no_repetition in text
        assert outside not in text
    text = summary_of({"x": 1.0}, [Candidate(0, {"x": 1.0}, {1: (0.5,)}), winner], TrialState.COMPLETE)
    assert "loss -0.1 on average, better in 1 of 1" in text


def test_the_summary_has_a_row_for_each_trial_and_candidate() -> None:
    base, winner = Candidate(0, {"x": 1.0}, {1: (0.5,)}), Candidate(1, {"x": 2.0}, {1: (0.25,), 2: (0.75,)})
    text = summary_of({"x": 1.0}, [base, winner], TrialState.COMPLETE)
    assert "| trial | loss | x |\n|---|---|---|\n| 0 (defaults) | 0.5 | 1 |\n| 1 | 0.5 | 2 |\n\n" in text
    assert (
        "| trial | loss, mean | sd |\n|---|---|---|\n| 0 (defaults) | 0.5 |  |\n| 1 **winner** | 0.5 | 0.3536 |\n"
        in text
    )
    assert "\n\n\n" not in text


@pytest.mark.parametrize(
    ("name", "argv", "params", "own"),
    [
        (
            "efficient_attention",
            ["--fixed", "mechanisms=linear", "--space", "d_model=32|64"],
            {"d_model": 32},
            "linear",
        ),
        ("efficient_attention", [], {"mechanisms": "local"}, "local"),
        ("eeg_transformer", [], {}, "transformer"),
        ("eeg_simclr", [], {}, "simclr"),
    ],
)
def test_the_winners_test_figures_are_found_by_what_its_trainer_calls_it(
    name: str, argv: list[str], params: dict[str, Any], own: str
) -> None:
    config = parse_config(TuneConfig, PRESETS, ["--target", name, *argv], "tune")
    leader = Leader.__new__(Leader)
    leader.config, leader.target, leader.study = config, load_target(name), optuna.create_study()
    final = leader.final_config(Candidate(0, params, {}), 1)
    assert leader.target.test_metrics(final)[0] == f"{own}_subject_mean"


@pytest.fixture
def closed_study(tmp_path: Path) -> tuple[optuna.Study, TuneConfig]:
    """A study that has ended, and what was asked of it."""
    config = TuneConfig(n_trials=4, n_best=1, n_seeds=2, output_dir=tmp_path)
    study = optuna.create_study(storage=open_storage(None, tmp_path / "s.journal"), study_name="wgan-quick")
    facts = {"run_id": "abc", "summary": "lr=1 won", "closed_with": asked_of(study, config), "closed": 1.0}
    for name, value in facts.items():
        study.set_user_attr(name, value)
    return study, config


def test_a_finished_study_asked_for_again_says_so(closed_study: tuple[optuna.Study, TuneConfig]) -> None:
    study, config = closed_study
    said = result_of(study, config)
    assert said is not None
    for words in ("lr=1 won", "is finished (run abc)", "n_trials above 4", "study=wgan-quick-2"):
        assert words in said
    for changes in ({"n_trials": 5}, {"n_seeds": 3}, {"n_best": 2}, {"final": "steps=9"}):
        assert result_of(study, dataclasses.replace(config, **changes)) is None
    study.set_user_attr("closed", None)
    assert result_of(study, config) is None


def test_a_study_knows_the_store_of_its_runs(
    closed_study: tuple[optuna.Study, TuneConfig], folder: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = closed_study
    shutil.copy(empty_store, folder / "other.db")
    here, there = (f"sqlite:///{folder}/{name}.db" for name in ("mlflow", "other"))
    study.set_user_attr("run_id", client(folder).create_run("0").info.run_id)
    study.set_user_attr("tracking_store", here)

    def check(uri: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
        check_store(study)

    check(here)
    with pytest.raises(InputError, match=f"runs of wgan-quick are in {here}, and the tracking store in use is {there}"):
        check(there)
    shutil.copy(folder / "mlflow.db", folder / "moved.db")  # the same store under another name
    check(f"sqlite:///{folder}/moved.db")
    assert study.user_attrs["tracking_store"] == f"sqlite:///{folder}/moved.db"


def test_a_study_does_not_move_what_is_served() -> None:
    study = optuna.create_study()
    for trial in (None, study.ask()):
        child = ChildRun(
            trial,
            objectives=("loss",),
            parent="run",
            experiment="experiment",
            tags={},
            measure=lambda network, example: {},
            every=1,
        )
        assert child.alias is None
    assert StudyTrial.alias == "latest-good"


# -----------------------------------------------------------------------------------------------------------------
# whole studies


def study_of(folder: Path, name: str = "wgan-quick", storage: str | None = None) -> optuna.Study:
    journal = folder / "runs" / "studies" / "wgan-quick.journal"
    return optuna.load_study(study_name=name, storage=open_storage(storage, journal))


def start(folder: Path, log: str = "log", **parameters: object) -> subprocess.Popen[bytes]:
    """`tune` on code without git, as it is where somebody has unpacked an archive."""
    variables = {**environment(folder), "GIT_DIR": "/dev/null"}
    with open(folder / log, "ab") as file:
        return subprocess.Popen(
            command("tune", **{**TINY, **parameters}), cwd=folder, env=variables, stdout=file, stderr=file
        )


def wait_until(happened: Callable[[], Any], process: subprocess.Popen[bytes], folder: Path) -> Any:
    """What `happened()` returns once it is true; fails with the log if the process ends first."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = happened()
        if found:
            return found
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.2)
    raise AssertionError((folder / "log").read_text())


def running_trial(folder: Path, storage: str | None = None) -> Callable[[], Any]:
    """A trial that has reported something and has not ended."""

    def find() -> Any:
        try:
            trials = study_of(folder, storage=storage).get_trials(states=(TrialState.RUNNING,))
        except (InputError, KeyError):
            return None
        return next((t for t in trials if t.intermediate_values and "owner" in t.user_attrs), None)

    return find


def assert_complete(folder: Path, n_trials: int, storage: str | None = None) -> None:
    """n_trials decided, each once; every run ended, as a child of the study's; winner tested and registered; others
    not.
    """
    study = study_of(folder, storage=storage)
    counted = used(study.trials)
    assert len(counted) == n_trials, (folder / "log").read_text()
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    assert len({str(t.params) for t in counted}) == n_trials
    every = {run.info.run_id: run for run in runs(folder)}
    assert all(run.info.status in ("FINISHED", "KILLED") for run in every.values())
    parent = every[study.user_attrs["run_id"]]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["entry_point"] == "tune"
    for t in counted:
        child = every[t.user_attrs["run_id"]]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["entry_point"] == "wgan"
        assert child.data.params["seed"] == str(t.user_attrs["seed"])
        assert child.data.metrics["validation_kernel_distance"] == t.value
        assert not [name for name in child.data.metrics if name.startswith(("test_", "wasserstein_held"))]
    best = [value for _, value in history(folder, parent.info.run_id, "best_kernel_distance")]
    assert best == sorted(best, reverse=True)
    assert best[-1] == min(t.value for t in counted)
    final = every[study.user_attrs["final"]["run_id"]]
    assert final.data.metrics["test_kernel_distance"] == parent.data.metrics["test_kernel_distance"]
    version = client(folder).get_model_version_by_alias("wgan-generator", "tuned")
    assert version.run_id == final.info.run_id
    tests = [run.info.run_id for run in every.values() if "test_kernel_distance" in run.data.metrics]
    trained = {run_id for run_id in tests if run_id != parent.info.run_id}
    assert {v.run_id for v in client(folder).search_model_versions("name = 'wgan-generator'")} == trained
    names = {file.path for file in client(folder).list_artifacts(parent.info.run_id)}
    assert {"summary.md", "trials.csv", "best.json", "figures"} <= names
    drawn = {file.path for file in client(folder).list_artifacts(parent.info.run_id, "figures")}
    assert {f"figures/{n}.png" for n in ("history", "slices", "intermediate_values")} <= drawn


@pytest.mark.slow
@pytest.mark.timeout(4 * PATIENCE)
def test_a_worker_is_killed_and_the_study_ends_complete(folder: Path) -> None:
    process = start(folder)
    trial = wait_until(running_trial(folder), process, folder)
    os.kill(trial.user_attrs["owner"]["pid"], signal.SIGKILL)
    assert process.wait(PATIENCE) == 0, (folder / "log").read_text()
    assert_complete(folder, 4)
    study = study_of(folder)
    again = next(t for t in study.trials if trial.number in t.system_attrs.get("retry_history", []))
    assert again.params == trial.params
    assert again.user_attrs["run_id"] == trial.user_attrs["run_id"]  # resumed, not made anew
    assert len(client(folder).search_model_versions("name = 'wgan-generator'")) == 1
    assert "was killed by signal 9" in (folder / "log").read_text()


@pytest.mark.slow
@pytest.mark.timeout(4 * PATIENCE)
def test_a_closed_study_is_continued(folder: Path) -> None:
    """More trials, and a repetition where one of them is among the best: workers do not take the old ones for the
    end.
    """
    for n_trials in (2, 3):
        process = start(folder, n_trials=n_trials, n_workers=1, n_best=n_trials)
        assert process.wait(PATIENCE) == 0, (folder / "log").read_text()
        assert_complete(folder, n_trials)
    repeats = study_of(folder, "wgan-quick/repeats")
    assert sorted(t.params["candidate"] for t in used(repeats.trials)) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.timeout(4 * PATIENCE)
@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGKILL])
def test_a_launcher_is_stopped_or_killed_and_the_same_command_continues(folder: Path, signal_: signal.Signals) -> None:
    process = start(folder)
    trial = wait_until(running_trial(folder), process, folder)
    process.send_signal(signal_)
    assert process.wait(PATIENCE) == (143 if signal_ == signal.SIGTERM else -9), (folder / "log").read_text()
    if signal_ == signal.SIGTERM:
        ended = {run.info.run_name: run.info.status for run in runs(folder)}
        assert ended.pop("wgan-quick") == "KILLED"
        assert set(ended.values()) <= {"KILLED", "FINISHED"}  # a trial may have been at its last step
    else:  # the workers see that their launcher is gone, and stop in good order
        workers = [t.user_attrs["owner"] for t in study_of(folder).trials if "owner" in t.user_attrs]
        deadline = time.monotonic() + PATIENCE
        while not all(is_dead(owner) for owner in workers) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert all(is_dead(owner) for owner in workers)
        assert "RUNNING" not in {run.info.status for run in runs(folder)}
    process = start(folder)
    assert process.wait(PATIENCE) == 0, (folder / "log").read_text()
    assert_complete(folder, 4)
    trials = study_of(folder).trials
    assert trial.number in retried(trials) or trials[trial.number].state == TrialState.COMPLETE


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    programs = postgres_folder()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: make services, or apt-get install postgresql)")
    cluster = Postgres(programs)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


SLEEPER = """
import sys, time, optuna
from trainers.tune import storage as study_storage
study_storage.HEARTBEAT, study_storage.GRACE = 1, 3
study = optuna.load_study(study_name="s", storage=study_storage.open_storage(sys.argv[1], None))
def objective(trial):
    trial.set_user_attr("owner", {"host": "elsewhere/1", "pid": 1, "started": 1.0})
    trial.suggest_float("x", 0, 1)
    print("running", flush=True)
    time.sleep(600)
study.optimize(objective, n_trials=1)
"""


@pytest.mark.slow
@pytest.mark.timeout(4 * PATIENCE)
def test_in_postgresql_the_heartbeat_finds_what_died_on_another_machine(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_storage, "HEARTBEAT", 1)
    monkeypatch.setattr(study_storage, "GRACE", 3)
    monkeypatch.setenv("DATABASE_PASSWORD", PASSWORD)
    url = postgres.uri("studies").replace(PASSWORD, "$DATABASE_PASSWORD")
    study = open_study(open_storage(url, Path("unused")), "s", ["minimize"], {})
    sleeper = subprocess.Popen([sys.executable, "-c", SLEEPER, url], stdout=subprocess.PIPE)
    assert sleeper.stdout is not None
    assert sleeper.stdout.readline() == b"running\n"
    time.sleep(4)
    fail_dead(study)
    assert study.trials[0].state == TrialState.RUNNING  # silent it is not
    sleeper.kill()
    sleeper.wait()
    deadline = time.monotonic() + PATIENCE
    while study.trials[0].state == TrialState.RUNNING and time.monotonic() < deadline:
        time.sleep(0.5)
        fail_dead(study)
    assert study.trials[0].state == TrialState.FAIL
    requeue(study)
    assert study.ask().suggest_float("x", 0, 1) == study.trials[0].params["x"]


@pytest.mark.slow
@pytest.mark.timeout(4 * PATIENCE)
def test_two_launchers_serve_one_study_in_postgresql(
    folder: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", PASSWORD)
    url = postgres.uri("studies").replace(PASSWORD, "$DATABASE_PASSWORD")
    first = start(folder, storage=url, n_workers=1)
    second = start(folder, "log2", storage=url, n_workers=1)
    trial = wait_until(running_trial(folder, url), first, folder)
    os.kill(trial.user_attrs["owner"]["pid"], signal.SIGKILL)
    assert first.wait(PATIENCE) == 0, (folder / "log").read_text() + (folder / "log2").read_text()
    assert second.wait(PATIENCE) == 0, (folder / "log2").read_text()
    assert_complete(folder, 4, url)
    assert PASSWORD not in "".join(path.read_text() for path in folder.glob("log*"))
    tune = [run for run in runs(folder) if run.data.tags["entry_point"] == "tune"]
    assert len(tune) == 1
    assert PASSWORD not in str(tune[0].data.to_dictionary())

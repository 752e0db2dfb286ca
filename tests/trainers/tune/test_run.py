"""The tune entry point: what it refuses, and whole studies whose workers are killed and stopped."""

import ast
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
import pytest
from optuna.trial import TrialState

from common.errors import InputError
from tests.conftest import PATIENCE, ROOT
from tests.running import client, command, environment, history, runs
from tests.stack.services import PASSWORD, Postgres, postgres_folder
from trainers.tune import storage as study_storage
from trainers.tune.child import ChildRun
from trainers.tune.config import PRESETS, TuneConfig
from trainers.tune.run import check_store, main, open_studies, result_of
from trainers.tune.space import parse_space, suggest
from trainers.tune.storage import open_storage
from trainers.tune.study import fail_dead, is_dead, open_study, requeue, retried, used
from trainers.tune.targets import TARGETS, load_target
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

# -----------------------------------------------------------------------------------------------------------------
# before a study begins


@pytest.mark.parametrize("name", TARGETS)
def test_every_value_of_a_declared_space_is_one_that_the_trainer_takes(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    config = parse_config(TuneConfig, PRESETS, ["--target", name], "tune")
    config.check()
    space = parse_space({**target.space_of("quick"), **target.space_of(target.full_preset)})
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    for _ in range(25):
        values = suggest(study.ask(), space)
        built = config.trial_config(values, seed=3)
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
        ("--preset physionet", ["quick, photos, eurosat, cifar10, celeba"]),
        ("--target eeg_simclr --preset celeba", ["quick, physionet"]),
        ("--storage postgresql://me:s3cret@h/d", ["$NAME", "me:***@h"]),
        ("--storage postgresql://me@127.0.0.1:9/d", ["refused"]),
        ("--storage nosuch://h/d", ["nosuch"]),
        ("--fixed dataset=folder --data_dir nowhere", ["data_dir", "nowhere"]),
        ("--target eeg_transformer --fixed dataset=recordings --data_dir nowhere", ["data_dir", "nowhere"]),
        ("--target efficient_attention --fixed dataset=recordings --data_dir .", ["holds no recording"]),
        ("--storage /dev/null/journal", ["/dev/null/journal"]),
    ],
)
def test_refusals(argv: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        main(argv.split())
    assert all(word in str(error.value) for word in words), error.value
    assert "s3cret" not in str(error.value)
    assert not [*tmp_path.rglob("mlflow.db"), *tmp_path.rglob("*.journal")]


def test_optuna_is_used_through_its_public_interface() -> None:
    """Names with an underscore change without notice; a module's own are its own affair."""
    for path in (ROOT / "trainers" / "tune").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                assert isinstance(node.value, ast.Name), f"{path}:{node.lineno}"
                assert node.value.id == "self", f"{path}:{node.lineno}"
            if isinstance(node, ast.ImportFrom):
                assert "._" not in str(node.module), f"{path}:{node.lineno}"


def test_an_unreachable_tracking_server_is_one_line_and_status_2(folder: Path) -> None:
    variables = {**environment(folder), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = subprocess.run(command("tune"), cwd=folder, env=variables, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("error: tracking store http://127.0.0.1:9: ")
    assert "start it, or correct MLFLOW_TRACKING_URI" in line
    assert not list(folder.rglob("offline-*"))


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
    assert config.trainer.test_metrics(config.final_config(params, seed=1))[0] == f"{own}_subject_mean"


@pytest.fixture
def closed_study(tmp_path: Path) -> tuple[optuna.Study, TuneConfig]:
    """A study that has ended, and what was asked of it."""
    config = TuneConfig(n_trials=4, n_best=1, n_seeds=2, output_dir=tmp_path)
    study = optuna.create_study(storage=open_storage(None, tmp_path / "s.journal"), study_name="wgan-quick")
    study.set_user_attr("run_id", "abc")
    study.set_user_attr("result", {"summary": "lr=1 won", "asked": config.asked_of(study)})
    return study, config


def test_a_finished_study_asked_for_again_says_so(closed_study: tuple[optuna.Study, TuneConfig]) -> None:
    study, config = closed_study
    said = result_of(study, config)
    assert said is not None
    for words in ("lr=1 won", "is finished (run abc)", "n_trials above 4", "study=wgan-quick-2"):
        assert words in said
    for changes in ({"n_trials": 5}, {"n_seeds": 3}, {"n_best": 2}, {"final": "steps=9"}):
        assert result_of(study, dataclasses.replace(config, **changes)) is None
    study.set_user_attr("result", None)
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


def test_the_store_is_looked_at_before_anything_is_started(
    folder: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, folder / "other.db")
    config = TuneConfig(n_trials=4, output_dir=folder / "runs")

    def opened(name: str) -> optuna.Study:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/{name}.db")
        monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
        return open_studies(config)[0]

    study = opened("mlflow")
    study.set_user_attr("run_id", client(folder).create_run("0").info.run_id)
    opened("mlflow")
    with pytest.raises(InputError, match="set MLFLOW_TRACKING_URI to that one, or give another name"):
        opened("other")


def test_a_study_does_not_move_what_is_served() -> None:
    study = optuna.create_study()
    study.set_user_attr("run_id", "run")
    study.set_user_attr("experiment", "experiment")
    for trial in (None, study.ask()):
        child = ChildRun(TuneConfig(), study, part="trial", every=1, measure=lambda network, example: {}, trial=trial)
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
    assert sorted(t.user_attrs["candidate"] for t in used(repeats.trials)) == [0, 1, 2]


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

"""A study's worker whose launcher was killed stops, and ends the study's run, since nobody else would."""

import json
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
from optuna.trial import TrialState, create_trial

from tests.conftest import PATIENCE
from tests.running import client, environment, runs
from trainers.tune.config import PRESETS, TuneConfig
from trainers.tune.storage import open_storage
from trainers.tune.study import started, this_host
from training.config import as_params, parse_config

LAUNCHER = """
import json, os, subprocess, sys, time
worker = subprocess.Popen(
    [sys.executable, "-m", "trainers.tune.worker"], stdin=subprocess.PIPE, start_new_session=True
)
worker.stdin.write(json.dumps({"config": json.loads(sys.argv[1]), "launcher": os.getpid()}).encode())
worker.stdin.close()
print(worker.pid, flush=True)
time.sleep(3600)
"""


def test_a_worker_whose_launcher_was_killed_stops_and_ends_the_studys_run(folder: Path) -> None:
    config = parse_config(TuneConfig, PRESETS, ["--n_trials", "1", "--output_dir", str(folder / "runs")], "tune")
    storage = open_storage(None, config.journal())
    study = optuna.create_study(storage=storage, study_name="wgan-quick")
    optuna.create_study(storage=storage, study_name="wgan-quick/repeats")
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.1))  # all that was wanted: the worker waits
    run_id = client(folder).create_run("0").info.run_id
    arguments = [sys.executable, "-c", LAUNCHER, json.dumps(as_params(config))]
    launcher = subprocess.Popen(arguments, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    worker = psutil.Process(int(launcher.stdout.readline()))
    owner = {"host": this_host(), "pid": launcher.pid, "started": started(psutil.Process(launcher.pid))}
    facts = {"leader": {"id": "a", "owner": owner, "time": time.time()}, "experiment": "Default", "run_id": run_id}
    facts["led_run"] = run_id
    for name, value in facts.items():
        study.set_user_attr(name, value)
    launcher.kill()
    launcher.wait()
    worker.wait(PATIENCE)
    run = client(folder).get_run(run_id)
    assert (run.info.status, run.data.tags["reaped"]) == ("KILLED", "its process was killed")


PREPARING = """
import sys, time
from trainers.tune.config import TuneConfig
from trainers.tune.run import main

def prepare(*_):
    print("preparing", flush=True)
    time.sleep(3600)

object.__setattr__(TuneConfig(target="wgan").trainer, "prepare", prepare)
main(sys.argv[1:])
"""


def test_a_launcher_that_was_killed_before_there_are_trials_leaves_no_run_running(folder: Path) -> None:
    """Here while it trains features, which takes minutes of photographs."""
    options = ["--preset", "quick", "--n_trials", "1", "--n_workers", "1", "--output_dir", str(folder / "runs")]
    launcher = subprocess.Popen(
        [sys.executable, "-c", PREPARING, *options],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    while "preparing" not in launcher.stdout.readline():
        assert launcher.poll() is None
    [worker] = psutil.Process(launcher.pid).children()
    [made] = runs(folder)
    assert made.info.status == "RUNNING"
    launcher.kill()
    launcher.wait()
    worker.wait(PATIENCE)
    [ended] = runs(folder)
    assert (ended.info.status, ended.data.tags["reaped"]) == ("KILLED", "its process was killed")
    assert (
        "run_id"
        not in optuna.load_study(
            study_name="wgan-quick", storage=open_storage(None, folder / "runs" / "studies" / "wgan-quick.journal")
        ).user_attrs
    )

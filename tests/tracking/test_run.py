"""Runs against a real SQLite store and a real server, with real processes that are killed."""

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

import tracking
from common.errors import InputError
from tests.conftest import PATIENCE
from tests.tracking.servers import Server, free_port
from tracking import __main__ as commands
from tracking import run as run_module
from tracking import starting, store
from tracking.resuming import run_folder

ROOT = Path(__file__).resolve().parent.parent.parent

# A trainer in small: a metric and a timing per step, an image every 5 steps, a checkpoint every 7.
TRAINER = """
import math, sys, time
from pathlib import Path
import numpy as np
from tracking import StopRequest, find_checkpoint, load_checkpoint, save_checkpoint, start_run
from tracking.run import Run

Run.deliver.__defaults__ = (1500.0, math.inf)  # a busy machine's server may take minutes to come back

output_dir, resume = Path(sys.argv[1]), sys.argv[2] or None
steps, pause = int(sys.argv[3]), float(sys.argv[4])
with start_run("toy", {"gp_scale": 10.0}, output_dir=output_dir, resume=resume) as run, StopRequest() as stop:
    step = 0
    if run.resumed and (checkpoint := find_checkpoint(output_dir, run.run_id)):
        state = load_checkpoint(checkpoint)
        run.restore(state["backlog"])
        step = state["step"]
    print("started", run.run_id, step, flush=True)
    while step < steps and not stop.requested:
        step += 1
        time.sleep(pause)
        run.log_metrics({"loss": 1 / step, "rate": 2.0 * step}, step)
        if step % 5 == 0:
            run.log_image("samples/grid", np.full((8, 8, 3), step % 256, np.uint8), step)
        if step % 7 == 0 or stop.requested:
            save_checkpoint(run.checkpoint_path, {"step": step, "backlog": run.backlog()})
            print("checkpoint", step, flush=True)
            if len(sys.argv) > 5:
                run.log_checkpoint()
    run.finish("KILLED" if stop.requested else "FINISHED")
    print("finished", step, flush=True)
sys.exit(stop.exit_code)
"""


def train(folder: Path, resume: str, steps: int, pause: float, *, upload: bool = False) -> "subprocess.Popen[str]":
    """Start the small trainer as a process in the current folder."""
    command = [
        sys.executable,
        "-c",
        TRAINER,
        str(folder),
        resume,
        str(steps),
        str(pause),
        *(["upload"] if upload else []),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def started(process: "subprocess.Popen[str]") -> tuple[str, int]:
    """The run id and the step at which the trainer goes on."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("started"):
            _, run_id, step = line.split()
            return run_id, int(step)
    raise AssertionError("the trainer did not start")


def steps_of(client: MlflowClient, run_id: str, key: str) -> list[int]:
    return [metric.step for metric in client.get_metric_history(run_id, key)]


def assert_whole(client: MlflowClient, run_id: str, steps: int) -> None:
    """Every step once: no gap, no double; the right values; every image once; the run FINISHED."""
    assert steps_of(client, run_id, "loss") == list(range(1, steps + 1))
    assert [metric.value for metric in client.get_metric_history(run_id, "rate")] == [
        2.0 * s for s in range(1, steps + 1)
    ]
    images = [re.search(r"step\+(\d+)\+.*\.png$", file.path) for file in client.list_artifacts(run_id, "images")]
    assert Counter(int(match[1]) for match in images if match) == Counter(range(5, steps + 1, 5))
    assert client.get_run(run_id).info.status == "FINISHED"


def test_what_a_run_records(database: str, tmp_path: Path) -> None:
    with tracking.start_run("wgan", {"gp_scale": 10.0, "data_dir": None}, tags={"dataset": "digits"}) as run:
        run.log_metrics({"critic/loss": 1.5}, step=1)
        run.log_data("digits", "ab" * 32, {"source": "scikit-learn", "images": 1797})
        run.log_text("hello", "notes/hello.txt")
        (tmp_path / "tree" / "sub").mkdir(parents=True)
        (tmp_path / "tree" / "sub" / "x.csv").write_text("1\n")
        run.log_artifact(tmp_path / "tree", "tables")
        assert run.folder == Path("runs") / run.run_id
    client = MlflowClient(database)
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"gp_scale": "10.0", "data_dir": "None"}
    assert stored.data.metrics == {"critic/loss": 1.5}
    tags = stored.data.tags
    assert tags["dataset"] == "digits"
    assert tags["entry_point"] == "wgan"
    assert tags["data.digits"] == "ab" * 32
    assert json.loads(tags["heartbeat"])["pid"] == os.getpid()
    assert (dataset := stored.inputs.dataset_inputs[0].dataset).name == "digits"
    assert json.loads(dataset.profile)["images"] == 1797
    folder = Path(client.download_artifacts(run.run_id, ""))
    assert (folder / "notes/hello.txt").read_text() == "hello"
    assert (folder / "tables/tree/sub/x.csv").read_text() == "1\n"
    assert json.loads((folder / "environment.json").read_text())["packages"]["mlflow"]
    assert json.loads((folder / "config.json").read_text())["gp_scale"] == 10.0
    assert run.run_id in run.url()


def test_git_tags_here_and_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tracking import environment

    subprocess.run(
        "git init -q && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x",
        shell=True,
        cwd=tmp_path,
        check=True,
    )
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, text=True).strip()
    monkeypatch.setattr(environment, "REPOSITORY", tmp_path)
    assert environment.git_state() == {"git.commit": head, "git.dirty": "false"}
    (tmp_path / "new.py").write_text("")
    assert environment.git_state()["git.dirty"] == "true"
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("GIT_COMMIT", "abc")
    assert environment.git_state() == {"git.commit": "abc"}
    monkeypatch.delenv("GIT_COMMIT")
    assert environment.git_state() == {}


def test_numbers_that_are_not_finite(database: str) -> None:
    with tracking.start_run("wgan", {}) as run:
        run.log_metrics({"nan": math.nan, "inf": math.inf, "minus": -math.inf, "after": 1.0}, 1)
        run.log_metrics({"nan": math.nan}, 2)
    client = MlflowClient(database)
    assert [math.isnan(metric.value) for metric in client.get_metric_history(run.run_id, "nan")] == [
        True,
        True,
    ]
    stored = client.get_run(run.run_id).data.metrics
    assert stored["after"] == 1.0
    assert stored["inf"] > 1e308
    assert stored["minus"] < -1e308


def test_bad_names_and_images_are_refused_at_once(database: str) -> None:
    with tracking.start_run("wgan", {}) as run:
        for name in ("loss(D)", "", "a//b", "/a", "../a", "a" * 251):
            with pytest.raises(ValueError, match="name"):
                run.log_metrics({name: 1.0}, 1)
        with pytest.raises(ValueError, match="uint8"):
            run.log_image("grid", np.zeros((3, 8, 8), np.uint8), 1)
        with pytest.raises(ValueError, match="uint8"):
            run.log_image("grid", np.zeros((8, 8, 3), np.float32), 1)


def test_a_refused_record_does_not_hold_up_the_others(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracking.start_run("wgan", {}) as run:
        run._spool.add("metrics", step=1, values={"bad(name": 1.0})
        run._spool.append("this is not JSON")
        run.log_metrics({"good": 1.0}, 1)
    assert MlflowClient(database).get_run(run.run_id).data.metrics == {"good": 1.0}
    refused = [json.loads(line) for line in (run.folder / "refused.jsonl").read_text().splitlines()]
    assert [record["op"] for record in refused] == ["metrics", "unreadable"]
    assert f"kept in {tmp_path}/runs/{run.run_id}/refused.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stored", "value", "same"),
    [
        ("1", 1.0, True),
        ("1e-4", 0.0001, True),
        ("'a b'", "a b", True),
        ("", None, True),
        ("None", None, True),
        ("true", True, True),
        ("digits", "celeba", False),
        ("1", 2, False),
        ("", "digits", False),
    ],
)
def test_same_value(stored: str, value: object, same: bool) -> None:
    assert store.same_value(stored, value) is same


def test_continues_the_run_of_mlflow_run(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient(database)
    # `mlflow run` in the default experiment has made a run and logged the command line's texts.
    made = client.create_run("0")
    for key, value in {"n_dis": "2", "gp_scale": "10", "lr": "1e-4", "name": "'a b'", "dataset": ""}.items():
        client.log_param(made.info.run_id, key, value)
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    params = {"n_dis": 2, "gp_scale": 10.0, "lr": 0.0001, "name": "a b", "dataset": "digits", "nz": 128}
    with tracking.start_run("wgan", params, run_name="by me") as run:
        run.log_metrics({"loss": 1.0}, 1)
    assert run.run_id == made.info.run_id
    assert client.get_run(run.run_id).info.run_name == "by me"
    assert not run.resumed
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {
        **{"n_dis": "2", "gp_scale": "10", "lr": "1e-4", "name": "'a b'", "dataset": ""},
        **{"resolved.dataset": "digits", "nz": "128"},
    }
    with tracking.start_run("wgan", params) as second:  # a second run of the process is its own
        pass
    assert second.run_id != run.run_id


def test_resuming_under_mlflow_run_ends_the_fresh_run(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError), tracking.start_run("wgan", {"n": 1}) as run:  # noqa: PT012
        run.log_metrics({"loss": 1.0}, 1)
        raise RuntimeError("out of memory")
    client = MlflowClient(database)
    assert client.get_run(run.run_id).info.status == "FAILED"
    assert client.get_run(run.run_id).data.tags["error"] == "RuntimeError: out of memory"
    fresh = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", fresh)
    with tracking.start_run("wgan", {"n": 1}, resume=run.run_id) as again:
        assert again.resumed
        again.log_metrics({"loss": 9.0}, 1)  # recorded before: skipped
        again.log_metrics({"loss": 2.0, "new": 5.0}, 2)
    assert again.run_id == run.run_id
    assert [metric.value for metric in client.get_metric_history(run.run_id, "loss")] == [1.0, 2.0]
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert client.get_run(fresh).info.status == "FINISHED"
    assert client.get_run(fresh).data.tags["resumes"] == run.run_id


def test_sigterm_does_not_cut_short_the_end_of_a_run_that_failed(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun sends it to a process that is failing already, since another was lost."""
    run = tracking.start_run("toy", {}, output_dir=tmp_path / "runs")
    finish = run.finish

    def finish_with_a_signal(status: str) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(status)

    monkeypatch.setattr(run, "finish", finish_with_a_signal)
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    try:
        with pytest.raises(ValueError, match="lost"), run:
            raise ValueError("lost")
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert MlflowClient(database).get_run(run.run_id).info.status == "FAILED"


def test_resume_of_what_is_not_there(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="is not in sqlite"):
        tracking.start_run("wgan", {}, resume="0123456789abcdef0123456789abcdef")
    with pytest.raises(InputError, match="not a run id"):
        tracking.start_run("wgan", {}, resume="../secrets")
    with tracking.start_run("wgan", {}, resume="latest") as run:
        assert not run.resumed
    assert "starting a new one" in capsys.readouterr().out
    with pytest.raises(InputError, match="is a wgan run"):
        tracking.start_run("fid", {}, resume=run.run_id)


def test_an_output_folder_that_cannot_be_written(database: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "runs", Path("/proc/runs")):
        with pytest.raises(InputError, match=f"output_dir: cannot write to '{folder}'"):
            tracking.start_run("wgan", {}, output_dir=folder)
    assert MlflowClient(database).get_experiment_by_name("wgan-eeg") is None  # and so no run of it


def test_resuming_where_the_artifacts_cannot_be_listed(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking.start_run("wgan", {}) as run:
        run.log_metrics({"loss": 1.0}, 1)

    def gone(self: MlflowClient, run_id: str, path: str | None = None) -> list:
        raise PermissionError(13, "Permission denied", "/mnt/artifacts")

    with monkeypatch.context() as context:
        context.setattr(MlflowClient, "list_artifacts", gone)
        with pytest.raises(InputError, match=r"artifacts of run .* Permission denied"):
            tracking.start_run("wgan", {}, resume=run.run_id)
    with tracking.start_run("wgan", {}, resume=run.run_id) as again:  # the folder is free
        assert again.resumed


def test_a_package_without_metadata_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracking import environment

    for name in ("half_removed-1.0", "other_half-2.0"):
        (tmp_path / f"{name}.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    packages = environment.environment()["packages"]
    assert packages["mlflow"]
    assert all(isinstance(name, str) for name in packages)


def test_one_run_is_written_by_one_process(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracking.outbox.spool.Spool.__init__.__defaults__", (0.2,))
    with tracking.start_run("wgan", {}) as run, pytest.raises(InputError, match="in use"):
        tracking.start_run("wgan", {}, resume=run.run_id)


def test_other_ranks_are_silent(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with tracking.start_run("wgan", {}) as run:
        assert isinstance(run, tracking.SilentRun)
    public = {name for name in vars(tracking.Run) if not name.startswith("_")} - {"register", "start_writer"}
    assert public <= set(dir(tracking.SilentRun))
    assert not Path("runs").exists()


def test_stores_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri, message in {
        "file:./mlruns": "folders of files",
        "nonsense://x": "nonsense",
        "sqlite:////proc/x/y.db": "proc",
    }.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(InputError, match=message):
            tracking.start_run("wgan", {}, output_dir=tmp_path)


def test_four_processes_meet_an_absent_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    processes = [train(tmp_path / f"runs{number}", "", 12, 0.0) for number in range(4)]
    run_ids = [started(process)[0] for process in processes]
    assert [process.wait(PATIENCE) for process in processes] == [0, 0, 0, 0]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for run_id in run_ids:
        assert_whole(client, run_id, 12)
    assert len({client.get_run(run_id).info.experiment_id for run_id in run_ids}) == 1


def test_killed_and_resumed_at_random_points(database: str, tmp_path: Path) -> None:
    chance = random.Random(0)
    resume, run_ids = "", set()
    for _ in range(2):
        process = train(tmp_path / "runs", resume, 200, 0.02)
        run_ids.add(started(process)[0])
        assert process.stdout is not None
        assert next(process.stdout).startswith("checkpoint")  # before one there is nothing to resume
        time.sleep(chance.uniform(0.0, 1.2))
        process.kill()
        process.wait()
        resume = "latest"
    with open(tmp_path / "runs" / run_ids.copy().pop() / "spool.jsonl", "a") as file:
        file.write('{"op": "metrics", "time": 1, "step": 190, "val')  # a write that the power cut short
    process = train(tmp_path / "runs", resume, 200, 0.0)
    run_id, step = started(process)
    assert process.wait(PATIENCE) == 0
    assert step >= 14
    assert run_ids == {run_id}
    assert_whole(MlflowClient(database), run_id, 200)
    assert not (tmp_path / "runs" / run_id / "refused.jsonl").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_signals_end_with_a_checkpoint(database: str, tmp_path: Path, number: int, code: int) -> None:
    process = train(tmp_path / "runs", "", 100_000, 0.02)
    run_id, _ = started(process)
    time.sleep(0.5)
    process.send_signal(number)
    assert process.wait(PATIENCE) == code
    client = MlflowClient(database)
    assert client.get_run(run_id).info.status == "KILLED"
    state = tracking.load_checkpoint(tmp_path / "runs" / run_id / "checkpoint.pt")
    assert steps_of(client, run_id, "loss") == list(range(1, state["step"] + 1))


TWICE = """
import os, signal, sys, time
from common.errors import run_main
from tracking import StopRequest, start_run

signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background inherits that it is ignored

def main():
    with start_run("toy", {}) as run, StopRequest():
        run.log_metrics({"loss": 1.0}, 1)
        print(run.run_id, flush=True)
        for _ in range(2):  # in the middle of a step that takes long
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        time.sleep(3600)

run_main(main)
"""


def test_a_second_ctrl_c_ends_the_run_at_once_and_in_good_order(database: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": database}
    done = subprocess.run(
        [sys.executable, "-c", TWICE], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    run = MlflowClient(database).get_run(done.stdout.split()[0])
    assert (run.info.status, run.data.metrics) == ("KILLED", {"loss": 1.0})


def test_server_dies_in_the_middle(server: Server, tmp_path: Path) -> None:
    process = train(tmp_path / "runs", "", 220, 0.03)
    run_id, _ = started(process)
    time.sleep(2.0)
    server.kill()
    time.sleep(3.0)
    server.start()
    assert process.wait(PATIENCE) == 0
    assert_whole(MlflowClient(server.uri), run_id, 220)


def test_server_away_at_the_end_then_sync(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "FINISH_PATIENCE", 0.5)
    monkeypatch.setattr("tracking.run.Run.deliver.__defaults__", (0.5, math.inf))
    run = tracking.start_run("toy", {"n": 1})
    assert run.deliver()
    server.kill()
    for step in range(1, 51):
        run.log_metrics({"loss": 1 / step, "rate": 2.0 * step}, step)
        if step % 5 == 0:
            run.log_image("samples/grid", np.zeros((8, 8, 3), np.uint8), step)
    monkeypatch.setattr("tracking.registry.models.REGISTER_PATIENCE", 0.2)
    example = np.zeros((2, 3), np.float32)
    network = torch.nn.Linear(3, 1)
    model = tracking.log_model(run, network, "net", example, registered_name="late", config={"n": 3})
    assert model.version is None
    assert tracking.load_weights(model.uri)[1] == {"n": 3}
    assert not run.finish()
    message = capsys.readouterr().out
    assert re.search(
        r"62 records are not delivered \(.*Connection .*\); .* python -m tracking sync /.*/runs", message
    ), message
    if run._writer.is_alive():
        run._writer.join(10)
        run._spool.close()
    assert commands.main(["sync", "runs"]) == 1  # still away: says so, keeps all
    told = capsys.readouterr().out
    assert "62 of 62 records still wait" in told
    assert "run.json" not in told  # that server knows the run: it can go nowhere else
    server.start()
    assert commands.main(["sync", "runs"]) == 0
    assert "62 records delivered" in capsys.readouterr().out
    assert commands.main(["sync", str(run.folder)]) == 0
    assert_whole(MlflowClient(server.uri), run.run_id, 50)
    state, config = tracking.load_weights("models:/late@latest-good")
    assert config == {"n": 3}
    assert torch.equal(state["weight"], network.weight)


def test_started_without_its_server(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starting, "START_PATIENCE", 0.0)
    server.kill()
    with tracking.start_run("toy", {"n": 1}, run_name="early") as run:
        assert run.run_id.startswith("offline-")
        assert "does not answer" in capsys.readouterr().out
        local_id = run.run_id
        for step in range(1, 11):
            run.log_metrics({"loss": 1 / step, "rate": 2.0 * step}, step)
            if step % 5 == 0:
                run.log_image("samples/grid", np.zeros((8, 8, 3), np.uint8), step)
        server.start()
    client = MlflowClient(server.uri)
    assert run.run_id != local_id
    assert_whole(client, run.run_id, 10)
    assert client.get_run(run.run_id).info.run_name == "early"
    # It is found again under the id that the server gave it.
    assert run_folder(Path("runs"), run.run_id) == Path("runs") / local_id
    with tracking.start_run("toy", {"n": 1}, resume=run.run_id) as again:
        assert again.run_id == run.run_id


def test_a_run_begun_with_a_mistyped_address_goes_where_it_should(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starting, "START_PATIENCE", 0.0)
    monkeypatch.setattr("tracking.run.Run.deliver.__defaults__", (0.5, math.inf))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    run = tracking.start_run("toy", {"n": 1})
    run.log_metrics({"loss": 0.5}, 1)
    assert not run.finish()
    if run._writer.is_alive():
        run._writer.join(10)
        run._spool.close()
    assert commands.main(["sync", "runs"]) == 1
    facts = run.folder / "run.json"
    assert f"where that address is wrong, correct tracking_uri in {facts}" in capsys.readouterr().out
    facts.write_text(facts.read_text().replace("http://127.0.0.1:1", server.uri))
    assert commands.main(["sync", "runs"]) == 0
    found = MlflowClient(server.uri).get_run(json.loads(facts.read_text())["run_id"])
    assert (found.info.status, found.data.metrics["loss"]) == ("FINISHED", 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("carried", [True, False])
def test_resumed_on_another_machine(server: Server, tmp_path: Path, carried: bool) -> None:
    """Only the checkpoint travels (by hand, or through the server), not the spool.

    What it carries fills the gap.
    """
    process = train(tmp_path / "here", "", 100_000, 0.01, upload=not carried)
    run_id, _ = started(process)
    if carried:
        server.kill()  # what follows exists in this machine's spool and in checkpoints alone
    time.sleep(2.5 if carried else 7.0)
    process.kill()
    process.wait()
    if carried:
        server.start()
        (tmp_path / "there" / run_id).mkdir(parents=True)
        shutil.copy(tmp_path / "here" / run_id / "checkpoint.pt", tmp_path / "there" / run_id)
    process = train(tmp_path / "there", run_id, 700, 0.0)
    same_id, step = started(process)
    assert (same_id, step > 20) == (run_id, True)
    assert process.wait(PATIENCE) == 0
    assert_whole(MlflowClient(server.uri), run_id, 700)


def test_reap_ends_only_what_is_dead(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    client = MlflowClient(database)
    with tracking.start_run("wgan", {}) as live:
        live.deliver()
        experiment = client.get_run(live.run_id).info.experiment_id
        dead, zombie, young = (client.create_run(experiment).info.run_id for _ in range(3))
        client.set_tag(dead, "heartbeat", json.dumps({"host": "a", "pid": 1, "time": int(time.time()) - 1200}))
        old = client.create_run(experiment, start_time=int((time.time() - 90_000) * 1000)).info.run_id
        assert commands.main(["reap"]) == 0
        status = {
            name: client.get_run(run).info.status
            for name, run in {"live": live.run_id, "dead": dead, "old": old, "young": young}.items()
        }
    assert status == {"live": "RUNNING", "dead": "KILLED", "old": "KILLED", "young": "RUNNING"}
    assert client.get_run(zombie).info.status == "RUNNING"
    assert "2 of 5 RUNNING runs ended" in capsys.readouterr().out
    with pytest.raises(InputError, match="experiment 'nope'"):
        commands.main(["reap", "--experiment", "nope"])


def test_sync_of_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        commands.main(["sync", str(tmp_path / "nope")])
    with pytest.raises(InputError, match="holds no runs"):
        commands.main(["sync", str(tmp_path)])


def test_away_server_that_must_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(InputError, match="Connection refused"):
        tracking.start_run("wgan", {}, output_dir=tmp_path, resume="0123456789abcdef0123456789abcdef")

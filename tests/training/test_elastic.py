"""A lost worker: torchrun starts the processes again and the run goes on from its checkpoint, under its own id."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.conftest import PATIENCE, ROOT
from tests.running import begin_trainer, client, command, environment, history, run_trainer, runs
from tests.tracking.servers import free_port
from tests.trainers.wgan.test_run import TINY, _step_on_disk, assert_same_weights, checkpoint_of
from tracking.silent_run import SilentRun
from trainers.wgan.loop import METRICS
from training.processes import Processes
from training.step_log import StepLog

PAIR: dict[str, object] = {**TINY, "nproc": 2, "steps": 24}


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The trainers that torchrun (which the started process became) has started, in the order of their ranks."""
    children = [child for child in psutil.Process(process.pid).children() if "trainers.wgan" in child.cmdline()]
    return sorted(children, key=lambda child: int(child.environ()["RANK"]))


def start(folder: Path, **parameters: object) -> subprocess.Popen[str]:
    return begin_trainer(folder, "wgan", **parameters)


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint of a later step than `step` is on the disk."""
    deadline = time.monotonic() + PATIENCE
    while _step_on_disk(folder) <= step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_the_steps_since_the_checkpoint(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rank 1 is killed, then rank 0: the end is bit for bit that of two processes that were left alone."""
    reference = tmp_path_factory.mktemp("reference")
    (reference / "mlflow.db").write_bytes((folder / "mlflow.db").read_bytes())
    run_trainer(reference, "wgan", **PAIR)
    [left_alone] = runs(reference)

    process = start(folder, **PAIR, max_restarts=2)
    step = 0
    for rank in (1, 0):
        wait_for_step(folder, step, process)
        step = _step_on_disk(folder)
        os.kill(workers(process)[rank].pid, signal.SIGKILL)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    assert output.count("resumed at step") >= 2, output

    [run] = runs(folder)
    assert run.info.status == "FINISHED"
    assert run.data.tags["error"] == ""
    assert client(folder).get_run(run.info.run_id).data.tags["world_size"] == "2"
    assert_same_weights(checkpoint_of(folder, run.info.run_id), checkpoint_of(reference, left_alone.info.run_id))
    for metric in METRICS:
        assert history(folder, run.info.run_id, metric) == history(reference, left_alone.info.run_id, metric), metric


@pytest.mark.slow
def test_without_restarts_a_lost_worker_ends_the_run_and_it_can_be_resumed(folder: Path) -> None:
    process = start(folder, **PAIR)
    wait_for_step(folder, 0, process)
    os.kill(workers(process)[1].pid, signal.SIGKILL)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode != 0, output
    [run] = runs(folder)
    assert run.info.status in ("FAILED", "KILLED"), output
    assert "resumed at step" in run_trainer(folder, "wgan", **PAIR, resume="latest")
    [run] = runs(folder)
    assert run.info.status == "FINISHED"


def wait_for_end(*processes: psutil.Process) -> None:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    assert not alive


ENDLESS: dict[str, object] = {**TINY, "steps": 100_000, "checkpoint_every": 20, "sample_every": 100_000}


@pytest.mark.slow
def test_without_their_launcher_the_workers_stop_and_the_run_is_killed(folder: Path) -> None:
    process = start(folder, **ENDLESS, nproc=2)
    wait_for_step(folder, 0, process)
    orphans = workers(process)
    assert len(orphans) == 2
    process.kill()
    wait_for_end(*orphans)
    [run] = runs(folder)
    assert run.info.status == "KILLED"
    assert _step_on_disk(folder) >= 20


@pytest.mark.slow
def test_without_mlflow_run_the_trainer_stops_and_the_run_is_killed(folder: Path) -> None:
    places = {"output_dir": folder / "runs", "cache_dir": folder / "cache", "preset": "quick", "dataset": "digits"}
    options = [word for name, value in {**ENDLESS, **places}.items() for word in ("-P", f"{name}={value}")]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "wgan", "--env-manager", "local", *options],
        cwd=folder,
        env={**environment(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_step(folder, 0, launcher)
    trainers = psutil.Process(launcher.pid).children(recursive=True)
    launcher.kill()
    wait_for_end(*trainers)
    [run] = runs(folder)
    assert run.info.status == "KILLED"


def start_machine(folder: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """One of one or two machines, as docs/cluster.md has it: torchrun with one worker, in a process group of its
    own.
    """
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=1:2",
        "--nproc-per-node=1",
        "--max-restarts=3",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{port}",
        "--rdzv-id=shrinking",
    ]
    trainer = command("wgan", **{**TINY, "steps": 500, "checkpoint_every": 20, "sample_every": 500})[1:]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*torchrun, *trainer],
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**environment(folder), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        )


def kill_machine(machine: subprocess.Popen[bytes]) -> None:
    """The agent and its workers at once, as when the power fails (workers have sessions of their own)."""
    for process in [*psutil.Process(machine.pid).children(recursive=True), psutil.Process(machine.pid)]:
        process.kill()
    machine.wait()


def wait_for_text(log: Path, pattern: str, machine: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not re.search(pattern, log.read_text()):
        assert machine.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def wait_for_port(port: int, machine: subprocess.Popen[bytes]) -> None:
    while True:
        with socket.socket() as client_socket:
            if client_socket.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert machine.poll() is None
        time.sleep(0.1)


@pytest.mark.slow
def test_a_job_goes_on_with_one_machine_and_takes_the_other_in_again(folder: Path) -> None:
    port = free_port()
    log, other_log = folder / "first.log", folder / "second.log"
    first = start_machine(folder, port, log)
    wait_for_port(port, first)  # the rendezvous is with the one that listens first
    second = start_machine(folder, port, other_log)
    try:
        wait_for_text(log, "from step 0", first)
        while _step_on_disk(folder) <= 0:
            assert first.poll() is None, log.read_text()
            time.sleep(0.2)
        kill_machine(second)
        wait_for_text(log, r"resumed at step \d+", first)
        [run] = runs(folder)
        second = start_machine(folder, port, other_log)
        wait_for_text(log, r"(?s)resumed at step.*resumed at step", first)
        assert first.wait(PATIENCE) == 0, log.read_text()
        assert second.wait(PATIENCE) == 0, other_log.read_text()
    finally:
        for machine in (first, second):
            if machine.poll() is None:
                kill_machine(machine)
    [run] = runs(folder)
    assert run.info.status == "FINISHED"
    steps = [step for step, _ in history(folder, run.info.run_id, METRICS[0])]
    assert steps == list(range(5, 501, 5))  # no point lost, none doubled


def _points_of_one_of_two(rank: int, folder: str) -> None:
    """Four steps with a point at the last: once without a stop, once with a checkpoint of rank 0 after two steps."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    processes = Processes(rank, 2, torch.device("cpu"))
    rows = torch.rand(4, 1, generator=torch.Generator().manual_seed(rank))
    points = []
    for stopped in (False, True):
        log = StepLog(SilentRun(), processes, ["loss"], log_every=4, batch_size=8)
        for step, row in enumerate(rows, 1):
            log.add(row, step)
            if step == 2:
                log.check(step)
                state = processes.share(log.state_dict())
                if stopped:
                    log = StepLog(SilentRun(), processes, ["loss"], log_every=4, batch_size=8)
                    log.load_state_dict(state)
        points.append(log.column("loss"))
    torch.save({"points": points, "rows": rows}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_a_checkpoint_holds_means_over_the_processes(tmp_path: Path) -> None:
    """All processes go on from rank 0's checkpoint: what it holds of a point must be everybody's."""
    mp.spawn(_points_of_one_of_two, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    mean = torch.stack([first["rows"], second["rows"]]).double().mean().item()
    assert not torch.equal(first["rows"], second["rows"])
    for left_alone, stopped in (first["points"], second["points"]):
        assert stopped == left_alone
        assert left_alone == pytest.approx([mean], abs=1e-7)

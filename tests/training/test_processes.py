"""Collective operations among real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from common.errors import InputError
from tests.conftest import PATIENCE, ROOT
from tests.running import run_trainer, runs
from tests.tracking.servers import free_port
from training.processes import Processes, join_processes


def _gather(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3)
    processes = Processes(rank, 3, torch.device("cpu"))
    mine = processes.share_of(7)
    rows = torch.arange(7.0).reshape(7, 1)[mine.start : mine.stop] * torch.tensor([1.0, 10.0])
    torch.save(processes.gather(rows), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_gather_gives_every_process_all_rows_in_order(tmp_path: Path) -> None:
    mp.spawn(_gather, (str(tmp_path),), nprocs=3)  # type: ignore[attr-defined]
    for rank in range(3):
        gathered = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert gathered.tolist() == [[float(i), 10.0 * i] for i in range(7)]


def test_shares_cover_everything_once() -> None:
    for world_size in (1, 2, 5, 9):
        shares = [list(Processes(rank, world_size, torch.device("cpu")).share_of(7)) for rank in range(world_size)]
        assert [i for share in shares for i in share] == list(range(7))


# Registered before the group is joined, so it runs after what joining registers.
ENDS_WITHOUT_A_GROUP = """
import atexit, torch.distributed as dist
atexit.register(lambda: print("group left:", not dist.is_initialized()))
from training.processes import join_processes
assert join_processes("cpu").any(True) and dist.is_initialized()
"""


def test_a_process_leaves_its_group_when_it_ends() -> None:
    """Else gloo's thread is still running while the interpreter ends, and now and then aborts it."""
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ENDS_WITHOUT_A_GROUP],
            env={**os.environ, **meeting, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        output, _ = process.communicate(timeout=PATIENCE)
        assert (process.returncode, output) == (0, "group left: True\n")


def test_bad_input_in_two_processes_is_status_2_at_once_without_torchruns_traceback(folder: Path) -> None:
    text = run_trainer(
        folder, "wgan", status=2, nproc=2, max_restarts=2, device="cpu", dataset="folder", data_dir="nowhere"
    )
    assert "error: nowhere: no such folder or zip" in text
    assert "Traceback" not in text
    assert text.count("error: ") <= 2  # each process, once
    assert runs(folder) == []


def test_other_faults_are_tried_again_and_end_with_torchruns_status() -> None:
    again = "import os, sys; print('attempt', os.environ['TORCHELASTIC_RESTART_COUNT']); sys.exit(3)"
    torchrun = ["-m", "training.torchrun", "--standalone", "--nproc-per-node=1", "--max-restarts=1", "--no-python"]
    done = subprocess.run(
        [sys.executable, *torchrun, sys.executable, "-c", again],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (1, "attempt 0\nattempt 1\n"), done.stderr
    assert "ChildFailedError" in done.stderr


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(
        InputError, match=r"nproc: 2 processes on this machine, .* PyTorch sees 1; give nproc of at most 1"
    ):
        join_processes("auto")
    assert join_processes("cpu").device.type == "cpu"

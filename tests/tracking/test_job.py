"""Which run the workers that torchrun restarts continue, by its variables and the run folders."""

import json
import os
from pathlib import Path

import pytest

from common.errors import InputError
from tracking.checkpoint import find_checkpoint
from tracking.outbox.spool import Spool
from tracking.resuming import find_resumable, undelivered


def make_run(output_dir: Path, run_id: str, **facts: object) -> Path:
    folder = output_dir / run_id
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(
        json.dumps({"run_id": run_id, "entry_point": "wgan", "status": "RUNNING", **facts})
    )
    return folder


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr("tracking.resuming._job_served", False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    return monkeypatch


def test_the_unfinished_run_of_the_same_job_and_entry_point_is_found(tmp_path: Path, job: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, "other-job", job="job-2")
    make_run(tmp_path, "no-job", job=None)
    make_run(tmp_path, "done", job="job-1", status="FINISHED")
    make_run(tmp_path, "other-entry-point", job="job-1", entry_point="fid")
    assert find_resumable(None, "wgan", tmp_path) is None
    # whatever its state, and also where torchrun counts no restart (machines that came or went)
    folder = make_run(tmp_path, "ours", job="job-1", status="FAILED")
    assert find_resumable(None, "wgan", tmp_path) == "ours"
    # what the command line says was for the first attempt
    (make_run(tmp_path, "newer", job=None) / "checkpoint.pt").touch()
    assert find_resumable("latest", "wgan", tmp_path) == "ours"
    # no checkpoint yet: nobody is asked for one
    job.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert find_checkpoint(tmp_path, "ours") is None
    (folder / "checkpoint.pt").touch()
    assert find_checkpoint(tmp_path, "ours") == folder / "checkpoint.pt"


def test_a_process_goes_on_with_one_run_alone(tmp_path: Path, job: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, "ours", job="job-1")
    job.setattr("tracking.resuming._job_served", True)
    assert find_resumable(None, "wgan", tmp_path) is None


def test_without_torchrun_there_is_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    make_run(tmp_path, "no-job", job=None)
    assert find_resumable(None, "wgan", tmp_path) is None


def test_a_nameless_job_can_start_but_not_restart(tmp_path: Path, job: pytest.MonkeyPatch) -> None:
    job.setenv("TORCHELASTIC_RUN_ID", "none")
    make_run(tmp_path, "somebody's", job=None)
    assert find_resumable(None, "wgan", tmp_path) is None
    job.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(InputError, match="--rdzv-id=NAME"):
        find_resumable(None, "wgan", tmp_path)


def test_a_restart_that_finds_no_run_says_so(
    tmp_path: Path, job: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert find_resumable(None, "wgan", tmp_path) is None
    assert f"no run of it is in {tmp_path}" in capsys.readouterr().out
    assert os.environ["TORCHELASTIC_RUN_ID"] == "job-1"


@pytest.mark.parametrize("noted", [True, False])
def test_finished_but_not_delivered_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: bool
) -> None:
    """noted: whether the process was killed behind the change of run.json."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    folder = make_run(tmp_path, "ours", job=None, status="FINISHED" if noted else "RUNNING")
    (folder / "checkpoint.pt").touch()
    spool = Spool(folder)
    spool.add("finish", status="FINISHED")
    assert find_resumable("latest", "wgan", tmp_path) == "ours"
    assert undelivered(tmp_path, "ours", "latest") == folder
    assert undelivered(tmp_path, "ours", "ours") is None  # asked for by name: to be trained on
    spool.mark_sent(spool.size)
    assert find_resumable("latest", "wgan", tmp_path) is None
    assert undelivered(tmp_path, "ours", "latest") is None
    spool.add("status", status="RUNNING")  # resumed, and killed
    spool.set_facts(status="RUNNING")
    assert find_resumable("latest", "wgan", tmp_path) == "ours"
    assert undelivered(tmp_path, "ours", "latest") is None
    spool.close()


def test_latest_says_where_it_found_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    (make_run(tmp_path, "other-entry-point", entry_point="fid") / "checkpoint.pt").touch()
    monkeypatch.chdir(tmp_path.parent)
    assert find_resumable("latest", "wgan", Path(tmp_path.name)) is None
    assert capsys.readouterr().out == (
        f"resume=latest: no unfinished wgan run with a checkpoint in {tmp_path}; starting a new one\n"
    )

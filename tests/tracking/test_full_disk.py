"""No space left under output_dir: the run is ended through the store, and one line says what is needed."""

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import tracking
from common.errors import InputError, disk_is_full
from tests.running import small_file_system
from tracking.outbox.spool import Spool

Fill = Callable[[tracking.Run], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB; the test is skipped where none can be mounted."""
    with small_file_system(tmp_path / "disk", kilobytes=4096) as folder:
        yield folder


def fill(folder: Path) -> None:
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def log_until_it_fails(run: tracking.Run) -> None:
    for step in range(2, 10**6):
        run.log_metrics({"loss": 1 / step}, step)


def log_with_a_failing_write(run: tracking.Run) -> None:
    """As on a full disk, which cannot be had everywhere: neither the spool nor any other file can be written."""
    with pytest.MonkeyPatch.context() as context:

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        context.setattr("tracking.outbox.spool.os.write", full)
        run.log_metrics({"loss": 0.5}, 2)


def save_too_much(run: tracking.Run) -> None:
    tracking.save_checkpoint(run.checkpoint_path, {"weights": torch.zeros(4_000_000)})


@pytest.mark.parametrize("write", [log_until_it_fails, save_too_much])
def test_on_a_full_disk_the_run_ends_through_the_store(
    database: str, small_disk: Path, write: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(database)
    words = rf"no space is left for {small_disk}/\w+ .* make room for at least 67.1 MB; the run is ended as FAILED"
    with pytest.raises(InputError, match=words), tracking.start_run("toy", {}, output_dir=small_disk) as run:  # noqa: PT012
        run.log_metrics({"loss": 1.0}, 1)
        if write is log_until_it_fails:
            fill(small_disk)
        write(run)
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FAILED"
    assert "no space is left" in stored.data.tags["error"]
    assert client.get_metric_history(run.run_id, "loss")[0].step == 1
    (small_disk / "filler").unlink(missing_ok=True)
    with tracking.start_run("toy", {}, output_dir=small_disk, resume=run.run_id) as again:
        again.log_metrics({"other": 1.0}, 1)
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.metrics["other"] == 1.0
    assert stored.data.tags["error"] == ""


def test_a_run_does_not_begin_on_a_full_disk(database: str, small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(InputError, match=f"output_dir: cannot write to '{small_disk}' .No space left on device"):
        tracking.start_run("toy", {}, output_dir=small_disk)
    assert MlflowClient(database).get_experiment_by_name("wgan-eeg") is None


def test_the_end_itself_finds_the_disk_full(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tracking.start_run("toy", {})
    with pytest.raises(InputError, match="no space is left"), run:  # noqa: PT012
        run.log_metrics({"loss": 1.0}, 1)
        assert run.deliver()

        def full(self: Spool, line: str) -> int:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

        monkeypatch.setattr(Spool, "append", full)
    stored = MlflowClient(database).get_run(run.run_id)
    assert stored.info.status == "FAILED"
    assert stored.data.metrics == {"loss": 1.0}


def test_without_a_real_small_disk(database: str) -> None:
    with pytest.raises(InputError, match="no space is left"), tracking.start_run("toy", {}) as run:
        log_with_a_failing_write(run)
    assert MlflowClient(database).get_run(run.run_id).info.status == "FAILED"


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0",
        "basic_ios::clear: iostream error",
        "Error while serializing: I/O error: No space left on device (os error 28)",
    ],
)
def test_what_torch_and_safetensors_say_on_a_full_disk(words: str) -> None:
    assert disk_is_full(RuntimeError(words))


def test_other_faults_are_no_full_disk() -> None:
    assert not disk_is_full(None)
    assert not disk_is_full(OSError(errno.EACCES, "Permission denied"))
    assert not disk_is_full(RuntimeError("shape mismatch"))
    assert disk_is_full(OSError(errno.EFBIG, "File too large"))

"""Checkpoints under damage and crashes, and stop requests by real signals."""

import os
import random
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from common.errors import InputError
from tracking import StopRequest, find_checkpoint, load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent.parent


def state(step: int) -> dict:
    generator = torch.Generator().manual_seed(step)
    network = torch.nn.Linear(8, 8)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    return {
        "step": step,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "config": {"gp_scale": 10.0, "data_dir": None, "names": ["a", "b"], "raw": b"\x00\xff"},
        "values": torch.randn(200, generator=generator),
    }


def same(one: dict, other: dict) -> bool:
    return str(one) == str(other) and torch.equal(one["values"], other["values"])


def test_round_trip_keeps_the_previous(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    first, second = state(1), state(2)
    save_checkpoint(path, first)
    save_checkpoint(path, second)
    assert same(load_checkpoint(path), second)
    assert same(load_checkpoint(tmp_path / "checkpoint.pt.previous"), first)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.pt", "checkpoint.pt.previous"]


def test_nothing_is_left_over_after_a_kill_between_keeping_and_writing(tmp_path: Path) -> None:
    """Two names of one file: to rename one to the other does nothing, by POSIX."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state(1))
    os.link(path, tmp_path / "checkpoint.pt.previous")  # the kill came here
    save_checkpoint(path, state(2))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.pt", "checkpoint.pt.previous"]


def test_a_state_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state(1))
    with pytest.raises(TypeError, match=r"state\['config'\]\['path'\] is a PosixPath"):
        save_checkpoint(path, {"config": {"path": Path("x")}})
    assert load_checkpoint(path)["step"] == 1


Point = namedtuple("Point", "x y")
Colour = IntEnum("Colour", "RED")


@pytest.mark.parametrize(
    "value", [np.float64(1.0), np.str_("a"), Colour.RED, Point(1, 2), defaultdict(list), [np.float64(1.0)], frozenset()]
)
def test_what_looks_plain_but_could_not_be_read_again(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"state\['value'\](\[0\])? is a "):
        save_checkpoint(tmp_path / "checkpoint.pt", {"value": value})


def test_every_type_that_is_accepted_is_read_again(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "plain": ["a", 1, 1.0, True, b"\xff", None, 2**70],
        "tuple": (1, (2,)),
        "set": {1, "a"},
        "ordered": OrderedDict(a=1),
        "counter": Counter("aab"),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "size": torch.Size([2, 3]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        7: {(1, "a"): 2},
    }
    save_checkpoint(tmp_path / "checkpoint.pt", values)
    assert str(load_checkpoint(tmp_path / "checkpoint.pt")) == str(values)


@pytest.mark.parametrize("error", [RuntimeError("File is encrypted"), zlib.error("invalid block")])
def test_whatever_the_archive_raises_the_previous_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state(1))
    save_checkpoint(path, state(2))
    path.write_bytes(b"damaged")

    class Archive(zipfile.ZipFile):
        def __init__(self, file: Path) -> None:
            if file == path:
                raise error
            super().__init__(file)

    monkeypatch.setattr("tracking.checkpoint.zipfile.ZipFile", Archive)
    assert load_checkpoint(path)["step"] == 1
    assert str(error) in capsys.readouterr().err


def test_an_encrypted_bit_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, state(1))
    save_checkpoint(path, state(2))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of the first entry in the directory
    path.write_bytes(content)
    assert load_checkpoint(path)["step"] == 1


def test_any_damage_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of 60 flipped bits, 20 of them in the archive's directory, and of 10 cuts."""
    chance = random.Random(0)
    path = tmp_path / "checkpoint.pt"
    first, second = state(1), state(2)
    save_checkpoint(path, first)
    save_checkpoint(path, second)
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    for number in range(70):
        damaged = bytearray(whole)
        if number < 60:
            place = chance.randrange(len(whole)) if number < 40 else chance.randrange(directory, len(whole))
            damaged[place] ^= 1 << chance.randrange(8)
        else:
            del damaged[chance.randrange(len(whole)) :]
        path.write_bytes(damaged)
        assert same(load_checkpoint(path), first)
        assert "is damaged" in capsys.readouterr().err
    path.write_bytes(whole[:-73] + bytes(73))  # the comment and its length, as a power cut leaves them
    assert same(load_checkpoint(path), first)


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It has no checksum of its own: the archive's are compared."""
    path, first = tmp_path / "checkpoint.pt", state(1)
    torch.save(first, path)
    assert same(load_checkpoint(path), first)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="wrong checksum in"):
        load_checkpoint(path)


def test_a_small_file_of_gigabytes_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "whole.pt", {"values": torch.zeros(1_000_000)})
    path = tmp_path / "checkpoint.pt"
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    assert path.stat().st_size < 50_000
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("an entry was read"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(InputError, match="it would unpack to more than its size"):
        load_checkpoint(path)


def test_the_checksum_hides_nothing_from_other_programs(tmp_path: Path) -> None:
    first = state(1)
    save_checkpoint(tmp_path / "checkpoint.pt", first)
    assert same(torch.load(tmp_path / "checkpoint.pt", weights_only=True), first)
    with zipfile.ZipFile(tmp_path / "checkpoint.pt") as archive:
        assert archive.testzip() is None


def test_nothing_to_fall_back_on(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="is damaged"):
        load_checkpoint(path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "owned"),))

    torch.save({"step": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "owned").exists()


def test_killed_while_writing(tmp_path: Path) -> None:
    """kill -9 at random moments of a loop that does nothing but save.

    A whole checkpoint is there every time.
    """
    code = """
import sys, torch
from pathlib import Path
from tracking.checkpoint import save_checkpoint
step = 0
while True:
    step += 1
    save_checkpoint(Path(sys.argv[1]), {"step": step, "values": torch.full((300_000,), float(step))})
    print(step, flush=True)
"""
    chance = random.Random(1)
    for number in range(2):
        path = tmp_path / str(number) / "checkpoint.pt"
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        reported = [1, *(int(line) for line in process.stdout.read().split() if line.isdigit())][-1]
        loaded = load_checkpoint(path)
        assert loaded["step"] >= reported
        assert torch.equal(loaded["values"], torch.full((300_000,), float(loaded["step"])))


def test_find_checkpoint_of_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "abc").mkdir()
    save_checkpoint(tmp_path / "abc" / "checkpoint.pt", {"step": 1})
    assert find_checkpoint(tmp_path, "abc") == tmp_path / "abc" / "checkpoint.pt"
    (tmp_path / "abc" / "checkpoint.pt").rename(tmp_path / "abc" / "checkpoint.pt.previous")
    assert load_checkpoint(find_checkpoint(tmp_path, "abc") or tmp_path)["step"] == 1


def test_a_download_that_breaks_off_leaves_nothing(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(database)
    run_id = client.create_run("0").info.run_id
    client.log_text(run_id, "x", "checkpoints/checkpoint.pt")

    def broken(self: MlflowClient, run_id: str, path: str, folder: str) -> str:
        (Path(folder) / "checkpoints").mkdir()
        (Path(folder) / "checkpoints" / "half").write_text("")
        raise MlflowException("connection reset")

    monkeypatch.setattr(MlflowClient, "download_artifacts", broken)
    with pytest.raises(InputError, match="connection reset"):
        find_checkpoint(tmp_path / "runs", run_id)
    assert list((tmp_path / "runs" / run_id).iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stop_request(number: int, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert (stop.requested, stop.exit_code) == (False, 0)
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert (stop.requested, stop.exit_code) == (True, code)
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers repeat it; the checkpoint must still be written
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 (the signal may come a moment later)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(number) is before
    assert "stopping after this step" in capfd.readouterr().err

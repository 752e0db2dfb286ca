"""The spool file alone: what survives, what is cut off, what travels in a checkpoint."""

import base64
import json
import math
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.outbox.spool import READ_BYTES, Spool, Writer


def add_metrics(spool: Spool, steps: range) -> None:
    for step in steps:
        spool.add("metrics", step=step, values={"loss": float(step)})


def operations(spool: Spool) -> list[dict]:
    """All operations, read block by block as the writer does."""
    found, start = [], 0
    while block := spool.read(start):
        found += [operation for operation, _ in block]
        start = block[-1][1]
    assert start == spool.size
    return found


def test_blocks_hold_whole_lines(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    texts = ["x" * 1000, "é" * (READ_BYTES // 2), "y", "z" * (2 * READ_BYTES), ""]
    for text in texts:
        spool.add("tags", values={"text": text})
    assert [operation["values"]["text"] for operation in operations(spool)] == texts


@given(cut=st.integers(0, 400))
def test_a_cut_file_keeps_its_whole_lines(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder)
    add_metrics(spool, range(5))
    spool.close()
    path = folder / "spool.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole))])
    kept = whole[: min(cut, len(whole))].count(b"\n")
    again = Spool(folder)
    assert [operation["step"] for operation in operations(again)] == list(range(kept))
    add_metrics(again, range(kept, 5))
    assert [operation["step"] for operation in operations(again)] == list(range(5))
    assert again.last_steps() == ({"loss": 4}, {})
    again.close()


def test_sent_is_remembered_and_harmless_when_lost(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    add_metrics(spool, range(3))
    spool.mark_sent(spool.read(0)[1][1])
    assert spool.pending() == 1
    spool.close()
    spool = Spool(tmp_path)
    assert spool.pending() == 1
    spool.close()
    (tmp_path / "sent").write_text("nonsense")
    spool = Spool(tmp_path)
    assert spool.pending() == 3
    spool.close()


def test_backlog_travels_with_its_files(tmp_path: Path) -> None:
    here = Spool(tmp_path / "here")
    add_metrics(here, range(10))
    here.mark_sent(here.read(0)[5][1])
    path, relative = here.new_file("a.txt")
    path.write_bytes(b"\x00content")
    here.add("file", file=relative, name="a.txt", folder="notes")
    here.add("image", key="grid", step=7, file=relative)
    here.append(json.dumps({"op": "metrics", "time": 1, "step": 10, "values": {"nan": math.nan}}))
    backlog = here.backlog()

    there = Spool(tmp_path / "there")
    there.add("tags", values={"a": "b"})
    assert there.restore(backlog) == ({"loss": 9, "nan": 10}, {"grid": 7})
    moved = operations(there)
    assert [operation["op"] for operation in moved] == ["tags", *4 * ["metrics"], "file", "image", "metrics"]
    assert [operation["step"] for operation in moved[1:5]] == [6, 7, 8, 9]
    assert (there.folder / moved[5]["file"]).read_bytes() == b"\x00content"
    there.restore(backlog)  # a second time, and where it came from, it adds nothing
    assert len(operations(there)) == len(moved)
    size = here.size
    here.restore(backlog)
    assert here.size == size


def test_large_files_do_not_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracking.outbox.spool.BACKLOG_FILE_BYTES", 10)
    spool = Spool(tmp_path)
    for name, size in (("small", 8), ("large", 11), ("too much by now", 3), ("fits", 2)):
        path, relative = spool.new_file(name)
        path.write_bytes(b"x" * size)
        spool.add("file", file=relative, name=name, folder="")
    assert [json.loads(line)["name"] for line in spool.backlog().splitlines()] == ["small", "fits"]


def test_a_damaged_line_with_a_carriage_return_is_one_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    add_metrics(spool, range(1))
    spool.append("dama\rged\x0c")
    add_metrics(spool, range(1, 2))
    assert [operation["op"] for operation in operations(spool)] == ["metrics", "unreadable", "metrics"]


def test_a_foreign_checkpoint_reaches_no_file_and_no_other_run(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    content = base64.b64encode(b"theirs").decode()
    crafted = [
        {"op": "file", "file": str(secret), "name": "x", "folder": ""},
        {"op": "image", "file": "../secret", "key": "grid", "step": 1},
        {"op": "tags", "values": {}, "file": str(secret)},
        {"op": "file", "file": "files/1/..", "bytes": content, "name": "x", "folder": ""},
        {"op": "file", "file": "", "bytes": content, "name": "x", "folder": ""},
        {"op": "file", "file": "checkpoint.pt", "bytes": content, "name": "x", "folder": "", "newest": True},
        {"op": "finish", "status": "FINISHED"},
        {"op": "status", "status": "FINISHED"},
        {"op": "handover", "run_id": "another"},
        {"op": "register", "folder": str(tmp_path), "registered_name": "net", "upload": "1"},
        {"op": "metrics", "values": 3},
    ]
    good = {"op": "file", "file": f"{tmp_path}/a.txt", "bytes": content, "name": "a.txt", "folder": ""}
    spool = Spool(tmp_path / "run")
    backlog = "\n".join(json.dumps({"time": 1, **operation}) for operation in [*crafted, good])
    assert spool.restore(f"{backlog}\n[nonsense]") == ({}, {})
    assert [operation["file"] for operation in operations(spool)] == ["files/000001/a.txt"]
    assert (tmp_path / "run/files/000001/a.txt").read_bytes() == b"theirs"
    assert secret.read_text() == "mine"


def test_a_backlog_holds_no_checkpoint_and_nothing_that_ends_a_run(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    path, relative = spool.new_file("checkpoint.pt")
    path.write_bytes(b"checkpoint")
    spool.add("file", file=relative, name=path.name, folder="checkpoints", newest=True)
    spool.add("handover", run_id="fresh")
    spool.add("status", status="RUNNING")
    spool.append("damaged")
    add_metrics(spool, range(1))
    spool.add("finish", status="KILLED")
    assert [json.loads(line)["op"] for line in spool.backlog().splitlines()] == ["metrics"]


def test_a_file_removed_while_the_backlog_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    path, relative = spool.new_file("a.txt")
    path.write_text("x")
    spool.add("file", file=relative, name="a.txt", folder="")
    add_metrics(spool, range(1))
    is_file = Path.is_file

    def seen_then_delivered(self: Path) -> bool:
        found = is_file(self)
        spool.remove_file(relative)
        return found

    monkeypatch.setattr(Path, "is_file", seen_then_delivered)
    spool.backlog()
    spool.remove_file(relative)
    assert [json.loads(line)["op"] for line in spool.backlog().splitlines()] == ["metrics"]


def test_files_and_folders_are_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for name in ("file", "tree"):
        path, relative = spool.new_file(name)
        if name == "tree":
            (path / "sub").mkdir(parents=True)
            path = path / "sub" / "x"
        path.write_text("x")
        spool.remove_file(relative)
        assert not (tmp_path / relative).parent.exists()


def test_what_was_refused_stays_when_a_finished_spool_is_cleared(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for _ in range(2):  # and a second file of that name does not take its place
        path, relative = spool.new_file("a.txt")
        path.write_text("x")
        spool.set_aside({"op": "file", "file": relative}, "because")
        spool.clear()
        spool.close()
        spool = Spool(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text().splitlines()]
    assert [record["file"] for record in records] == ["refused/000001/a.txt", "refused/000002/a.txt"]
    assert all((tmp_path / record["file"]).read_text() == "x" for record in records)


def test_two_threads_change_the_facts(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda own=own: [spool.set_facts(**{f"{own}{i}": i}) for i in range(15)])
            for own in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert spool.facts() == {f"{own}{i}": i for own in "ab" for i in range(15)}


def every_bit_flipped(content: bytes) -> Iterator[bytes]:
    for position, byte in enumerate(content):
        for bit in range(8):
            yield content[:position] + bytes([byte ^ 1 << bit]) + content[position + 1 :]


def test_a_flipped_bit_costs_its_line_and_changes_no_value(tmp_path: Path) -> None:
    """Two lines where the bit made one of them, or the newline between two into something else."""
    spool = Spool(tmp_path)
    add_metrics(spool, range(3))
    spool.add("file", file="files/000001/a.txt", name="a.txt", folder="")
    spool.add("finish", status="FINISHED")
    written = [json.dumps(operation, sort_keys=True) for operation in operations(spool)]
    path = tmp_path / "spool.jsonl"
    whole = path.read_bytes()
    for damaged in every_bit_flipped(whole):
        path.write_bytes(damaged)
        found = [operation for operation, _ in spool.read(0)]
        good = [json.dumps(operation, sort_keys=True) for operation in found if operation["op"] != "unreadable"]
        assert set(good) <= set(written)
        assert len(written) - 2 <= len(good) < len(written)
        assert spool.last_steps()[0].get("loss", 0) <= 2
    path.write_bytes(whole)
    spool.close()


def test_a_flipped_bit_in_sent_sends_all_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    add_metrics(spool, range(9))
    spool.mark_sent(spool.read(0)[4][1])
    spool.close()
    for damaged in every_bit_flipped((tmp_path / "sent").read_bytes()):
        (tmp_path / "sent").write_bytes(damaged)
        again = Spool(tmp_path)
        assert again.pending() in (9, 4)  # 4: the bit was in the newline
        again.close()


def test_lines_of_before_there_were_sums_are_read(tmp_path: Path) -> None:
    (tmp_path / "spool.jsonl").write_text('{"op": "metrics", "time": 1, "step": 3, "values": {"loss": 0.5}}\n' * 2)
    (tmp_path / "sent").write_text("65")
    spool = Spool(tmp_path)
    assert [operation["step"] for operation in operations(spool)] == [3, 3]
    assert spool.pending() == 1
    spool.close()


@pytest.mark.parametrize(
    "line",
    [
        {"op": "metrics", "time": 1, "values": {}},
        {"op": "metrics", "time": 1, "step": 1, "values": {"loss": "x"}},
        {"op": "metrics", "time": 1, "step": 1, "values": [1.0]},
        {"op": "file", "time": 1, "name": "a", "folder": ""},
        {"op": "tags", "time": "now", "values": {}},
        {"op": "explode", "time": 1},
        {"time": 1},
    ],
)
def test_an_operation_that_lacks_a_part_is_unreadable(tmp_path: Path, line: dict) -> None:
    spool = Spool(tmp_path)
    spool.append(json.dumps(line))
    assert [operation["op"] for operation in operations(spool)] == ["unreadable"]
    assert spool.last_steps() == ({}, {})
    assert spool.backlog() == ""
    spool.close()


def test_a_failing_store_is_asked_seldom_though_somebody_waits(tmp_path: Path) -> None:
    """And the reason why it fails is there to be told."""
    spool, tries = Spool(tmp_path), []

    def refuse(operations: list) -> None:
        tries.append(operations)
        raise PermissionError(13, "Permission denied")

    add_metrics(spool, range(3))
    writer = Writer(spool, refuse, lambda after_outage: None)
    writer.start()
    assert not writer.wait_for(spool.size, patience=1.5)
    assert 1 <= len(tries) <= 3
    writer.stop()
    assert isinstance(writer.error, PermissionError)
    spool.close()


def test_what_a_killed_process_left_is_swept_and_what_waits_stays(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for name in ("delivered.txt", "waiting.txt", "orphan.txt"):
        path, relative = spool.new_file(name)
        path.write_text(name)
        if name != "orphan.txt":
            spool.add("file", file=relative, name=name, folder="")
        if name == "delivered.txt":
            spool.mark_sent(spool.size)
    for name in ("waiting-1", "critic-2"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "MLmodel").touch()
    parts = {"name": "w", "registered_name": "w", "upload": "u", "step": 0, "metrics": {}, "params": {}, "tags": {}}
    spool.add("register", folder="models/waiting-1", alias=None, **parts)
    for name in (".run.json.abc.tmp", ".checkpoint.pt.xyz.tmp", "sent.tmp", "run.json", "checkpoint.pt"):
        (tmp_path / name).touch()
    (tmp_path / "models" / "old-3.json").touch()
    (tmp_path / "files" / "checkpoint").mkdir()
    (tmp_path / "files" / "checkpoint" / "checkpoint.pt").touch()
    spool.sweep()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        *("lock", "sent", "spool.jsonl", "run.json", "checkpoint.pt", "files/checkpoint/checkpoint.pt"),
        *("files/000002/waiting.txt", "models/waiting-1/MLmodel"),
    }
    spool.close()

"""The spool file alone: what survives, what is cut off, what travels in a checkpoint."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.spool import READ_BYTES, Spool


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
    monkeypatch.setattr("tracking.spool.BACKLOG_FILE_BYTES", 10)
    spool = Spool(tmp_path)
    for name, size in (("small", 8), ("large", 11), ("too much by now", 3), ("fits", 2)):
        path, relative = spool.new_file(name)
        path.write_bytes(b"x" * size)
        spool.add("file", file=relative, name=name, folder="")
    assert [json.loads(line)["name"] for line in spool.backlog().splitlines()] == ["small", "fits"]

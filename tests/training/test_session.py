"""What a session does for trainers that train several networks."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.running import client
from tests.training.test_resuming import work_in
from trainers.wgan.config import WganConfig
from training.config import preset_config
from training.session import Session


def test_a_part_is_made_once_in_however_many_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work_in(folder, monkeypatch)
    made: list[str] = []

    def make(name: str, *, stopped: bool = False) -> dict[str, Any]:
        made.append(name)
        if stopped:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"name": name, "number": len(made)}

    def begin(resume: str | None) -> Session:
        return Session("wgan", preset_config(WganConfig, {"quick": {}}, "quick", device="cpu", resume=resume))

    first = begin(None)
    with first:
        assert first.once("a", lambda: make("a")) == {"name": "a", "number": 1}
        assert first.once("a", lambda: make("again")) == {"name": "a", "number": 1}
        first.once("b", lambda: make("b", stopped=True))
        pytest.fail("a signal came in part b, and part c began")
    assert first.status == 143
    assert client(folder).get_run(first.run.run_id).info.status == "KILLED"

    second = begin(first.run.run_id)
    with second:
        assert second.once("a", lambda: make("a")) == {"name": "a", "number": 1}
        assert second.once("b", lambda: make("b")) == {"name": "b", "number": 2}
        assert second.once("c", lambda: make("c")) == {"name": "c", "number": 3}
    assert made == ["a", "b", "c"]
    assert client(folder).get_run(first.run.run_id).info.status == "FINISHED"

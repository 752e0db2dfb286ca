"""The journal of a study after a writer that was killed, or whose disk was full, in the middle of a line; what messages
call it.
"""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import optuna
import pytest
from filelock import FileLock, Timeout

from common.errors import InputError
from trainers.tune.config import TuneConfig
from trainers.tune.leader import Leader
from trainers.tune.storage import open_storage, place_of, remove_half_line
from trainers.tune.workers import Workers


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"", b""),
        (b"half", b""),
        (b"one\n", b"one\n"),
        (b"one\ntwo\nha", b"one\ntwo\n"),
        (b"one\n" + b"x" * 10_000, b"one\n"),
        (b"x" * 10_000 + b"\n" + b"y" * 4096, b"x" * 10_000 + b"\n"),
    ],
)
def test_a_half_line_is_removed(tmp_path: Path, content: bytes, kept: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    remove_half_line(path)
    assert path.read_bytes() == kept


def test_a_study_goes_on_behind_a_half_line(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    study = optuna.create_study(study_name="s", storage=open_storage(None, journal))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    with open(journal, "ab") as file:
        file.write(b'{"op_code":8,"worker_id":"half a li')
    again = optuna.load_study(study_name="s", storage=open_storage(None, journal))
    again.set_user_attr("colour", "green")
    again.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    for known in (study, again, optuna.load_study(study_name="s", storage=open_storage(None, journal))):
        assert len(known.get_trials()) == 4
        assert known.user_attrs["colour"] == "green"


def test_the_journal_does_not_wait_for_a_writer_that_was_killed(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    study = optuna.create_study(storage=open_storage(None, journal))
    lock = f"{journal}.lock"
    hold = f"from filelock import FileLock; lock = FileLock({lock!r}); lock.acquire(); print(1, flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"1\n"
    with pytest.raises(Timeout):
        FileLock(lock, timeout=0).acquire()
    holder.kill()
    holder.wait()
    study.set_user_attr("colour", "green")
    again = optuna.load_study(study_name=study.study_name, storage=open_storage(None, journal))
    assert again.user_attrs == {"colour": "green"}


def test_messages_name_files_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mlflow run` works in another folder than whoever typed it."""
    monkeypatch.chdir(tmp_path)
    config = TuneConfig(output_dir=Path("runs"))
    assert place_of(None, config.journal()) == f"{tmp_path}/runs/studies/{config.study_name()}.journal"
    assert place_of("my/journal", config.journal()) == f"{tmp_path}/my/journal"
    assert place_of("postgresql://me:secret@host/d", config.journal()) == "postgresql://me:***@host/d"
    Path("folder").mkdir()
    with pytest.raises(InputError, match=f"storage: {tmp_path}/folder is not a journal"):
        open_storage("folder", config.journal())
    workers = Workers(config)
    workers.start()
    for process in workers._processes:  # it has no study to serve
        process.wait()
    with pytest.raises(InputError, match=rf"a worker ended with status \d: .* \(log: {tmp_path}/runs/studies/"):
        workers.check()
    study = optuna.create_study()
    leader = cast(Leader, SimpleNamespace(study=study, repeats=study, config=config))
    with pytest.raises(InputError, match=f"none of 0 trials .* logs are in {tmp_path}/runs/studies; correct"):
        Leader.repeated_numbers(leader)
    study.add_trial(optuna.create_trial(value=0.5))
    with pytest.raises(InputError, match=f"logs are in {tmp_path}/runs/studies$"):
        Leader.choose(leader, [0])

"""The journal of a study after a writer that was killed, or whose disk was full, in the middle of a line."""

from pathlib import Path

import optuna
import pytest

from trainers.tune.storage import Lease, open_storage, remove_half_line


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


def test_the_lead_is_given_back_on_a_full_disk_without_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(storage=open_storage(None, tmp_path / "study.journal"))
    lease = Lease(study)
    monkeypatch.setattr("trainers.tune.storage.time.sleep", lambda seconds: None)
    assert lease.hold()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study, "set_user_attr", full)
    lease.release()

"""A password in the address of a study's storage is refused before anything is recorded, wherever it stands."""

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from common.errors import InputError
from trainers.tune.storage import has_secret, open_storage, without_password

GIVEN = [
    ("postgresql://me:s3cret@h/d", "me:***@h"),
    ("postgresql://me:s3cret@cret@h/d", "me:***@h"),
    ("postgresql://:s3cret@h/d", "//:***@h"),
    ("postgresql://h/d?user=me&password=s3cret", "user=me&password=***"),
    ("postgresql://me:$NAME@h/d?sslmode=require&sslpassword=s3cret", "sslmode=require&sslpassword=***"),
    ("mysql://me@h/d?Passwd=s3cret&charset=utf8", "Passwd=***&charset=utf8"),
]


@pytest.mark.parametrize(("storage", "shown"), GIVEN)
def test_a_password_in_the_storages_address_is_refused(
    storage: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in (None, "abc123"):
        if run_id:
            monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        with pytest.raises(InputError) as refused:
            open_storage(storage, tmp_path / "journal")
        message = str(refused.value)
        assert shown in message
        assert "cret" not in message
        # `mlflow run` has recorded its parameters before the trainer could look at them.
        assert ("has recorded it already" in message) == (run_id is not None)
        assert run_id is None or f"of run {run_id}: delete that run, and change the password" in message


@pytest.mark.parametrize(
    "storage",
    ["postgresql://me:$NAME@h/d", "postgresql://h/d?password=${NAME}", "postgresql://me@h/d?sslmode=require"],
)
def test_a_variable_is_no_password(storage: str) -> None:
    assert not has_secret(make_url(storage))
    assert "NAME" not in without_password(storage)

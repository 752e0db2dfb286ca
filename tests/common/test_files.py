"""Files and folders are whole or absent, readable as the umask says, and errors are one line."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from common.errors import InputError
from common.files import atomic_file, atomic_folder, hash_of, only_process, read_checked_json, write_checked_json
from tests.conftest import ROOT


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(OSError, match="no-such-folder"), atomic_file(path) as temporary:
        _write_half(temporary)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["x.txt"]


def _write_half(path: Path) -> None:
    """Write something, then fail."""
    path.write_text("half")
    (path.parent / "no-such-folder" / "x").write_text("")


def test_a_folder_appears_whole_and_the_first_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with pytest.raises(OSError, match="no-such-folder"), atomic_folder(path) as temporary:
        _write_half(temporary / "x")
    assert os.listdir(tmp_path) == []
    with atomic_folder(path) as temporary:
        (temporary / "x").write_text("first")
    with atomic_folder(path) as temporary:
        (temporary / "x").write_text("second")
    assert (path / "x").read_text() == "first"
    assert os.listdir(tmp_path) == ["cache"]


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text("x")
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "x").write_text("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_one_process_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom common.files import only_process\n"
        "with only_process(Path(sys.argv[1]), 'waiting for it') as alone: print(alone, Path(sys.argv[1]).exists())"
    )
    with only_process(tmp_path / "cache") as alone:
        assert alone
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "cache")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert other.stderr is not None
        assert other.stderr.readline() == "waiting for it\n"
        (tmp_path / "cache").mkdir()
    assert other.communicate() == ("True True\n", "")


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOLCK, "no locks available")])
def test_where_locks_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def none_here(self: FileLock, timeout: float | None = None) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", none_here)
    with only_process(tmp_path / "cache") as alone:
        assert not alone
    error = OSError(errno.ENOSPC, "no space left on device")
    with pytest.raises(OSError, match="no space"), only_process(tmp_path / "cache"):
        pass


def test_hash_does_not_depend_on_key_order() -> None:
    assert hash_of({"a": 1, "b": [1, 2]}) == hash_of({"b": [1, 2], "a": 1}) != hash_of({"a": 1, "b": [2, 1]})


def test_input_errors_end_with_status_2_and_one_line() -> None:
    code = (
        "from common.errors import InputError, run_main\n"
        "def main(): raise InputError('x:\\n  not allowed')\nrun_main(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: x: not allowed\n")
    assert issubclass(InputError, Exception)


def test_a_checked_file_tells_when_any_bit_has_changed(tmp_path: Path) -> None:
    path, value = tmp_path / "x.json", {"label": [0, 1], "name": "a", "share": 0.1}
    write_checked_json(path, value)
    assert read_checked_json(path) == value
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError):
            read_checked_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_checked_json(path)

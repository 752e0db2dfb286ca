"""PhysioNet: ranges that users type, and the download from a local server with MNE's checksums."""

import contextlib
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from data.eeg.physionet import (
    KNOWN_BAD,
    LAYOUT,
    checksums,
    data_folder,
    download,
    expected_sha256,
    parse_numbers,
    recording_path,
)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("1", (1,)), ("1-3", (1, 2, 3)), ("1,3,7-9", (1, 3, 7, 8, 9)), (" 5 - 6 , 5", (5, 6)), ("109", (109,))],
)
def test_ranges(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_numbers(text, "subjects", 109) == numbers


@pytest.mark.parametrize("text", ["110", "0", "0-3", "100-110", "3-1", "", "1,", "a", "1;2", "-3", "1--3", "1.5", "²"])
def test_bad_ranges_name_the_parameter_and_what_is_allowed(text: str) -> None:
    with pytest.raises(InputError, match=r"^subjects=.*allowed are numbers and ranges from 1 to 109") as caught:
        parse_numbers(text, "subjects", 109)
    assert "\n" not in str(caught.value)


def test_subject_110_is_named() -> None:
    with pytest.raises(InputError, match="there is no subject 110"):
        parse_numbers("100-110", "subjects", 109)


@given(st.sets(st.integers(1, 109), min_size=1))
def test_every_set_of_subjects_can_be_written(numbers: set[int]) -> None:
    assert parse_numbers(",".join(map(str, numbers)), "subjects", 109) == tuple(sorted(numbers))


@given(st.text(max_size=12))
def test_no_text_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(InputError):
        assert all(1 <= n <= 109 for n in parse_numbers(text, "subjects", 109))


def test_mne_knows_the_checksum_of_every_recording() -> None:
    names = {f"S{s:03d}/S{s:03d}R{r:02d}.edf" for s in range(1, 110) for r in range(1, 15)}
    assert names <= set(checksums())
    assert all(len(expected_sha256(subject, 4)) == 64 for subject in KNOWN_BAD)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.* is not a folder"):
        data_folder(tmp_path / "nowhere")


def test_without_a_folder_mnes_own_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNE_DATASETS_EEGBCI_PATH", str(tmp_path / "mne"))
    assert data_folder(None) == tmp_path / "mne"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(real_data: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A stand-in for physionet.org: its URL, and the folder it serves (the real recordings of subject 1)."""
    root = tmp_path / "www"
    served = root / "files" / "eegmmidb" / "1.0.0"
    shutil.copytree(real_data / "eegmmi" / LAYOUT, served)
    handler = functools.partial(QuietHandler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/files/eegmmidb/1.0.0/", served
        httpd.shutdown()


RECORDINGS = [(1, 4), (1, 8), (1, 12)]


def test_downloads_what_is_missing_and_only_that(server: tuple[str, Path], tmp_path: Path, real_data: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    assert download(folder, RECORDINGS, url=server[0], quiet=True) == 3
    for pair in RECORDINGS:
        assert recording_path(folder, *pair).read_bytes() == recording_path(real_data / "eegmmi", *pair).read_bytes()
    recording_path(folder, 1, 8).unlink()
    before = recording_path(folder, 1, 4).stat().st_mtime_ns
    assert download(folder, RECORDINGS, url=server[0], quiet=True) == 1
    assert recording_path(folder, 1, 4).stat().st_mtime_ns == before
    assert download(folder, RECORDINGS, url="http://127.0.0.1:9/files/eegmmidb/1.0.0/", quiet=True) == 0  # no network


def test_a_damaged_download_is_refused_and_not_kept(server: tuple[str, Path], tmp_path: Path) -> None:
    url, served = server
    damaged = served / "S001" / "S001R08.edf"
    payload = bytearray(damaged.read_bytes())
    payload[100_000] ^= 1
    damaged.write_bytes(bytes(payload))
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(InputError, match=r"S001R08.edf could not be downloaded.*hash") as caught:
        download(folder, RECORDINGS, url=url, quiet=True)
    assert "\n" not in str(caught.value)
    assert not recording_path(folder, 1, 8).exists()


def test_a_missing_file_and_no_network_are_one_clear_line(server: tuple[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(InputError, match=r"1 of 1 recordings are not under .*connect to the network, or copy them"):
        download(folder, [(2, 4)], url=server[0], quiet=True)

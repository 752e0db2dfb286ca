"""Packed recordings of gigabytes are refused before they are in memory; real ones pass."""

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import mne
import numpy as np
import pytest
import scipy.io

from data.eeg import unpacked_size
from data.eeg.any_format import open_raw
from data.eeg.edf import BadRecording
from tests.data.eeg.own_files import own_raw, write_recording


def gz_bomb(path: Path) -> None:
    """A FIF file with one tag of 3 MB of zeros, of which the gzip file holds 3 kB."""
    mne.io.RawArray(np.zeros((1, 750_000)), mne.create_info(1, 100.0, "eeg"), verbose="ERROR").save(
        path, verbose="ERROR"
    )


def part_bomb(path: Path) -> None:
    """MNE reads the parts of a split recording with the first."""
    own_raw(1, 1, n_trials=2).save(path, verbose="ERROR")
    path.with_name(path.name.replace("raw", "raw-1").replace("split-01", "split-02")).write_bytes(
        gzip.compress(bytes(60_000_000))
    )


def mat_bomb(path: Path) -> None:
    scipy.io.savemat(path, {"EEG": {"data": np.zeros((3, 125_000))}}, appendmat=False, do_compression=True)


def foreign_mat_bomb(path: Path) -> None:
    """Of a machine of the other byte order, behind an element that is not packed."""
    packed = zlib.compress(bytes(3_000_000))
    plain = struct.pack(">II", 14, 16) + bytes(16)
    path.write_bytes(
        bytes(124) + struct.pack(">HH", 0x0100, 0x4D49) + plain + struct.pack(">II", 15, len(packed)) + packed
    )


@pytest.mark.parametrize(
    ("name", "part", "write"),
    [
        ("a_raw.fif.gz", "a_raw.fif.gz", gz_bomb),
        ("a_raw.fif.gz", "a_raw-1.fif.gz", part_bomb),
        ("a_split-01_eeg.fif.gz", "a_split-02_eeg.fif.gz", part_bomb),
        ("a.set", "a.set", mat_bomb),
        ("A.SET", "A.SET", foreign_mat_bomb),
    ],
)
def test_a_small_recording_of_gigabytes_is_not_read(
    tmp_path: Path, name: str, part: str, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacked_size, "LARGEST_GAIN", 1_000_000)
    monkeypatch.setattr(mne.io, "read_raw", lambda *_, **__: pytest.fail("it was read"))
    write(tmp_path / name)
    with pytest.raises(
        BadRecording, match=rf"MB of {part} would unpack to more than [1-4] MB, which no recording does"
    ):
        open_raw(tmp_path / name, None)


def test_no_more_than_allowed_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked_size, "BLOCK", 100)
    monkeypatch.setattr(unpacked_size, "LARGEST_GAIN", 0)
    (tmp_path / "a.set").write_bytes(
        bytes(124) + b"\x00\x01IM" + struct.pack("<II", 15, 900) + zlib.compress(bytes(900_000))
    )
    blocks: list[int] = []
    counted = unpacked_size._count

    def count(path: Path, each: object) -> None:
        counted(path, (blocks.append(block) or block for block in each))  # type: ignore[attr-defined, func-returns-value]

    monkeypatch.setattr(unpacked_size, "_count", count)
    with pytest.raises(BadRecording):
        open_raw(tmp_path / "a.set", None)
    assert max(blocks) <= 100
    assert sum(blocks) <= 50 * (tmp_path / "a.set").stat().st_size + 100


def test_real_recordings_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked_size, "LARGEST_GAIN", 0)
    raw = own_raw(1, 1, n_trials=2)
    raw.save(tmp_path / "a_raw.fif.gz", verbose="ERROR")
    write_recording(raw, tmp_path / "b.set")
    eeg = scipy.io.loadmat(tmp_path / "b.set", simplify_cells=True)["EEG"]
    scipy.io.savemat(tmp_path / "b.set", {"EEG": eeg}, appendmat=False, do_compression=True)
    for name in ("a_raw.fif.gz", "b.set"):
        assert open_raw(tmp_path / name, None).n_times == raw.n_times


@pytest.mark.parametrize("content", [b"\x89HDF\r\n\x1a\n", bytes(512) + b"\x89HDF\r\n\x1a\n"])
def test_matlab_7_3_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.set").write_bytes(content + bytes(100))
    with pytest.raises(BadRecording, match=r"MATLAB 7\.3 \(HDF5\): save it in EEGLAB"):
        open_raw(tmp_path / "a.set", None)


@pytest.mark.parametrize("name", ["a_raw.fif.gz", "a.set"])
def test_damaged_ones_are_left_to_mne(tmp_path: Path, name: str) -> None:
    raw = own_raw(1, 1, n_trials=2)
    raw.save(tmp_path / "a_raw.fif.gz", verbose="ERROR")
    scipy.io.savemat(tmp_path / "a.set", {"EEG": {"data": raw.get_data()}}, appendmat=False, do_compression=True)
    whole = (tmp_path / name).read_bytes()
    for cut in (3, 130, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:cut])
        with pytest.raises(BadRecording, match="MNE cannot read it"):
            open_raw(tmp_path / name, None).load_data()

"""EEGMMI is found however it came to a folder; nothing is downloaded unasked where a part of it is there."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from data.eeg import eegmmi_files, physionet
from data.eeg.eegmmi_files import locate
from data.eeg.load import EegData, load_eeg
from data.eeg.physionet import recording_name

PAIRS = ((1, 4), (1, 8))


def place(simulated: EegData, folder: Path, layout: str) -> Path:
    """Two recordings of EEGMMI's names in one of the ways that they come."""
    for file in simulated.files[:2]:
        target = folder / layout / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return folder


@pytest.mark.parametrize(
    "layout", ["MNE-eegbci-data/files/eegmmidb/1.0.0", "files/eegmmidb/1.0.0", "", "some/where/else"]
)
def test_recordings_are_found_in_every_layout(simulated: EegData, tmp_path: Path, layout: str) -> None:
    folder = place(simulated, tmp_path / "data", layout)
    found = locate(folder, [*PAIRS, (2, 4)], tmp_path / "cache")
    assert {pair: file.relative_to(folder / layout).as_posix() for pair, file in found.items()} == {
        pair: recording_name(*pair) for pair in PAIRS
    }


def test_recordings_are_read_from_the_zip(
    simulated: EegData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = place(simulated, tmp_path / "tree", "files")
    (tmp_path / "data" / "downloads").mkdir(parents=True)
    with zipfile.ZipFile(
        tmp_path / "data" / "downloads" / "eeg-motor-movementimagery-dataset-1.0.0.zip", "w"
    ) as archive:
        for file in sorted(tree.rglob("*.edf")):
            archive.write(file, f"files/eegmmidb/1.0.0/{file.parent.name}/{file.name}")
    for _ in range(2):  # unpacked once
        data = load_eeg("physionet", tmp_path / "cache", tmp_path / "data", subjects="1", runs="4,8", checksums=False)
        np.testing.assert_array_equal(data.trials, simulated.trials[:30])
    assert "EEGMMI: 2 of 2 recordings, of people 1, under" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "data" / "downloads").iterdir()] == [
        "eeg-motor-movementimagery-dataset-1.0.0.zip"
    ]


def test_a_zip_cut_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "eegmmi.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match=r"eegmmi.zip is no whole zip .*; copy or download it again"):
        locate(tmp_path, PAIRS, tmp_path / "cache")


def write_zip(path: Path, content: bytes) -> bytearray:
    """A zip with the recording of person 1's run 4, whose content may be anything here; its bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("S001/S001R04.edf", content)
    return bytearray(path.read_bytes())


def test_an_entry_of_gigabytes_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eegmmi_files, "LARGEST_RECORDING", 100_000)
    write_zip(tmp_path / "eegmmi.zip", bytes(200_000))
    with pytest.raises(
        InputError, match=r"eegmmi.zip is no whole zip .S001/S001R04.edf has 0 MB, a recording of EEGMMI 3"
    ):
        locate(tmp_path, PAIRS, tmp_path / "cache")
    assert not list(tmp_path.glob("cache/**/*.edf"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_zip_gives_the_recording_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
) -> None:
    folder, content = tmp_path_factory.mktemp("zip"), bytes(range(256)) * 4
    whole = write_zip(folder / "eegmmi.zip", content)
    for place_, byte in damage:
        whole[place_ % len(whole)] = byte
    (folder / "eegmmi.zip").write_bytes(whole)
    try:
        found = locate(folder, PAIRS, folder / "cache")
    except InputError:
        assert not list(folder.glob("cache/**/*.edf"))
    else:
        assert all(file.read_bytes() == content for file in found.values())


def test_nothing_is_downloaded_unasked_where_a_part_is_there(
    simulated: EegData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place(simulated, tmp_path / "data", "")
    asked: list[object] = []
    monkeypatch.setattr(physionet, "download", lambda folder, missing, **_: asked.append(list(missing)))

    def load(**changes: object) -> EegData:
        settings = {"subjects": "1-2", "runs": "4,8", "checksums": False, "quiet": True, **changes}
        return load_eeg("physionet", tmp_path / "cache", folder, **settings)  # type: ignore[arg-type]

    with pytest.raises(
        InputError,
        match=r"has 2 of 4 recordings; not those of people 2, such as S002/S002R04.edf: "
        "leave them out, such as by subjects=1, who are all there, or fetch the rest with download=yes",
    ):
        load()
    assert len(load(subjects="1").recordings) == 2
    assert not [missing for missing in asked if missing]
    with pytest.raises(InputError):  # what it was told to fetch did not come
        load(download="yes")
    assert asked[-1] == [(2, 4), (2, 8)]
    with pytest.raises(InputError, match="has 0 of 1 recordings"):
        load(subjects="3", runs="12", download="no")

"""Whose recording a file is: the names people have, and every way in which they can be unclear."""

from pathlib import Path

import pytest

from common.errors import InputError
from data.eeg.naming import chosen, find_recordings, numbers_of, run_numbers


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["sub-01_run-2.edf", "sub-02_run-1.edf"], [("01", "", "2"), ("02", "", "1")]),
        (
            ["sub-01/ses-a/eeg/sub-01_ses-a_task-mi_run-1_eeg.vhdr", "sub-01/ses-b/eeg/sub-01_ses-b_task-mi_eeg.vhdr"],
            [("01", "a", "task-mi run-1"), ("01", "b", "task-mi")],
        ),
        (["S001/S001R04.edf", "S001/S001R08.edf"], [("001", "", "04"), ("001", "", "08")]),
        (["anna_1.bdf", "anna_run2.bdf", "ben-3.bdf"], [("anna", "", "1"), ("anna", "", "2"), ("ben", "", "3")]),
        (["anna_session2_run1.fif", "ben_s1_r10.fif"], [("anna", "2", "1"), ("ben", "1", "10")]),
        (["anna/run1.gdf", "anna/run2.gdf"], [("anna", "", "1"), ("anna", "", "2")]),
        (["anna.set", "ben_raw.fif"], [("anna", "", ""), ("ben", "", "")]),
    ],
)
def test_usual_names_are_understood(tmp_path: Path, names: list[str], expected: list[tuple[str, str, str]]) -> None:
    found = find_recordings(touch(tmp_path, *names)).recordings
    assert [(r.subject, r.session, r.run) for r in found] == expected


def test_a_pattern_says_what_is_what_and_what_does_not_fit_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "lab/P07-left-b2.edf", "lab/P07-left-b10.edf", "lab/notes.edf", "P07-left-b2.txt")
    found = find_recordings(tmp_path, pattern="P{subject}-*-b{run}")
    assert [(r.subject, r.run) for r in found.recordings] == [("07", "2"), ("07", "10")]
    assert [file.name for file in found.unmatched] == ["notes.edf"]
    twice = find_recordings(touch(tmp_path / "x", "a/a_1.edf", "b/b_1.edf"), pattern="{subject}/{subject}_{run}")
    assert [r.subject for r in twice.recordings] == ["a", "b"]


def test_a_table_says_it_instead(tmp_path: Path) -> None:
    touch(tmp_path, "one.edf", "two.edf", "deep/three.edf")
    table = tmp_path / "who.tsv"
    table.write_text("file\tsubject\trun\none.edf\tanna\t1\ndeep/three.edf\tanna\t2\n")
    found = find_recordings(tmp_path, table=table).recordings
    assert [(r.subject, r.run, r.file.name) for r in found] == [("anna", "1", "one.edf"), ("anna", "2", "three.edf")]
    table.write_text("file;subject;run\none.edf;anna;1\ndeep/three.edf;anna;2\n")  # as spreadsheets write it
    assert find_recordings(tmp_path, table=table).recordings == found
    table.write_text("file,subject\nfour.edf,anna\n")
    with pytest.raises(InputError, match=r"line 2: .*four.edf is not there"):
        find_recordings(tmp_path, table=table)
    table.write_text("name,who\none.edf,anna\n")
    with pytest.raises(InputError, match="needs a first line with file and subject"):
        find_recordings(tmp_path, table=table)


@pytest.mark.parametrize(
    ("names", "pattern", "words"),
    [
        ([], None, "holds no recording; read are .edf"),
        (["a_1.edf"], "P{subject}", r"fits none of the 1 recordings .*such as a_1.edf"),
        (["a_1.edf"], "{person}", r"\{person\} is not known"),
        (["a_1.edf"], "x_{run}", r"it has no \{subject\}"),
        (["sub-01_run-1.edf", "sub-01_run-1.bdf"], None, "are both subject 01 run 1, by BIDS entities"),
        (["x/anna_1.edf", "y/anna_2.edf"], None, "subject anna is in two folders, x/anna_1.edf and y/anna_2.edf"),
    ],
)
def test_what_is_not_clear_is_refused_in_a_line(
    tmp_path: Path, names: list[str], pattern: str | None, words: str
) -> None:
    with pytest.raises(InputError, match=words) as refused:
        find_recordings(touch(tmp_path, *names), pattern)
    assert "\n" not in str(refused.value)


def test_hidden_files_derivatives_and_further_parts_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "dataset_description.json", "derivatives/sub-01_eeg.edf", "sub-01_eeg.edf", ".sub-02_eeg.edf")
    touch(tmp_path, "sub-03_raw.fif", "sub-03_raw-1.fif")
    assert [r.file.name for r in find_recordings(tmp_path).recordings] == ["sub-01_eeg.edf", "sub-03_raw.fif"]


def test_numbers_are_those_of_the_names_where_these_have_any(tmp_path: Path) -> None:
    assert numbers_of(["S010", "S002"]) == {"S002": 2, "S010": 10}
    assert numbers_of(["ben", "anna"]) == {"anna": 1, "ben": 2}
    assert numbers_of(["a1", "b1"]) == {"a1": 1, "b1": 2}
    found = find_recordings(touch(tmp_path, "s_ses1_run1.edf", "s_ses1_run2.edf", "s_ses2_run1.edf")).recordings
    assert run_numbers(found) == {("1", "1"): 1, ("1", "2"): 2, ("2", "1"): 3}


def test_people_are_chosen_by_name_number_or_range() -> None:
    names = {"01": 1, "02": 2, "07": 7, "anna": 8}
    assert chosen("all", "subjects", names) == (1, 2, 7, 8)
    assert chosen("anna,2-7", "subjects", names) == (2, 7, 8)
    with pytest.raises(
        InputError, match="subjects='ben': 'ben' is not among the recordings; there are 01, 02, 07, anna"
    ):
        chosen("ben", "subjects", names)

"""Whose recording a file is: the names people have, and every way in which they can be unclear."""

import unicodedata
from pathlib import Path

import pytest

from common.errors import InputError
from data.eeg.naming import chosen, find_recordings, further_parts, numbers_of, run_numbers


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
    table.write_text("File , Subject,run\n\none.edf, anna,1\n,,\ndeep/three.edf , anna,2\n")  # as people write it
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
        (["a_1.edf"], "{subject}*", r"where what is before \* ends is not clear"),
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


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("one.edf,anna\none.edf,ben", "line 3: .*one.edf is in an earlier line, too"),
        ("one.edf,anna\n\nreadme.txt,ben", r"line 4: .*readme.txt is no recording; read are \.edf"),
        ("one.edf,", "line 2: it names no subject"),
        (",anna", "line 2: .* is not there"),
        (",\n", "needs a first line with file and subject, .* and a line for each recording"),
    ],
)
def test_a_line_of_a_table_that_does_not_do_is_named(tmp_path: Path, rows: str, words: str) -> None:
    touch(tmp_path, "one.edf", "readme.txt")
    (tmp_path / "who.csv").write_text(f"file,subject\n{rows}\n")
    with pytest.raises(InputError, match=words):
        find_recordings(tmp_path, table=tmp_path / "who.csv")


def test_a_table_of_another_encoding_is_said(tmp_path: Path) -> None:
    (tmp_path / "who.csv").write_bytes("file,subject\none.edf,Zoë\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"who.csv': it is not UTF-8 .*; save it as UTF-8"):
        find_recordings(tmp_path, table=tmp_path / "who.csv")


def test_a_table_may_have_the_other_unicode_form(tmp_path: Path) -> None:
    touch(tmp_path, unicodedata.normalize("NFD", "Zoë.edf"))
    (tmp_path / "who.csv").write_text(unicodedata.normalize("NFC", "file,subject\nZoë.edf,Zoë\n"), encoding="utf-8")
    assert [r.subject for r in find_recordings(tmp_path, table=tmp_path / "who.csv").recordings] == ["Zoë"]


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


def test_letters_are_compared_as_people_read_them(tmp_path: Path) -> None:
    """A Mac writes ë as e and a mark, other systems as one character; shown, they are the same name."""
    touch(tmp_path, *(unicodedata.normalize(form, f"Zoë_{run}.edf") for run, form in ((1, "NFD"), (2, "NFC"))))
    found = find_recordings(tmp_path).recordings
    assert [(r.subject, r.run) for r in found] == [("Zoë", "1"), ("Zoë", "2")]
    assert chosen(unicodedata.normalize("NFD", "Zoë"), "subjects", {"Zoë": 1}) == (1,)


@pytest.mark.parametrize("names", [["Anna_1.edf", "anna_2.edf"], ["sub-1_run-1.edf", "sub-01_run-2.edf"]])
def test_one_person_under_two_spellings_is_asked_about(tmp_path: Path, names: list[str]) -> None:
    """Otherwise one person would be trained on and tested on."""
    with pytest.raises(InputError, match=r"are \S+ and \S+ one person\? Call one person by one name"):
        find_recordings(touch(tmp_path, *names))


@pytest.mark.parametrize(
    ("names", "pattern", "expected"),
    [
        (["A01T.gdf", "A01E.gdf", "B02T.gdf"], "{subject}{run}", ["A01 E", "A01 T", "B02 T"]),
        (["anna1.edf", "anna12.edf", "ben1.edf"], "{subject}{run}", ["anna 1", "anna 12", "ben 1"]),
        (
            ["anna_left.edf", "anna_right.edf", "ben_left.edf"],
            "{subject}_{run}",
            ["anna left", "anna right", "ben left"],
        ),
    ],
)
def test_files_that_may_be_runs_are_no_people_unasked(
    tmp_path: Path, names: list[str], pattern: str, expected: list[str]
) -> None:
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=r"(?i)are a\S+, a\S+ and b\S+ people of their own, or runs of fewer\?"):
        find_recordings(tmp_path)
    assert [f"{r.subject} {r.run}" for r in find_recordings(tmp_path, pattern).recordings] == expected
    assert len({r.subject for r in find_recordings(tmp_path, "{subject}").recordings}) == 3


def test_people_who_are_numbered_are_people(tmp_path: Path) -> None:
    found = find_recordings(touch(tmp_path, "P1.edf", "P2.edf", "P10.edf")).recordings
    assert [r.subject for r in found] == ["P1", "P2", "P10"]


def test_a_pattern_may_have_folders_of_runs(tmp_path: Path) -> None:
    touch(tmp_path, "anna/block1/x.edf", "anna/block2/x.edf", "ben/block1/x.edf")
    found = find_recordings(tmp_path, "{subject}/block{run}/*").recordings
    assert [(r.subject, r.run) for r in found] == [("anna", "1"), ("anna", "2"), ("ben", "1")]
    touch(tmp_path / "there", "anna/block3/x.edf")
    with pytest.raises(InputError, match="subject anna is in two folders"):
        find_recordings(tmp_path, "{subject}/block{run}/*")


def test_links_are_followed_and_one_to_nothing_is_a_recording_that_is_missing(tmp_path: Path) -> None:
    touch(tmp_path, "disk/anna_1.edf", "disk/anna_2.edf")
    data = tmp_path / "data"
    data.mkdir()
    (data / "people").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "disk" / "loop").symlink_to(data, target_is_directory=True)
    (data / "people" / "anna_3.edf").symlink_to(tmp_path / "nothing.edf")
    touch(data, "own/anna_4.edf")
    (data / "again").symlink_to(data / "own", target_is_directory=True)
    table = {
        file.name: file.parent.name for file in (r.file for r in find_recordings(data, "*/{subject}_{run}").recordings)
    }
    assert table == {"anna_1.edf": "people", "anna_2.edf": "people", "anna_3.edf": "people", "anna_4.edf": "own"}


def test_what_mne_writes_beside_recordings_is_none(tmp_path: Path) -> None:
    names = ["anna_1.fif", "anna_1-epo.fif", "anna_1_eve.fif", "anna-ica.fif.gz", "anna-epo.edf"]
    found = find_recordings(touch(tmp_path / "a", *names[:4]))
    assert [r.where for r in found.recordings] == ["subject anna run 1"]
    assert sorted(file.name for file in found.unmatched) == sorted(names[1:4])
    assert len(find_recordings(touch(tmp_path / "b", "sub-01_task-ave.fif", "sub-02_task-ave.fif")).recordings) == 2


def test_people_with_a_comma_in_their_names_can_be_chosen() -> None:
    assert chosen("Meier Anna", "subjects", {"Meier, Anna": 1, "Beck, Ben": 2}) == (1,)
    assert chosen("1", "subjects", {"1²": 1}) == (1,)


@pytest.mark.parametrize(
    ("first", "further", "others"),
    [
        ("a_raw.fif", ["a_raw-1.fif", "a_raw-2.fif"], ["a_raw.fif.gz", "a_raw-1.fif.gz", "b_raw-1.fif", "a_raw-x.fif"]),
        ("a_raw.fif.gz", ["a_raw-1.fif.gz"], ["a_raw-1.fif", "a_raw.fif"]),
        ("a_split-01_eeg.fif", ["a_split-02_eeg.fif"], ["b_split-02_eeg.fif", "a_split-02_meg.fif"]),
        ("a_split-01_eeg.fif.gz", ["a_split-02_eeg.fif.gz"], ["a_split-02_eeg.fif"]),
        ("a+b (1)_raw.fif", ["a+b (1)_raw-1.fif"], ["aab 1_raw-1.fif"]),
        ("a.edf", [], ["a-1.edf"]),
    ],
)
def test_the_further_parts_of_a_split_recording(
    tmp_path: Path, first: str, further: list[str], others: list[str]
) -> None:
    for name in (first, *further, *others):
        (tmp_path / name).touch()
    assert [path.name for path in further_parts(tmp_path / first)] == further

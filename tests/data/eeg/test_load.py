"""From recordings to trials: what they hold, that they are built once and whole, and bad input."""

import hashlib
import json
import math
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import mne
import numpy as np
import pytest

from common.errors import InputError
from data.eeg import cache as eeg_cache
from data.eeg import load as eeg_module
from data.eeg import physionet
from data.eeg.load import EegData, Preprocessing, load_eeg
from data.eeg.physionet import recording_path
from data.eeg.recording import CHANNELS, read_trials
from data.eeg.simulated import simulate_recording, write_edf
from tests.conftest import PATIENCE
from tests.running import environment
from tests.warm import run_warm

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(edf_file: Path, tmp_path: Path) -> Path:
    """A data folder in PhysioNet's layout with three runs of one (simulated) subject numbered 2."""
    for run in (4, 8, 12):
        source = edf_file.with_name(f"S001R{run:02d}.edf")
        target = recording_path(tmp_path / "data", 2, run)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return tmp_path / "data"


def sign(path: Path, number: int) -> None:
    """Make the bytes of a recording its own: `number` becomes part of the patient's field."""
    payload = bytearray(path.read_bytes())
    payload[80:88] = f"{number:8d}".encode()
    path.write_bytes(payload)


def load(folder: Path, **changes: object) -> EegData:
    """Read `folder` as PhysioNet's, though its bytes are not."""
    settings = {"data_dir": folder, "subjects": "2", "checksums": False, "quiet": True, **changes}
    return load_eeg("physionet", folder.parent / "cache", **settings)  # type: ignore[arg-type]


def test_trials_come_in_the_order_of_subject_run_and_time(simulated: EegData) -> None:
    assert simulated.trials.shape == (180, 64, 801)
    assert simulated.trials.dtype == np.float32
    np.testing.assert_array_equal(simulated.subject, np.repeat([1, 2, 3, 4], 45))
    np.testing.assert_array_equal(simulated.run, np.tile(np.repeat([4, 8, 12], 15), 4))
    np.testing.assert_array_equal(simulated.trial, np.arange(180))
    assert simulated.ch_names == CHANNELS
    assert (simulated.times[0], simulated.times[160], simulated.times[-1]) == (-1.0, 0.0, 4.0)
    for at, (file, report) in enumerate(zip(simulated.files, simulated.recordings, strict=True)):
        trials, label, again = read_trials(file, report.subject, report.run, Preprocessing())
        np.testing.assert_array_equal(simulated.trials[15 * at : 15 * at + 15], trials)
        np.testing.assert_array_equal(simulated.label[15 * at : 15 * at + 15], label)
        assert again == report


def test_real_recordings(real_data: Path, tmp_path: Path) -> None:
    data = load_eeg("physionet", tmp_path, real_data / "eegmmi", subjects="1", quiet=True)
    assert data.trials.shape == (45, 64, 801)
    assert (data.summary()["n_left"], data.summary()["n_right"]) == (23, 22)
    assert len(data.windows()) == 405
    assert data.excluded == ()
    assert 1e-6 < np.abs(data.trials).mean() < 1e-4  # volts


def test_the_summary_names_its_data_and_is_json(simulated: EegData) -> None:
    summary = json.loads(json.dumps(simulated.summary()))
    assert summary["dataset"] == "simulated"
    assert (summary["n_trials"], summary["n_subjects"], summary["l_freq"]) == (180, 4, 7.0)
    assert len(simulated.table().splitlines()) == 13


def test_built_once_then_mapped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(folder)
    monkeypatch.setattr(eeg_cache, "_build", lambda *_, **__: pytest.fail("built again"))
    second = load(folder, on_bad="skip")
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(first.trials, second.trials)
    assert isinstance(second.trials, np.memmap)


def test_everything_that_changes_the_trials_changes_the_fingerprint(folder: Path) -> None:
    settings = [
        {},
        {"runs": "4,8"},
        {"labelled": False},
        {"preprocessing": Preprocessing(h_freq=29.0)},
        {"preprocessing": Preprocessing(tmin=-0.5)},
        {"preprocessing": Preprocessing(baseline=False)},
    ]
    fingerprints = [load(folder, **change).fingerprint for change in settings]
    write_edf(simulate_recording(seed=9, subject=1, run=4), recording_path(folder, 2, 4))
    fingerprints.append(load(folder).fingerprint)
    assert len(set(fingerprints)) == len(fingerprints)


def test_many_workers_build_the_same_bytes(simulated: EegData, tmp_path: Path, eeg_cache: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(simulated.files[0].parents[5], tmp_path / name / simulated.files[0].parents[5].name)
    one = load_eeg("simulated", tmp_path / "one", subjects="1-4", runs="4,8,12", n_workers=1, quiet=True)
    # Two workers start at 48 recordings; here there are 12.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eeg_module, "RECORDINGS_PER_WORKER", 1)
        two = load_eeg("simulated", tmp_path / "two", subjects="1-4", runs="4,8,12", n_workers=2, quiet=True)
    np.testing.assert_array_equal(one.trials, two.trials)
    assert one.recordings == two.recordings


def test_a_build_that_fails_leaves_nothing(folder: Path) -> None:
    path = recording_path(folder, 2, 12)
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(InputError):
        load(folder)
    left = [path.name for path in (folder.parent / "cache").iterdir() if not path.name.endswith(".lock")]
    assert left == []


def test_a_damaged_cache_is_built_again(folder: Path) -> None:
    trials = np.array(load(folder).trials)
    file = next((folder.parent / "cache").glob("eeg-*/trials.f32"))
    with file.open("r+b") as stream:
        stream.truncate(1000)
    np.testing.assert_array_equal(load(folder).trials, trials)
    for place in (0, file.stat().st_size // 2, file.stat().st_size - 1):
        with file.open("r+b") as stream:
            stream.seek(place)
            byte = stream.read(1)[0]
            stream.seek(place)
            stream.write(bytes([byte ^ 1]))
        np.testing.assert_array_equal(load(folder).trials, trials)


def test_a_label_that_changed_in_the_cache_is_not_taken(folder: Path) -> None:
    label = load(folder).label
    file = next((folder.parent / "cache").glob("eeg-*/index.json"))
    text = file.read_text()
    assert text.startswith(f'{{"label": [{label[0]}')
    file.write_text(f'{{"label": [{1 - label[0]}{text[12:]}')
    assert file.read_text() != text
    np.testing.assert_array_equal(load(folder).label, label)


def test_what_a_killed_build_left_is_removed(folder: Path) -> None:
    load(folder)
    built = next((folder.parent / "cache").glob("eeg-*"))
    leftover = built.with_name(f".{built.name}.abc.tmp")
    built.rename(leftover)
    load(folder)
    assert not leftover.exists()
    assert built.exists()


def test_processes_that_ask_at_once_get_the_same_trials(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from data.eeg.load import load_eeg\n"
        "folder = Path(sys.argv[1])\n"
        "data = load_eeg('physionet', folder.parent / 'cache', folder, subjects='2', checksums=False)\n"
        "print(data.fingerprint, float(abs(data.trials).sum(dtype='f8')))"
    )
    command = [sys.executable, "-c", code, str(folder)]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    outputs = [process.communicate(timeout=PATIENCE) for process in started]
    assert len({out for out, _ in outputs}) == 1, outputs
    assert sum("recording 3/3" in err for _, err in outputs) == 1  # one built, the others waited


def test_a_cache_that_cannot_be_written_is_one_clear_line(folder: Path) -> None:
    (folder.parent / "file").write_text("")
    with pytest.raises(InputError, match=r"^cache_dir=.*file': cannot keep the trials"):
        load_eeg("physionet", folder.parent / "file", folder, subjects="2", checksums=False, quiet=True)


def test_simulated_recordings_that_cannot_be_written_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"^cache_dir='.*/file/cache': cannot keep the recordings \(Not a directory\);"
    ):
        load_eeg("simulated", tmp_path / "file" / "cache", subjects="1", runs="4", quiet=True)


def test_a_data_dir_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "MNE-eegbci-data").write_text("")
    with pytest.raises(InputError, match=r"^data_dir='.*': cannot keep the recordings \(Not a directory\);"):
        load_eeg("physionet", tmp_path / "cache", tmp_path, subjects="1", quiet=True)


def test_what_is_built_is_as_open_as_the_umask_says(folder: Path) -> None:
    umask = os.umask(0o002)
    try:
        load(folder)
    finally:
        os.umask(umask)
    (built,) = (folder.parent / "cache").glob("eeg-*")
    assert stat.S_IMODE(built.stat().st_mode) == 0o775


def test_a_leading_tilde_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    data = load_eeg("physionet", Path("~/cache"), Path("~/data"), subjects="2", checksums=False, quiet=True)
    assert data.cache_dir == folder.parent / "cache"
    assert list(data.cache_dir.glob("eeg-*"))
    with pytest.raises(InputError, match=r"data_dir='~no\.such\.user/data' is not a folder"):
        load_eeg("physionet", Path("~/cache"), Path("~no.such.user/data"), subjects="2", quiet=True)


# Bad recordings


def test_on_bad_stop_names_the_file_and_the_fault(folder: Path) -> None:
    path = recording_path(folder, 2, 8)
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(InputError, match=r"S002R08.edf: cut short: .*on_bad=skip") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_on_bad_skip_lists_it_and_goes_on(folder: Path) -> None:
    path = recording_path(folder, 2, 8)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    data = load(folder, on_bad="skip")
    assert data.trials.shape[0] == 30
    np.testing.assert_array_equal(np.unique(data.run), [4, 12])
    (entry,) = data.excluded
    assert (entry.subject, entry.run) == (2, 8)
    assert "line feeds were rewritten" in entry.reason
    assert "left out: subject 2 run 8: its line feeds" in data.table()
    with pytest.raises(InputError, match="line feeds"):  # what skip built is no excuse for stop
        load(folder, on_bad="stop")


def test_a_recording_that_cannot_be_read_stops_or_is_left_out(folder: Path) -> None:
    path = recording_path(folder, 2, 8)
    path.rename(path.with_suffix(".away"))
    path.mkdir()
    with pytest.raises(InputError, match=r"S002R08.edf: it cannot be read \(Is a directory\); or leave .* on_bad=skip"):
        load(folder)
    data = load(folder, on_bad="skip")
    assert len(data.trials) == 30
    assert [(entry.run, entry.reason) for entry in data.excluded] == [(8, "it cannot be read (Is a directory)")]
    with pytest.raises(InputError, match=r"all 1 recordings are left out, .*S002R08.edf first: it cannot be read"):
        load(folder, on_bad="skip", runs="8")
    path.rmdir()
    path.with_suffix(".away").rename(path)
    assert len(load(folder, on_bad="skip").trials) == 45  # nothing remembers that it could not be read


def test_other_bytes_than_physionets_are_refused_unless_asked(folder: Path) -> None:
    with pytest.raises(InputError, match=r"S002R04.edf: its bytes are not PhysioNet's .*checksums=false"):
        load(folder, checksums=True)
    assert len(load(folder, checksums=False).trials) == 45


def test_the_fault_itself_comes_before_the_checksum(folder: Path) -> None:
    write_edf(simulate_recording(0, 1, 4).resample(128, verbose="ERROR"), recording_path(folder, 2, 4))
    with pytest.raises(InputError, match="sampled at 128 Hz instead of 160 Hz"):
        load(folder, checksums=True)


def test_known_bad_subjects_are_left_out_where_they_have_physionets_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for subject in (88, 3):
        shutil.copytree(recording_path(folder, 2, 4).parent, recording_path(folder, subject, 4).parent)
        for run in (4, 8, 12):
            os.rename(
                recording_path(folder, subject, 4).with_name(f"S002R{run:02d}.edf"),
                recording_path(folder, subject, run),
            )
            sign(recording_path(folder, subject, run), subject)
    assert 88 in load(folder, subjects="2,3,88").subject  # somebody else's recordings have none of EEGMMI's faults
    own = physionet.recording_path(folder, 88, 8)
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    monkeypatch.setattr(physionet, "recording_of", {digest: "S088/S088R08.edf"}.get)
    data = load(folder, subjects="2,3,88")
    np.testing.assert_array_equal(np.unique(data.subject), [2, 3])
    assert [(entry.subject, entry.run) for entry in data.excluded] == [(88, None)]
    assert "sampled at 128 Hz" in data.excluded[0].reason
    assert 88 in load(folder, subjects="2,3,88", exclude="none").subject
    assert set(load(folder, subjects="2,3,88", exclude="3").subject) == {2, 88}
    with pytest.raises(InputError, match=r"every subject asked for is left out \(88: .*sampled at 128 Hz"):
        load(folder, subjects="88")


@pytest.mark.parametrize(("subject", "run"), [(3, 4), (2, 8)])
def test_one_recording_under_two_names_is_refused(folder: Path, subject: int, run: int) -> None:
    for other in (4, 8, 12) if subject == 3 else ():
        path = recording_path(folder, 3, other)
        path.parent.mkdir(exist_ok=True)
        shutil.copy(recording_path(folder, 2, other), path)
        sign(path, 3)
    shutil.copy(recording_path(folder, 2, 4), recording_path(folder, subject, run))
    name = f"S{subject:03d}R{run:02d}.edf"
    with pytest.raises(InputError, match=rf"S002R04.edf: it has the same bytes as .*{name}, so one recording would"):
        load(folder, subjects="2-3" if subject == 3 else "2")
    data = load(folder, subjects="2-3" if subject == 3 else "2", on_bad="skip")
    assert [(entry.subject, entry.run) for entry in data.excluded] == [(2, 4), (subject, run)]
    assert not ((data.subject == 2) & (data.run == 4)).any()


def test_physionets_bytes_at_another_path_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with checksums=false: whose bytes these are is known."""
    digest = hashlib.sha256(recording_path(folder, 2, 4).read_bytes()).hexdigest()
    monkeypatch.setattr(physionet, "recording_of", {digest: "S001/S001R08.edf"}.get)
    expected = r"S002R04.edf: the bytes of PhysioNet's S001/S001R08.edf lie at the path of S002/S002R04.edf: move it"
    for checksums in (True, False):
        with pytest.raises(InputError, match=expected):
            load(folder, checksums=checksums)
    with pytest.raises(InputError, match=r"all 1 recordings are left out, .*S002R04.edf first: the bytes of"):
        load(folder, runs="4", on_bad="skip")


@pytest.mark.parametrize("damage", ["no recordings", "a list", "other labels", "no field"])
def test_a_damaged_index_is_built_again(folder: Path, damage: str) -> None:
    trials = np.array(load(folder, runs="4,8").trials)
    file = next((folder.parent / "cache").glob("eeg-*/index.json"))
    index = json.loads(file.read_text())
    if damage == "no recordings":
        del index["recordings"]
    elif damage == "other labels":
        index["label"][3] = 7
    elif damage == "no field":
        del index["recordings"][0]["dead"]
    file.write_text(json.dumps([index] if damage == "a list" else index))
    np.testing.assert_array_equal(load(folder, runs="4,8").trials, trials)


@pytest.mark.parametrize("name", ["tmin", "tmax"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e300, -1e9])
def test_trials_without_end_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match="seconds from the cue, allowed are -600 to 600"):
        Preprocessing(**{name: value})


def test_a_damaged_recording_is_one_line_with_its_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(mne.io, "read_raw_edf", fail)
    with pytest.raises(InputError, match=r"S002R04.edf: MNE cannot read it \(ZeroDivisionError: division by zero"):
        load(folder)


def test_one_class_only_is_refused(folder: Path) -> None:
    for run in (4, 8, 12):
        raw = simulate_recording(0, 1, run)
        raw.annotations.description[raw.annotations.description == "T2"] = "T0"
        write_edf(raw, recording_path(folder, 2, run))
    with pytest.raises(InputError, match=r"all \d+ trials of .* are left fist: two classes are needed"):
        load(folder)


def test_recordings_without_tasks_are_refused(folder: Path) -> None:
    write_edf(simulate_recording(0, 1, 4).set_annotations(None), recording_path(folder, 2, 4))
    with pytest.raises(InputError, match="no T1 or T2 event"):
        load(folder)
    assert len(load(folder, labelled=False, runs="4").trials) == 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subjects": "110"}, "there is no subject 110; allowed are"),
        ({"runs": "15"}, "there is no run 15"),
        ({"runs": "4,6"}, "in run 6 there is no left or right fist"),
        ({"runs": "1"}, "in run 1 there is no left or right fist"),
        ({"exclude": "all"}, "exclude='all'"),
        ({"on_bad": "ignore"}, "on_bad='ignore' is not allowed"),
        ({"data_dir": Path("/nowhere")}, "data_dir='/nowhere' is not a folder"),
    ],
)
def test_bad_settings_are_one_clear_line(folder: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(folder, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose physionet, simulated, recordings or moabb:NAME"):
        load_eeg("seed", tmp_path)


def test_mnes_log_level_is_left_alone(simulated: EegData) -> None:
    level = mne.set_log_level("INFO", return_old_level=True)
    try:
        simulated.torcheeg_windows()
        assert mne.set_log_level("INFO", return_old_level=True) == 20
    finally:
        mne.set_log_level(level)


def inspect(*arguments: str, cwd: Path) -> tuple[int, str]:
    """(exit status, what is printed) of `python -m data.eeg inspect`."""
    return run_warm("data.eeg", ["inspect", *arguments], cwd, {**environment(cwd), "MPLBACKEND": "Agg"})


def test_inspect_prints_the_table_and_writes_the_figures(eeg_cache: Path, simulated: EegData, tmp_path: Path) -> None:
    status, text = inspect("--subjects", "1-2", "--cache_dir", str(eeg_cache), "--out", "figures", cwd=tmp_path)
    assert status == 0, text
    assert "simulated: 90 trials of 2 subjects" in text
    assert sum(line.split()[:1] in (["1"], ["2"]) for line in text.splitlines()) == 6
    names = {"raw_traces", "spectrum", "spectrum_topomaps", "contralateral_topomap"}
    assert {file.stem for file in (tmp_path / "figures").glob("*.png")} == names


def test_inspect_takes_runs_without_labels(eeg_cache: Path, simulated: EegData, tmp_path: Path) -> None:
    arguments = ("--runs", "1,4", "--cache_dir", str(eeg_cache))
    status, text = inspect(*arguments, "--unlabelled", "--out", "figures", cwd=tmp_path)
    assert status == 0, text
    assert "simulated: 48 stretches of 1 subject (no labels)" in text
    assert {file.stem for file in (tmp_path / "figures").glob("*.png")} == {"raw_traces", "spectrum"}
    status, text = inspect(*arguments, cwd=tmp_path)
    assert status == 2
    assert "in run 1 there is no left or right fist" in text


def test_inspect_ends_with_2_and_one_line_on_bad_input(tmp_path: Path) -> None:
    status, text = inspect("--dataset", "physionet", "--data_dir", "missing", cwd=tmp_path)
    assert status == 2
    assert text.count("\n") == 1
    assert text.startswith("error: data_dir='missing' is not a folder")

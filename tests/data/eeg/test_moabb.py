"""A data set of MOABB by name, with MOABB's own fake one, which needs no network; skipped without MOABB."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import mne
import numpy as np
import pytest

from common.errors import InputError
from data.eeg.load import EegData, load_eeg
from data.eeg.recording import Preprocessing
from trainers.eeg_transformer.config import PRESETS, EegTransformerConfig
from training.config import parse_config
from training.eeg.config import presets_for
from training.eeg.load import load_data

needs_moabb = pytest.mark.skipif(importlib.util.find_spec("moabb") is None, reason="MOABB is not installed")
SHORT = Preprocessing(tmin=0.0, tmax=1.0)


def load(name: str, cache: Path, *, subjects: str = "1-2", preprocessing: Preprocessing = SHORT) -> EegData:
    return load_eeg(f"moabb:{name}", cache, subjects=subjects, runs="all", preprocessing=preprocessing, quiet=True)


def test_without_moabb_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moabb", None)
    with pytest.raises(InputError, match=r"moabb:BNCI2014_001 needs MOABB .*; run: pip install moabb") as refused:
        load("BNCI2014_001", tmp_path)
    assert "\n" not in str(refused.value)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """MOABB with a fake data set of three people, two sessions of two runs, called BNCI2014_001."""
    import moabb.datasets

    class Fake(moabb.datasets.FakeDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(["left_hand", "right_hand"], n_subjects=3, seed=1, n_events=12, duration=60)

    monkeypatch.setattr(moabb.datasets, "BNCI2014_001", Fake)
    return moabb.datasets


@needs_moabb
@pytest.mark.filterwarnings("ignore")
def test_events_sessions_and_runs_are_moabbs(fake: ModuleType, tmp_path: Path) -> None:
    data = load("BNCI2014_001", tmp_path)
    assert (data.dataset, data.classes, data.ch_names) == (
        "moabb:BNCI2014_001",
        ("left_hand", "right_hand"),
        ("C3", "Cz", "C4"),
    )
    assert len(np.unique(data.subject)) == 2
    assert len(np.unique(data.run)) == 4
    assert len(np.unique(data.session)) == 2
    assert np.bincount(data.label).min() > 20  # of 4 runs of 12 events a person
    sessions = data.by_session()
    assert set(np.unique(sessions.run)) == {1, 2}


@needs_moabb
@pytest.mark.filterwarnings("ignore")
def test_trials_are_those_of_moabbs_events_filtered_by_mne(fake: ModuleType, tmp_path: Path) -> None:
    dataset = fake.BNCI2014_001()
    runs = [raw for runs in dataset.get_data(subjects=[1])[1].values() for raw in runs.values()]
    preprocessing = Preprocessing(tmin=0.0, tmax=1.0, sfreq=runs[0].info["sfreq"])
    data = load("BNCI2014_001", tmp_path, subjects="1", preprocessing=preprocessing)
    trials, label = [], []
    for raw in runs:
        events = mne.find_events(raw, shortest_event=0, verbose="ERROR")
        events[:, 0] += round(dataset.interval[0] * raw.info["sfreq"])
        filtered = raw.copy().pick("eeg").filter(7, 30, fir_design="firwin", verbose="ERROR")
        settings = {"tmin": 0, "tmax": 1, "baseline": None, "preload": True, "verbose": "ERROR"}
        epochs = mne.Epochs(filtered, events, dataset.event_id, **settings)
        trials.append(epochs.get_data())
        label.append(epochs.events[:, 2])
    np.testing.assert_allclose(data.trials, np.concatenate(trials), atol=1e-6 * np.abs(data.trials).max())
    names = [data.classes[k] for k in data.label]
    assert names == [name for code in np.concatenate(label) for name, c in dataset.event_id.items() if c == code]


@needs_moabb
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("split", ["cross_subject", "within_subject", "cross_session"])
def test_no_person_session_or_run_is_on_both_sides(split: str, fake: ModuleType, tmp_path: Path) -> None:
    words = ["--dataset", "moabb:BNCI2014_001", "--network", "windows", "--split", split, "--n_folds", "3"]
    words += ["--tmin", "0", "--tmax", "1.5", "--cache_dir", str(tmp_path)]
    config = parse_config(EegTransformerConfig, presets_for(PRESETS, words), words, "eeg_transformer")
    original = load("BNCI2014_001", tmp_path, subjects="1-3")
    unit = {
        "cross_subject": original.subject,
        "within_subject": 100 * original.subject + original.run,
        "cross_session": 100 * original.subject + original.session,
    }[split]
    _, windows, folds = load_data(config, quiet=True)
    assert len(folds) == {"cross_subject": 3, "within_subject": 12, "cross_session": 6}[split]
    for fold in folds:
        seen = windows.trial[np.concatenate([fold.train, fold.validation])]
        assert not set(unit[windows.trial[fold.test]]) & set(unit[seen])
        if split != "cross_subject":
            assert len(set(original.subject[windows.trial[fold.test]])) == 1


@needs_moabb
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BNCI2014001x", "MOABB has no such data set; did you mean moabb:BNCI2014_001"),
        ("BI2012", "is about p300, not imagined movement"),
    ],
)
def test_a_wrong_name_is_refused(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        load(name, tmp_path)


@needs_moabb
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_fetched_is_said_and_the_users_configuration_stays(
    fake: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[str] = []

    def refuse(*_: object, **__: object) -> None:
        folders.append(mne.get_config("MNE_DATA"))
        raise ConnectionError("no network")

    monkeypatch.setattr(fake.BNCI2014_001, "get_data", refuse)
    before, kept = mne.get_config("MNE_DATA"), tmp_path / "kept"
    with pytest.raises(
        InputError, match=r"person 1 could not be fetched \(ConnectionError: no network\); connect to the .*kept$"
    ):
        load_eeg("moabb:BNCI2014_001", tmp_path, kept, subjects="1-2", runs="all", quiet=True)
    assert folders == [str(kept)]
    assert mne.get_config("MNE_DATA") == before
    assert not list(tmp_path.glob("moabb-*/sub-*"))

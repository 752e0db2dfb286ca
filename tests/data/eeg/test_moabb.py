"""A data set of MOABB by name, with MOABB's own fake one, which needs no network; skipped without MOABB."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from common.errors import InputError
from data.eeg.load import EegData, load_eeg
from data.eeg.own import OwnFiles
from data.eeg.recording import Preprocessing

needs_moabb = pytest.mark.skipif(importlib.util.find_spec("moabb") is None, reason="MOABB is not installed")
SHORT = Preprocessing(tmin=0.0, tmax=1.0)


def load(name: str, cache: Path, *, classes: tuple[str, ...] = (), subjects: str = "1-2") -> EegData:
    own = OwnFiles(classes=classes)
    return load_eeg(f"moabb:{name}", cache, subjects=subjects, runs="all", preprocessing=SHORT, own=own, quiet=True)


def test_without_moabb_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moabb", None)
    with pytest.raises(InputError, match=r"moabb:BNCI2014_001 needs MOABB .*; run: pip install moabb") as refused:
        load("BNCI2014_001", tmp_path)
    assert "\n" not in str(refused.value)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """MOABB with a fake data set of two people, two sessions of two runs, called BNCI2014_001."""
    import moabb.datasets

    class Fake(moabb.datasets.FakeDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(["left_hand", "right_hand"], n_subjects=2, seed=1, n_events=12, duration=60)

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
def test_a_signal_is_moabbs_at_the_start_of_each_task(fake: ModuleType, tmp_path: Path) -> None:
    data = load("BNCI2014_001", tmp_path, subjects="1")
    raws = fake.BNCI2014_001().get_data(subjects=[1])[1]
    assert len(data.recordings) == sum(len(runs) for runs in raws.values())
    assert {report.seconds for report in data.recordings} == {
        round(raw.n_times / raw.info["sfreq"], 3) for runs in raws.values() for raw in runs.values()
    }


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
def test_what_cannot_be_fetched_is_said(fake: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(fake.BNCI2014_001, "get_data", refuse)
    with pytest.raises(InputError, match=r"person 1 could not be had \(ConnectionError: no network\); connect to the"):
        load("BNCI2014_001", tmp_path)
    assert not list(tmp_path.glob("moabb-*/sub-*"))

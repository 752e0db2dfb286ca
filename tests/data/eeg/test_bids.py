"""A BIDS tree: its events, bad channels and folders, by mne-bids; skipped where that is not installed."""

import importlib.util
import json
from pathlib import Path

import mne
import numpy as np
import pytest

from common.errors import InputError
from data.eeg.load import load_eeg
from data.eeg.survey import OwnFiles
from tests.data.eeg.own_files import own_raw, write_recording

needs_mne_bids = pytest.mark.skipif(importlib.util.find_spec("mne_bids") is None, reason="mne-bids is not installed")
OWN = OwnFiles(classes=("left_hand", "right_hand"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two people with two sessions each; the events stand in tables, not in the recordings."""
    root = tmp_path / "tree"
    for subject in (1, 2):
        for session in ("a", "b"):
            base = root / f"sub-{subject:02d}" / f"ses-{session}" / "eeg" / f"sub-{subject:02d}_ses-{session}_task-mi"
            raw = own_raw(subject, ord(session), n_trials=6)
            rows = [(n["onset"], n["duration"], n["description"]) for n in raw.annotations]
            began = float(raw.annotations.orig_time.timestamp() - raw.info["meas_date"].timestamp())
            raw.set_annotations(None)
            write_recording(raw, base.with_name(f"{base.name}_eeg.edf"))
            lines = ["onset\tduration\ttrial_type", *(f"{on - began:g}\t{last:g}\t{what}" for on, last, what in rows)]
            base.with_name(f"{base.name}_events.tsv").write_text("\n".join(lines) + "\n")
            base.with_name(f"{base.name}_eeg.json").write_text(
                json.dumps(
                    {"TaskName": "mi", "SamplingFrequency": 250, "PowerLineFrequency": 50, "EEGReference": "n/a"}
                )
            )
    (root / "dataset_description.json").write_text(json.dumps({"Name": "own", "BIDSVersion": "1.8.0"}))
    copies = root / "derivatives" / "clean" / "sub-01_task-mi_eeg.edf"
    write_recording(own_raw(1, 1, n_trials=6), copies)
    return root


@needs_mne_bids
@pytest.mark.filterwarnings("ignore")
def test_events_come_from_the_tables_and_sessions_from_the_names(tree: Path, tmp_path: Path) -> None:
    data = load_eeg("recordings", tmp_path / "c", tree, subjects="all", runs="all", own=OWN, quiet=True)
    assert len(data.recordings) == 4
    assert len(data.trials) == 4 * 5  # the second of six cues is marked bad
    assert len(np.unique(data.session)) == 2
    events, _ = mne.events_from_annotations(
        own_raw(1, ord("a"), n_trials=6), {"left_hand": 0, "right_hand": 1}, verbose=0
    )
    np.testing.assert_array_equal(data.label[:5], np.delete(events[:, 2], 1))


def test_without_mne_bids_a_tree_with_tables_is_refused(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.eeg.any_format.importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match="is a BIDS tree with events in files of their own: pip install mne-bids"):
        load_eeg("recordings", tmp_path / "c", tree, subjects="all", runs="all", own=OWN, quiet=True)

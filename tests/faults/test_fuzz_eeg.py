"""Damaged recordings, and caches of trials."""

import functools
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.eeg.cache import ReadJob, cached_trials
from data.eeg.edf import edf_header
from data.eeg.physionet import recording_path
from data.eeg.recording import Preprocessing, try_read_trials
from data.eeg.signal_checks import MAX_VOLTS
from data.eeg.simulated import write_simulated
from tests.faults.fuzzing import amounts, damaged, run_cases

SECONDS = 22
"""Of a recording here: two trials, a sixth of the reading."""


@pytest.fixture(scope="module")
def edf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording cut to SECONDS, as a whole file."""
    folder = write_simulated(tmp_path_factory.mktemp("simulated"), 0, [(1, 4)], n_workers=1, quiet=True)
    whole = recording_path(folder, 1, 4).read_bytes()
    header = edf_header(whole)
    n_records = round(SECONDS / header.record_seconds)
    head = whole[:236] + str(n_records).encode().ljust(8) + whole[244 : header.n_header_bytes]
    path = folder / "S001R04.edf"
    path.write_bytes(head + whole[header.n_header_bytes :][: n_records * header.record_bytes])
    assert not isinstance(read(path, 0), str)
    return path


def read(path: Path, run: int) -> object:
    return try_read_trials(path, 1, run, Preprocessing(), labelled=True, is_genuine=True)


@amounts
def test_damaged_recordings(n: int, edf_file: Path, tmp_path: Path) -> None:
    """Trials that are numbers, or a reason."""
    whole = edf_file.read_bytes()
    header_bytes = edf_header(whole).n_header_bytes
    path = tmp_path / "S001R04.edf"

    def case(chance: random.Random) -> str:
        at = chance.choice((0, 0, header_bytes))  # more often in the header, where one byte changes everything
        part = whole[at : header_bytes if at == 0 else len(whole)]
        data = whole[:at] + damaged(part, chance) + whole[at + len(part) :]
        path.write_bytes(data)
        result = read(path, 4)
        if isinstance(result, str):
            assert 10 < len(result) < 700, result
            assert "\n" not in result
            return "refused"
        trials, labels, report = result  # type: ignore[misc]
        assert np.isfinite(trials).all()
        assert np.abs(trials).max() <= 20 * MAX_VOLTS
        assert trials.shape[1:] == (64, 801)
        assert len(trials) == len(labels) == report.n_trials
        return "read"

    run_cases(
        "damaged recordings",
        case,
        n,
        allowed=("read", "refused"),
        shown="`S001R04.edf: REASON`; with `on_bad=skip` it is left out and listed. PhysioNet's files have checksums: "
        "there any change is refused",
    )


@amounts
def test_damaged_caches_of_trials(n: int, edf_file: Path, tmp_path: Path) -> None:
    """A cache with any byte changed is built again."""
    settings = Preprocessing(tmin=0, tmax=0.2)
    jobs = [ReadJob(edf_file, 1, 4, settings, True, True)]
    cache = tmp_path / "eeg-x"
    built = functools.partial(cached_trials, cache, jobs, on_bad="stop", workers=1, quiet=True)
    whole = np.array(built()[0])
    shutil.copytree(cache, tmp_path / "kept")

    def case(chance: random.Random) -> str:
        name = chance.choice(("trials.f32", "index.json"))
        original = (tmp_path / "kept" / name).read_bytes()
        (cache / name).write_bytes(data := damaged(original, chance))
        np.testing.assert_array_equal(built()[0], whole)
        # White space in JSON changes nothing.
        return "built again" if (cache / name).read_bytes() != data else "the same"

    run_cases(
        "damaged caches of trials", case, n, allowed=("the same", "built again"), shown="nothing: they are built again"
    )

"""The exercise's own route, torcheeg's MNEDataset, gives the same windows."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InputError
from data.eeg.load import EegData, Preprocessing, load_eeg
from data.eeg.torcheeg import (
    _mne_dataset_class,
    compose,
    label_from_event,
    mean_std_normalize,
    to_2d,
    to_tensor,
)

pytest.importorskip("torcheeg", reason="torcheeg is not installed (pip install --no-deps torcheeg==1.0.11)")


def assert_equal(data: EegData, window: int, overlap: int) -> None:
    ours, theirs = data.windows(window, overlap), data.torcheeg_windows(window, overlap)
    assert len(ours) == len(theirs)
    for column in ("trial", "position", "start", "label", "subject", "run"):
        np.testing.assert_array_equal(getattr(ours, column), getattr(theirs, column), err_msg=column)
    everything = np.arange(len(ours))
    # Ours are normalised in float32, theirs in float64: values up to about 8 differ in the last bit or two.
    torch.testing.assert_close(ours.gather(everything), theirs.gather(everything), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("window", "overlap"), [(160, 80), (320, 0)])
def test_equal_on_the_real_recordings(real_data: Path, tmp_path: Path, window: int, overlap: int) -> None:
    data = load_eeg("physionet", tmp_path, real_data / "eegmmi", subjects="1", quiet=True)
    assert_equal(data, window, overlap)


def test_equal_on_simulated_recordings_that_lose_trials(tmp_path: Path) -> None:
    preprocessing = Preprocessing(tmin=-6.0, tmax=4.0)  # each first trial would start before its recording
    data = load_eeg("simulated", tmp_path, subjects="1-2", runs="4,8", preprocessing=preprocessing, quiet=True)
    assert len(data.trials) == 4 * 14
    assert_equal(data, 160, 80)


def test_a_difference_between_the_routes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_eeg("simulated", tmp_path, subjects="1", runs="4,8", quiet=True)
    assert_equal(data, 160, 80)
    swapped = dataclasses.replace(data, label=1 - data.label)
    with pytest.raises(InputError, match=r"found 270 windows where windows=views has 270, the label of 0 of them"):
        swapped.torcheeg_windows()
    shorter = dataclasses.replace(data, recordings=data.recordings[:1], label=data.label[:15])
    with pytest.raises(InputError, match=r"found 270 windows where windows=views has 135"):
        shorter.torcheeg_windows()


def test_a_damaged_store_is_built_again(tmp_path: Path) -> None:
    data = load_eeg("simulated", tmp_path, subjects="1", runs="4", quiet=True)
    everything = np.arange(len(data.windows()))
    whole = data.torcheeg_windows().gather(everything)
    [store] = tmp_path.glob("torcheeg-*")
    built = (store / "checksums.json").stat().st_mtime_ns
    assert torch.equal(data.torcheeg_windows().gather(everything), whole)
    assert (store / "checksums.json").stat().st_mtime_ns == built  # it was read
    [file] = store.rglob("data.mdb")
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, 1)
        stream.write(bytes([byte ^ 64]))
    assert torch.equal(data.torcheeg_windows().gather(everything), whole)
    assert (store / "checksums.json").stat().st_mtime_ns != built


def test_a_constant_window_is_zeros_as_in_the_other_route() -> None:
    assert np.abs(mean_std_normalize(np.full((64, 160), 3e-5))["eeg"]).max() < 1e-15
    noise = 1e-20 * np.random.default_rng(0).normal(size=(64, 160))
    assert np.abs(mean_std_normalize(noise)["eeg"]).max() < 1e-15


def test_each_setting_has_its_own_store(real_data: Path, tmp_path: Path) -> None:
    """torcheeg itself hands out whatever an older call left in the folder."""
    data = load_eeg("physionet", tmp_path, real_data / "eegmmi", subjects="1", runs="4", quiet=True)
    assert data.torcheeg_windows(160, 80).gather(np.arange(2)).shape == (2, 64, 160)
    assert data.torcheeg_windows(320, 80).gather(np.arange(2)).shape == (2, 64, 320)
    assert len(list(tmp_path.glob("torcheeg-*"))) == 2


def test_unlabelled_data_and_whole_trials_are_refused(tmp_path: Path) -> None:
    data = load_eeg("simulated", tmp_path, subjects="1", runs="4", labelled=False, quiet=True)
    with pytest.raises(InputError, match="unlabelled stretches need windows=views"):
        data.torcheeg_windows()
    labelled = load_eeg("simulated", tmp_path, subjects="1", runs="4", quiet=True)
    with pytest.raises(InputError, match="shorter than a trial"):
        labelled.torcheeg_windows(801, 0)


def test_our_transforms_are_torcheegs() -> None:
    _mne_dataset_class()  # restores the name scipy.signal.hann, which torcheeg.transforms imports
    transforms = pytest.importorskip("torcheeg.transforms", reason="torcheeg.transforms needs the package spectrum")
    eeg = np.random.default_rng(0).normal(size=(64, 160))
    theirs = transforms.Compose([transforms.MeanStdNormalize(), transforms.To2d(), transforms.ToTensor()])(eeg=eeg)
    ours = compose(mean_std_normalize, to_2d, to_tensor)(eeg=eeg)
    assert torch.equal(ours["eeg"], theirs["eeg"])
    label = transforms.Compose([transforms.Select("event"), transforms.Lambda(lambda x: x - 2)])
    assert label_from_event(y={"event": 3}) == label(y={"event": 3}) == {"y": 1}

"""Faulty channels and values that cannot be EEG."""

import math

import numpy as np
import pytest

from data.eeg.edf import BadRecording
from data.eeg.recording import CHANNELS
from data.eeg.signal_checks import check_values, find_faulty_channels


def test_flat_and_clipped_channels_are_noted() -> None:
    rng = np.random.default_rng(0)
    signal = rng.normal(0, 3e-5, (64, 8000))
    assert find_faulty_channels(signal, CHANNELS, 160.0) == ((), ())
    signal[5, 1600:4000] = 0.0  # 15 of 50 seconds
    signal[9, 7920:] = 0.0  # the zeros that end every genuine file
    signal[11] = np.clip(signal[11], -6e-5, 6e-5)  # beyond two deviations: 2.3 % on each side
    assert find_faulty_channels(signal, CHANNELS, 160.0) == ((CHANNELS[5],), (CHANNELS[11],))


def test_values_that_are_no_numbers_are_refused() -> None:
    signal = np.zeros((64, 1000))
    signal[3, 7] = math.nan
    with pytest.raises(BadRecording, match="FCz holds values that are not numbers"):
        check_values(signal, CHANNELS)

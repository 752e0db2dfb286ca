"""What may be wrong with a recording's signal, whatever its format: values that cannot be EEG, channels and stretches
without any.
"""

from collections.abc import Sequence

import numpy as np

from data.eeg.edf import BadRecording

FLAT_VOLTS = 1e-6  # one step of EEGMMI's converter
FLAT_SHARE = 0.1  # of the seconds; every file ends with up to a second of zeros
CLIPPED_SHARE = 0.01  # of the samples at the channel's own extreme
FAULTY_SHARE = 0.125  # of the channels, 8 of 64; with more, the recording itself is at fault
MAX_VOLTS = 0.1  # EEGMMI's converter ends at 0.008; eyes and muscles stay under 0.002
MIN_DEAD_SECONDS = 2  # without a break, in all but FAULTY_SHARE of the channels


def check_signal(signal: np.ndarray, ch_names: Sequence[str], sfreq: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of flat and of clipped channels of `signal`, volts [n_chans, n_samples].

    BadRecording for values that cannot be EEG, or with more than FAULTY_SHARE of such channels.
    """
    check_values(signal, ch_names)
    flat, clipped = find_faulty_channels(signal, ch_names, sfreq)
    if len(flat) + len(clipped) > max_faulty(len(ch_names)):
        names = " ".join((*flat, *clipped)[:12])
        unit = f"; all stay within {FLAT_VOLTS:g} V: perhaps their unit is wrong" if len(flat) == len(ch_names) else ""
        raise BadRecording(
            f"{len(flat)} flat and {len(clipped)} clipped channels of {len(ch_names)} ({names} ...){unit}"
        )
    return flat, clipped


def max_faulty(n_chans: int) -> int:
    """How many of the channels may be flat or clipped."""
    return max(1, int(FAULTY_SHARE * n_chans))


def check_values(signal: np.ndarray, ch_names: Sequence[str]) -> None:
    """BadRecording unless `signal`, volts [n_chans, n_samples], is finite and no more than 0.1 V anywhere."""
    # The largest is NaN where one value is.
    highest = np.maximum(signal.max(axis=1), -signal.min(axis=1))
    wrong = np.flatnonzero(~(highest <= MAX_VOLTS))
    if len(wrong):
        worst = highest[wrong[0]]
        if np.isnan(worst):
            raise BadRecording(f"channel {ch_names[wrong[0]]} holds values that are not numbers: repair or drop it")
        raise BadRecording(
            f"channel {ch_names[wrong[0]]} reaches {worst:.3g} V, as do {len(wrong) - 1} others, where EEG stays below "
            f"{MAX_VOLTS:g} V: its unit or its limits in the header are wrong"
        )


def median_deviation(signal: np.ndarray) -> float:
    """Median over channels of the standard deviation of `signal`, volts [n_chans, n_samples]."""
    variance = np.einsum("ct,ct->c", signal, signal) / signal.shape[1] - signal.mean(axis=1) ** 2
    return float(np.median(np.sqrt(np.maximum(variance, 0.0))))  # rounding may leave a constant channel's below zero


def dead_stretches(signal: np.ndarray, sfreq: float) -> tuple[str, ...]:
    """Where all but `max_faulty` channels of `signal`, volts [n_chans, n_samples], hold still for at least
    MIN_DEAD_SECONDS whole seconds, such as "50-61 s".
    """
    second = round(sfreq)
    whole = signal[:, : signal.shape[1] // second * second].reshape(len(signal), -1, second)
    still = (whole.max(axis=2) - whole.min(axis=2) < FLAT_VOLTS).sum(axis=0) >= len(signal) - max_faulty(len(signal))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], still, [False]])))
    stretches = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return tuple(f"{first}-{last} s" for first, last in stretches if last - first >= MIN_DEAD_SECONDS)


def find_faulty_channels(
    signal: np.ndarray, ch_names: Sequence[str], sfreq: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of flat and of clipped channels of `signal`, volts [n_chans, n_samples].

    Flat: within 1 uV for more than a tenth of the seconds. Clipped: more than 1 % of the samples at the
    channel's maximum or minimum.
    """
    second = round(sfreq)
    whole = signal[:, : signal.shape[1] // second * second].reshape(len(signal), -1, second)
    highest, lowest = whole.max(axis=2), whole.min(axis=2)
    flat = (highest - lowest < FLAT_VOLTS).mean(axis=1) > FLAT_SHARE
    top, bottom = highest.max(axis=1), lowest.min(axis=1)
    clipped = np.zeros(len(signal), dtype=bool)
    for channel in np.flatnonzero(~flat):
        for extreme, of_seconds in ((top[channel], highest[channel]), (bottom[channel], lowest[channel])):
            # An extreme that one second alone reaches counts as no clipping, which spares counting through the
            # whole signal (4 ms a recording): 1 % of a task run (125 s) is more than a second; of a baseline run
            # (61 s) it is 0.6 s, so there a channel held for one second, once, passes.
            if np.count_nonzero(of_seconds == extreme) > 1:
                at_extreme = np.count_nonzero(signal[channel] == extreme)
                clipped[channel] |= at_extreme > CLIPPED_SHARE * signal.shape[1]
    return (
        tuple(name for name, bad in zip(ch_names, flat, strict=True) if bad),
        tuple(name for name, bad in zip(ch_names, clipped, strict=True) if bad),
    )

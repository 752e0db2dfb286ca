"""What recordings look like: the exercise's three plots, and the map of where left and right differ."""

import matplotlib.pyplot as plt
import mne
import numpy as np
import scipy.signal
from matplotlib.figure import Figure

from data.eeg.load import EegData
from data.eeg.recording import CHANNELS, read_epochs, read_filtered, read_raw

MU_BAND = (8.0, 13.0)
SHORTEST_SPECTRUM = 0.5  # seconds: in less there is hardly a frequency to show below 4 Hz, MNE's lowest band
TASK_WINDOW = (0.5, 3.5)  # seconds from the cue: after the response to the cue itself, before the target goes


def recording_figures(data: EegData, recording: int = 0) -> dict[str, Figure]:
    """The figures by name: `raw_traces`, `spectrum` and `spectrum_topomaps` of one recording,
    `contralateral_topomap` of all trials.

    `recording` counts in `data.recordings`; of one's own, the first that has trials instead of one that has none.
    Unlabelled data has no events, so only the first two are drawn.
    `spectrum_topomaps` needs trials of SHORTEST_SPECTRUM, `contralateral_topomap` trials that cover TASK_WINDOW.
    """
    if data.is_own and not data.recordings[recording].n_trials:
        recording = next(number for number, report in enumerate(data.recordings) if report.n_trials)
    report, file = data.recordings[recording], data.files[recording]
    subject, run = data.names.of_subject(report.subject), data.names.run_in_words(report.run)
    title = f"{data.dataset} subject {subject} run {run}"
    if data.is_own:
        return own_figures(data, recording, title)
    with mne.utils.use_log_level("ERROR"):  # MNE's plots announce what they do
        filtered = read_filtered(file, data.preprocessing)
        figures = {
            "raw_traces": plot_raw_traces(filtered, title),
            "spectrum": plot_spectrum(read_raw(file), filtered, title),
        }
        labelled, times = (data.label >= 0).all(), data.times
        if labelled and times[-1] - times[0] >= SHORTEST_SPECTRUM:
            figures["spectrum_topomaps"] = plot_spectrum_topomaps(read_epochs(file, data.preprocessing), title)
        if covers_task(data) and people_with_both(data):
            figures["contralateral_topomap"] = plot_contralateral_topomap(data)
    return figures


def own_figures(data: EegData, recording: int, title: str) -> dict[str, Figure]:
    """The same figures of recordings of one's own, without the spectrum as recorded: of the trials of one of them."""
    is_map = len(data.ch_names) > 1  # MNE draws none of a single electrode
    n_before = sum(report.n_trials for report in data.recordings[:recording])
    rows = slice(n_before, n_before + data.recordings[recording].n_trials)
    figures = {}
    with mne.utils.use_log_level("ERROR"):
        epochs = mne.EpochsArray(
            np.asarray(data.trials[rows], dtype=np.float64), data.info(), tmin=float(data.times[0])
        )
        if len(epochs):
            signal = np.concatenate(list(epochs.get_data()[:3]), axis=1)
            raw = mne.io.RawArray(signal, data.info())
            figures["raw_traces"] = plot_raw_traces(raw, f"{title}, first trials", start=0)
        if is_map and len(epochs) and data.times[-1] - data.times[0] >= SHORTEST_SPECTRUM:
            figures["spectrum_topomaps"] = plot_spectrum_topomaps(epochs, title)
        if is_map and covers_task(data) and len(data.classes) == 2 and people_with_both(data):
            figures["contralateral_topomap"] = plot_contralateral_topomap(data)
    return figures


def covers_task(data: EegData) -> bool:
    """Whether the trials are labelled and reach over TASK_WINDOW."""
    times = data.times
    return bool((data.label >= 0).all() and times[0] <= TASK_WINDOW[0] and TASK_WINDOW[1] <= times[-1])


def people_with_both(data: EegData) -> list[int]:
    """The subjects that have trials of two classes."""
    return [int(s) for s in np.unique(data.subject) if len(np.unique(data.label[data.subject == s])) == 2]


def plot_raw_traces(raw: mne.io.BaseRaw, title: str, start: float = 12) -> Figure:
    """The exercise's `raw.plot(start=12, duration=5)`: 20 channels, scaled to the filtered signal."""
    with mne.viz.use_browser_backend("matplotlib"):
        figure = raw.plot(
            start=start,
            duration=5,
            n_channels=20,
            scalings={"eeg": 5e-5},
            title=title,
            show=False,
            show_scrollbars=False,
            verbose="ERROR",
        )
    figure.suptitle(f"{title}: filtered signal", fontsize=10, y=0.995)
    return _finished(figure)


def plot_spectrum(raw: mne.io.BaseRaw, filtered: mne.io.BaseRaw, title: str) -> Figure:
    """Power spectral density of every channel, as recorded and (the exercise's `raw.compute_psd().plot()`) as
    filtered.
    """
    figure, axes = plt.subplots(2, 1, figsize=(9, 6), sharex=True, layout="constrained")
    raw = raw.copy().pick(list(CHANNELS)).set_montage(filtered.get_montage(), verbose="ERROR")
    for axis, signal, name in zip(axes, (raw, filtered), ("as recorded", "band-passed"), strict=True):
        signal.compute_psd(verbose="ERROR").plot(axes=axis, show=False, amplitude=False)
        axis.set_title(f"{title}: {name}", fontsize=10)
    axes[0].set_xlabel("")
    axes[1].set_xlabel("frequency (Hz)")
    return _finished(figure)


def plot_spectrum_topomaps(epochs: mne.Epochs, title: str) -> Figure:
    """The exercise's `epochs.compute_psd().plot_topomap()`: power over the scalp in the classical bands."""
    figure, axes = plt.subplots(1, 5, figsize=(14, 3.2), layout="constrained")  # MNE's five bands
    epochs.compute_psd(verbose="ERROR").plot_topomap(axes=list(axes), show=False)
    figure.suptitle(f"{title}: power of the band-passed trials", fontsize=10)
    return _finished(figure)


def contralateral_map(data: EegData) -> np.ndarray:
    """Mu power (8-13 Hz) in trials of class 1 (right fist) over that in class 0 (left), decibels [n_chans], averaged
    over subjects.

    Imagining a fist weakens mu on the opposite side: negative on the left (C3), positive on the right (C4).
    The trials must cover TASK_WINDOW, and somebody's be of both classes.
    """
    inside = (data.times >= TASK_WINDOW[0]) & (data.times <= TASK_WINDOW[1])
    band = scipy.signal.butter(4, MU_BAND, "bandpass", fs=data.sfreq, output="sos")
    power = np.empty(data.trials.shape[:2])
    for trial, signal in enumerate(data.trials):
        mu = scipy.signal.sosfiltfilt(band, signal.astype(np.float64), axis=1)[:, inside]
        power[trial] = 10 * np.log10(np.maximum((mu**2).mean(axis=1), 1e-24))
    differences = [
        power[own & (data.label == 1)].mean(axis=0) - power[own & (data.label == 0)].mean(axis=0)
        for own in (data.subject == subject for subject in people_with_both(data))
    ]
    return np.mean(differences, axis=0)


def plot_contralateral_topomap(data: EegData) -> Figure:
    """`contralateral_map` on the scalp: blue where right-fist trials have less mu power."""
    n_subjects = len(np.unique(data.subject))
    title = f"{data.dataset}: {n_subjects} subject{'s' if n_subjects > 1 else ''}, 0.5-3.5 s after the cue"
    what = f"{data.classes[1]} - {data.classes[0]}" if data.is_own else "right - left fist"
    return plot_scalp_map(contralateral_map(data), data, title, f"{what}, mu power (dB)")


def plot_scalp_map(values: np.ndarray, data: EegData, title: str, unit: str) -> Figure:
    """One value a channel [n_chans] on the scalp, red above zero and blue below."""
    info = data.info()
    figure, axis = plt.subplots(figsize=(5, 4.4), layout="constrained")
    limit = float(np.abs(values).max()) or 1.0
    image, _ = mne.viz.plot_topomap(
        values, info, axes=axis, cmap="RdBu_r", vlim=(-limit, limit), names=_hand_names(data), show=False
    )
    figure.colorbar(image, ax=axis, label=unit, shrink=0.8)
    axis.set_title(title, fontsize=10)
    return _finished(figure)


def _hand_names(data: EegData) -> list[str]:
    """Labels for the map: only the electrodes over the hand areas and the midline, set above their dots."""
    return [f"{name}\n" if name in ("C3", "Cz", "C4") else "" for name in data.ch_names]


def _finished(figure: Figure) -> Figure:
    plt.close(figure)  # pyplot would keep it, and a window open where there is a screen
    return figure

"""Simulated EEGMMI: recordings like the real ones, written as EDF+ files and read in the same way.

What a recording is made of, drawn from `numpy.random.default_rng` seeded with (seed, subject, run), and with (seed,
subject, 0) for what a subject's runs share:

- a 1/f background of many sources, mixed over the scalp, a part that all electrodes share, and each electrode's own
  noise;
- occipital alpha, frontal blinks, muscles at the temples, 60 Hz line noise;
- mu and beta rhythms of the left and the right hand area. After the cue, with a lag, the rhythm on the side opposite
  to the imagined hand weakens (event-related desynchronisation; Pfurtscheller and Lopes da Silva 1999), on the same
  side much less. In some trials nothing is imagined;
- responses to the cue: a potential over parietal electrodes, and a glance at the target on the left or right, with a
  step of potential between the temples and activity of the eye muscle on that side. It comes early and goes with the
  label, as in EEGMMI, whose targets appear on one side of the screen.

The sides mostly alternate, and strengths drift over a recording, as in EEGMMI. Frequency, place, depth, lag and
strength differ between subjects; some have next to no desynchronisation. How far this agrees with real people:
`python -m benchmarks.eeg_simulation`, and the table of docs/eeg_data.md. No electrode comes loose: a classifier that
works here may still fail on people.
"""

import datetime
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mne
import numpy as np

from common.files import atomic_file, hash_of
from common.progress import Progress
from data.eeg.physionet import LAYOUT, recording_path
from data.eeg.recording import CHANNELS, TRIALS_PER_RUN, electrode_positions
from data.parallel import map_processes

N_SUBJECTS = 999
SFREQ = 160.0
SECONDS = 125
REST_SECONDS, TASK_SECONDS = 4.2, 4.1  # EEGMMI's own
PHYSICAL_RANGE_UV = (-8092.0, 8092.0)  # EEGMMI's own
ALTERNATION = 0.76  # share of the trials with the other side than the one before; EEGMMI's own
DRIFT_SECONDS = 30.0  # how long a strength stays about the same


@dataclass(frozen=True)
class Subject:
    """What makes one simulated subject differ from another. Amplitudes: root mean square, microvolts."""

    mu_hz: float
    beta_hz: float
    alpha_hz: float
    mu_uv: float
    beta_uv: float
    alpha_uv: float
    background_uv: float
    depth: float  # share of the rhythm's amplitude that imagery takes away on the opposite side
    same_side: float  # the same on the hand's own side, as a share of `depth`
    lag: float  # seconds from the cue to the start of the desynchronisation
    blinks_per_minute: float
    line_uv: float
    common_uv: float
    muscle_uv: float
    evoked_uv: float
    glance_uv: float  # step of potential between the temples, twice this
    eye_muscle_uv: float  # of a glance, between 7 and 60 Hz
    failures: float  # share of the trials in which nothing is imagined


def draw_subject(seed: int, subject: int) -> Subject:
    """The subject numbered `subject`; the same for the same seed, whoever else is simulated."""
    rng = np.random.default_rng([seed, subject])
    mu_hz = rng.uniform(9.0, 12.5)
    return Subject(
        mu_hz=mu_hz,
        beta_hz=2 * mu_hz + rng.uniform(-2.0, 2.0),
        alpha_hz=rng.normal(10.0, 0.7),
        mu_uv=4.5 * rng.lognormal(0.0, 0.5),
        beta_uv=2.0 * rng.lognormal(0.0, 0.5),
        alpha_uv=9.0 * rng.lognormal(0.0, 0.4),
        background_uv=22.0 * rng.lognormal(0.0, 0.2),
        depth=rng.beta(2.0, 1.6) * 0.95,
        same_side=rng.uniform(0.1, 0.5),
        lag=rng.uniform(0.2, 0.7),
        blinks_per_minute=rng.uniform(4.0, 18.0),
        line_uv=rng.uniform(0.5, 3.0),
        common_uv=16.0 * rng.lognormal(0.0, 0.4),
        muscle_uv=4.0 * rng.lognormal(0.0, 0.7),
        evoked_uv=8.0 * rng.lognormal(0.0, 0.4),
        glance_uv=30.0 * rng.lognormal(0.0, 0.6),
        eye_muscle_uv=11.0 * rng.lognormal(0.0, 0.7),
        failures=rng.uniform(0.0, 0.55),
    )


def simulate_recording(seed: int, subject: int, run: int) -> mne.io.RawArray:
    """One recording of 125 s, 64 channels, 160 Hz, in volts, annotated T0 (rest), T1 (left fist), T2 (right
    fist).
    """
    who = draw_subject(seed, subject)
    rng = np.random.default_rng([seed, subject, run])
    n = round(SECONDS * SFREQ)
    is_right = _sides(rng)
    cues = (REST_SECONDS + TASK_SECONDS) * np.arange(TRIALS_PER_RUN) + REST_SECONDS

    head = np.random.default_rng([seed, subject, 0])  # runs count from 1
    microvolts = (
        _background(who, head, rng, n)
        + _alpha(who, rng, n)
        + _hand_rhythms(who, rng, n=n, cues=cues, is_right=is_right)
        + _muscles(who, rng, n)
        + _cue_responses(who, rng, n=n, cues=cues, is_right=is_right)
    )
    microvolts += _blinks(who, rng, n) + _line_noise(who, head, rng, n)

    info = mne.create_info(_edf_names(), SFREQ, "eeg", verbose="ERROR")
    raw = mne.io.RawArray(microvolts * 1e-6, info, verbose="ERROR")
    onsets = np.stack([cues - REST_SECONDS, cues], axis=1).ravel()
    durations = np.tile([REST_SECONDS, TASK_SECONDS], TRIALS_PER_RUN)
    names = np.stack([np.full(TRIALS_PER_RUN, "T0"), np.where(is_right, "T2", "T1")], axis=1).ravel()
    raw.set_annotations(mne.Annotations(onsets.round(4), durations, names), verbose="ERROR")
    raw.set_meas_date(datetime.datetime.fromisoformat("2009-08-12T16:15+00:00"))
    return raw


def write_edf(raw: mne.io.BaseRaw, path: Path) -> None:
    """Write `raw` as EDF+ with EEGMMI's physical range; the file is whole or absent."""
    with atomic_file(path) as temporary:
        edf = temporary.with_suffix(".edf")  # MNE insists on the suffix
        try:
            mne.export.export_raw(
                edf, raw, fmt="edf", physical_range=PHYSICAL_RANGE_UV, overwrite=True, verbose="ERROR"
            )
            edf.replace(temporary)
        finally:
            edf.unlink(missing_ok=True)


def simulated_folder(cache_dir: Path, seed: int) -> Path:
    """The folder of that seed's recordings, in the layout of a downloaded EEGMMI."""
    # This file's own text is part of the name: recordings of an older simulator are never taken for today's.
    key = {"seed": seed, "simulator": Path(__file__).read_text(encoding="utf-8")}
    return cache_dir / f"simulated-{hash_of(key)[:16]}"


def write_simulated(
    cache_dir: Path, seed: int, recordings: Sequence[tuple[int, int]], n_workers: int, quiet: bool = False
) -> Path:
    """Write the recordings (subject, run) that are not there yet; returns the folder, to be read like a
    downloaded one.
    """
    folder = simulated_folder(cache_dir, seed)
    missing = [pair for pair in recordings if not recording_path(folder, *pair).exists()]
    if missing:
        progress = Progress(len(missing), unit="simulated recording", quiet=quiet)
        jobs = [(folder, seed, subject, run) for subject, run in missing]
        for _ in map_processes(_write_one, jobs, min(n_workers, len(missing))):
            progress.advance()
        progress.close()
    (folder / LAYOUT).mkdir(parents=True, exist_ok=True)
    return folder


def _write_one(folder: Path, seed: int, subject: int, run: int) -> None:
    write_edf(simulate_recording(seed, subject, run), recording_path(folder, subject, run))


def _edf_names() -> list[str]:
    """EEGMMI's own spelling: `Fc5.`, `Cz..`, `T10.` (four characters, dots at the end)."""
    return [(name[0] + name[1:].lower()).ljust(4, ".") for name in CHANNELS]


@functools.cache
def _positions() -> np.ndarray:
    """Electrode positions in metres, [64, 3]: x to the right ear, y to the nose, z up."""
    positions = electrode_positions("colin27_1005").get_positions()["ch_pos"]
    return np.stack([positions[name] for name in CHANNELS])


def _scalp_pattern(centre: np.ndarray, spread: float) -> np.ndarray:
    """How strongly a source under `centre` shows at each electrode, [64], at most 1; `spread` in metres."""
    distance = np.linalg.norm(_positions() - centre, axis=1)
    return np.exp(-((distance / spread) ** 2) / 2)


def _at(*names: str) -> np.ndarray:
    return _positions()[[CHANNELS.index(name) for name in names]].mean(axis=0)


def _coloured_noise(rng: np.random.Generator, shape: tuple[int, ...], gain: np.ndarray) -> np.ndarray:
    """Gaussian noise with amplitude spectrum `gain` [n // 2 + 1] along the last axis, root mean square 1."""
    n = shape[-1]
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(shape)) * gain, n)
    return noise / noise.std(axis=-1, keepdims=True)


def _rhythm(rng: np.random.Generator, n: int, hz: float, width: float) -> np.ndarray:
    """A rhythm around `hz` that waxes and wanes, root mean square 1."""
    frequencies = np.fft.rfftfreq(n, 1 / SFREQ)
    return _coloured_noise(rng, (n,), np.exp(-(((frequencies - hz) / width) ** 2) / 2))


def _sides(rng: np.random.Generator) -> np.ndarray:
    """Whether each trial of a run is of the right fist: 7 or 8 of each side, mostly alternating."""
    while True:
        changes = rng.random(TRIALS_PER_RUN) < ALTERNATION
        is_right = np.cumsum(changes) % 2 == rng.integers(2)
        if abs(2 * is_right.sum() - TRIALS_PER_RUN) == 1:
            return is_right


def _drift(rng: np.random.Generator, n: int, strength: float) -> np.ndarray:
    """A factor around 1 that changes over some DRIFT_SECONDS, its logarithm's standard deviation `strength`, [n]."""
    frequencies = np.fft.rfftfreq(n, 1 / SFREQ)
    return np.exp(strength * _coloured_noise(rng, (n,), np.exp(-((frequencies * DRIFT_SECONDS) ** 2) / 2)))


def _background(who: Subject, head: np.random.Generator, rng: np.random.Generator, n: int) -> np.ndarray:
    frequencies = np.fft.rfftfreq(n, 1 / SFREQ)
    gain = np.where(frequencies < 0.5, 0.0, np.maximum(frequencies, 0.5) ** -0.75)
    centres = _positions()[head.integers(len(CHANNELS), size=48)] + head.normal(0, 0.02, (48, 3))
    mixing = np.stack([_scalp_pattern(centre, head.uniform(0.025, 0.06)) for centre in centres], axis=1)
    electrode_uv = 2.0 * head.lognormal(0, 0.3, (len(CHANNELS), 1))
    mixed = mixing @ _coloured_noise(rng, (48, n), gain)
    mixed *= who.background_uv / mixed.std()
    mixed += who.common_uv * head.lognormal(0, 0.15, (len(CHANNELS), 1)) * _coloured_noise(rng, (n,), gain)
    mixed *= _drift(rng, n, 0.2)
    return mixed + electrode_uv * _coloured_noise(rng, (len(CHANNELS), n), gain**0.5)


def _alpha(who: Subject, rng: np.random.Generator, n: int) -> np.ndarray:
    sides = [_scalp_pattern(_at("O1", "PO3"), 0.045), _scalp_pattern(_at("O2", "PO4"), 0.045)]
    shared, left, right = (_rhythm(rng, n, who.alpha_hz, 0.8) for _ in range(3))
    return (
        who.alpha_uv
        * _drift(rng, n, 0.4)
        * (sides[0][:, None] * (shared + left) + sides[1][:, None] * (shared + right))
        / np.sqrt(2)
    )


def _hand_rhythms(who: Subject, rng: np.random.Generator, n: int, cues: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    """Mu and beta of both hand areas, weakened after each cue, mostly opposite to the hand."""
    seconds = np.arange(n) / SFREQ
    total = np.zeros((len(CHANNELS), n))
    imagined = rng.random(len(cues)) >= who.failures
    for centre, moves in ((_at("C3"), is_right), (_at("C4"), ~is_right)):
        strength = np.ones(n)
        for cue, opposite, is_imagined in zip(cues, moves, imagined, strict=True):
            depth = is_imagined * who.depth * (1.0 if opposite else who.same_side) * rng.uniform(0.5, 1.3)
            since = seconds - cue - who.lag * rng.uniform(0.8, 1.2)
            rise, fall = np.clip(since / 0.4, 0, 1), np.clip((since - TASK_SECONDS) / 0.8, 0, 1)
            strength -= min(depth, 0.95) * (rise - fall)
        strength *= _drift(rng, n, 0.35)
        place = centre + rng.normal(0, 0.006, 3)
        mu = who.mu_uv * _rhythm(rng, n, who.mu_hz, 0.8)
        beta = who.beta_uv * _rhythm(rng, n, who.beta_hz, 1.5)
        total += _scalp_pattern(place, 0.032)[:, None] * (strength * mu) + _scalp_pattern(place, 0.027)[:, None] * (
            strength * beta
        )
    return total


def _muscles(who: Subject, rng: np.random.Generator, n: int) -> np.ndarray:
    """Muscles of jaw and brow on both sides, from 15 Hz up, each tensed now and then."""
    frequencies = np.fft.rfftfreq(n, 1 / SFREQ)
    gain = 1 / (1 + np.exp(-(frequencies - 22.0) / 4.0))
    total = np.zeros((len(CHANNELS), n))
    for place in (_at("T7", "T9"), _at("T8", "T10"), _at("F7"), _at("F8"), _at("AF7"), _at("AF8")):
        trace = who.muscle_uv * _drift(rng, n, 0.8) * _coloured_noise(rng, (n,), gain)
        total += _scalp_pattern(place, 0.035)[:, None] * trace
    return total


def _cue_responses(
    who: Subject, rng: np.random.Generator, n: int, cues: np.ndarray, is_right: np.ndarray
) -> np.ndarray:
    """After each cue an evoked potential, and a glance at the target: a step and activity of one eye muscle."""
    seconds, frequencies = np.arange(n) / SFREQ, np.fft.rfftfreq(n, 1 / SFREQ)
    evoked, step = np.zeros(n), np.zeros(n)
    muscle = {True: np.zeros(n), False: np.zeros(n)}
    for cue, right in zip(cues, is_right, strict=True):
        since = seconds - cue
        wave = np.exp(-(((since - 0.17) / 0.03) ** 2) / 2) - 1.4 * np.exp(-(((since - 0.35) / 0.08) ** 2) / 2)
        evoked += rng.lognormal(0, 0.3) * wave
        if rng.random() < 0.15:
            continue  # no glance
        begin, end = rng.normal(0.22, 0.03), rng.uniform(0.6, 1.6)
        size = rng.lognormal(0, 0.3)
        step += (
            size * (1 if right else -1) * (np.clip((since - begin) / 0.04, 0, 1) - np.clip((since - end) / 0.06, 0, 1))
        )
        muscle[bool(right)] += size * (
            np.exp(-(((since - begin) / 0.05) ** 2) / 2) + 0.4 * ((since > begin) & (since < end))
        )
    eyes = _scalp_pattern(_at("F8"), 0.04) - _scalp_pattern(_at("F7"), 0.04)
    total = who.evoked_uv * _scalp_pattern(_at("POz", "Pz"), 0.06)[:, None] * evoked
    total += who.glance_uv * eyes[:, None] * step
    gain = np.where((frequencies > 7) & (frequencies < 60), 1.0, 0.0)
    for name, right in (("F8", True), ("F7", False)):
        trace = who.eye_muscle_uv * muscle[right] * _coloured_noise(rng, (n,), gain)
        total += _scalp_pattern(_at(name), 0.025)[:, None] * trace
    return total


def _blinks(who: Subject, rng: np.random.Generator, n: int) -> np.ndarray:
    trace = np.zeros(n)
    length = round(0.35 * SFREQ)
    shape = np.sin(np.pi * np.arange(length) / length) ** 2
    for start in rng.integers(n - length, size=rng.poisson(who.blinks_per_minute * SECONDS / 60)):
        trace[start : start + length] += rng.uniform(80, 220) * shape
    return _scalp_pattern(_at("Fp1", "Fp2"), 0.04)[:, None] * trace


def _line_noise(who: Subject, head: np.random.Generator, rng: np.random.Generator, n: int) -> np.ndarray:
    phase = 2 * np.pi * 60.0 * np.arange(n) / SFREQ + rng.uniform(0, 2 * np.pi)
    return np.sqrt(2) * who.line_uv * head.lognormal(0, 0.5, (len(CHANNELS), 1)) * np.sin(phase)

"""How far simulated people agree with real ones: the table of docs/eeg_data.md.

    python -m benchmarks.eeg_simulation --data_dir /data/eegmmi --subjects 1-69

Both are read by the same path and judged by the same classifiers, in three folds over people. "Far" electrodes are more
than 120 mm apart. Amplitudes are medians over people.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import torch
from scipy.signal import welch

from data.eeg.load import EegData, load_eeg
from data.eeg.recording import CHANNELS, electrode_positions, read_raw
from data.eeg.splits import make_folds
from models.eeg.lateral import Slice
from training.eeg.baselines import (
    BaselineInputs,
    baseline_inputs,
    classical_log_probabilities,
    tested_trials,
    training_trials,
)
from training.eeg.load import group_of
from training.eeg.slices import aligned_covariances, trial_covariances

FAR_METRES = 0.12
LATE = (1.0, 3.5)
"""Seconds after the cue in which the response to the cue itself is over."""


def correlation_far(data: EegData, rows: np.ndarray) -> float:
    """Mean correlation of electrodes more than FAR_METRES apart, of a person's band-passed trials."""
    positions = electrode_positions("colin27_1005").get_positions()["ch_pos"]
    place = np.stack([positions[name] for name in CHANNELS])
    far = np.linalg.norm(place[:, None] - place, axis=-1) > FAR_METRES
    return float(np.corrcoef(np.concatenate(list(np.asarray(data.trials[rows])), axis=1))[far].mean())


def raw_facts(path: Path) -> dict[str, float]:
    """Facts of one unfiltered recording: amplitude, muscle, mu peak, responses to the cue."""
    raw = read_raw(path)
    x, sfreq = raw.get_data() * 1e6, raw.info["sfreq"]
    frequency, power = welch(x, sfreq, nperseg=320)
    at = {name: i for i, name in enumerate(CHANNELS)}

    def decibels(name: str, low: float, high: float) -> float:
        return float(10 * np.log10(power[at[name]][(frequency >= low) & (frequency <= high)].mean()))

    muscle = np.mean([decibels(c, 30, 55) for c in ("T7", "T8")]) - np.mean([decibels(c, 30, 55) for c in ("C3", "C4")])
    mu = np.mean([decibels(c, 9, 13) - 0.5 * (decibels(c, 5, 7) + decibels(c, 14, 17)) for c in ("C3", "C4")])
    slow = mne.filter.filter_data(x, sfreq, 1.0, 20.0, verbose="ERROR")
    cues = [(round(a["onset"] * sfreq), a["description"]) for a in raw.annotations if a["description"] != "T0"]
    epochs = np.stack([slow[:, cue : cue + round(0.6 * sfreq)] for cue, _ in cues])
    epochs -= np.stack([slow[:, cue - 32 : cue].mean(1) for cue, _ in cues])[..., None]
    is_right = np.array([name == "T2" for _, name in cues])
    side = epochs[is_right].mean(0) - epochs[~is_right].mean(0)
    eyes = side[at["F8"]] - side[at["F7"]]
    return {
        "amplitude, unfiltered, microvolts": float(np.median(x.std(axis=1))),
        "30 to 55 Hz at T7, T8 over C3, C4, dB": float(muscle),
        "mu at C3, C4 over its neighbouring bands, dB": float(mu),
        "response to the cue at POz, microvolts": float(np.abs(epochs.mean(0)[at["POz"]]).max()),
        "F8 less F7, right less left targets, microvolts": float(np.abs(eyes).max()),
    }


def successive(values: np.ndarray, group: np.ndarray) -> float:
    """Correlation of each trial's value with the one before it, within runs."""
    centred = np.concatenate([values[group == g] - values[group == g].mean() for g in np.unique(group)])
    same = group[1:] == group[:-1]
    return float(np.corrcoef(centred[:-1][same], centred[1:][same])[0, 1])


def accuracies(data: EegData) -> dict[str, float]:
    """Accuracy per trial of classifiers in three folds over people."""
    windows = data.windows()
    folds = make_folds(windows, "cross_subject", n_folds=3, seed=0)
    inputs = baseline_inputs(data, "cross_subject")
    found = trial_covariances(data, [Slice(*LATE, data.preprocessing.l_freq, data.preprocessing.h_freq)])
    late = replace(inputs, wide=aligned_covariances(found, inputs.group)[:, 0])

    def accuracy(name: str, given: BaselineInputs) -> float:
        right = []
        for fold in folds:
            test = tested_trials(windows, fold)
            answer = classical_log_probabilities(name, given, training_trials(windows, fold), test).argmax(1)
            right.append(answer == data.label[test])
        return float(np.concatenate(right).mean())

    return {
        "the rule without labels": accuracy("rule", inputs),
        "CSP and LDA, 0 to 1 s": accuracy("csp_lda", inputs),
        "tangent space, 0 to 1 s": accuracy("tangent_lr", inputs),
        "tangent space, 1 to 3.5 s": accuracy("tangent_lr", late),
    }


def facts(data: EegData) -> dict[str, float]:
    """All facts of these people."""
    people = np.unique(data.subject)
    of_person = [correlation_far(data, np.flatnonzero(data.subject == p)) for p in people]
    found: dict[str, float] = {"correlation of far electrodes, 7 to 30 Hz": float(np.median(of_person))}
    raw = [raw_facts(path) for path in data.files]
    found |= {name: float(np.median([row[name] for row in raw])) for name in raw[0]}
    runs = group_of(data, "within_subject")
    same_run = runs[1:] == runs[:-1]
    found["labels that differ from the one before"] = float((data.label[1:] != data.label[:-1])[same_run].mean())
    power = np.log(np.concatenate([np.asarray(t[None]).var(2).mean(1) for t in data.trials]))
    rule = baseline_inputs(data, "cross_subject").rule
    found["power of successive trials, correlation"] = successive(power, runs)
    found["C3 less C4 of successive trials, correlation"] = successive(rule, runs)
    return found | accuracies(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--subjects", default="1-69")
    parser.add_argument("--cache_dir", type=Path, default=Path("cache"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    given = {"cache_dir": arguments.cache_dir, "subjects": arguments.subjects}
    real = facts(load_eeg("physionet", data_dir=arguments.data_dir, **given))
    simulated = facts(load_eeg("simulated", **given))
    print("| fact | real | simulated |\n|---|---|---|")
    for name, value in real.items():
        print(f"| {name} | {value:.3g} | {simulated[name]:.3g} |")
    ratios = {name: simulated[name] / value for name, value in real.items()}
    print(
        json.dumps(
            {"name": "eeg_simulation", "ratios": ratios, "spread": {}, "conditions": vars(arguments)}, default=str
        )
    )


if __name__ == "__main__":
    main()

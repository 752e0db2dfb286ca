"""Measures what a random split of overlapping windows would have claimed: `python -m data.eeg.leak`.

A nearest-neighbour classifier is scored on three splits of the same windows: at random, by trial and by subject. Each
is scored with the true labels, and with labels shuffled among the trials of each run, of which nothing can be known.
An accuracy above one half on shuffled labels is leakage: the classifier was trained on windows of the trials it is
tested on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from common.errors import InputError, run_main
from common.figures import show_as_written
from common.files import atomic_file
from data.eeg.load import EegData, load_eeg
from data.eeg.splits import shuffled_labels
from data.eeg.windows import EegWindows

N_FOLDS = 5
N_CHANS = 21  # the rows FC, C and CP: fewer features than windows
LABELS = ("true labels", "shuffled labels")


def covariance_features(windows: EegWindows) -> np.ndarray:
    """Standardised log variances and correlations of the first channels of every window, [n_windows, n]."""
    rows, columns = np.triu_indices(N_CHANS, 1)
    parts = []
    for i in range(0, len(windows), 256):
        x = windows.gather(np.arange(i, min(i + 256, len(windows)))).numpy()[:, :N_CHANS]
        x = x - x.mean(2, keepdims=True)
        covariance = np.einsum("nct,ndt->ncd", x, x) / x.shape[2]
        variance = np.maximum(np.einsum("ncc->nc", covariance), 1e-12)
        scale = np.sqrt(variance[:, :, None] * variance[:, None])
        parts.append(np.concatenate([np.log(variance), (covariance / scale)[:, rows, columns]], axis=1))
    return np.asarray(StandardScaler().fit_transform(np.concatenate(parts)))


def claimed_accuracies(windows: EegWindows, seed: int = 0) -> dict[str, dict[str, float]]:
    """{labels: {split: accuracy per window of one nearest neighbour, mean over the folds}}."""
    x = covariance_features(windows)
    splitters: dict[str, tuple[Any, np.ndarray | None]] = {
        "random windows": (KFold(N_FOLDS, shuffle=True, random_state=seed), None),
        "by trial": (StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed), windows.trial),
    }
    if (n_subjects := len(np.unique(windows.subject))) > 1:
        splitters["by subject"] = (GroupKFold(min(N_FOLDS, n_subjects)), windows.subject)
    found = {}
    for name, label in zip(LABELS, (windows.label, shuffled_labels(windows, seed)), strict=True):
        found[name] = {
            split: float(cross_val_score(KNeighborsClassifier(1), x, label, groups=groups, cv=splitter).mean())
            for split, (splitter, groups) in splitters.items()
        }
    return found


def leak_figure(data: EegData, found: dict[str, dict[str, float]], path: Path) -> None:
    """A group of bars for each way to split, a bar for each kind of labels."""
    from matplotlib.figure import Figure  # takes a second that training need not wait for

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for i, (name, row) in enumerate(found.items()):
        bars = axis.bar(np.arange(len(row)) + 0.38 * (i - 0.5), list(row.values()), 0.36, label=name)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.set_xticks(range(len(row)), list(row))
    axis.axhline(0.5, color="grey", linestyle=":", linewidth=1)
    axis.set_ylim(0, 1.08)
    axis.set_ylabel("accuracy per window")
    axis.set_title(f"{data.dataset}, one nearest neighbour: the same windows, split three ways", fontsize=9)
    axis.legend(frameon=False, fontsize=8, loc="upper right")
    show_as_written(figure)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data.eeg.leak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="simulated", help="physionet or simulated (default)")
    parser.add_argument("--data_dir", type=Path, help="folder that holds MNE-eegbci-data (default: MNE's own)")
    parser.add_argument("--cache_dir", type=Path, default=Path("cache"), help="where trials are kept (default: cache)")
    parser.add_argument("--subjects", default="1-9", help="such as 1,3,7-20 (default: 1-9)")
    parser.add_argument("--runs", default="4,8,12", help="default: 4,8,12")
    parser.add_argument("--overlap", type=int, default=80, help="samples that windows of 160 share (default: 80)")
    parser.add_argument("--figure", type=Path, help="picture to write, such as leak.png")
    args = parser.parse_args(argv)
    data = load_eeg(
        args.dataset, cache_dir=args.cache_dir, data_dir=args.data_dir, subjects=args.subjects, runs=args.runs
    )
    windows = data.windows(160, args.overlap)
    if len(np.unique(windows.trial)) < 2 * N_FOLDS:
        raise InputError(f"{len(np.unique(windows.trial))} trials are too few; {2 * N_FOLDS} are needed")
    found = claimed_accuracies(windows)
    print(
        f"{data.dataset}: {len(windows)} windows of 160 samples, {args.overlap} shared, of {len(data.trials)} trials; "
        "1-NN"
    )
    print(f"{'accuracy per window':20s}" + "".join(f"{name:>20s}" for name in found))
    for split in next(iter(found.values())):
        print(f"{split:20s}" + "".join(f"{row[split]:20.3f}" for row in found.values()))
    if args.figure:
        args.figure.parent.mkdir(parents=True, exist_ok=True)
        leak_figure(data, found, args.figure)
        print(f"wrote {args.figure}")


if __name__ == "__main__":
    run_main(main)

"""The parameters of every EEG trainer."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from data.eeg.sources import EEG_SOURCES, is_own
from models.eeg.augment import NAMES
from training.config import (
    CONFIG,
    Floats,
    MachineConfig,
    OptionalInteger,
    OptionalPath,
    OptionalStr,
    RecordConfig,
    ResumableConfig,
    Seed,
    Strings,
    changed_fields,
    given_value,
    option,
)


@dataclass(frozen=True, config=CONFIG)
class OwnRecordingsConfig:
    """Recordings of your own (dataset=recordings)."""

    classes: Strings = option(
        (),
        "events to tell apart, such as left_hand,right_hand or left:769,right:770; moabb, not given: all of the set's",
    )
    subject_pattern: OptionalStr = option(
        None,
        "pattern of the end of a file's path, such as {subject}_{run} or {subject}/block{run}; not given: BIDS names, "
        "or another common pattern that fits all files",
    )
    subject_table: OptionalPath = option(
        None,
        "CSV file in the place of a pattern, with the columns file and subject, and optionally session and run",
        operational=True,
    )
    sfreq: float = option(160.0, "Hz to which recordings of other rates are resampled", gt=0)
    picks: Strings = option((), "electrodes to keep; common: those that all recordings have; not given: all")
    drop: Strings = option((), "channels to leave out")
    montage: OptionalStr = option(
        None,
        "MNE's standard montage that has the electrodes' names; not given: the files' own positions, else colin27_1005",
    )
    reference: Strings = option((), "channels whose mean is subtracted, or average; not given: as recorded")
    notch: Floats = option((), "line frequencies to remove, in Hz, such as 50,100")


@dataclass(frozen=True, config=CONFIG)
class EegConfig(OwnRecordingsConfig, MachineConfig, RecordConfig, ResumableConfig):
    """Data, evaluation and training of every EEG trainer."""

    preset: Literal["quick", "physionet"] = option(
        "physionet",
        "quick: simulated subjects, minutes on two CPU cores; physionet: 96 people of EEGMMI, downloaded",
        changeable=True,
    )
    # Data
    dataset: str = option(
        "physionet", "simulated; physionet: EEGMMI; recordings: your own in data_dir; moabb:NAME: a data set of MOABB"
    )
    data_dir: OptionalPath = option(
        None,
        "folder of the recordings; not given, for EEGMMI: MNE's own folder, downloaded to as needed",
        operational=True,
    )
    download: Literal["auto", "yes", "no"] = option(
        "auto",
        "fetch missing recordings of EEGMMI; auto: to MNE's own folder, or a data_dir that has none",
        operational=True,
    )
    subjects: str = option(
        "1-99", "subjects, such as 1,3,7-20; of your own recordings also names, or all (their default)"
    )
    test_subjects: OptionalStr = option(
        None, "people to test on, where all of subjects train; not given: n_folds groups of subjects, each tested once"
    )
    runs: str = option(
        "4,8,12",
        "runs with left and right fists: 4,8,12 imagined, 3,7,11 executed; of your own recordings: as subjects",
    )
    exclude: str = option("known", "subjects to leave out: known (those with faulty recordings), none, or 88,92")
    on_bad: Literal["stop", "skip"] = option("stop", "what to do with a damaged recording", operational=True)
    checksums: bool = option(True, "check EEGMMI's files against PhysioNet's; false: your own data in its layout")
    cache_dir: Path = option(Path("cache"), "folder of trials, shared by runs", operational=True)
    l_freq: float = option(7.0, "lower edge of the band, Hz", gt=0)
    h_freq: float = option(30.0, "upper edge of the band, Hz", gt=0)
    tmin: float = option(-1.0, "start of a trial, seconds from the cue")
    tmax: float = option(4.0, "end of a trial, seconds from the cue")
    windows: Literal["views", "torcheeg"] = option(
        "views", "views: slices of the trials; torcheeg: its MNEDataset (same windows, slower)"
    )
    window: int = option(160, "samples of a window", ge=2)
    overlap: int = option(80, "samples that neighbouring windows share", ge=0)
    align: Literal["none", "euclidean"] = option(
        "euclidean", "euclidean: whiten each person's windows by their mean covariance (no labels), for all networks"
    )
    # Evaluation
    split: Literal["cross_subject", "within_subject", "cross_session"] = option(
        "cross_subject", "test on other people, on other runs of the same person, or on other sessions"
    )
    n_folds: int = option(
        5,
        "groups of subjects held out in turn (of your own recordings at most one a person); 0: one subject at a time",
        ge=0,
    )
    run_folds: int = option(0, "use only this many folds, the first ones, as tune does; 0: all", ge=0)
    fold_seed: OptionalInteger = option(None, "seed of the folds; not given: seed")
    validation_share: float = option(
        0.2, "share of the training subjects (or trials) held out for early stopping", gt=0, lt=1
    )
    baselines: bool = option(
        True, "also train CSP + LDA, tangent space + logistic regression and EEGNet on the same folds", changeable=True
    )
    leakage_check: bool = option(
        True, "train once more on labels shuffled by trial: accuracy must be at chance", changeable=True
    )
    # Training
    epochs: int = option(60, "passes over the training windows at most", ge=1, changeable=True)
    patience: int = option(
        10, "epochs without a better validation accuracy before training stops", ge=1, changeable=True
    )
    batch_size: int = option(64, "windows per update, over all processes", ge=1, changeable=True)
    updates_per_epoch: int = option(
        40,
        "updates per epoch at least; with few training windows, an epoch passes over them several times",
        ge=1,
        changeable=True,
    )
    lr: float = option(0.001, "AdamW's learning rate after warm-up", gt=0, changeable=True)
    weight_decay: float = option(0.01, "AdamW's weight decay", ge=0, changeable=True)
    warmup: float = option(
        0.1, "share of the updates with rising learning rate; cosine decay to zero follows", ge=0, lt=1, changeable=True
    )
    label_smoothing: float = option(
        0.1, "share of the target probability spread over the classes", ge=0, lt=1, changeable=True
    )
    augment: Strings = option(
        (),
        f"augmentations of training windows, one drawn per window: none, or some of {', '.join(NAMES)}",
        changeable=True,
    )
    precision: Literal["fp32", "bf16"] = option(
        "fp32", "bf16: mixed precision of the networks; losses stay in fp32", changeable=True
    )
    seed: Seed = option(0, "seed of folds, weights, order and dropout")

    @model_validator(mode="after")
    def _values_allowed(self) -> "EegConfig":
        unknown = [name for name in self.augment if name not in NAMES]
        if unknown:
            raise ValueError(f"augment: {', '.join(unknown)}; allowed are none, {', '.join(NAMES)}")
        if self.dataset not in EEG_SOURCES and not is_own(self.dataset):
            raise ValueError(f"dataset: {self.dataset!r}; allowed are {', '.join(EEG_SOURCES)}, recordings, moabb:NAME")
        if not is_own(self.dataset):
            own = [f.name for f in fields(OwnRecordingsConfig) if getattr(self, f.name) not in ((), None, 160.0)]
            if own or self.sfreq != 160.0:
                raise ValueError(f"{', '.join(own) or 'sfreq'}: for dataset=recordings, not {self.dataset}")
        if self.test_subjects and self.split != "cross_subject":
            raise ValueError(f"test_subjects={self.test_subjects}: it needs split=cross_subject, not {self.split}")
        if self.batch_size % self.nproc:
            raise ValueError(
                f"batch_size: {self.batch_size} windows cannot be shared evenly by nproc={self.nproc} processes; give "
                f"a multiple of {self.nproc}"
            )
        return self


QUICK = {"dataset": "simulated", "n_folds": 3}
"""What the preset quick of every EEG trainer changes."""


OF_WINDOWS = (
    "windows",
    "window",
    "overlap",
    "align",
    "epochs",
    "patience",
    "batch_size",
    "updates_per_epoch",
    "lr",
    "weight_decay",
    "warmup",
    "label_smoothing",
    "augment",
    "precision",
)
"""Fields of networks that are trained on windows: of no use to those that see a trial as slices."""


def note_without_effect(
    config: EegConfig, presets: Mapping[str, Mapping[str, Any]], names: Sequence[str], instead: str
) -> None:
    """Say once, in the first process, which of the fields `names` were given although they are of another choice."""
    given = changed_fields(config, presets, names)
    if given and os.environ.get("RANK", "0") == "0":
        print(f"note: {', '.join(given)}: of {instead} alone, without effect in this run", file=sys.stderr)


def presets_for(presets: Mapping[str, Mapping[str, Any]], argv: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The presets of an EEG trainer for the data set that a command line asks for: see `presets_of`."""
    return presets_of(presets, given_value(argv, "dataset"))


def presets_of(presets: Mapping[str, Mapping[str, Any]], dataset: str | None) -> dict[str, dict[str, Any]]:
    """The presets of an EEG trainer; for other data than EEGMMI's, with everybody and all runs.

    Numbers of people and runs in presets, and in the defaults, are those of EEGMMI.
    """
    if dataset is None or not is_own(dataset):
        return {name: dict(values) for name, values in presets.items()}
    named = {name for values in presets.values() for name in values} | {"subjects", "runs"}
    of_eegmmi = named & {"subjects", "runs", "unlabelled_runs"}
    return {  # None stays: a preset says by it that there are none
        name: {**values, **{field: "all" for field in of_eegmmi if values.get(field, "") is not None}}
        for name, values in presets.items()
    }

"""The trials, windows and folds of an EEG trainer."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from data.eeg import physionet
from data.eeg.aligned_windows import AlignedWindows
from data.eeg.load import EegData, Preprocessing, load_eeg
from data.eeg.recording import fir_kernel
from data.eeg.sources import EEG_SOURCES, is_own
from data.eeg.splits import Fold, make_folds, shuffled_labels
from data.eeg.survey import OwnFiles
from data.eeg.windows import EegWindows, Windows, recording_number
from models.eeg.whitening import mean_covariance, whitening
from training.config import changeable_fields, operational_fields
from training.eeg.config import EegConfig
from training.session import Session

SHRINKAGE = 0.05
"""Shrinkage of the covariances that align=euclidean whitens by, see models/eeg/whitening.py."""


def load_for(session: Session, config: EegConfig) -> tuple[EegData, Windows, list[Fold]]:
    """The trials, their windows on the session's device, and the folds. InputError where a resumed run had others."""
    data, windows, folds = load_data(config, quiet=not session.is_first)
    # Finished folds are of these recordings: with others the run would mix the two.
    operational, changeable = operational_fields(type(config)), changeable_fields(type(config))
    other_data = "the recordings are others"
    session.check_unchanged(data.fingerprint, other_data, operational=operational, changeable=changeable)
    if isinstance(windows, EegWindows | AlignedWindows):
        windows.to(session.device)
    return data, windows, folds


def load_data(config: EegConfig, quiet: bool) -> tuple[EegData, Windows, list[Fold]]:
    """The trials, their windows and the folds, checked for leaks."""
    preprocessing = preprocessing_of(config)
    half = len(fir_kernel(preprocessing.sfreq, config.l_freq, config.h_freq)) // 2
    if preprocessing.n_times <= half:  # the registered classifier mirrors half a kernel at an epoch's ends
        raise InputError(
            f"tmin={config.tmin:g}, tmax={config.tmax:g}: trials of {preprocessing.n_times} samples are no longer than "
            f"half the band-pass filter of {config.l_freq:g} to {config.h_freq:g} Hz; give at least {half + 1} "
            f"samples, {(half + 1) / preprocessing.sfreq:.2f} s"
        )
    own = is_own(config.dataset)
    tested = () if own else test_people(config)
    everybody = own and config.subjects == "all"
    asked = "all" if everybody else ",".join(filter(None, (config.subjects, config.test_subjects)))
    data = load_trials(config, asked, config.runs, quiet=quiet)
    if own and config.test_subjects:
        tested = test_people_of(config, data)
    if config.split == "cross_session":
        data = data.by_session()
    present = np.isin(data.subject, tested)
    if tested and (present.all() or not present.any()):
        missing = "train on" if present.all() else "test on"
        raise InputError(
            f"subjects={config.subjects}, test_subjects={config.test_subjects}: nobody is left to {missing}; give "
            "others, or exclude=none to keep people with known faults"
        )
    make = data.windows if config.windows == "views" else data.torcheeg_windows
    windows: Windows = make(config.window, config.overlap)
    if config.align == "euclidean":
        windows = align(windows, data, config.split)
    fold_seed = config.seed if config.fold_seed is None else config.fold_seed
    folds = make_folds(
        windows,
        config.split,
        n_folds=own_folds(config, data) if own else config.n_folds,
        validation_share=config.validation_share,
        seed=fold_seed,
        test_subjects=tested,
        names=data.names,
    )
    return data, windows, folds[: config.run_folds or None]


def own_folds(config: EegConfig, data: EegData) -> int:
    """`n_folds`, but no more than there are people, and three for three: two folds would leave one to train on."""
    n_people = len(np.unique(data.subject))
    if config.n_folds < 2 or n_people < 3:  # allowed, or refused, as for EEGMMI
        return config.n_folds
    return 3 if n_people == 3 else min(config.n_folds, n_people)


def preprocessing_of(config: EegConfig) -> Preprocessing:
    """Band, trials and rate that `config` asks for."""
    return Preprocessing(
        sfreq=config.sfreq, l_freq=config.l_freq, h_freq=config.h_freq, tmin=config.tmin, tmax=config.tmax
    )


def own_files(config: EegConfig) -> OwnFiles:
    """How one's own recordings are to be understood."""
    return OwnFiles(
        subject_pattern=config.subject_pattern,
        subject_table=config.subject_table,
        classes=config.classes,
        picks=config.picks,
        drop=config.drop,
        montage=config.montage,
        reference=config.reference,
        notch=config.notch,
    )


def load_trials(config: EegConfig, subjects: str, runs: str, *, labelled: bool = True, quiet: bool = False) -> EegData:
    """The trials of these people and runs, or without labels all of their recordings, as `config` asks for."""
    return load_eeg(
        config.dataset,
        cache_dir=config.cache_dir,
        data_dir=config.data_dir,
        subjects=subjects,
        runs=runs,
        preprocessing=preprocessing_of(config),
        labelled=labelled,
        exclude=config.exclude,
        on_bad=config.on_bad,
        checksums=config.checksums,
        download=config.download,
        quiet=quiet,
        own=own_files(config),
    )


def test_people_of(config: EegConfig, data: EegData) -> tuple[int, ...]:
    """The people that `test_subjects` names of one's own recordings; with subjects=all, the others are trained on."""
    assert config.test_subjects is not None
    tested = data.people(config.test_subjects, "test_subjects")
    if config.subjects != "all":
        shared = sorted(set(tested) & set(data.people(config.subjects, "subjects")))
        check_not_shared(config, [data.names.of_subject(number) for number in shared])
    return tested


def check_not_shared(config: EegConfig, shared: Sequence[str]) -> None:
    """InputError where people to be tested are trained on, too."""
    if shared:
        raise InputError(
            f"test_subjects={config.test_subjects}: subjects={config.subjects} has {', '.join(shared)} too; give other "
            "people to test on"
        )


def test_people(config: EegConfig) -> tuple[int, ...]:
    """The people that `test_subjects` names; InputError where they are among those trained on."""
    if not config.test_subjects:
        return ()
    highest = EEG_SOURCES[config.dataset].n_subjects
    tested = physionet.parse_numbers(config.test_subjects, "test_subjects", highest)
    shared = set(tested) & set(physionet.parse_numbers(config.subjects, "subjects", highest))
    check_not_shared(config, [physionet.ranges(shared)] if shared else [])
    return tested


def served_trials(config: EegConfig, data: EegData) -> np.ndarray:
    """The trials that the registered classifier may know, ascending: all, but for those of `test_subjects`."""
    if not config.test_subjects:
        return np.arange(len(data.subject))
    tested = test_people_of(config, data) if is_own(config.dataset) else test_people(config)
    return np.flatnonzero(~np.isin(data.subject, tested))


def recording_of(data: EegData) -> np.ndarray:
    """A number for the recording of each trial, [n_trials]."""
    return recording_number(data.subject, data.run)


def group_of(data: EegData, split: str) -> np.ndarray:
    """Whose trials are aligned and centred together, [n_trials]: a person's, or, in within_subject, a run's."""
    return data.subject if split == "cross_subject" else recording_of(data)


def shuffled_trial_labels(windows: Windows, seed: int) -> np.ndarray:
    """`shuffled_labels` of the trials [n_trials], each once."""
    return shuffled_labels(windows, seed)[np.unique(windows.trial, return_index=True)[1]]


def group_covariances(data: EegData, split: str) -> tuple[Tensor, np.ndarray]:
    """Mean covariances [n_groups, n_chans, n_chans], square microvolts, and the group of each trial, see `group_of`."""
    groups, group = np.unique(group_of(data, split), return_inverse=True)
    trials = (torch.from_numpy(np.asarray(data.trials[group == k])) for k in range(len(groups)))
    return torch.stack([mean_covariance(1e6 * x) for x in trials]), group


def align(windows: Windows, data: EegData, split: str) -> AlignedWindows:
    """The windows of every subject (or, in within_subject, of every run) whitened by the mean covariance of all their
    trials.
    """
    covariances, group = group_covariances(data, split)
    matrices = torch.stack([whitening(covariance, SHRINKAGE) for covariance in covariances])
    return AlignedWindows(windows, matrices.float().numpy(), group[windows.trial])

"""Trials as vectors of slices (models/eeg/lateral.py): aligned and centred by person, without labels.

found = trial_covariances(data, slices)             # once: no person's trials meet another's
vectors = aligned_vectors(found, group)             # with all trials of the person
vectors = causal_vectors(found, group, reference)   # with those before the present one alone
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from data.eeg.load import EegData
from data.eeg.sides import class_mirror
from models.eeg.lateral import OddTangent, Slice, bands_of, mirror_of, shrinkages, slice_covariances
from models.eeg.whitening import whitening

ALIGN_SHRINKAGE = 0.05
"""Shrinkage of the covariances that whiten a person's trials, see models/eeg/whitening.py."""
REFERENCE_TRIALS = 5
"""How many trials the training people's mean counts for where only a person's earlier trials are known."""
ALL = "all"
PARTS = {"central_posterior": r"(FC|C|CP)[1-6z]|(P|PO|O|I)[0-9z]+", "motor": r"(FC|C|CP)[1-6z]"}
FEWEST = 6
"""Electrodes of a part of the scalp that a network is still fitted to."""


def electrode_sets(data: EegData) -> dict[str, tuple[str, ...]]:
    """Sets of electrodes that networks are fitted to: all; without frontal and temporal ones; over the motor cortex.

    Parts by the names of the 10-10 system, called by their number of electrodes ("motor_21"): those that have FEWEST
    electrodes, and each its partner on the other side. Of all 64 of EEGMMI: 39 and 21.
    """
    sets = {ALL: data.ch_names}
    for name, pattern in PARTS.items():
        chosen = tuple(c for c in data.ch_names if re.fullmatch(pattern, c))
        if FEWEST <= len(chosen) < len(data.ch_names) and has_mirror(data, chosen):
            sets[f"{name}_{len(chosen)}" if name == "motor" else name] = chosen
    return sets


def has_mirror(data: EegData, ch_names: Sequence[str]) -> bool:
    """Whether each of these electrodes has its partner on the other side among them."""
    index = [data.ch_names.index(name) for name in ch_names]
    try:
        mirror_of(torch.from_numpy(data.positions[index]), ch_names)
    except ValueError:
        return False
    return True


def lateral_mirror(data: EegData, hint: str) -> Tensor:
    """The mirror image of each channel. InputError where left and right cannot be compared: by electrodes, or because
    the classes are not each other's mirror image.
    """
    try:
        mirror = mirror_of(torch.from_numpy(data.positions), data.ch_names)
    except ValueError as error:
        pairs = itertools.combinations(data.ch_names, 2)
        instead = "leave them out with drop, or " if any(has_mirror(data, pair) for pair in pairs) else ""
        raise InputError(f"left cannot be compared with right: {error}; {instead}{hint}") from None
    if class_mirror(data.classes) != (1, 0):
        raise InputError(
            f"classes {', '.join(data.classes)} are not a left and a right one; name them so, as "
            f"classes=left:T1,right:T2, or {hint}"
        )
    return mirror


@dataclass(frozen=True, eq=False)
class TrialCovariances:
    """Covariances in square microvolts, float32, before alignment. positions: of the electrodes, [n_chans, 3].

    parts: of every slice, [n_trials, n_slices, n_chans, n_chans]. whole: of the whole trial in each band of
    `bands_of(slices)`, [n_trials, n_bands, n_chans, n_chans].
    """

    slices: tuple[Slice, ...]
    ch_names: tuple[str, ...]
    positions: Tensor
    parts: Tensor
    whole: Tensor

    @property
    def band_of(self) -> Tensor:
        """The index of each slice's band, [n_slices]."""
        bands = bands_of(self.slices)
        return torch.tensor([bands.index(s.band) for s in self.slices])

    def rows(self, chosen: np.ndarray) -> "TrialCovariances":
        """The covariances of these trials alone."""
        index = torch.from_numpy(chosen)
        return replace(self, parts=self.parts[index], whole=self.whole[index])

    def pick(self, ch_names: Sequence[str]) -> "TrialCovariances":
        """The covariances of these channels alone, in their order."""
        if tuple(ch_names) == self.ch_names:
            return self
        index = torch.tensor([self.ch_names.index(name) for name in ch_names])
        parts, whole = (c[..., index[:, None], index] for c in (self.parts, self.whole))
        return replace(self, ch_names=tuple(ch_names), positions=self.positions[index], parts=parts, whole=whole)

    @property
    def mirror(self) -> Tensor:
        """See `mirror_of`."""
        return mirror_of(self.positions, self.ch_names)


def decimation(sfreq: float, h_freq: float) -> int:
    """Every how many samples suffice: the rate left is at least 2.5 times the highest frequency."""
    return max(1, int(sfreq / (2.5 * h_freq)))


def check_slices(slices: Sequence[Slice], data: EegData, hint: str = "") -> None:
    """InputError where a slice lies outside the trials or their band."""
    p = data.preprocessing
    for s in slices:
        name = f"slice {s.start:g} to {s.stop:g} s, {s.low:g} to {s.high:g} Hz"
        if s.start < p.tmin or s.stop > p.tmax:
            raise InputError(f"tmin={p.tmin:g}, tmax={p.tmax:g}: the {name} lies outside the trials{hint}")
        if s.low < p.l_freq or s.high > p.h_freq:
            raise InputError(f"l_freq={p.l_freq:g}, h_freq={p.h_freq:g}: the {name} lies outside the band{hint}")


def trial_covariances(data: EegData, slices: Sequence[Slice], chunk: int = 64) -> TrialCovariances:
    """Covariances of all trials of `data`; chunk: trials at a time. 3105 trials of 9 slices take 0.6 GB."""
    p, n_chans = data.preprocessing, data.trials.shape[1]
    step = decimation(p.sfreq, p.h_freq)
    parts = torch.empty(len(data.trials), len(slices), n_chans, n_chans)
    whole = torch.empty(len(data.trials), len(bands_of(slices)), n_chans, n_chans)
    for first in range(0, len(data.trials), chunk):
        rows = slice(first, first + chunk)
        x = 1e6 * torch.from_numpy(np.array(data.trials[rows, :, ::step]))
        parts[rows], whole[rows] = slice_covariances(
            x, slices, tmin=float(data.times[0]), sfreq=p.sfreq / step, passed=(p.l_freq, p.h_freq)
        )
    return TrialCovariances(tuple(slices), data.ch_names, torch.from_numpy(data.positions), parts=parts, whole=whole)


def aligned_vectors(found: TrialCovariances, group: np.ndarray) -> Tensor:
    """Odd tangent vectors of all slices, [n_trials, n_slices, n_features], float32.

    Every group (the trials of a person, or of a run) is whitened band by band by its own mean covariance, and its mean
    vector is taken off: all its trials are used, no label is.
    """
    tangent, shrinkage = OddTangent(found.mirror), shrinkages(found.slices)
    vectors = torch.empty(*found.parts.shape[:2], tangent.n_features)
    for rows, aligned in _aligned_by_group(found, group):
        own = tangent(aligned, shrinkage)
        vectors[rows] = own - own.mean(0)
    return vectors


def aligned_covariances(found: TrialCovariances, group: np.ndarray) -> Tensor:
    """Covariances of all slices [n_trials, n_slices, n_chans, n_chans], float32, whitened as in `aligned_vectors`."""
    out = torch.empty_like(found.parts)
    for rows, aligned in _aligned_by_group(found, group):
        out[rows] = aligned.float()
    return out


def reference_covariances(found: TrialCovariances, group: np.ndarray, rows: np.ndarray) -> Tensor:
    """Mean of the groups' mean covariances over the (training) trials `rows`: [n_bands, n_chans, n_chans], float64."""
    return torch.stack(
        [found.whole[torch.from_numpy(rows[group[rows] == g])].double().mean(0) for g in np.unique(group[rows])]
    ).mean(0)


def causal_vectors(found: TrialCovariances, group: np.ndarray, reference: Tensor) -> Tensor:
    """As `aligned_vectors`, but whitened and centred by the trials of the group before the present one alone.

    reference: `reference_covariances` of the training people, which counts as REFERENCE_TRIALS trials before the first
    one; so do vectors of 0 in the mean. Trials stand in the order of time.
    """
    tangent, shrinkage = OddTangent(found.mirror), shrinkages(found.slices)
    vectors = torch.empty(*found.parts.shape[:2], tangent.n_features)
    for g in np.unique(group):
        rows = np.flatnonzero(group == g)
        before, total = torch.arange(len(rows)) + REFERENCE_TRIALS, REFERENCE_TRIALS * reference
        own = torch.empty(len(rows), *vectors.shape[1:])
        for k, row in enumerate(rows):
            matrices = torch.stack([whitening(c, ALIGN_SHRINKAGE) for c in total / before[k]])
            own[k] = tangent(_whitened(found, torch.tensor([row]), matrices), shrinkage)[0]
            total = total + found.whole[row].double()
        means = (own.cumsum(0) - own) / before[:, None, None]
        vectors[torch.from_numpy(rows)] = own - means
    return vectors


def _aligned_by_group(found: TrialCovariances, group: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows of a group, their covariances [n_rows, n_slices, n_chans, n_chans] whitened by their own mean)."""
    for g in np.unique(group):
        rows = torch.from_numpy(np.flatnonzero(group == g))
        matrices = torch.stack([whitening(c, ALIGN_SHRINKAGE) for c in found.whole[rows].double().mean(0)])
        yield rows, _whitened(found, rows, matrices)


def _whitened(found: TrialCovariances, rows: Tensor, matrices: Tensor) -> Tensor:
    """Covariances of the slices of `rows` between the band's whitening matrix on both sides, float64."""
    whiten = matrices[found.band_of]
    return whiten @ found.parts[rows].double() @ whiten

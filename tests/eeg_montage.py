"""The mirror image of EEGMMI's 64 electrodes, and that of any by the names of the 10-10 system: the independent way."""

from collections.abc import Sequence

import torch

from data.eeg.electrodes import standard_positions
from data.eeg.recording import CHANNELS
from models.eeg.lateral import mirror_of


def mirror_64() -> torch.Tensor:
    """By position, as the networks have it."""
    return mirror_of(torch.from_numpy(standard_positions(CHANNELS)), CHANNELS)


def mirror_by_names(ch_names: Sequence[str]) -> list[int]:
    """Odd numbers are left, the next even ones right (C3 and C4, T9 and T10); z is the midline."""
    mirror = []
    for name in ch_names:
        place, side = name.rstrip("z0123456789"), name[len(name.rstrip("z0123456789")) :]
        other = name if side == "z" else f"{place}{int(side) + (1 if int(side) % 2 else -1)}"
        mirror.append(list(ch_names).index(other))
    return mirror

"""The data sets of EEG in EEGMMI's protocol that `dataset=` chooses from, and what sets them apart from others."""

from collections.abc import Mapping
from dataclasses import dataclass

from data.eeg import physionet, simulated

LEFT_RIGHT = ("left", "right")
"""The classes of EEGMMI and of the simulation: labels 0 and 1."""


def is_own(dataset: str) -> bool:
    """Whether a data set is anybody's recordings: read by `data.eeg.own`, its people and runs known by name."""
    return dataset == "recordings" or dataset.startswith("moabb:")


@dataclass(frozen=True)
class EegSource:
    """What code that works on any data set may have to ask about one.

    Attributes:
        name: the value of the parameter `dataset`.
        is_simulated: whether the recordings are written here. If not, they are downloaded, and their bytes are known.
        n_subjects: subjects are numbered from 1 to this.
        known_bad: subjects that `exclude=known` leaves out, with the reason.
        people: what the subjects are called in reports.
    """

    name: str
    is_simulated: bool
    n_subjects: int
    known_bad: Mapping[int, str]
    people: str


EEG_SOURCES = {
    source.name: source
    for source in (
        EegSource(
            name="physionet",
            is_simulated=False,
            n_subjects=physionet.N_SUBJECTS,
            known_bad=physionet.KNOWN_BAD,
            people="people of EEGMMI",
        ),
        EegSource(
            name="simulated",
            is_simulated=True,
            n_subjects=simulated.N_SUBJECTS,
            known_bad={},
            people="simulated subjects",
        ),
    )
}
"""Every data set of EEG by its name."""

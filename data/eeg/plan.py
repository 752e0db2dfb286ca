"""What is to be read, whatever data set it comes from: files, whose they are, electrodes and classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from data.eeg.cache import Excluded, ReadJob
from data.eeg.recording import Preprocessing


@dataclass(frozen=True)
class Names:
    """What the numbers of people and runs stand for, {number: name}; a run's session, "" where there are none."""

    subject: dict[int, str] = field(default_factory=dict)
    session: dict[int, str] = field(default_factory=dict)
    run: dict[int, str] = field(default_factory=dict)

    def of_subject(self, number: int) -> str:
        return self.subject.get(number, str(number))

    def run_in_words(self, number: int) -> str:
        """A run's session and name; its number where it has neither."""
        return " ".join(filter(None, (self.session.get(number, ""), self.run.get(number, "")))) or str(number)


@dataclass(frozen=True)
class Asked:
    """Which trials `load_eeg` is asked for; it says what each means."""

    subjects: str
    runs: str
    preprocessing: Preprocessing
    labelled: bool
    exclude: str
    on_bad: str
    checksums: bool
    download: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """jobs: the recordings to read, and their digests (SHA-256). excluded: what is left out. positions: of each
    electrode, metres in the head's frame (x to the right, y to the nose, z up). notes: for the table of recordings.
    """

    dataset: str
    jobs: Sequence[ReadJob]
    digests: Sequence[str]
    excluded: Sequence[Excluded]
    ch_names: tuple[str, ...]
    positions: tuple[tuple[float, ...], ...]
    classes: tuple[str, ...]
    names: Names
    notes: tuple[str, ...] = ()

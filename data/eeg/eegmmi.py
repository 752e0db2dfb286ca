"""EEGMMI and its simulation: which people, runs and files a run reads, and which it must not."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import InputError
from data.eeg import physionet, simulated
from data.eeg.cache import Excluded, ReadJob, bad_recording, cannot_keep, hash_files
from data.eeg.eegmmi_files import Pair, locate, places
from data.eeg.electrodes import standard_positions
from data.eeg.plan import Asked, Names, Plan
from data.eeg.recording import CHANNELS, LEFT_RIGHT_RUNS
from data.eeg.sources import LEFT_RIGHT, EegSource

RECORDINGS_PER_WORKER = 24  # starting a worker (it imports MNE) takes about as long as reading 40 recordings


def plan_eegmmi(
    source: EegSource, cache_dir: Path, data_dir: Path | None, asked: Asked, *, workers: int, quiet: bool
) -> Plan:
    """Which trials are read from which files, of EEGMMI or of the simulation."""
    wanted = physionet.parse_numbers(asked.subjects, "subjects", source.n_subjects)
    numbers = _check_runs(asked.runs, asked.labelled)
    excluded = _left_out(wanted, asked.exclude, source)
    folder = physionet.data_folder(data_dir) if not source.is_simulated else Path()
    if asked.exclude == "known" and not asked.checksums and not source.is_simulated:
        excluded = [entry for entry in excluded if not _somebody_else(folder, entry.subject, numbers, cache_dir)]
    kept = [subject for subject in wanted if subject not in {entry.subject for entry in excluded}]
    if not kept:
        why = "; ".join(f"{entry.subject}: {entry.reason}" for entry in excluded[:5])
        raise InputError(f"every subject asked for is left out ({why}); ask for others, or take them with exclude=none")
    pairs = [(subject, run) for subject in kept for run in numbers]
    n_workers = max(1, min(workers, len(pairs) // RECORDINGS_PER_WORKER))
    files = _files(
        source, folder, cache_dir, data_dir=data_dir, pairs=pairs, asked=asked, workers=n_workers, quiet=quiet
    )
    digests, unreadable = hash_files({pair: [file] for pair, file in files.items()})
    digests, refused = _usable(source, files, digests, unreadable=unreadable, on_bad=asked.on_bad)
    return Plan(
        dataset=source.name,
        jobs=_read_jobs(source, files, digests, asked),
        digests=list(digests.values()),
        excluded=[*excluded, *refused],
        ch_names=CHANNELS,
        positions=tuple(tuple(place) for place in standard_positions(CHANNELS).tolist()),
        classes=LEFT_RIGHT,
        names=Names(),
    )


def _files(
    source: EegSource,
    folder: Path,
    cache_dir: Path,
    data_dir: Path | None,
    pairs: Sequence[Pair],
    asked: Asked,
    *,
    workers: int,
    quiet: bool,
) -> dict[Pair, Path]:
    """The file of each recording (subject, run); missing ones are simulated, or downloaded if that is asked."""
    try:
        if source.is_simulated:
            folder = simulated.write_simulated(cache_dir, asked.seed, pairs, n_workers=workers, quiet=quiet)
            return {pair: physionet.recording_path(folder, *pair) for pair in pairs}
        found = locate(folder, pairs, cache_dir)
        missing = [pair for pair in pairs if pair not in found]
        if found and not quiet:
            people = physionet.ranges(subject for subject, _ in found)
            where = places(found.values(), folder)
            print(f"EEGMMI: {len(found)} of {len(pairs)} recordings, of people {people}, under {folder}: {where}")
        if missing and (asked.download == "no" or (asked.download == "auto" and data_dir is not None and found)):
            whole = {subject for subject, _ in pairs} - {subject for subject, _ in missing}
            instead = (
                f"leave them out, such as by subjects={physionet.ranges(whole)}, who are all there"
                if whole
                else "give other subjects or runs"
            )
            raise InputError(
                f"data_dir={str(folder)!r} has {len(found)} of {len(pairs)} recordings; not those of people "
                f"{physionet.ranges(subject for subject, _ in missing)}, such as "
                f"{physionet.recording_name(*missing[0])}: {instead}, or fetch the rest with download=yes"
            )
        physionet.download(folder, missing, n_asked=len(pairs), quiet=quiet)
        return {pair: found.get(pair, physionet.recording_path(folder, *pair)) for pair in pairs}
    except OSError as error:
        if source.is_simulated:
            where = f"cache_dir={str(cache_dir)!r}"
        elif data_dir is not None:
            where = f"data_dir={str(data_dir)!r}"
        else:
            where = f"{error.filename} (MNE's own folder, since data_dir is not given)"
        raise cannot_keep(where, "recordings", error) from error


def _usable(
    source: EegSource,
    files: Mapping[Pair, Path],
    digests: Mapping[Pair, str],
    unreadable: Mapping[Pair, OSError],
    on_bad: str,
) -> tuple[dict[Pair, str], list[Excluded]]:
    """The `digests` {(subject, run): SHA-256} of the recordings that can be read and lie under their own name alone,
    and the others. These are not noted in the cache, so that they are read as soon as they can be.

    InputError, with on_bad=stop, if there are others, and always if none is left.
    """
    reasons = {pair: f"it cannot be read ({error.strerror or error})" for pair, error in unreadable.items()}
    reasons |= _copies(source, digests)
    for pair, reason in reasons.items():
        if on_bad == "stop":
            raise bad_recording(files[pair], reason)
        if len(reasons) == len(files):
            raise InputError(f"all {len(files)} recordings are left out, {files[pair]} first: {reason}")
    left = {pair: digest for pair, digest in digests.items() if pair not in reasons}
    return left, [Excluded(*pair, reason) for pair, reason in reasons.items()]


def _copies(source: EegSource, digests: Mapping[Pair, str]) -> dict[Pair, str]:
    """{(subject, run): why} of PhysioNet's recordings that lie at another one's path, and of files with the same bytes.

    With one person counted as two, or one run as two, a network would be tested on what it was trained on.
    """
    pairs_of: dict[str, list[Pair]] = {}
    for pair, digest in digests.items():
        pairs_of.setdefault(digest, []).append(pair)
    reasons = {}
    for pair, digest in digests.items():
        name = physionet.recording_name(*pair)
        really = None if source.is_simulated else physionet.recording_of(digest)
        others = [physionet.recording_name(*other) for other in pairs_of[digest] if other != pair]
        if really is not None and really != name:
            reasons[pair] = (
                f"the bytes of PhysioNet's {really} lie at the path of {name}: move it to its own path, or delete "
                "it so that the right one is downloaded"
            )
        elif others and really is None:
            reasons[pair] = (
                f"it has the same bytes as {others[0]}, so one recording would count as two: keep it once, under the "
                "name of the person and the run that it is of"
            )
    return reasons


def _read_jobs(
    source: EegSource,
    files: Mapping[Pair, Path],
    digests: Mapping[Pair, str],
    asked: Asked,
) -> list[ReadJob]:
    """What to read: every recording of `digests`, {(subject, run): SHA-256 of its file}."""
    return [
        ReadJob(
            file=files[subject, run],
            subject=subject,
            run=run,
            preprocessing=asked.preprocessing,
            labelled=asked.labelled,
            is_genuine=source.is_simulated or not asked.checksums or digest == physionet.expected_sha256(subject, run),
        )
        for (subject, run), digest in digests.items()
    ]


def _left_out(wanted: Sequence[int], exclude: str, source: EegSource) -> list[Excluded]:
    """The subjects that `exclude` leaves out, with reasons."""
    if exclude == "none":
        return []
    if exclude == "known":
        return [Excluded(subject, None, source.known_bad[subject]) for subject in wanted if subject in source.known_bad]
    numbers = physionet.parse_numbers(exclude, "exclude", source.n_subjects)
    return [Excluded(subject, None, "left out as asked (exclude)") for subject in wanted if subject in numbers]


def _somebody_else(folder: Path, subject: int, runs: Sequence[int], cache_dir: Path) -> bool:
    """Whether the recordings under a known-bad person's name are there and none has PhysioNet's bytes: the known faults
    are then not theirs.
    """
    files = locate(folder, [(subject, run) for run in runs], cache_dir)
    digests, _ = hash_files({pair: [file] for pair, file in files.items()})
    return bool(digests) and all(physionet.recording_of(digest) is None for digest in digests.values())


def _check_runs(runs: str, labelled: bool) -> tuple[int, ...]:
    numbers = physionet.parse_numbers(runs, "runs", physionet.N_RUNS)
    if labelled and (wrong := [run for run in numbers if run not in LEFT_RIGHT_RUNS]):
        raise InputError(
            f"runs={runs!r}: in run {wrong[0]} there is no left or right fist (1 and 2 are rest without T1/T2; 5, 6, "
            "9, 10, 13, 14 are both fists or both feet); allowed are 4, 8, 12 (imagined) and 3, 7, 11 (executed)"
        )
    return numbers

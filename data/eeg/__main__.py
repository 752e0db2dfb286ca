"""Shows what the recordings look like: `python -m data.eeg inspect --help`."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.errors import InputError, run_main
from common.figures import show_as_written
from data.eeg.load import Preprocessing, load_eeg, own_folder
from data.eeg.sources import is_own
from data.eeg.survey import OwnFiles, survey


def add_own_options(inspect: argparse.ArgumentParser) -> None:
    """What dataset=recordings is told; the trainers have the same parameters."""
    inspect.add_argument(
        "--classes", default="", help="of your own recordings: two or more events, left_hand,right_hand"
    )
    inspect.add_argument("--subject_pattern", help="end of a file's path, such as {subject}_{run}")
    inspect.add_argument("--subject_table", type=Path, help="CSV with file, subject and perhaps session, run, instead")
    inspect.add_argument("--picks", default="", help="electrodes to keep, or common: those that all recordings have")
    inspect.add_argument("--drop", default="", help="channels to leave out")
    inspect.add_argument("--montage", help="MNE's standard montage that names the electrodes")
    inspect.add_argument("--reference", default="", help="channels whose mean is subtracted, or average")
    inspect.add_argument("--notch", default="", help="line frequencies to remove, as 50,100")
    inspect.add_argument("--sfreq", type=float, default=160.0, help="Hz to resample to (default: 160)")
    inspect.add_argument(
        "--tmin", type=float, default=-1.0, help="start of a trial, seconds from the cue (default: -1)"
    )
    inspect.add_argument("--tmax", type=float, default=4.0, help="end of a trial, seconds from the cue (default: 4)")


def own_of(args: argparse.Namespace) -> OwnFiles:
    def words(text: str) -> tuple[str, ...]:
        return tuple(word.strip() for word in text.split(",") if word.strip())

    try:
        notch = tuple(float(word) for word in words(args.notch))
    except ValueError:
        raise InputError(f"notch={args.notch!r}: give frequencies in Hz, as 50,100") from None
    return OwnFiles(
        subject_pattern=args.subject_pattern,
        subject_table=args.subject_table,
        classes=words(args.classes),
        picks=words(args.picks),
        drop=words(args.drop),
        montage=args.montage,
        reference=words(args.reference),
        notch=notch,
    )


def look_around(args: argparse.Namespace, own: OwnFiles) -> str:
    """What lies in the folder, and what was understood of it, before anything is cut."""
    people, runs = args.subjects or "all", args.runs or "all"
    folder, own = own_folder(args.dataset, args.cache_dir, args.data_dir, own, subjects=people)
    return survey(folder, own, args.cache_dir, subjects=people, runs=runs).text()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.eeg", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="table of recordings, raw traces, spectrum, topomaps")
    inspect.add_argument(
        "--dataset", default="simulated", help="physionet, recordings, moabb:NAME or simulated (default)"
    )
    inspect.add_argument("--data_dir", type=Path, help="folder of the recordings (default: MNE's own)")
    inspect.add_argument("--cache_dir", type=Path, default=Path("cache"), help="where trials are kept (default: cache)")
    inspect.add_argument("--subjects", help="such as 1,3,7-20 (default: 1; of your own recordings all)")
    inspect.add_argument("--runs", help="default: 4,8,12; of your own recordings all")
    inspect.add_argument(
        "--unlabelled", action="store_true", help="any run (1-14), cut into stretches without labels, for pre-training"
    )
    inspect.add_argument("--exclude", default="known", help="known (default), none, or subjects such as 88,92")
    inspect.add_argument("--on_bad", default="skip", help="stop or skip (default): what to do about damaged recordings")
    inspect.add_argument("--no_checksums", action="store_true", help="take files whose bytes are not PhysioNet's")
    inspect.add_argument("--seed", type=int, default=0, help="of the simulated recordings (default: 0)")
    inspect.add_argument(
        "--out", type=Path, default=Path("eeg_inspect"), help="folder for the figures (default: eeg_inspect)"
    )
    inspect.add_argument(
        "--download", default="auto", help="yes, no, or auto (default): only where there is nothing yet"
    )
    add_own_options(inspect)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m data.eeg inspect`: print the table and write the figures."""
    args = _parser().parse_args(argv)
    whole = is_own(args.dataset)
    own = own_of(args)
    if whole:
        print(look_around(args, own))
        if not (args.classes or args.unlabelled or args.dataset.startswith("moabb:")):
            print("nothing was cut yet: give two or more of the events, as --classes left_hand,right_hand")
            return
    data = load_eeg(
        args.dataset,
        cache_dir=args.cache_dir,
        data_dir=args.data_dir,
        subjects=args.subjects or ("all" if whole else "1"),
        runs=args.runs or ("all" if whole else "4,8,12"),
        preprocessing=Preprocessing(sfreq=args.sfreq, tmin=args.tmin, tmax=args.tmax),
        labelled=not args.unlabelled,
        exclude=args.exclude,
        on_bad=args.on_bad,
        checksums=not args.no_checksums,
        download=args.download,
        seed=args.seed,
        own=own,
    )
    print(replace(data, notes=() if whole else data.notes).table())  # said above
    of = data.summary()
    subjects = "1 subject" if of["n_subjects"] == 1 else f"{of['n_subjects']} subjects"
    labels = "no labels" if args.unlabelled else ", ".join(f"{of[f'n_{name}']} {name}" for name in data.classes)
    print(
        f"{data.dataset}: {of['n_trials']} {'stretches' if args.unlabelled else 'trials'} of {subjects} ({labels}), "
        f"{of['n_chans']} channels, {of['n_times']} samples at {data.sfreq:g} Hz, fingerprint {data.fingerprint[:12]}"
    )
    from data.eeg.figures import (
        recording_figures,
    )  # matplotlib takes a second that training need not wait for

    args.out.mkdir(parents=True, exist_ok=True)
    for name, figure in recording_figures(data).items():
        show_as_written(figure)
        figure.savefig(args.out / f"{name}.png", dpi=120)
        print(f"wrote {args.out / f'{name}.png'}")


if __name__ == "__main__":
    run_main(main)

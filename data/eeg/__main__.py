"""Shows what the recordings look like: `python -m data.eeg inspect --help`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.errors import run_main
from data.eeg.load import load_eeg


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m data.eeg inspect`: print the table and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m data.eeg", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="table of recordings, raw traces, spectrum, topomaps")
    inspect.add_argument("--dataset", default="simulated", help="physionet or simulated (default)")
    inspect.add_argument("--data_dir", type=Path, help="folder that holds MNE-eegbci-data (default: MNE's own)")
    inspect.add_argument("--cache_dir", type=Path, default=Path("cache"), help="where trials are kept (default: cache)")
    inspect.add_argument("--subjects", default="1", help="such as 1,3,7-20 (default: 1)")
    inspect.add_argument("--runs", default="4,8,12", help="default: 4,8,12")
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
    args = parser.parse_args(argv)
    data = load_eeg(
        args.dataset,
        cache_dir=args.cache_dir,
        data_dir=args.data_dir,
        subjects=args.subjects,
        runs=args.runs,
        labelled=not args.unlabelled,
        exclude=args.exclude,
        on_bad=args.on_bad,
        checksums=not args.no_checksums,
        seed=args.seed,
    )
    print(data.table())
    of = data.summary()
    subjects = "1 subject" if of["n_subjects"] == 1 else f"{of['n_subjects']} subjects"
    labels = "no labels" if args.unlabelled else f"{of['n_left']} left, {of['n_right']} right"
    print(
        f"{data.dataset}: {of['n_trials']} {'stretches' if args.unlabelled else 'trials'} of {subjects} ({labels}), "
        f"{of['n_chans']} channels, {of['n_times']} samples at {data.sfreq:g} Hz, fingerprint {data.fingerprint[:12]}"
    )
    from data.eeg.figures import (
        recording_figures,
    )  # matplotlib takes a second that training need not wait for

    args.out.mkdir(parents=True, exist_ok=True)
    for name, figure in recording_figures(data).items():
        figure.savefig(args.out / f"{name}.png", dpi=120)
        print(f"wrote {args.out / f'{name}.png'}")


if __name__ == "__main__":
    run_main(main)

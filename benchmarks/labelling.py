"""Does length matter on real recordings? Rest, left or right at every sample of the runs of people whom training did
not see.

    python -m benchmarks.labelling --data_dir /data/eegmmi --train 1-12 --choose 13-16 --judge 17-28

A two-minute run is cut into tokens of --patch_len samples. What surrounds a token can be used: not at all (`none`),
some tokens of it (`local:W` sees W), or the whole run (`linear`, `delta`, `sdpa`, ...). Each way is trained with each
number of --epochs on the people of --train; those of --choose say which number to take, and only those of --judge are
reported. Training and network are those of `efficient_attention`'s labelling. Balanced accuracy (chance 1/3), mean over
people with its 95 % interval; what context adds to `none` is paired by person. The last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from common.errors import InputError, run_main
from data.eeg.labelling import Recording, whole_recordings
from data.eeg.load import load_eeg
from data.eeg.physionet import N_SUBJECTS, parse_numbers
from data.eeg.recording import Preprocessing
from evaluation.classification import mean_interval, paired_interval
from models.attention.spec import MECHANISMS
from trainers.efficient_attention.tasks import LabelSizes, label_scores, scale_of, train_labeller, whitened


def runs_of(folder: Path, people: Sequence[int]) -> list[Recording]:
    """The people's runs of imagined fists, band-passed and whitened as in `efficient_attention`, labelled by sample."""
    data = load_eeg("physionet", Path("cache"), folder, subjects=",".join(map(str, people)), runs="4,8,12")
    return [whitened(recording) for recording in whole_recordings(data, people)]


def sizes_of(way: str, patch_len: int, recordings: Sequence[Recording], epochs: int) -> LabelSizes:
    """The network of a way: a mechanism, or local:W."""
    name, _, window = way.partition(":")
    return LabelSizes(
        name,
        patch_len,
        n_chans=len(recordings[0].signal),
        n_times=max(r.signal.shape[1] for r in recordings),
        sfreq=Preprocessing().sfreq,
        epochs=epochs,
        window=int(window) if window else None,
    )


def check_ways(ways: Sequence[str]) -> None:
    """InputError for a mechanism that is unknown, or a window that is no odd number or not of `local`."""
    for way in ways:
        name, colon, window = way.partition(":")
        odd = window.isdecimal() and int(window) % 2 == 1
        if name not in MECHANISMS or (colon and not (odd and name == "local")):
            raise InputError(f"--ways: {way!r}; allowed are {', '.join(MECHANISMS)}, and local:W for an odd window W")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="EEGMMI, in any of its layouts")
    parser.add_argument("--train", default="1-12", help="people to train on")
    parser.add_argument("--choose", default="13-16", help="people who choose the number of epochs")
    parser.add_argument("--judge", default="17-28", help="people who are reported")
    parser.add_argument("--ways", default="none,local:9,local:65,linear,delta,sdpa")
    parser.add_argument("--patch_len", type=int, default=40, help="samples of a token; 160 are a second")
    parser.add_argument("--epochs", default="20", help="passes over the training runs, by commas")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ways = args.ways.split(",")
    check_ways(ways)
    people = {part: parse_numbers(getattr(args, part), part, N_SUBJECTS) for part in ("train", "choose", "judge")}
    if len({p for part in people.values() for p in part}) < sum(len(part) for part in people.values()):
        raise InputError("--train, --choose and --judge share a person; give each person to one of them")
    runs = {part: runs_of(args.data_dir, numbers) for part, numbers in people.items()}
    print(f"{sum(len(part) for part in runs.values())} runs read", flush=True)
    scale, cpu = scale_of(runs["train"]), torch.device("cpu")
    judged: dict[str, dict[int, float]] = {}
    rows = []
    for way in ways:
        tried = []
        for epochs in (int(part) for part in args.epochs.split(",")):
            began = time.process_time()
            sizes = sizes_of(way, args.patch_len, runs["train"], epochs)
            network = train_labeller(sizes, runs["train"], scale, seed=args.seed, device=cpu, note=lambda note: None)
            chosen = float(np.mean(list(label_scores(network, runs["choose"], scale, cpu)[1].values())))
            tried.append((chosen, sizes, network, time.process_time() - began))
        chosen, sizes, network, seconds = max(tried, key=lambda each: each[0])
        accuracy, judged[way], within = label_scores(network, runs["judge"], scale, cpu)
        mean, low, high = mean_interval(list(judged[way].values()))
        row = {
            "way": way,
            "sizes": asdict(sizes),
            "choose": chosen,
            "balanced": [mean, low, high],
            "within_tasks": within,
        }
        row |= {"accuracy": accuracy, "by_subject": judged[way], "training_seconds": seconds}
        line = f"{way:10s} {sizes.epochs} epochs, to choose {chosen:.3f}; judged {mean:.3f} ({low:.3f} to {high:.3f})"
        line += f", within tasks {within:.3f}"
        if way != "none" and "none" in judged:
            row["gain"] = gain = paired_interval(judged[way], judged["none"])
            line += f", less none {gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})"
        rows.append(row)
        print(f"{line}; {seconds:.0f} s", flush=True)
    plain = float(np.mean(list(judged[ways[0]].values())))
    conditions = {part: list(numbers) for part, numbers in people.items()} | {"seed": args.seed, "rows": rows}
    ratios = {
        f"balanced accuracy of {way} / {ways[0]}": float(np.mean(list(judged[way].values()))) / plain for way in judged
    }
    print(json.dumps({"name": "labelling", "ratios": ratios, "spread": {}, "conditions": conditions}))


if __name__ == "__main__":
    run_main(main)

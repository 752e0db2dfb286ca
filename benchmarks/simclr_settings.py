"""What settings of the contrastive pre-training are worth, on people that no default run uses.

    python -m benchmarks.simclr_settings                                   # augmentations
    python -m benchmarks.simclr_settings --settings "head_pool=1;head_pool=40"             # what the head is given
    python -m benchmarks.simclr_settings --settings "tau=0.2;tau=0.5 pretrain_epochs=12"   # any parameters of
    eeg_simclr

Twelve simulated subjects (21 to 32) in four groups of three: for each, an encoder is pre-trained on five of the others,
a linear probe of it, the head on the frozen encoder and the fine-tuned network are trained on the same five, all labels
given, and the group says what they are worth (and when to stop their training). The same is done with the untrained
encoder: there "fine-tuned" is training from scratch. Nobody is a test person here: the defaults of `eeg_simclr` are
chosen by this. Accuracy per trial, mean over people; differences are paired by person.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common.errors import InputError, run_main
from data.eeg.load import load_eeg
from data.eeg.pool import ChannelPool, check_pretraining
from data.eeg.splits import Fold, check_no_leakage
from data.eeg.windows import Windows
from evaluation.classification import (
    accuracy_by_subject,
    mean_interval,
    paired_interval,
    probability_of_right,
    trial_means,
)
from models.eeg.augment import NAMES
from models.eeg.simclr import ChannelClassifier
from trainers.eeg_simclr.config import PRESETS, EegSimclrConfig, frozen_fit
from trainers.eeg_simclr.frozen import all_features, encode_windows, fit_probe
from trainers.eeg_simclr.networks import Shape, build_network
from trainers.eeg_simclr.pretraining import Pretraining
from training.config import parse_config
from training.eeg.fit import Fit, predict
from training.eeg.load import align
from training.processes import Processes

N_TRAIN, N_VALIDATION = 5, 3
"""People of a fold: as many to train on as the default run has."""


def without(*left_out: str) -> str:
    return "augmentations=" + ",".join(name for name in NAMES if name not in left_out)


SETTINGS = (without(), without("amplitude"), without("band_stop"))


def folds_of(windows: Windows) -> list[Fold]:
    """Groups of three people to judge by, each with the five that follow it (in a circle) to train on; no test part."""
    people = np.unique(windows.subject)
    if len(people) < N_TRAIN + N_VALIDATION or len(people) % N_VALIDATION:
        raise InputError(f"subjects: {len(people)} people; a multiple of {N_VALIDATION} from 9 on is needed")
    folds = []
    for first in range(0, len(people), N_VALIDATION):
        order = np.roll(people, -first)
        judged, trained = order[:N_VALIDATION], order[N_VALIDATION : N_VALIDATION + N_TRAIN]
        train, validation = (np.flatnonzero(np.isin(windows.subject, part)) for part in (trained, judged))
        fold = Fold(f"judged by {judged[0]} to {judged[-1]}", train, validation, np.array([], dtype=int))
        check_no_leakage(windows, fold, "cross_subject")
        folds.append(fold)
    return folds


def accuracies(
    config: EegSimclrConfig, pool: ChannelPool, windows: Windows, folds: list[Fold], trained: bool
) -> dict[str, dict[int, float]]:
    """{"probe", "frozen", "fine-tuned": {person: accuracy per trial}} of the encoder, pre-trained or as it was
    drawn.
    """
    processes = Processes(0, 1, torch.device("cpu"))
    shape = Shape(64, 2, list(range(21)) if config.channels == "motor" else None)
    found: dict[str, dict[int, float]] = {"probe": {}, "frozen": {}, "fine-tuned": {}}
    for fold in folds:
        check_pretraining(pool, fold.train, windows=windows, fold=fold, split="cross_subject")
        work = Pretraining(config, pool, fold.train, validation=fold.validation, processes=processes)
        while trained and not work.finished:
            work.run_epoch()
        weights = work.result()["weights"]
        probe, frozen = with_encoder(config, shape, "probe", weights), with_encoder(config, shape, "frozen", weights)
        features = all_features(probe, windows, config, processes.device)
        assert isinstance(frozen, ChannelClassifier)
        encoded = encode_windows(frozen, windows, config, processes.device)
        fits = {
            "frozen": (frozen_fit(config), with_encoder(config, shape, "frozen", weights, encoded=True), encoded),
            "fine-tuned": (config, with_encoder(config, shape, "simclr", weights), windows),
        }
        answers = {"probe": fit_probe(probe, features, windows.label, train=fold.train, asked=fold.validation).numpy()}
        for name, (how, network, seen) in fits.items():
            fit = Fit(how, network, seen, fold=fold, processes=processes, label=windows.label)
            while not fit.finished:
                fit.run_epoch()
            network.load_state_dict(fit.best)
            answers[name] = predict(network, seen, fold.validation, processes.device)
        for name, log_p in answers.items():
            trials, means = trial_means(log_p, windows.trial[fold.validation])
            first = np.searchsorted(windows.trial, trials)
            right = accuracy_by_subject(windows.label[first], probability_of_right(means), windows.subject[first])
            found[name] |= right
    return found


def with_encoder(
    config: EegSimclrConfig, shape: Shape, name: str, weights: dict[str, Any], encoded: bool = False
) -> nn.Module:
    """The network called `name`, its head drawn from the seed, its encoder's weights given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_network(config, shape, name, encoded)
    network.encoder.load_state_dict(weights)  # type: ignore[union-attr]
    return network


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simclr_settings", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--subjects", default="21-32", help="simulated subjects; those of the default run are 1-9")
    parser.add_argument("--groups", type=int, default=4, help="groups of three that are judged by, at most")
    parser.add_argument("--settings", default=";".join(SETTINGS), help="name=value name=value;name=value;...")
    parser.add_argument("--cache_dir", type=Path, default=Path("cache"))
    parser.add_argument("--out", type=Path, help="JSON file with every person's accuracy")
    args = parser.parse_args()
    torch.set_num_threads(1)

    def config_of(setting: str) -> EegSimclrConfig:
        options = [word for pair in setting.split() for word in (f"--{pair.split('=')[0]}", pair.partition("=")[2])]
        return parse_config(EegSimclrConfig, PRESETS, options, "eeg_simclr")

    plain = config_of("")
    data = load_eeg("simulated", args.cache_dir, subjects=args.subjects)
    windows = align(data.windows(plain.window, plain.overlap), data, "cross_subject")
    pool = ChannelPool([(data, windows)], plain.window, plain.time_shift)
    folds = folds_of(windows)[: args.groups]
    found: dict[str, dict[str, dict[str, dict[int, float]]]] = {}
    print("| setting | network | pre-trained | untrained | difference | CPU s |\n|---|---|---|---|---|---|")
    for setting in args.settings.split(";"):
        began = time.process_time()
        untrained, pretrained = (
            accuracies(config_of(setting), pool, windows, folds=folds, trained=trained) for trained in (False, True)
        )
        found[setting] = {"untrained": untrained, "pre-trained": pretrained}
        seconds = time.process_time() - began
        for name, people in pretrained.items():
            one, other = (
                "{:.3f} ({:.3f} to {:.3f})".format(*mean_interval(list(side[name].values())))
                for side in (pretrained, untrained)
            )
            gain = "{:+.3f} ({:+.3f} to {:+.3f})".format(*paired_interval(people, untrained[name]))
            print(f"| {setting} | {name} | {one} | {other} | {gain} | {seconds:.0f} |", flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    run_main(main)

"""What the EEG trainers say about chance, where the classes are not equal."""

import numpy as np
import pytest
import torch

from data.eeg.splits import Fold
from data.eeg.windows import EegWindows
from training.eeg.results import Predictions, chance_verdict, check_leakage, evaluate


def windows_of(label: np.ndarray) -> EegWindows:
    """One window a trial, two channels."""
    trials = np.random.default_rng(0).normal(size=(len(label), 2, 10)).astype(np.float32)
    return EegWindows(trials, label=label, subject=np.ones_like(label), run=np.ones_like(label), window=10, overlap=0)


def predictions(label: np.ndarray, guess: np.ndarray) -> Predictions:
    log_p = np.where(guess[:, None] == np.arange(2), -0.1, -2.4)
    return Predictions(log_p, label, np.ones_like(label), np.arange(len(label)), None)


def test_a_constant_answer_is_within_what_a_coin_reaches() -> None:
    label = np.repeat([0, 1], [90, 36])
    verdict = chance_verdict(evaluate(predictions(label, np.zeros_like(label))))
    assert verdict.startswith("balanced 0.500 of 90 left and 36 right, within what a coin reaches in 126 trials")
    assert "right, above what a coin" in chance_verdict(evaluate(predictions(label, label)))


def test_equal_classes_are_told_as_before() -> None:
    label = np.arange(100) % 2
    verdict = chance_verdict(evaluate(predictions(label, np.zeros_like(label))))
    assert verdict == "within what a coin reaches in 100 trials (0.400 to 0.600)"


@pytest.mark.parametrize(("n_left", "n_right"), [(90, 24), (57, 57)])
def test_the_leakage_check_passes_a_constant_answer_and_fails_the_truth(n_left: int, n_right: int) -> None:
    label = np.repeat([0, 1], [n_left, n_right])
    windows, nothing = windows_of(label), np.array([], dtype=int)
    fold = Fold("all", nothing, nothing, np.arange(len(label)))
    constant, truth = (
        check_leakage({"log_p": torch.from_numpy(predictions(label, guess).log_p)}, windows, fold, label)
        for guess in (np.zeros_like(label), label)
    )
    assert constant is not None
    assert truth is not None
    assert (constant.accuracy, constant.leaks) == (0.5, False)
    assert (truth.accuracy, truth.leaks) == (1.0, True)

"""Recall: exact attention solves it, no mixing cannot. Labelling learns what is there; the report says what the figures
say.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.eeg.labelling import UNLABELLED, Recording
from models.attention.spec import MECHANISMS
from trainers.efficient_attention.tasks import (
    N_VALUES,
    Labelled,
    LabelSizes,
    RecallSizes,
    Streamed,
    inference_megabytes,
    label_scores,
    pairs_at,
    per_sample,
    rate_at,
    recall_accuracy,
    scale_of,
    stream_recording,
    tasks_report,
    train_labeller,
    whitened,
)

CPU = torch.device("cpu")


def test_recall_is_solved_by_exact_attention_and_not_without_mixing() -> None:
    sizes = RecallSizes(6, 150, batch=32)
    assert recall_accuracy("sdpa", sizes, 0, CPU) > 0.95
    assert recall_accuracy("none", sizes, 0, CPU) < 1.3 / N_VALUES


@pytest.mark.parametrize("name", MECHANISMS)
def test_every_mechanism_takes_the_short_sequences_of_recall(name: str) -> None:
    assert 0 <= recall_accuracy(name, RecallSizes(64, 4, batch=1), 0, CPU) < 0.3


@pytest.mark.slow
def test_the_delta_rule_remembers_what_linear_attention_blurs() -> None:
    """128 tokens, in the default number of updates."""
    recall = {name: recall_accuracy(name, RecallSizes(64, 400), 0, CPU) for name in ("delta", "linear")}
    assert recall["delta"] >= 0.99
    assert recall["delta"] > recall["linear"] + 0.05


def test_recall_begins_with_short_sequences_and_ends_with_whole_ones() -> None:
    sizes = RecallSizes(256, 400)
    steps = (0, 79, 80, 159, 160, 239, 240, 399)
    assert [pairs_at(step, sizes) for step in steps] == [8, 8, 32, 32, 128, 128, 256, 256]
    assert [pairs_at(step, RecallSizes(16, 10)) for step in range(10)] == [4, 4, 4, 4, 8, 8, 16, 16, 16, 16]
    assert {pairs_at(step, RecallSizes(3, 5)) for step in range(5)} == {3}


def test_the_rate_rises_and_falls_to_nothing() -> None:
    sizes = RecallSizes(256, 400, lr=0.01)
    rates = [rate_at(step, sizes) for step in (0, 49, 299, 300, 350, 399)]
    assert rates == pytest.approx([0.0002, 0.01, 0.01, 0.01, 0.005, 0.0001])


def test_logits_of_slices_become_those_of_samples() -> None:
    logits = torch.arange(6.0).view(3, 2)
    spread = per_sample(logits, 11, 3)
    assert spread[:, 0].tolist() == [0, 0, 0, 2, 2, 2, 4, 4, 4, 4, 4]


def recordings(n: int, seed: int) -> list[Recording]:
    """States of one second in random order; in each, one of three channels swings more."""
    dice = np.random.default_rng(seed)
    found = []
    for i in range(n):
        states = dice.integers(3, size=12)
        label = np.repeat(states, 100)
        signal = dice.normal(0, 1e-6, (3, len(label)))
        signal[label, np.arange(len(label))] *= 6
        label[-30:] = UNLABELLED
        found.append(Recording(1 + i % 2, 4, signal.astype(np.float32), label))
    return found


@pytest.mark.parametrize(("mechanism", "causal"), [("linear", False), ("linear", True), ("delta", True)])
def test_labelling_learns_what_the_signal_shows(mechanism: str, causal: bool) -> None:
    train, test = recordings(4, 0), recordings(2, 1)
    sizes = LabelSizes(mechanism, 10, 3, 1200, 100.0, 30, causal)
    scale, notes = scale_of(train), []
    assert scale.shape == (3, 1)
    network = train_labeller(sizes, train, scale, 0, CPU, notes.append)
    accuracy, by_subject, hands = label_scores(network, test, scale, CPU)
    assert by_subject.keys() == {1, 2}
    assert min(accuracy, hands, *by_subject.values()) > 0.8
    assert len(notes) == 30
    again = train_labeller(sizes, train, scale, 0, CPU, notes.append)
    for name, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    if causal:
        streamed = stream_recording(sizes, network, test[0], scale, seconds=20, piece=7)
        assert streamed.difference < 1e-4
        assert streamed.n_tokens == 2000 // 10


def test_memory_is_that_of_a_fresh_process() -> None:
    # The written-out softmax holds 2 N^2 weights of 4 bytes.
    bad = LabelSizes("nystrom", 2000, 3, 1000, 100.0, 1)  # no token: fails in its process alone
    sizes = LabelSizes("softmax", 1, 3, 3000, 100.0, 1)
    written_out, none, sdpa = inference_megabytes([sizes, bad, replace(sizes, mechanism="sdpa")])
    assert written_out > 2 * 4 * 3000**2 / 2**20
    assert math.isnan(none)
    assert 0 < sdpa < written_out / 4


def test_whitened_recordings_are_white() -> None:
    dice = np.random.default_rng(0)
    mixing = np.array([[1.0, 0.5, 0], [0, 3.0, 1.0], [0, 0, 2.0]])
    recording = Recording(1, 4, (1e-5 * mixing @ dice.normal(size=(3, 4000))).astype(np.float32), np.zeros(4000, int))
    white = whitened(recording)
    covariance = np.cov(white.signal)
    assert np.abs(covariance / covariance[0, 0] - np.eye(3)).max() < 0.35  # shrinkage leaves weak directions weaker
    assert np.abs(np.corrcoef(recording.signal) - np.eye(3)).max() > 0.15
    assert white.label is recording.label


def test_the_report_follows_from_the_figures() -> None:
    recall = {"sdpa": {32: 1.0, 128: 0.99}, "linear": {32: 0.9, 128: 0.2}, "none": {32: 0.12, 128: 0.13}}
    rows = [
        Labelled("sdpa", 160, 125, 0.7, (0.6, 0.5, 0.7), 0.55, 1.0, 0.01, 5.0, {1: 0.5, 2: 0.7}),
        Labelled("linear", 160, 125, 0.7, (0.55, 0.5, 0.7), 0.55, 1.0, 0.01, 5.0, {2: 0.55}),
        Labelled("none", 160, 125, 0.7, (0.45, 0.4, 0.5), 0.55, 1.0, 0.01, 5.0, {1: 0.45, 2: 0.45}),
        Labelled("linear", 1, 20000, 0.4, (0.4, math.nan, math.nan), 0.5, 1.0, 0.2, 50.0),
    ]
    text = tasks_report(recall, rows, [Streamed("delta", 300, 16, 1e-6, 0.5, 0.6, 1600, 6000)], "Simulated subjects")
    assert "| linear | 0.900 | 0.200 |" in text
    assert "Solved at 128 tokens (above 0.95): sdpa." in text
    assert "at chance, as it must be" in text
    assert "| sdpa | 160 | 125 | 0.600 (0.500 to 0.700) | 0.700 | 0.550 | 0.010 | 5 |" in text
    assert "| linear | 1 | 20,000 | 0.400 | 0.400 |" in text
    assert "The highest is sdpa with 160 samples a token (125 tokens): 0.600" in text
    assert "linear, the same recordings in shorter and shorter slices: 125 tokens 0.550, 20,000 tokens 0.400" in text
    assert "(none), at 125 tokens: sdpa +0.150 (-1.000 to +1.000), linear +0.100." in text
    assert "in pieces of 16 sample(s), as they came in: 6,000 tokens" in text
    assert "| delta | 1,600 | 0.50 | 0.60 | 1.0e-06 |" in text
    assert "ABOVE CHANCE" in tasks_report({"sdpa": {32: 1.0}, "none": {32: 0.4}}, [], [], "")
    assert tasks_report({}, [], [], "") == ""
    assert "Time and memory: one recording, one CPU thread." in text


def test_the_report_names_the_states_of_ones_own_recordings() -> None:
    row = Labelled("sdpa", 160, 125, 0.7, (0.6, 0.5, 0.7), 0.55, 1.0, 0.01)
    text = tasks_report({}, [row], [], "People of recordings", states=("rest", "left_hand", "right_hand", "feet"))
    assert "People of recordings: rest, left_hand, right_hand or feet at each sample" in text
    assert "chance is 0.250" in text
    assert "| class, within tasks |" in text
    usual = tasks_report({}, [row], [], "Simulated subjects, runs")
    assert "runs: rest, left or right at each sample. Balanced accuracy: chance is 0.333" in usual
    assert "| hand, within tasks |" in usual


def test_as_many_states_as_there_are_and_any_cycle() -> None:
    train, test = recordings(2, 0), recordings(1, 1)
    sizes = LabelSizes("linear", 10, 3, 1200, 100.0, 1, n_states=5, cycle_seconds=0.0)
    network = train_labeller(sizes, train, scale_of(train), 0, CPU, lambda note: None)
    assert network(torch.zeros(1, 3, 1200)).shape == (1, 120, 5)
    unlabelled = replace(test[0], label=np.full_like(test[0].label, UNLABELLED))
    assert min(label_scores(network, [*test, unlabelled], scale_of(train), CPU)[1].values()) >= 0


def test_the_report_names_the_device_and_leaves_out_what_was_not_measured() -> None:
    row = Labelled("sdpa", 160, 125, 0.7, (0.6, 0.5, 0.7), 0.55, 1.0, 0.01)
    text = tasks_report({}, [row], [Streamed("delta", 300, 16, 1e-6, 0.5, 0.6, 1600, 6000)], "", on_gpu=True)
    assert "Time: one recording, on the GPU, by the clock. Memory was not measured." in text
    assert "| 0.550 | 0.010 |  |" in text
    assert "nan" not in text
    assert "Milliseconds of one CPU thread a piece" in text  # a stream is labelled on the CPU always
    assert "Time: one recording, one CPU thread. Memory was not measured." in tasks_report({}, [row], [], "")

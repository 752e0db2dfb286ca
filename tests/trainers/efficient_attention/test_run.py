"""The efficient_attention entry point: its measures on known numbers, its conclusion, and a small whole run."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InputError
from data.eeg.labelling import STATES, Recording
from data.eeg.load import EegData, Preprocessing, load_eeg
from data.eeg.survey import OwnFiles
from models.attention.spec import MECHANISMS
from tests.data.eeg.own_files import write_own
from tests.running import client, run_trainer, runs
from tests.trainers.eeg_transformer.test_run import TINY, result
from trainers.efficient_attention.conclusion import conclusion, plot_labelling
from trainers.efficient_attention.config import PRESETS, EfficientAttentionConfig
from trainers.efficient_attention.run import check_recordings, labelling_split, run_efficient_attention
from trainers.efficient_attention.scaling import (
    build_layer,
    crossover,
    fits,
    growth_exponent,
    measure_memory,
    measure_times,
)
from trainers.efficient_attention.tasks import Labelled
from training.config import parse_config, preset_config

CPU = torch.device("cpu")


def test_crossover_is_where_it_stays_faster() -> None:
    exact = {8: 1.0, 16: 2.0, 32: 4.0, 64: 16.0}
    # Half as fast at 16, twice as fast at 64: level at the geometric mean of the two.
    assert crossover({8: 2.0, 16: 4.0, 64: 8.0}, exact) == pytest.approx(32)
    # 1.5 times and 0.75 times as long: log(1.5) / log(2) of the way, in logarithms.
    assert crossover({8: 2.0, 16: 3.0, 32: 3.0, 64: 5.0}, exact) == pytest.approx(
        16 * 2 ** (math.log(1.5) / math.log(2))
    )
    assert crossover({8: 0.5, 16: 4.0, 32: 2.0, 64: 5.0}, exact) == pytest.approx(16 * 2**0.5)  # a lucky short one
    assert crossover({8: 0.5, 16: 1.0, 32: 3.0, 64: 5.0}, exact) == 8
    assert crossover({8: 1.0, 16: 1.0}, exact) == 8  # level at 8, faster at 16
    assert crossover({8: 2.0, 16: 3.0, 32: 5.0, 64: 20.0}, exact) is None
    assert crossover({8: 0.5, 16: 1.0, 32: 3.0, 64: 16.0}, exact) is None
    assert crossover({128: 1.0}, exact) is None


def test_growth_exponent_of_powers() -> None:
    assert growth_exponent({n: 3e-9 * n**2 for n in (64, 1024, 2048, 8192)}) == pytest.approx(2)
    assert growth_exponent({64: 100.0, **{n: 5.0 * n for n in (1024, 4096)}}) == pytest.approx(
        1
    )  # short ones are left out
    assert math.isnan(growth_exponent({1024: 1.0}))


def test_times_and_memory_are_measured_where_they_fit() -> None:
    assert fits("sdpa", 10**6)
    assert not fits("softmax", 10**5)
    notes: list[str] = []
    seconds = measure_times(("sdpa", "linear", "softmax"), (8, 64), 1, CPU, notes.append)
    assert all(value > 0 for points in seconds.values() for value in points.values())
    assert {name: sorted(points) for name, points in seconds.items()} == {
        n: [8, 64] for n in ("sdpa", "linear", "softmax")
    }
    assert "linear, 64 tokens" in notes
    assert torch.get_num_threads() >= 1
    memory = measure_memory(("softmax", "sdpa"), (2048,), notes.append)
    weights = 4 * 8 * 2048**2 / 2**20  # of eight heads, in megabytes
    assert memory["softmax"][2048] > weights
    assert memory["sdpa"][2048] < weights / 4


def test_layers_of_all_mechanisms_at_short_lengths() -> None:
    for name in MECHANISMS:
        for length in (2, 5, 19):
            assert build_layer(name, length)(torch.randn(1, length, 128))[0].shape == (1, length, 128), (name, length)


def test_the_conclusion_follows_from_the_figures() -> None:
    results = {"sdpa": result({1: 0.6, 2: 0.7}), "linear": result({1: 0.7, 2: 0.7}), "none": result({1: 0.5, 2: 0.6})}
    seconds = {
        "sdpa": {39: 1.0, 1024: 4.0, 4096: 64.0},
        "linear": {39: 2.0, 1024: 3.0, 4096: 12.0},
        "none": {39: 0.5, 1024: 1.0, 4096: 4.0},
    }
    memory = {"linear": {1024: 1.0, 4096: 4.0}}
    text = conclusion(results, seconds, memory, {"linear": 0.4, "none": 0.9}, 39, "CPU")
    layer = "in a layer of d_model 128 with 8 heads"
    assert f"At 39 tokens, those of an EEG window, no approximation is faster than exact attention {layer}" in text
    assert "linear from 393 tokens" in text  # 39 (1024 / 39)^(log 2 / log (8 / 3))
    assert "At 4,096 tokens the fastest is linear, 5.3 times sdpa" in text
    assert "no mechanism stays within 5 %" in text
    assert "At 39 tokens the quickest approximation, linear, takes 2.00 times as long" in text
    assert "| linear | 2e+03 | 3e+03 | 1.2e+04 | 341 | 4 at 4,096 |" in text
    assert "| linear | 0.50 | 1.33 | 5.33 | 393 | 1.00 | 1.00 | 0.400 |" in text
    endless = {**seconds, "linear": {**seconds["linear"], 10**6: 3000.0}}
    assert "| linear | 0.50 | 1.33 | 5.33 |  | 393 |" in conclusion(results, endless, memory, {}, 39, "CPU")
    assert "| linear | 2e+03 | 3e+03 | 1.2e+04 | 3e+06 | 333 |" in conclusion(results, endless, memory, {}, 39, "CPU")
    faster = {**seconds, "linear": {39: 0.5, 1024: 1.0, 4096: 2.0}}
    assert "linear from 39 or fewer tokens" in conclusion(results, faster, memory, {}, 39, "CPU")
    assert f"faster than exact attention {layer}: linear (2.00 times)" in conclusion(
        results, faster, memory, {"linear": 0.01}, 39, "CPU"
    )


def test_at_the_models_length_the_nearest_measured_one_speaks_for_itself() -> None:
    """Not the length from which on a mechanism stays faster, which a single slow pass moves."""
    seconds = {
        "sdpa": {39: 1.0, 160: 2.0, 512: 8.0},
        "linear": {39: 0.5, 160: 2.5, 512: 2.0},
        "local": {39: 0.8, 160: 1.0},
    }
    results = {"sdpa": result({1: 0.6, 2: 0.7})}

    def text(n_tokens: int) -> str:
        return conclusion(results, seconds, {}, {}, n_tokens, "CPU")

    assert (
        "- At 39 tokens, the measured length nearest to the 41 of an EEG window, faster than exact attention in a "
        "layer of d_model 128 with 8 heads: linear (2.00 times), local (1.25 times).\n"
    ) in text(41)
    assert "At 160 tokens" in text(90)
    assert "- At the 7 tokens of an EEG window nothing was measured: the nearest length is 39.\n" in text(7)


def quick(**changes: Any) -> EfficientAttentionConfig:
    """The preset quick with changes."""
    return preset_config(EfficientAttentionConfig, PRESETS, "quick", **changes)


def test_parts_longer_than_the_recordings_are_refused_before_training(folder: Path) -> None:
    data = load_eeg("simulated", folder / "cache", subjects="1-3", runs="4,8", quiet=True)
    # The shortest has 20,000 samples or so; training leaves out up to 8.3 s of it.
    shortest = round(min(report.seconds for report in data.recordings) * data.sfreq)
    check_recordings(quick(), data)
    check_recordings(quick(label_patches=(), stream_piece=10**5), data)
    most = shortest - round(8.3 * 160) + 1
    check_recordings(quick(label_patches=(most,), stream_patch=most, stream_piece=1), data)
    for changes, words in (
        ({"label_patches": (most + 1, 40)}, f"label_patches: {most + 1} samples.*at most {most}"),
        ({"stream_patch": most + 1}, f"stream_patch: {most + 1} samples.*at most {most}"),
        ({"stream_piece": shortest + 1}, f"stream_piece: {shortest + 1} samples.*{shortest}"),
        ({"stream_piece": shortest // 2 + 1, "stream_patch": shortest // 2 + 2}, f"at most {shortest // 2 + 1}"),
        ({"stream_seconds": 1, "stream_patch": 161}, "stream_patch: 161 samples.*stream_seconds=1; give at most 160"),
    ):
        with pytest.raises(InputError, match=words):
            check_recordings(quick(**changes), data)


def test_people_are_trained_on_or_tested_on(folder: Path) -> None:
    recordings = [Recording(s, run, np.zeros((1, 1)), np.zeros(1)) for s in (3, 5, 8, 9) for run in (4, 8, 12)]
    train, test = labelling_split(recordings, "people")
    assert [(r.subject, r.run) for r in test] == [(9, 4), (9, 8), (9, 12)]
    assert {r.subject for r in train} == {3, 5, 8}
    train, test = labelling_split(recordings, "runs")
    assert [(r.subject, r.run) for r in test] == [(3, 12), (5, 12), (8, 12), (9, 12)]
    assert {r.run for r in train} == {4, 8}
    data = load_eeg("simulated", folder / "cache", subjects="1-3", runs="4,8", quiet=True)
    check_recordings(quick(label_test="people"), data)
    with pytest.raises(InputError, match="label_test=people: labelling trains on some subjects"):
        check_recordings(quick(label_test="people", label_subjects=1), data)


def test_recordings_of_ones_own_need_rest_and_another_run(tmp_path: Path) -> None:
    one = write_own(tmp_path / "one", ".fif", runs=1, n_trials=4)
    own = OwnFiles(classes=("left_hand", "right_hand"))

    def load(**times: float) -> EegData:
        asked = {"subjects": "all", "runs": "all", "own": own, "preprocessing": Preprocessing(**times), "quiet": True}
        return load_eeg("recordings", tmp_path / "cache", one, **asked)

    with pytest.raises(InputError, match=r"label_test=runs: nobody has two recordings.*give label_test=people"):
        check_recordings(quick(), load())
    check_recordings(quick(label_test="people"), load())
    check_recordings(quick(label_patches=()), load())
    with pytest.raises(
        InputError, match=r"label_patches: no sample is rest in the .* train on \(sub-01_run-1.fif .*tmax"
    ):
        check_recordings(quick(label_test="people"), load(tmax=6.5))  # the cues are 6 s apart


def test_the_command_refuses_them_with_status_2_and_no_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.session.start_run", lambda *_, **__: pytest.fail("a run was started"))
    config = quick(
        subjects="1-3",
        runs="4,8",
        n_folds=3,
        label_patches=(10**5,),
        cache_dir=folder / "cache",
        output_dir=folder / "runs",
        device="cpu",
    )
    with pytest.raises(InputError, match="label_patches: 100000 samples"):
        run_efficient_attention(config)


def test_memory_that_was_not_measured_is_not_drawn() -> None:
    row = Labelled("sdpa", 160, 125, 0.7, (0.6, 0.5, 0.7), 0.55, 1.0, 0.01)
    assert len(plot_labelling([row], "simulated", STATES).axes) == 2
    assert len(plot_labelling([row, replace(row, megabytes=5.0)], "simulated", STATES).axes) == 3


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--mechanisms", "linear,quick"], "mechanisms: quick; allowed are"),
        (["--attention", "linear"], "efficient_attention has no parameter 'attention'"),
        (["--lengths", "1"], "lengths=\\(1,\\)"),
        (["--lengths", "5,x"], "lengths"),
        (["--lengths", "39,5"], "lengths=\\(39, 5\\): each once, ascending"),
        (["--lengths", "5,5"], "each once, ascending"),
        (["--label_mechanisms", "linear,quick"], "label_mechanisms: quick; allowed are"),
        (["--stream_mechanisms", "linear,sdpa"], "stream_mechanisms: sdpa; allowed are linear, favor, delta"),
        (["--recall_pairs", "0"], "recall_pairs=\\(0,\\): at least 1"),
        (["--runs", "4"], "runs=4: labelling trains on some runs"),
        (["--attention_window", "64"], "window=64 must be odd.*63 or 65"),
        (["--n_landmarks", "70"], "n_landmarks=70 exceeds the 41 tokens"),
        (["--n_projected", "60"], "n_projected=60 is not between 1 and max_len=41"),
        (["--d_model", "66"], "d_model=66 is not divisible by n_heads=4"),
        (["--patch_len", "200"], "patch_len=200 is longer than the window of 160"),
    ],
)
def test_bad_parameters_are_refused(argv: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_config(EfficientAttentionConfig, PRESETS, argv, "efficient_attention")


def test_bad_sizes_end_the_command_with_status_2(folder: Path) -> None:
    text = run_trainer(folder, "efficient_attention", status=2, n_landmarks=70)
    assert text.splitlines()[-1] == "error: n_landmarks=70 exceeds the 41 tokens of a window"


def test_a_whole_run(folder: Path) -> None:
    text = run_trainer(
        folder,
        "efficient_attention",
        **{**TINY, "epochs": 1},
        mechanisms="softmax,linear,delta,none",
        lengths="5,1024",
        rounds=1,
        recall_pairs="4",
        recall_steps=5,
        label_patches="40",
        label_mechanisms="sdpa,none",
        label_exact_tokens=200,
        label_epochs=1,
        stream_mechanisms="linear,delta",
        stream_seconds=20,
    )
    run = runs(folder)[-1]
    assert run.info.status == "FINISHED"
    assert "softmax_subject_mean" not in run.data.metrics  # sdpa's function: not trained again
    for name in ("sdpa", "linear", "delta", "none"):
        assert f"{name}_subject_mean" in run.data.metrics
        assert f"{name}_recall_accuracy" in run.data.metrics
    for name in ("sdpa", "softmax", "linear", "delta", "none"):
        steps = [point.step for point in client(folder).get_metric_history(run.info.run_id, f"{name}_milliseconds")]
        assert sorted(steps) == [5, 1024]
    assert run.data.metrics["softmax_exchange_error"] < 1e-4  # the same function, written out
    assert run.data.metrics["none_exchange_error"] > 0.1
    for name in ("linear", "delta"):
        assert run.data.metrics[f"{name}_stream_difference"] < 1e-4
    assert run.data.metrics["linear_causal_label_megabytes"] > 0
    found = {file.path for path in ("", "figures") for file in client(folder).list_artifacts(run.info.run_id, path)}
    figures = {f"figures/{name}.png" for name in ("seconds", "memory", "recall", "labelling")}
    assert {"scaling.json", "tasks.json", "summary.md", *figures} <= found
    for heading in (
        "Which to choose",
        "Associative recall",
        "Every sample of a whole recording",
        "A recording that does not end",
    ):
        assert f"## {heading}" in text
    assert "| none | 40 | 500 |" in text
    assert "| sdpa | 40 | 500 |" not in text  # longer than label_exact_tokens


@pytest.mark.slow
def test_a_whole_run_on_recordings_of_ones_own(folder: Path) -> None:
    own = write_own(folder / "own", ".fif", n_trials=8, classes=("left_hand", "right_hand", "feet"))
    text = run_trainer(
        folder,
        "efficient_attention",
        dataset="recordings",
        data_dir=own,
        classes="left_hand,right_hand,feet",
        epochs=1,
        updates_per_epoch=1,
        mechanisms="linear",
        lengths="5",
        rounds=1,
        memory=False,
        recall_pairs="none",
        label_patches="160",
        label_mechanisms="sdpa",
        label_epochs=1,
        stream_mechanisms="linear",
        stream_seconds=20,
    )
    assert "left_hand or right_hand or feet: sdpa, 3 people of recordings" in text
    assert "People of recordings, runs that training did not see: rest, left_hand, right_hand or feet at each" in text
    assert "sdpa_label_within_tasks" in runs(folder)[-1].data.metrics

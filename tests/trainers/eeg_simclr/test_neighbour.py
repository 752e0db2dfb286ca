"""pretext=neighbour: what its parts find, what a run records, whom it tests, and that a resumed run repeats nothing."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

from common.errors import InputError
from common.progress import Progress
from models.eeg.neighbour import NeighbourEncoder
from tests.running import client, environment, run_trainer, runs
from tracking.registry.models import load_weights
from trainers.eeg_simclr import run as run_module
from trainers.eeg_simclr.config import PRESETS, EegSimclrConfig
from trainers.eeg_simclr.curves import MEANING, found_of
from trainers.eeg_simclr.neighbour import (
    PENALTIES,
    NeighbourTrials,
    curve_of,
    draw_labelled,
    features_of,
    less_mean,
    pretrain,
    tuned_penalties,
    usable_budgets,
)
from training.config import parse_config, preset_config
from training.eeg.slices import ALL

TINY: dict[str, Any] = {
    "subjects": "1-3",
    "test_subjects": "4,5",
    "runs": "4,8",
    "labelled_trials": "4,12",
    "n_draws": 2,
    "baselines": "false",
}


def planted_trials(n_people: int = 8, n_each: int = 60, n_features: int = 150, seed: int = 0) -> NeighbourTrials:
    """The side is in feature 3 of the slices after the cue; a stronger drift, in feature 7, is in all slices."""
    rng = np.random.default_rng(seed)
    n = n_people * n_each
    label, run = rng.integers(0, 2, n), np.repeat(np.arange(2 * n_people), n_each // 2)
    side, drift = 2.0 * label - 1, 3 * rng.normal(size=n)
    slices = rng.normal(size=(n, 5, n_features))
    slices[:, :, 7] += drift[:, None]
    slices[:, :2, 3] += 1.5 * side[:, None]
    vectors = less_mean(torch.from_numpy(slices).float(), run // 2)
    rule = torch.from_numpy(0.3 * side + rng.normal(size=n)).float()
    return NeighbourTrials(vectors[:, :2], vectors[:, 2:], vectors[:, 0], rule, label, run)


def test_pretraining_finds_the_planted_side_and_not_the_drift() -> None:
    trials = planted_trials()
    encoder, losses = pretrain(trials, np.arange(480), seed=0)
    direction = (encoder.components @ encoder.project.weight[0]).abs()
    assert int(direction.argmax()) == 3
    assert float(direction[3]) > 5 * float(direction[7])
    assert losses[-1] < losses[0] - 0.2
    z = encoder(trials.task.mean(1))
    assert float(z.std()) == pytest.approx(1, abs=1e-4)


def test_few_labels_are_enough_with_pretraining_and_not_from_scratch() -> None:
    trials = planted_trials()
    train, test = np.arange(300), np.arange(300, 480)
    encoder, _ = pretrain(trials, train, seed=0)
    features = features_of(trials, encoder, train, seed=0)
    penalties = {"scratch": {"4": 0.001, "all": 0.001}}
    curve = curve_of(features, trials, train, test, penalties=penalties, budgets=[4, None], n_draws=3)

    def accuracy(name: str, n: str) -> float:
        return float(((curve[name][n].numpy() > 0) == trials.label[test]).mean())

    assert curve["simclr"]["4"].shape == (3, 180)
    assert accuracy("simclr", "4") > 0.9
    assert accuracy("scratch", "4") < 0.75
    assert accuracy("no_label", "all") > 0.9  # its sign comes from the rule, whose own accuracy is 0.62
    assert accuracy("scratch", "all") > 0.85


def test_draws_are_balanced_nested_and_of_the_rows_given() -> None:
    label, rows = np.array([0, 1] * 30), np.arange(10, 60)
    small, large = draw_labelled(label, rows, 4, draw=1), draw_labelled(label, rows, 12, draw=1)
    assert label[small].sum() == 2
    assert set(small) < set(large) <= set(rows)
    assert set(small) != set(draw_labelled(label, rows, 4, draw=2))
    assert np.array_equal(draw_labelled(label, rows, None, draw=0), rows)
    assert usable_budgets([100, 4, 12, 50], label, rows) == [4, 12, None]


def test_penalties_are_chosen_without_the_people_tested() -> None:
    trials = planted_trials()
    train, judges = np.arange(240), np.arange(240, 300)

    def best() -> dict[str, dict[str, float]]:
        x = {"scratch": trials.task.mean(1)}
        return tuned_penalties(x, trials.label, train, judges, budgets=[4, None], n_draws=2, beyond=[4, 50, None])

    found = best()
    assert set(found["scratch"]) == {"4", "50", "all"}
    assert set(found["scratch"].values()) <= set(PENALTIES)
    assert found["scratch"]["50"] == found["scratch"]["all"]
    trials.label[300:] = 1 - trials.label[300:]
    trials.task[300:] *= -7
    assert best() == found


def test_curves_are_paired_by_person_over_folds_and_draws() -> None:
    class Data:
        label = np.array([0, 1, 0, 1, 0, 1])
        subject = np.array([1, 1, 2, 2, 3, 3])

    tests = [np.array([0, 1, 2, 3]), np.array([4, 5])]
    right = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    wrong = torch.tensor([-1.0, -1.0, -1.0, 1.0])
    curves = [
        {
            "simclr": {"4": torch.stack([right, wrong]), "all": right[None]},
            "scratch": {"4": wrong[None].repeat(2, 1), "all": right[None]},
        },
        {
            "simclr": {"4": right[None, :2].repeat(2, 1), "all": right[None, :2]},
            "scratch": {"4": wrong[None, :2].repeat(2, 1), "all": right[None, :2]},
        },
    ]
    found = found_of(curves, Data(), tests)  # type: ignore[arg-type]
    assert found.accuracies["simclr"]["4"] == {1: 0.75, 2: 1.0, 3: 1.0}
    assert found.accuracies["scratch"]["4"] == {1: 0.5, 2: 1.0, 3: 0.5}
    assert found.against["scratch"]["4"][0] == pytest.approx(0.25)
    assert found.against["scratch"]["all"][0] == 0
    assert found.p["scratch"] == {"4": pytest.approx(0.5), "all": 1.0}  # 0.25, 0, 0.5: 4 of 8 sign patterns as large
    assert found.budgets == ["4", "all"]


def test_a_montage_with_few_pairs_has_fewer_components_than_are_asked_for() -> None:
    session = SimpleNamespace(
        run=SimpleNamespace(log_metrics=lambda *_, **__: None),
        once=lambda key, make: make(),
    )
    trials = planted_trials(n_people=3, n_each=30, n_features=20)
    progress = Progress(1, quiet=True)
    work = run_module.NeighbourFits(session, progress, EegSimclrConfig(), {ALL: trials})  # type: ignore[arg-type]
    final = work.final(np.arange(90))
    assert final.encoder.components.shape == (20, 20)
    assert final.head.correction.shape == (20,)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, str, str]:
    """(folder, run id, what was printed) of one whole run."""
    folder = tmp_path_factory.mktemp("neighbour")
    shutil.copy(empty_store, folder / "mlflow.db")
    text = run_trainer(folder, "eeg_simclr", **TINY)
    return folder, runs(folder)[-1].info.run_id, text


def test_a_run_records_all_it_should(finished: tuple[Path, str, str]) -> None:
    folder, run_id, text = finished
    run = client(folder).get_run(run_id)
    assert run.info.status == "FINISHED"
    for name in MEANING:
        assert {f"{name}_subject_mean", f"{name}_all_trials_subject_mean"} <= run.data.metrics.keys()
        assert f"\n| {name} |" in text
    for name in (
        "simclr_12_trials_subject_mean",
        "simclr_less_scratch_4_trials",
        "motor_21_simclr_less_scratch_4_trials",
    ):
        assert name in run.data.metrics
    assert {"leakage_check_accuracy", "pretrain_fold_1_train_loss"} <= run.data.metrics.keys()
    found = {file.path for path in ("", "figures") for file in client(folder).list_artifacts(run_id, path)}
    figures = ("learning_curves", "electrodes", "pretraining", "subjects", "calibration")
    assert {"summary.md", "learning_curves.json", *(f"figures/{name}.png" for name in figures)} <= found
    assert "2 simulated subjects, 60 test trials" in text
    for words in (
        "| classifier | 4 | 12 | all |",
        "| motor_21 | simclr less scratch |",
        "| p, scratch |",
        "no eye channels",
        "without frontal and temporal electrodes, and with the 21 over the motor cortex alone, bounds how much",
    ):
        assert words in text


def test_both_registered_models_answer(finished: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, _ = finished
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(environment(folder)["MLFLOW_TRACKING_URI"])
    try:
        served = mlflow.pyfunc.load_model("models:/eeg-simclr/1")
        tensors, config = load_weights("models:/eeg-neighbour-encoder/1")
        encode = mlflow.pyfunc.load_model("models:/eeg-neighbour-encoder/1")
    finally:
        mlflow.set_tracking_uri(None)
    epochs = np.random.default_rng(0).normal(0, 2e-5, (3, 64, 801)).astype(np.float32)
    together, alone = served.predict(epochs), served.predict(epochs[:1])
    assert (together.shape, alone.shape) == ((3, 2), (1, 2))
    assert np.allclose(together.sum(1), 1, atol=1e-5)
    assert not np.allclose(together[0], alone[0], atol=1e-6)  # the others of the person count
    assert config["subjects"] == [1, 2, 3]  # not those of test_subjects
    encoder = NeighbourEncoder(torch.zeros(config["n_features"], config["n_components"]))
    encoder.load_state_dict(tensors)
    vectors = np.random.default_rng(1).normal(size=(2, config["n_features"])).astype(np.float32)
    assert np.allclose(encode.predict(vectors), encoder(torch.from_numpy(vectors)).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--labelled_trials", "4,7"], "labelled_trials=.*even numbers of at least 2"),
        (["--nproc", "2"], "nproc=2: pretext=neighbour trains in one process"),
        (["--pretext", "mask"], "pretext"),
        (["--n_draws", "0"], "n_draws"),
    ],
)
def test_bad_parameters_stop_before_any_data(argv: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_config(EegSimclrConfig, PRESETS, argv, "eeg_simclr")


def test_trials_that_do_not_hold_the_slices_are_refused(tmp_path: Path) -> None:
    config = preset_config(
        EegSimclrConfig, PRESETS, "quick", **{**TINY, "tmin": -0.5, "cache_dir": tmp_path, "output_dir": tmp_path}
    )
    with pytest.raises(InputError, match=r"slice -1 to -0.5 s.*lies outside the trials; pretext=channel has no slices"):
        run_module.run_eeg_simclr(config)

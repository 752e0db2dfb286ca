"""network=lateral: what its parts compute, what a run records, that it resumes, and what it must not use."""

import shutil
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

from common.errors import InputError
from data.eeg.load import EegData, load_eeg
from data.eeg.recording import CHANNELS
from tests.eeg_montage import mirror_64
from tests.running import client, environment, run_trainer, runs
from tests.trainers.eeg_transformer.test_run import TINY
from tracking.registry.evaluations import evaluations_in
from trainers.eeg_transformer.config import PRESETS, EegTransformerConfig
from trainers.eeg_transformer.explain_lateral import order_facts, patterns_of
from trainers.eeg_transformer.lateral import (
    RIDGE,
    SLICES,
    WeighingSettings,
    cross_fitted_evidence,
    fit_lateral,
    predict_causal,
    predict_lateral,
    principal_axes,
    ridge_directions,
)
from training.config import parse_config, preset_config
from training.eeg.baselines import CLASSICAL, baseline_inputs, classical_log_probabilities
from training.eeg.deep_baselines import NETWORKS, check_braindecode, fit_network, predict_network
from training.eeg.fit import final_fit
from training.eeg.load import load_data, served_trials
from training.eeg.slices import ALL, electrode_sets

FEW = WeighingSettings(n_networks=2, n_updates=20)


def lateral_trials(n_people: int = 6, n_each: int = 40, n_features: int = 10, seed: int = 0) -> tuple[Any, Any, Any]:
    """(vectors [n, 3, n_features], label, subject): the first slice has the side in its first feature."""
    rng = np.random.default_rng(seed)
    n = n_people * n_each
    label, subject = rng.integers(0, 2, n), np.repeat(np.arange(n_people), n_each)
    vectors = rng.normal(size=(n, 3, n_features))
    vectors[:, 0, 0] += 1.5 * (2 * label - 1)
    return torch.from_numpy(vectors).float(), label, subject


def test_directions_are_ridge_regressions() -> None:
    from sklearn.linear_model import Ridge

    x, label, _ = lateral_trials()
    found = ridge_directions(x.numpy(), label)
    for k in range(3):
        a = x[:, k].double().numpy()
        penalty = RIDGE * (a**2).sum(1).mean()
        assert np.allclose(found[k], Ridge(alpha=penalty, fit_intercept=False).fit(a, 2 * label - 1).coef_, atol=1e-6)


@pytest.mark.parametrize(("n_trials", "n_kept"), [(30, 7), (12, 7), (5, 5)])
def test_axes_are_those_of_the_covariance_for_few_trials_and_many(n_trials: int, n_kept: int) -> None:
    x = torch.randn(n_trials, 2, 20, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 21)
    axes = principal_axes(x, n_components=7)
    assert axes.shape == (2, 20, n_kept)
    for found, slice_ in zip(axes, x.double().unbind(1), strict=True):
        covariance = (slice_.T @ slice_ / n_trials).numpy()
        values, vectors = np.linalg.eigh(covariance)
        expected = vectors[:, ::-1][:, :n_kept] / np.sqrt(values.sum())
        sign = np.sign((found * expected).sum(0))
        np.testing.assert_allclose(found * sign, expected, atol=1e-5)


def test_evidence_of_a_person_comes_from_other_people() -> None:
    x, label, subject = lateral_trials()
    before = cross_fitted_evidence(x.numpy(), label, subject, seed=0)
    flipped = np.where(subject == 2, 1 - label, label)
    after = cross_fitted_evidence(x.numpy(), flipped, subject, seed=0)
    assert np.array_equal(after[subject == 2], before[subject == 2])
    assert not np.allclose(after[subject != 2], before[subject != 2])


@pytest.mark.parametrize("attention", ["sdpa", "none"])
def test_it_learns_the_side_and_to_trust_the_slice_that_has_it(attention: str) -> None:
    x, label, subject = lateral_trials()
    train, test = subject < 4, subject >= 4
    rows = torch.from_numpy(test)
    settings = WeighingSettings(n_networks=2, n_updates=100)
    network, curve = fit_lateral(x[~rows], label[train], subject[train], attention=attention, settings=settings, seed=0)
    log_p, _, weights = predict_lateral(network, x[rows], subject[test])
    assert (log_p.argmax(1).numpy() == label[test]).mean() > 0.75
    assert curve[-1] < curve[0] - 0.05
    assert weights[:, 0].mean() > 0.4  # evenly, it would be a third


def test_answers_know_nothing_of_order_and_causal_ones_nothing_of_the_future() -> None:
    x, label, subject = lateral_trials()
    network, _ = fit_lateral(x, label, subject, attention="sdpa", settings=FEW, seed=0)
    own = x[:40]
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(40))
    whole = predict_lateral(network, own, subject[:40])[0]
    assert torch.allclose(predict_lateral(network, own[shuffled], subject[:40])[0], whole[shuffled], atol=1e-5)
    causal = predict_causal(network, own, subject[:40])
    later = own.clone()
    later[25:] = 3 * later[25:].flip(0)
    assert torch.equal(predict_causal(network, later, subject[:40])[:25], causal[:25])
    assert not torch.allclose(predict_causal(network, later, subject[:40])[26:], causal[26:])


def test_sets_of_electrodes(data: EegData) -> None:
    sets = electrode_sets(data)
    assert {name: len(chosen) for name, chosen in sets.items()} == {ALL: 64, "central_posterior": 39, "motor_21": 21}
    assert not {"F7", "FT7", "T7", "Fp1", "TP7"} & set(sets["central_posterior"])


def test_order_is_told_from_the_labels_before() -> None:
    label = np.array([0, 1, 1, 0, 0, 1])
    recording = np.array([1, 1, 1, 1, 2, 2])
    right = np.array([True, True, False, True])
    facts = order_facts(label, recording, right, np.array([1, 2, 3, 4]))
    assert facts.alternation == 3 / 4  # of 1, 2, 3 and 5: the fifth trial begins a recording
    assert (facts.after_other, facts.after_same) == (0.5, 1.0)  # the fifth trial counts in neither


def test_a_pattern_is_where_the_power_goes_with_the_evidence() -> None:
    from models.eeg.lateral import OddTangent

    names, mirror = CHANNELS, mirror_64()
    evidence = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    log = torch.zeros(200, 64, 64, dtype=torch.float64)
    log[:, names.index("C3"), names.index("C3")] = -evidence[:, 0].double()
    vectors = OddTangent(mirror)(torch.matrix_exp(log), shrinkage=0.0)[:, None]
    (pattern,) = patterns_of(vectors, evidence, mirror)
    assert np.argmin(pattern) == names.index("C3")
    assert np.argmax(pattern) == names.index("C4")
    assert np.isclose(pattern.min(), -0.5, atol=1e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EegData:
    return load_eeg("simulated", tmp_path_factory.mktemp("eeg"), subjects="1-3", runs="4,8", quiet=True)


def test_baselines_know_no_test_label_and_mirror_to_the_other_side(data: EegData) -> None:
    inputs = baseline_inputs(data, "cross_subject")
    train, test = np.flatnonzero(data.subject < 3), np.flatnonzero(data.subject == 3)
    for name in CLASSICAL:
        log_p = classical_log_probabilities(name, inputs, train, test)
        assert np.allclose(np.exp(log_p).sum(1), 1)
        inputs.label[test] = 1 - inputs.label[test]
        assert np.array_equal(classical_log_probabilities(name, inputs, train, test), log_p), name
        inputs.label[test] = 1 - inputs.label[test]
    mirror = torch.from_numpy(inputs.mirror)
    for name in ("csp_lda", "fbcsp", "tangent_lr"):
        before = classical_log_probabilities(name, inputs, train, test)
        for x in (inputs.wide, inputs.banks):
            x[torch.from_numpy(test)] = x[torch.from_numpy(test)][..., mirror, :][..., mirror]
        after = classical_log_probabilities(name, inputs, train, test)
        np.testing.assert_allclose(np.exp(after), np.exp(before[:, ::-1]), atol=1e-3, err_msg=name)


def test_the_rule_is_the_power_of_c3_against_c4(data: EegData) -> None:
    """The simulation weakens the rhythm over the hand area opposite to the fist."""
    inputs = baseline_inputs(data, "cross_subject")
    everyone = np.arange(len(data.label))
    log_p = classical_log_probabilities("rule", inputs, everyone, everyone)
    assert (log_p.argmax(1) == data.label).mean() > 0.6
    assert abs(log_p.argmax(1).mean() - 0.5) < 0.02  # against the median: half of them right


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_learns_a_side_and_answers_the_mirror_image_with_the_other(name: str) -> None:
    if name != "eegnet":
        pytest.importorskip("braindecode")
    rng, mirror = np.random.default_rng(0), torch.tensor([1, 0])
    label = rng.integers(0, 2, 80)
    x = torch.from_numpy(rng.normal(size=(80, 2, 81))).float()
    x[torch.from_numpy(label == 1), 0] *= 3
    x[torch.from_numpy(label == 0), 1] *= 3
    network = fit_network(name, x, label, mirror, n_updates=150, seed=0)
    log_p = predict_network(network, x, mirror)
    assert (log_p.argmax(1).numpy() == label).mean() > 0.9
    assert torch.allclose(predict_network(network, x[:, mirror], mirror), log_p.flip(1), atol=1e-5)


def test_a_network_whose_package_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "braindecode", None)
    monkeypatch.setitem(sys.modules, "braindecode.models", None)
    check_braindecode(["eegnet"])
    with pytest.raises(InputError, match=r"deep_baselines=shallow: .*pip install -e"):
        check_braindecode(["eegnet", "shallow"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, str, str]:
    """(folder, run id, what was printed) of one whole run."""
    folder = tmp_path_factory.mktemp("lateral")
    shutil.copy(empty_store, folder / "mlflow.db")
    text = run_trainer(folder, "eeg_transformer", **{**TINY, "preset": "quick", "n_updates": 5, "n_networks": 2})
    return folder, runs(folder)[-1].info.run_id, text


def test_a_run_records_all_it_should(finished: tuple[Path, str, str]) -> None:
    folder, run_id, text = finished
    run = client(folder).get_run(run_id)
    assert run.info.status == "FINISHED"
    names = ("transformer", "transformer_causal", "no_attention", "tangent_slices", "eegnet", *CLASSICAL)
    for name in names:
        for metric in ("trial_accuracy", "trial_roc_auc", "subject_mean", "subject_low"):
            assert f"{name}_{metric}" in run.data.metrics, (name, metric)
        assert f"\n| {name} |" in text
    for name in ("leakage_check_accuracy", "label_alternation", "electrodes_motor_21_subject_mean"):
        assert name in run.data.metrics
    found = {file.path for path in ("", "figures") for file in client(folder).list_artifacts(run_id, path)}
    figures = ("people", "attention", "patterns", "training_loss", "calibration", "subjects", "confusion_fbcsp")
    assert {"summary.md", "explanation.json", "subjects.csv", *(f"figures/{name}.png" for name in figures)} <= found
    assert "## Where the information is" in text
    assert "bounds how much may be ocular. The motor electrodes and the slices from 1 s on are the more" in text
    assert "Sign-flip test over people" in text
    assert text.count(" Hz | ") == len(SLICES)


def test_people_to_be_tested_are_in_nothing_that_is_registered(tmp_path: Path) -> None:
    config = preset_config(
        EegTransformerConfig, PRESETS, "quick", subjects="1-3", test_subjects="5,6", runs="4", cache_dir=tmp_path
    )
    data, windows, folds = load_data(config, quiet=True)
    assert set(data.subject[served_trials(config, data)]) == {1, 2, 3}
    key, served = final_fit(config, "transformer", windows, folds)
    assert (key, served) == ("transformer_fold1", folds[0])
    alone = preset_config(EegTransformerConfig, PRESETS, "quick", subjects="1-3", runs="4", cache_dir=tmp_path)
    data, windows, folds = load_data(alone, quiet=True)
    assert len(served_trials(alone, data)) == len(data.label)
    key, served = final_fit(alone, "transformer", windows, folds)
    assert key == "final"
    assert set(windows.subject[np.concatenate([served.train, served.validation])]) == {1, 2, 3}


def test_the_registered_model_takes_raw_epochs_of_one_person(
    finished: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, run_id, _ = finished
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(environment(folder)["MLFLOW_TRACKING_URI"])
    try:
        served = mlflow.pyfunc.load_model("models:/eeg-transformer/1")
    finally:
        mlflow.set_tracking_uri(None)
    epochs = np.random.default_rng(0).normal(0, 2e-5, (3, 64, 801)).astype(np.float32)
    together, alone = served.predict(epochs), served.predict(epochs[:1])
    assert (together.shape, alone.shape) == ((3, 2), (1, 2))
    assert np.allclose(together.sum(1), 1, atol=1e-5)
    assert not np.allclose(together[0], alone[0], atol=1e-6)  # the others of the person count
    (evaluation,) = evaluations_in(client(folder).get_model_version("eeg-transformer", "1").tags).values()
    assert evaluation.value == client(folder).get_run(run_id).data.metrics["transformer_trial_accuracy"]


def test_test_subjects_are_the_only_ones_tested(tmp_path: Path) -> None:
    config = preset_config(
        EegTransformerConfig, PRESETS, "quick", subjects="1-3", test_subjects="5,6", runs="4", cache_dir=tmp_path
    )
    _, windows, (fold,) = load_data(config, quiet=True)
    assert set(windows.subject[fold.test]) == {5, 6}
    assert set(windows.subject[np.concatenate([fold.train, fold.validation])]) == {1, 2, 3}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--test_subjects", "5", "--split", "within_subject"], "test_subjects=5: it needs split=cross_subject"),
        (["--encoder_uri", "models:/x/1"], "embeds the tokens of network=windows"),
        (["--nproc", "2"], "nproc=2: network=lateral trains in one process"),
        (["--network", "lateral2"], "network"),
    ],
)
def test_bad_parameters_stop_before_any_data(argv: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_config(EegTransformerConfig, PRESETS, argv, "eeg_transformer")


def test_people_who_cannot_be_tested_are_named(tmp_path: Path) -> None:
    def load(**changes: Any) -> None:
        load_data(preset_config(EegTransformerConfig, PRESETS, "quick", cache_dir=tmp_path, **changes), quiet=True)

    with pytest.raises(InputError, match="test_subjects=2-5: subjects=1-3 has 2-3 too"):
        load(subjects="1-3", test_subjects="2-5")
    with pytest.raises(InputError, match="nobody is left to test on"):
        load(subjects="1-3", test_subjects="4", runs="4", exclude="4")

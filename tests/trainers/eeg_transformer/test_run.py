"""The eeg_transformer entry point: what it records, that it resumes exactly, what it refuses, and its report."""

import copy
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import safetensors.torch
import torch

import training.eeg.baselines
from common.errors import InputError
from data.eeg.load import load_eeg
from data.eeg.splits import make_folds
from models.eeg.simclr import ChannelEncoder
from tests.running import begin_warm, client, environment, history, run_trainer, runs
from tracking.registry.evaluations import evaluations_in
from tracking.registry.models import ModelInfo
from trainers.eeg_transformer.config import PRESETS, EegTransformerConfig, build_network, load_channel_encoder
from trainers.eeg_transformer.run import run_eeg_transformer
from training.config import build_config, parse_config, preset_config
from training.eeg.config import QUICK, EegConfig
from training.eeg.fit import Fit, predict
from training.eeg.load import load_data
from training.eeg.records import results_text
from training.eeg.results import Leakage, Result, evaluate, subjects_table, trial_predictions, window_predictions
from training.processes import Processes
from training.trial import StudyTrial

TINY: dict[str, object] = {
    "subjects": "1-3",
    "runs": "4,8",
    "overlap": 0,
    "n_folds": 3,
    "epochs": 2,
    "d_model": 8,
    "n_heads": 2,
    "d_ff": 8,
    "n_layers": 1,
    "updates_per_epoch": 1,
}
WINDOWS = {**TINY, "network": "windows"}
ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, str, str]:
    """(folder, run id, what was printed) of one whole run."""
    folder = tmp_path_factory.mktemp("eeg")
    shutil.copy(empty_store, folder / "mlflow.db")
    text = run_trainer(folder, "eeg_transformer", **WINDOWS)
    return folder, runs(folder)[-1].info.run_id, text


def test_a_run_records_all_it_should(finished: tuple[Path, str, str]) -> None:
    folder, run_id, text = finished
    run = client(folder).get_run(run_id)
    assert run.info.status == "FINISHED"
    for name in ("transformer", "eegnet", "csp_lda", "tangent_lr"):
        for metric in ("trial_accuracy", "trial_f1", "trial_f1_macro", "trial_roc_auc", "trial_kappa", "subject_mean"):
            assert f"{name}_{metric}" in run.data.metrics, (name, metric)
    assert "transformer_window_accuracy" in run.data.metrics
    assert "leakage_check_accuracy" in run.data.metrics
    assert [step for step, _ in history(folder, run_id, "transformer_fold1_validation_loss")] == [1, 2]
    found = {file.path for path in ("", "figures") for file in client(folder).list_artifacts(run_id, path)}
    figures = (
        "confusion_transformer",
        "confusion_csp_lda",
        "subjects",
        "positions",
        "calibration",
        "loss_curves",
        "attention",
        "occlusion",
    )
    assert {
        "summary.md",
        "subjects.json",
        "subjects.csv",
        "recordings.txt",
        *(f"figures/{name}.png" for name in figures),
    } <= found
    assert "## What was obtained" in text
    assert "simulated" in text
    assert "Leakage check" in text


def test_the_registered_model_takes_raw_epochs(
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
    probabilities = served.predict(epochs)
    assert probabilities.shape == (3, 2)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    facts = served.metadata.metadata["epochs"]
    assert (facts["unit"], facts["sfreq"], len(facts["ch_names"]), facts["classes"]) == (
        "V",
        160,
        64,
        ["left", "right"],
    )
    (evaluation,) = evaluations_in(client(folder).get_model_version("eeg-transformer", "1").tags).values()
    run = client(folder).get_run(run_id)
    assert (evaluation.metric, evaluation.higher_is_better) == ("trial_accuracy", True)
    assert evaluation.value == run.data.metrics["transformer_trial_accuracy"]
    assert evaluation.conditions["n_folds"] == 3


@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_weights(finished: tuple[Path, str, str], folder: Path) -> None:
    done, run_id, _ = finished
    shutil.copytree(done / "cache", folder / "cache")
    process = begin_warm(folder, "eeg_transformer", **WINDOWS)
    while not list(folder.glob("runs/*/checkpoint.pt")) and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.end()
    run_trainer(folder, "eeg_transformer", **WINDOWS, resume="latest")
    (run,) = runs(folder)
    assert run.info.status == "FINISHED"
    ours, theirs = (
        torch.load(f / "runs" / i / "checkpoint.pt", weights_only=True)["done"]
        for f, i in ((folder, run.info.run_id), (done, run_id))
    )
    assert ours.keys() == theirs.keys()
    for key, fit in theirs.items():
        assert all(torch.equal(ours[key]["weights"][name], value) for name, value in fit["weights"].items()), key
    name = "transformer_fold2_train_loss"
    assert history(folder, run.info.run_id, name) == history(done, run_id, name)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--d_model", "10", "--n_heads", "4"], "10.*4"),
        (["--patch_len", "200"], "patch_len=200 is longer than the window of 160"),
        (["--attention", "softer"], "attention='softer'"),
        (["--epochs", "0"], "epochs: '0'"),
        (["--augment", "noise,louder"], "augment: louder; allowed are none, amplitude"),
        (["--align", "riemannian"], "align"),
        (["--batch_size", "33", "--nproc", "2"], "batch_size: 33 windows cannot be shared evenly by nproc=2"),
    ],
)
def test_bad_parameters_stop_before_any_data(argv: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_config(EegTransformerConfig, PRESETS, argv, "eeg_transformer")


def quick(**changes: Any) -> EegTransformerConfig:
    """The preset quick with the network of windows, with changes."""
    return preset_config(EegTransformerConfig, PRESETS, "quick", **{"network": "windows", **changes})


def test_data_that_does_not_do_is_refused(tmp_path: Path) -> None:
    def load(**changes: Any) -> None:
        load_data(EegConfig(cache_dir=tmp_path, **{**QUICK, **changes}), quiet=True)

    with pytest.raises(InputError, match="at least 3 subjects"):
        load(subjects="1-2", runs="4")
    with pytest.raises(InputError, match="3 subjects allow 2 to 3 folds"):
        load(subjects="1-3", runs="4", n_folds=7)
    with pytest.raises(InputError, match="no left or right fist"):
        load(subjects="1-3", runs="1")
    with pytest.raises(InputError, match="has a single run"):
        load(subjects="1", runs="4", split="within_subject")
    with pytest.raises(InputError):
        load(dataset="physionet", subjects="110", data_dir=tmp_path)
    with pytest.raises(
        InputError, match="trials of 65 samples are no longer than half the band-pass filter of 7 to 30 Hz"
    ):
        load(subjects="1-3", runs="4", tmin=0.0, tmax=0.4)


@pytest.mark.slow
def test_within_one_real_subject(real_data: Path, folder: Path) -> None:
    text = run_trainer(
        folder,
        "eeg_transformer",
        **{**WINDOWS, "subjects": 1, "runs": "4,8,12"},
        dataset="physionet",
        data_dir=real_data / "eegmmi",
        split="within_subject",
        leakage_check="false",
    )
    assert "45 trials, 405 windows, 1 subjects, 3 folds" in text
    assert "1 person of EEGMMI" in text


@pytest.mark.parametrize(("split", "n_groups"), [("cross_subject", 3), ("within_subject", 6)])
def test_aligned_windows_are_white_for_every_subject_or_run(tmp_path: Path, split: str, n_groups: int) -> None:
    """The strongest direction of the mean covariance stands out far less than without alignment; 5 % shrinkage leaves
    some.
    """
    given = {**QUICK, "cache_dir": tmp_path, "subjects": "1-3", "runs": "4,8", "split": split}
    config, plain = (
        build_config(EegConfig, {**given, "window": 801, "overlap": 0, "align": align})
        for align in ("euclidean", "none")
    )
    _, windows, _ = load_data(config, quiet=True)
    groups = windows.subject if split == "cross_subject" else windows.subject * 1000 + windows.run
    assert len(np.unique(groups)) == n_groups
    for group in np.unique(groups):
        x = windows.gather(np.flatnonzero(groups == group)).double()
        values = torch.linalg.eigvalsh(torch.einsum("nct,ndt->cd", x, x))
        y = load_data(plain, quiet=True)[1].gather(np.flatnonzero(groups == group)).double()
        before = torch.linalg.eigvalsh(torch.einsum("nct,ndt->cd", y, y))
        assert 3 * values[-1] / values.mean() < before[-1] / before.mean()


def test_an_epoch_has_the_updates_asked_for_and_visits_all_windows_alike(tmp_path: Path) -> None:
    data = load_eeg("simulated", tmp_path, subjects="1-3", runs="4", quiet=True)
    windows = data.windows()
    fold = make_folds(windows, "cross_subject", 3)[
        0
    ]  # one subject to train on: 15 trials of 9 windows, 4 batches of 32
    for asked, given, times in ((1, 4, 1), (4, 4, 1), (5, 8, 2), (40, 42, 10)):
        config = quick(d_model=8, n_heads=2, updates_per_epoch=asked)
        fit = Fit(config, build_network(config, 64), windows, fold, ALONE, windows.label)
        assert len(fit.batches) == given
        assert set(np.unique(fit.batches.order(0), return_counts=True)[1]) == {times}


def test_augmented_and_mixed_precision_fits_resume_to_the_same_weights(tmp_path: Path) -> None:
    data = load_eeg("simulated", tmp_path, subjects="1-3", runs="4", quiet=True)
    windows = data.windows()
    fold = make_folds(windows, "cross_subject", 3)[0]
    config = quick(
        epochs=2,
        d_model=8,
        n_heads=2,
        d_ff=8,
        n_layers=1,
        precision="bf16",
        augment="time_shift,noise,band_stop",
    )

    def fit(epochs: int, state: dict[str, Any] | None = None) -> Fit:
        torch.manual_seed(0)
        started = Fit(config, build_network(config, 64), windows, fold, ALONE, windows.label)
        if state is not None:
            started.load_state_dict(state)
        for _ in range(epochs):
            point = started.run_epoch()
        assert point["windows_per_second"] > 0
        return started

    whole, first = fit(2), fit(1)
    resumed = fit(1, copy.deepcopy(first.state_dict()))
    assert resumed.curve == whole.curve
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True))
    plain = quick(epochs=2, d_model=8, n_heads=2, d_ff=8, n_layers=1)
    torch.manual_seed(0)
    other = Fit(plain, build_network(plain, 64), windows, fold, ALONE, windows.label)
    assert other.run_epoch() != first.curve[0]


def test_the_weights_kept_are_those_of_the_best_validation_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the lowest loss: that of a network that has learnt nothing, 0.71, is below those of the later, too sure
    ones.
    """
    data = load_eeg("simulated", tmp_path, subjects="1-3", runs="4", quiet=True)
    windows = data.windows()
    fold = make_folds(windows, "cross_subject", 3)[0]
    y = windows.label[fold.validation]

    def sure(share: float, p_wrong: float) -> np.ndarray:
        """log-probabilities that are right in `share` of the windows, and give the true class `p_wrong` in the
        others.
        """
        p_true = np.where(np.arange(len(y)) < round(share * len(y)), 0.51, p_wrong)
        return np.log(np.where(y[:, None] == [0, 1], p_true[:, None], 1 - p_true[:, None]))

    answers = [sure(0.0, 0.49), sure(0.8, 1e-5), sure(0.8, 1e-3), sure(0.8, 1e-4)]
    monkeypatch.setattr("training.eeg.fit.predict", lambda *_: answers.pop(0))
    config = quick(d_model=8, n_heads=2, d_ff=8, epochs=12, patience=1, updates_per_epoch=1)
    fit = Fit(config, build_network(config, 64), windows, fold, ALONE, windows.label)
    best = []
    while not fit.finished:
        fit.run_epoch()
        best.append(fit.best_epoch)
    assert best == [0, 1, 2, 2]
    losses = [point["validation_loss"] for point in fit.curve]
    assert losses[0] < losses[2] < losses[1]
    assert fit.best_point()["log_loss"] == losses[2]


def test_a_fit_learns_a_separable_task(tmp_path: Path) -> None:
    """The label written into the windows' ratio of two channels: a few epochs find it."""
    data = load_eeg("simulated", tmp_path, subjects="1-3", runs="4", quiet=True)
    trials = np.array(data.trials)
    trials[data.label == 1, 0] *= 30
    trials[data.label == 0, 1] *= 30
    windows = data.windows().__class__(trials, data.label, data.subject, data.run)
    fold = make_folds(windows, "cross_subject", 3)[0]
    config = quick(epochs=6, dropout=0.0)
    torch.manual_seed(0)
    network = build_network(config, 64)
    fit = Fit(config, network, windows, fold, ALONE, windows.label)
    while not fit.finished:
        fit.run_epoch()
    network.load_state_dict(fit.best)
    accuracy = (predict(network, windows, fold.test, ALONE.device).argmax(1) == windows.label[fold.test]).mean()
    assert accuracy > 0.95
    assert fit.learning_rate() < config.lr


def result(accuracy: dict[int, float], n: int = 20) -> Result:
    """A classifier that is right in the given share of each subject's n trials."""
    label = np.tile([0, 1], len(accuracy) * n // 2)
    subject = np.repeat(list(accuracy), n)
    right = np.concatenate([np.arange(n) < round(share * n) for share in accuracy.values()])
    guess = np.where(right, label, 1 - label)
    log_p = np.log(np.where(guess[:, None] == [0, 1], 0.8, 0.2))

    class Windows:
        pass

    windows: Any = Windows()
    windows.label, windows.subject, windows.trial, windows.position = (
        label,
        subject,
        np.arange(len(label)),
        np.zeros(len(label)),
    )
    fold: Any = Windows()
    fold.test = np.arange(len(label))
    return evaluate(window_predictions([log_p], windows, [fold]))


def test_the_table_of_subjects() -> None:
    text = subjects_table({"transformer": result({4: 0.9, 7: 0.5}), "csp_lda": result({4: 0.6, 7: 0.75})})
    assert text == "subject,n_trials,transformer,csp_lda\n4,20,0.9000,0.6000\n7,20,0.5000,0.7500\n"


def test_the_report_says_who_won(tmp_path: Path) -> None:
    data = load_eeg("simulated", tmp_path, subjects="1-3", runs="4", quiet=True)
    good, bad = result({1: 0.9, 2: 0.85, 3: 0.95}), result({1: 0.6, 2: 0.5, 3: 0.55})
    text = results_text(
        EegConfig(**QUICK), data, "transformer", {"transformer": bad, "csp_lda": good}, Leakage(0.5, 60, 0.3, 0.7)
    )
    assert "**transformer did not win**: the highest mean over subjects is csp_lda's, 0.900" in text
    assert "csp_lda is better" in text
    assert "at chance, as it must be" in text
    text = results_text(
        EegConfig(**QUICK), data, "transformer", {"transformer": good, "csp_lda": bad}, Leakage(0.9, 60, 0.3, 0.7)
    )
    assert "did not win" not in text
    assert "transformer is better" in text
    assert "NOT AT CHANCE" in text


def test_trial_predictions_stand_in_the_order_of_folds(tmp_path: Path) -> None:
    data = load_eeg("simulated", tmp_path, subjects="1-3", runs="4", quiet=True)
    windows = data.windows()
    folds = make_folds(windows, "cross_subject", 3)
    log_p = [np.log(np.full((len(np.unique(windows.trial[fold.test])), 2), 0.5)) for fold in folds]
    predictions = trial_predictions(log_p, data, windows, folds)
    assert sorted(predictions.trial) == list(range(len(data.trials)))
    assert (data.label[predictions.trial] == predictions.label).all()


def in_this_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> tuple[Callable[..., int], list[str | None]]:
    """(runs eeg_transformer here, with a store in `folder`, without figures and export, given what to resume and the
    place in a study; the aliases of what it registered)."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment(folder)["MLFLOW_TRACKING_URI"])
    monkeypatch.setattr("tracking.run.STOP_LIMIT", 120.0)  # the machine may be busy with other tests
    monkeypatch.setattr("trainers.eeg_transformer.windows.log_figures", lambda *_, **__: None)
    monkeypatch.setattr("trainers.eeg_transformer.windows.record_explanations", lambda *_, **__: [])
    aliases: list[str | None] = []

    def registered(*_: Any, alias: str | None, **__: Any) -> ModelInfo:
        aliases.append(alias)
        return ModelInfo("models:/eeg-transformer/1", "eeg-transformer", 1)

    monkeypatch.setattr("training.eeg.registry.log_model", registered)
    tiny: dict[str, Any] = {
        **WINDOWS,
        "epochs": 1,
        "cache_dir": folder / "cache",
        "output_dir": folder / "runs",
        "device": "cpu",
    }

    def start(resume: str | None = None, study_trial: StudyTrial | None = None) -> int:
        return run_eeg_transformer(quick(**{**tiny, **changes, "resume": resume}), study_trial)

    return start, aliases


def test_a_signal_after_the_training_ends_the_run_and_resuming_trains_nothing_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, _ = in_this_process(folder, monkeypatch, leakage_check=False)
    monkeypatch.setattr("trainers.eeg_transformer.windows.build_eegnet", lambda *_: build_network(quick(), 64))
    before = signal.signal(
        signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
    )  # as common.errors.run_main does
    classical = training.eeg.baselines.classical_log_probabilities

    def stopped(*arguments: Any) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGTERM)
        return classical(*arguments)

    try:
        monkeypatch.setattr("training.eeg.baselines.classical_log_probabilities", stopped)
        with pytest.raises(SystemExit, match="143"):
            start(None)
    finally:
        signal.signal(signal.SIGTERM, before)
    (run,) = runs(folder)
    assert run.info.status == "KILLED"
    monkeypatch.setattr("training.eeg.baselines.classical_log_probabilities", classical)
    monkeypatch.setattr(Fit, "run_epoch", lambda fit: pytest.fail(f"{fit.fold.name} is trained again"))
    assert start("latest") == 0
    (run,) = runs(folder)
    assert run.info.status == "FINISHED"
    assert "csp_lda_trial_accuracy" in run.data.metrics


def test_a_signal_in_the_last_fit_stops_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its last epoch, where nobody asks any more."""
    start, _ = in_this_process(folder, monkeypatch, baselines=False, leakage_check=False)
    result_of = Fit.result

    def stopped(fit: Fit) -> dict[str, Any]:
        if fit.fold.name == "all":
            os.kill(os.getpid(), signal.SIGTERM)
        return result_of(fit)

    monkeypatch.setattr(Fit, "result", stopped)
    assert start(None) == 143
    assert runs(folder)[-1].info.status == "KILLED"


@pytest.mark.parametrize(("leaks", "alias"), [(True, "latest-good"), (False, None)])
def test_what_serving_follows_moves_only_where_nothing_leaked_and_outside_studies(
    folder: Path, monkeypatch: pytest.MonkeyPatch, leaks: bool, alias: str | None
) -> None:
    start, aliases = in_this_process(folder, monkeypatch, baselines=False)
    monkeypatch.setattr("training.eeg.results.chance_bounds", lambda n, level=0.95: (2.0, 3.0) if leaks else (0.0, 1.0))
    study_trial = StudyTrial()
    study_trial.alias = alias
    assert start(None, study_trial) == int(leaks)
    assert aliases == ([] if leaks else [alias])
    assert runs(folder)[-1].info.status == ("FAILED" if leaks else "FINISHED")


def test_a_resumed_fit_has_the_weight_decay_of_its_own_config(tmp_path: Path) -> None:
    """With allow_changes it may be another than the one before, and the run records the new one."""
    data = load_eeg("simulated", tmp_path, subjects="1-3", runs="4", quiet=True)
    windows = data.windows()
    fold = make_folds(windows, "cross_subject", 3)[0]

    def fit(weight_decay: float) -> Fit:
        config = quick(epochs=2, d_model=8, n_heads=2, d_ff=8, weight_decay=weight_decay)
        return Fit(config, build_network(config, 64), windows, fold, ALONE, windows.label)

    before, after = fit(0.3), fit(0.05)
    before.optimizer.param_groups[0]["betas"] = (0.5, 0.9)
    before.run_epoch()
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    (group,) = after.optimizer.param_groups
    assert (group["weight_decay"], group["betas"]) == (0.05, (0.9, 0.999))
    first = next(iter(after.optimizer.state.values()))
    assert first["step"] == before.update
    assert torch.equal(first["exp_avg"], next(iter(before.optimizer.state.values()))["exp_avg"])


def stored_encoder(folder: Path, **changes: Any) -> tuple[Path, ChannelEncoder]:
    """A channel encoder as `log_model` stores it, pre-trained on simulated subjects 7 to 9."""
    torch.manual_seed(1)
    encoder = ChannelEncoder("convolutional", 0.02, (8, 4, 2, 4), n_features=4, decimate=2)
    config = {
        "class": "eeg-channel-encoder",
        "kind": "convolutional",
        "width": 0.02,
        "kernels": [8, 4, 2, 4],
        "n_features": 4,
        "decimate": 2,
        "dataset": "simulated",
        "subjects": [7, 8, 9],
    }
    (folder / "weights").mkdir(exist_ok=True)
    safetensors.torch.save_file(encoder.state_dict(), folder / "weights" / "model.safetensors")
    (folder / "weights" / "config.json").write_text(json.dumps(config | changes))
    return folder, encoder


@pytest.mark.parametrize("pool", ["decoder", "cls", "mean"])
def test_a_transformer_begins_with_a_registered_encoder(tmp_path: Path, pool: str) -> None:
    uri, encoder = stored_encoder(tmp_path)
    config = quick(encoder_uri=str(uri), subjects="1-3", d_model=8, n_heads=2, d_ff=8, pool=pool)
    net = build_network(config, 64).train()
    for name, value in encoder.state_dict().items():
        assert torch.equal(net.state_dict()[f"embed.encoder.{name}"], value), name
    plain = build_network(quick(subjects="1-3", d_model=8, n_heads=2, d_ff=8, pool=pool), 64)
    x = torch.randn(2, 64, 160)
    assert net.embed(x).shape == plain.embed(x).shape
    net(x).sum().backward()
    gradients = [p.grad for p in net.embed.encoder.parameters()]  # type: ignore[union-attr]
    assert all(g is not None and g.abs().sum() > 0 for g in gradients[:2])  # it is trained on


def test_an_encoder_may_have_seen_the_people_who_are_only_trained_on(tmp_path: Path) -> None:
    uri, _ = stored_encoder(tmp_path)
    load_channel_encoder(quick(encoder_uri=str(uri), subjects="7-9", test_subjects="1-3"))


@pytest.mark.parametrize(
    ("changes", "parameters", "words"),
    [
        ({}, {"subjects": "1-7"}, "pre-trained on subjects 7 of simulated"),
        ({}, {"subjects": "1-3", "test_subjects": "6-8"}, "pre-trained on subjects 7, 8 of simulated"),
        ({"class": "eeg-simclr"}, {}, "is not a channel encoder, but eeg-simclr"),
        ({}, {"patch_stride": 5}, "must be multiples of 2"),
    ],
)
def test_encoders_that_do_not_do_are_refused(
    tmp_path: Path, changes: dict[str, Any], parameters: dict[str, Any], words: str
) -> None:
    uri, _ = stored_encoder(tmp_path, **changes)
    with pytest.raises(InputError, match=words):
        run_eeg_transformer(quick(**{"encoder_uri": str(uri), "subjects": "1-3", **parameters}))

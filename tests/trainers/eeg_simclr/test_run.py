"""The eeg_simclr entry point with pretext=channel: what it records, that it resumes exactly, whom it pre-trains on,
what it refuses, and its report.
"""

import copy
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from common.errors import InputError
from data.eeg.load import EegData, load_eeg
from data.eeg.physionet import recording_path
from data.eeg.pool import ChannelPool, pretraining_rows
from data.eeg.simulated import simulate_recording, write_edf
from data.eeg.splits import Fold, make_folds
from models.eeg.nt_xent import nt_xent
from models.eeg.simclr import ChannelClassifier, LinearProbe
from tests.running import begin_warm, client, environment, history, run_trainer, runs
from tests.trainers.eeg_transformer.test_run import result
from tracking.registry.models import load_weights
from trainers.eeg_simclr.comparison import comparison_text
from trainers.eeg_simclr.config import PRESETS, EegSimclrConfig
from trainers.eeg_simclr.frozen import encode_windows, fit_probe
from trainers.eeg_simclr.networks import RIVALS, Shape, build_encoder, build_network, build_projector
from trainers.eeg_simclr.pretraining import Pretraining, gathered_nt_xent
from trainers.eeg_simclr.run import main
from training.config import parse_config
from training.eeg.fit import predict, seeded
from training.processes import Processes, average_gradients
from training.session import NotFinite

TINY: dict[str, object] = {
    "pretext": "channel",
    "subjects": "1-3",
    "runs": "4",
    "overlap": 0,
    "epochs": 1,
    "frozen_epochs": 2,
    "updates_per_epoch": 1,
    "pretrain_epochs": 3,
    "pretrain_batch": 64,
    "kernels": "8,4,2,4",
    "width": 0.02,
    "head_width": 0.02,
    "label_fractions": "0.2,1",
    "tau_sweep": "0.05,0.5",
    "baselines": "false",
}
ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, str, str]:
    """(folder, run id, what was printed) of one whole run."""
    folder = tmp_path_factory.mktemp("simclr")
    shutil.copy(empty_store, folder / "mlflow.db")
    text = run_trainer(folder, "eeg_simclr", **TINY)
    return folder, runs(folder)[-1].info.run_id, text


def test_a_run_records_all_it_should(finished: tuple[Path, str, str]) -> None:
    folder, run_id, text = finished
    run = client(folder).get_run(run_id)
    assert run.info.status == "FINISHED"
    for name in ("simclr", *RIVALS):
        for metric in (
            "trial_accuracy",
            "trial_f1",
            "trial_kappa",
            "window_accuracy",
            "subject_mean",
            "20_percent_subject_mean",
        ):
            assert f"{name}_{metric}" in run.data.metrics, (name, metric)
    assert {"leakage_check_accuracy", "tau_0.05_uniformity", "tau_0.5_accuracy"} <= run.data.metrics.keys()
    for curve in ("train_loss", "validation_loss", "alignment", "uniformity"):
        steps = [step for step, _ in history(folder, run_id, f"pretrain_subject_1_{curve}")]
        assert steps == [1, 2, 3], curve
    passes = {
        name: len(history(folder, run_id, f"{name}_fold1_validation_loss")) for name in ("simclr", "scratch", "frozen")
    }
    assert passes == {"simclr": 1, "scratch": 1, "frozen": 2}
    found = {file.path for path in ("", "figures") for file in client(folder).list_artifacts(run_id, path)}
    figures = (
        "confusion_simclr",
        "confusion_scratch",
        "subjects",
        "positions",
        "calibration",
        "loss_curves",
        "label_fractions",
        "pretraining",
        "tau_sweep",
        "embeddings",
    )
    assert {"summary.md", "label_fractions.json", *(f"figures/{name}.png" for name in figures)} <= found
    done, total = re.findall(r"epoch (\d+)/(\d+)", text)[-1]
    assert done == total
    for words in ("Did contrastive pre-training help?", "| 20 % | 100 % |", "Over the temperature", "simulated"):
        assert words in text


ELSEWHERE = """
import importlib.util, sys
import mlflow, numpy as np
for name in ("common", "models", "tracking", "trainers"):
    assert importlib.util.find_spec(name) is None, name
given = dict(np.load("given.npz"))
for name, x in given.items():
    uri = f"models:/{name}/1"
    answers = mlflow.pyfunc.load_model(uri).predict(x)
    folder = mlflow.artifacts.download_artifacts(uri, dst_path=f"downloaded-{name}")
    assert np.array_equal(mlflow.pyfunc.load_model(folder).predict(x), answers)
    np.save(f"{name}.npy", answers)
"""
"""Both models by name and by downloaded folder, in a process that cannot import this project."""


def test_registered_models_need_nothing_of_the_project(finished: tuple[Path, str, str], tmp_path: Path) -> None:
    folder, _, _ = finished
    rng = np.random.default_rng(0)
    epochs = rng.normal(0, 2e-5, (3, 64, 801)).astype(np.float32)
    channels = rng.normal(0, 1, (5, 160)).astype(np.float32)
    np.savez(tmp_path / "given.npz", **{"eeg-simclr": epochs, "eeg-simclr-encoder": channels})
    kept = {**environment(folder), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    del kept["PYTHONPATH"]
    subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=tmp_path, env=kept, check=True)
    probabilities, features = np.load(tmp_path / "eeg-simclr.npy"), np.load(tmp_path / "eeg-simclr-encoder.npy")
    assert probabilities.shape == (3, 2)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert features.shape == (5, 4, 80)
    # And back into the project's own encoder.
    mlflow.set_tracking_uri(environment(folder)["MLFLOW_TRACKING_URI"])
    try:
        tensors, config = load_weights("models:/eeg-simclr-encoder/1")
    finally:
        mlflow.set_tracking_uri(None)
    assert config["class"] == "eeg-channel-encoder"
    ours = build_encoder(tiny()).eval()
    ours.load_state_dict(tensors)
    assert np.allclose(ours(torch.from_numpy(channels)).detach().numpy(), features, atol=1e-5)


@pytest.mark.slow
def test_killed_in_pretraining_and_resumed_ends_with_the_same_weights(
    finished: tuple[Path, str, str], folder: Path
) -> None:
    done, run_id, _ = finished
    shutil.copytree(done / "cache", folder / "cache")
    process = begin_warm(folder, "eeg_simclr", **TINY)
    while not list(folder.glob("runs/*/checkpoint.pt")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.end()
    (path,) = folder.glob("runs/*/checkpoint.pt")
    stopped_at = torch.load(path, weights_only=True)["under_way"]
    assert stopped_at["key"].startswith("pretrain_subject_")  # the first fit of all
    assert stopped_at["fit"]["epoch"] in (1, 2)
    run_trainer(folder, "eeg_simclr", **TINY, resume="latest")
    (run,) = runs(folder)
    assert run.info.status == "FINISHED"
    ours, theirs = (
        torch.load(f / "runs" / i / "checkpoint.pt", weights_only=True)["done"]
        for f, i in ((folder, run.info.run_id), (done, run_id))
    )
    assert ours.keys() == theirs.keys()
    for key, fit in theirs.items():
        for name, value in (fit["weights"] or {}).items():
            assert torch.equal(ours[key]["weights"][name], value), (key, name)
    name = "pretrain_subject_1_train_loss"
    assert history(folder, run.info.run_id, name) == history(done, run_id, name)


SHAPE = Shape(64, 2, list(range(21)))
"""channels=motor of EEGMMI: the first 21."""


def tiny(*argv: str) -> EegSimclrConfig:
    options = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    return parse_config(EegSimclrConfig, PRESETS, [*options, *argv], "eeg_simclr")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EegData:
    return load_eeg("simulated", tmp_path_factory.mktemp("trials"), subjects="1-3", runs="4", quiet=True)


def pretraining(config: EegSimclrConfig, data: EegData, pool_fingerprint: str = "") -> Pretraining:
    windows = data.windows(config.window, config.overlap)
    fold: Fold = make_folds(windows, "cross_subject", 3)[0]
    pool = ChannelPool([(data, windows)], config.window, config.time_shift)
    rows = pretraining_rows(pool, windows, fold, "cross_subject")
    return Pretraining(config, pool, rows, fold.validation, ALONE, pool_fingerprint)


@pytest.mark.parametrize(
    ("encoder", "precision"), [("convolutional", "fp32"), ("recurrent", "fp32"), ("convolutional", "bf16")]
)
def test_pretraining_lowers_its_loss_and_resumes_exactly(data: EegData, encoder: str, precision: str) -> None:
    config = tiny("--encoder", encoder, "--precision", precision)
    whole = pretraining(config, data)
    saved = None
    while not whole.finished:
        whole.run_epoch()
        if whole.epoch == 2:
            saved = copy.deepcopy(whole.state_dict())
    assert saved is not None
    assert whole.curve[-1]["validation_loss"] < whole.curve[0]["validation_loss"]
    resumed = pretraining(config, data)
    resumed.load_state_dict(saved)
    resumed.run_epoch()
    assert resumed.curve == whole.curve
    for name, value in whole.result()["weights"].items():
        assert torch.equal(resumed.result()["weights"][name], value)


def test_a_loss_that_is_not_a_number_stops_the_run(data: EegData) -> None:
    work = pretraining(tiny("--pretrain_lr", "1e30"), data)
    with pytest.raises(NotFinite, match="pre-training, epoch"):
        work.run_epoch()


def test_other_unlabelled_recordings_are_refused_on_resuming(data: EegData) -> None:
    state = pretraining(tiny(), data, pool_fingerprint="one").state_dict()
    with pytest.raises(InputError, match="unlabelled recordings"):
        pretraining(tiny(), data, pool_fingerprint="two").load_state_dict(state)


def test_a_resumed_pretraining_has_the_weight_decay_of_its_own_config(data: EegData) -> None:
    """With allow_changes it may be another than the one before, and the run records the new one."""
    before, after = (pretraining(tiny("--pretrain_weight_decay", str(value)), data) for value in (0.3, 0.05))
    before.optimizer.param_groups[0]["betas"] = (0.5, 0.9)
    after.load_state_dict(before.state_dict())
    (group,) = after.optimizer.param_groups
    assert (group["weight_decay"], group["betas"]) == (0.05, (0.9, 0.999))


def test_negatives_of_the_same_trial_are_masked_only_if_asked(data: EegData) -> None:
    masked, plain = (pretraining(tiny("--mask_same_trial", mask), data) for mask in ("true", "false"))
    assert masked.monitor()["validation_loss"] < plain.monitor()["validation_loss"]


def projections() -> tuple[nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    net = nn.Linear(5, 4).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    a, b = (torch.randn(6, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    return net, a, b, torch.tensor([0, 0, 1, 1, 2, 0])


def one_process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    net, a, b, trial = projections()
    mine = slice(3 * rank, 3 * rank + 3)
    loss = gathered_nt_xent(net(a[mine]), net(b[mine]), 0.1, trial[mine], Processes(rank, 2, torch.device("cpu")))
    (loss * 2).backward()
    average_gradients(net)
    torch.save({"loss": loss.detach(), "gradients": [p.grad for p in net.parameters()]}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    mp.spawn(one_process, args=(str(tmp_path),), nprocs=2)
    net, a, b, trial = projections()
    loss = nt_xent(net(a), net(b), 0.1, trial)
    loss.backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.allclose(found["loss"], loss.detach(), atol=1e-12)
        for mine, p in zip(found["gradients"], net.parameters(), strict=True):
            assert torch.allclose(mine, p.grad, atol=1e-12)


def test_the_frozen_encoder_keeps_weights_and_statistics(data: EegData) -> None:
    net = build_network(tiny(), SHAPE, "frozen").train()
    before = copy.deepcopy(net.encoder.state_dict())
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    net(torch.randn(4, 64, 160)).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(net.encoder.state_dict()[name], value) for name, value in before.items())
    head = [p.grad for p in net.head.parameters()]  # type: ignore[union-attr]
    assert all(g is not None for g in head)


def test_features_computed_once_give_what_the_frozen_network_gives(data: EegData) -> None:
    windows = data.windows(160, 80)
    with seeded(0):  # of some draws all windows get the same answer
        plain, encoded = (build_network(tiny(), SHAPE, "frozen", encoded) for encoded in (False, True))
    encoded.load_state_dict(plain.state_dict())
    assert isinstance(plain, ChannelClassifier)
    features = encode_windows(plain, windows, tiny(), torch.device("cpu"))
    chosen = np.array([200, 3, 77, len(windows) - 1])
    expected = predict(plain, windows, chosen, torch.device("cpu"))
    assert np.allclose(predict(encoded, features, chosen, torch.device("cpu")), expected, atol=1e-5)
    assert not np.allclose(expected[0], expected[1], atol=1e-5)


def test_the_probe_computes_what_scikit_learn_fitted() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    net = build_network(tiny(), SHAPE, "probe").eval()
    assert isinstance(net, LinearProbe)
    x, label = torch.randn(20, 64, 160), np.tile([0, 1], 10)
    with torch.no_grad():
        features = net.features(x).numpy()
        log_p = fit_probe(net, features, label, np.arange(20), np.arange(5, 9))
        assert torch.allclose(log_p.float(), net(x[5:9]), atol=1e-5)
        scaler = StandardScaler().fit(features)
        model = LogisticRegression(C=0.01, class_weight="balanced").fit(scaler.transform(features), label)
        assert np.allclose(net(x).exp().numpy(), model.predict_proba(scaler.transform(features)), atol=1e-3)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--augmentations", "noise,louder"], "augmentations: louder; allowed are amplitude"),
        (["--augmentations", "noise", "--n_augmentations", "2"], "n_augmentations=2"),
        (["--label_fractions", "0,1"], "label_fractions"),
        (["--tau_sweep", "0.1,-1"], "tau_sweep"),
        (["--tau", "0"], "tau: '0'"),
        (["--kernels", "200,8,8,8"], "kernels: 200 samples are too many for reflection padding of a window of 80"),
        (["--kernels", "8,8"], "four numbers"),
        (["--pretrain_batch", "4", "--channels_per_window", "4"], "2 windows or more.*at least 8"),
        (["--pretrain_batch", "8", "--nproc", "8", "--batch_size", "64"], "8 windows or more.*at least 16"),
        (["--band_stop", "9,79"], "half the sampling rate"),
        (["--noise", "0.3,0.1"], "noise"),
        (["--encoder", "transformer"], "encoder"),
        (["--decimate", "4"], "decimate=4"),
        (["--head_pool", "200"], "head_pool=200"),
    ],
)
def test_bad_parameters_stop_before_any_data(argv: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_config(EegSimclrConfig, PRESETS, argv, "eeg_simclr")


def recordings(folder: Path, change: str) -> Path:
    """PhysioNet's layout with subject 2's run 4: sampled at 128 Hz, cut short, without tasks, or of one class."""
    raw = simulate_recording(0, 1, 4)
    if change == "128 Hz":
        raw.resample(128, verbose="ERROR")
    if change == "no tasks":
        raw.set_annotations(None)
    if change == "one class":
        raw.annotations.description[raw.annotations.description == "T2"] = "T0"
    path = recording_path(folder, 2, 4)
    path.parent.mkdir(parents=True)
    write_edf(raw, path)
    if change == "cut short":
        path.write_bytes(path.read_bytes()[:-100_000])
    return folder


@pytest.mark.parametrize(
    ("change", "parameters", "words"),
    [
        ("", {"data_dir": "nowhere"}, "nowhere"),
        ("", {"subjects": "110"}, "there is no subject 110"),
        ("", {"runs": "1"}, "in run 1 there is no left or right fist"),
        ("", {"unlabelled_runs": "15", "pretext": "channel"}, "there is no run 15"),
        ("", {}, "its bytes are not PhysioNet's"),
        ("one class", {"checksums": "false"}, "are left fist: two classes are needed"),
        ("128 Hz", {}, "sampled at 128 Hz instead of 160 Hz"),
        ("cut short", {}, "S002R04.edf"),
        ("no tasks", {}, "no T1 or T2 event"),
        ("", {"dataset": "simulated", "subjects": "1-2"}, "at least 3 subjects"),
        ("", {"dataset": "simulated", "subjects": "1-3", "n_folds": "7"}, "3 subjects allow 2 to 3 folds"),
        ("", {"dataset": "simulated", "subjects": "1", "split": "within_subject"}, "has a single run"),
    ],
)
def test_data_that_does_not_do_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, parameters: dict[str, str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    folder = recordings(tmp_path / "data", change)
    given = {"dataset": "physionet", "data_dir": str(folder), "subjects": "2", "runs": "4", **parameters}
    with pytest.raises(InputError, match=words) as caught:
        main([word for name, value in given.items() for word in (f"--{name}", value)])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()  # no run was begun
    assert not (tmp_path / "mlflow.db").exists()


def test_the_drawn_preset_has_the_drawn_sizes() -> None:
    config = parse_config(EegSimclrConfig, PRESETS, ["--preset", "drawn"], "eeg_simclr")
    with torch.device("meta"):
        assert sum(p.numel() for p in build_encoder(config).parameters()) == 16_338_754
        recurrent = build_encoder(replace(config, encoder="recurrent"))
        assert sum(p.numel() for p in recurrent.parameters()) == 518_724
        assert sum(p.numel() for p in build_projector(config).parameters()) == 943_264


def test_the_report_says_where_pretraining_helped() -> None:
    good, bad = result({1: 0.9, 2: 0.85, 3: 0.95}), result({1: 0.6, 2: 0.5, 3: 0.55})
    row = dict.fromkeys(("frozen", "probe", "random_probe"), bad)
    table = {1.0: {"simclr": bad, "scratch": bad, **row}, 0.1: {"simclr": good, "scratch": bad, **row}}
    text = comparison_text(table, {})
    assert "better than training from scratch with 10 % of the labels" in text
    assert "with 10 % of the labels +0.350" in text
    text = comparison_text({1.0: {"simclr": bad, "scratch": good, **row}}, {})
    assert "at no share of the labels" in text
    assert "it did harm" in text
    one = result({1: 0.9})
    text = comparison_text({1.0: dict.fromkeys(("simclr", "scratch", "frozen", "probe", "random_probe"), one)}, {})
    assert "nothing is decided" in text


@pytest.mark.slow
def test_two_processes_train_and_one_records(folder: Path) -> None:
    run_trainer(folder, "eeg_simclr", **TINY, nproc=2, leakage_check="false")
    (run,) = runs(folder)
    assert run.info.status == "FINISHED"
    assert "simclr_trial_accuracy" in run.data.metrics


SHORT = {**TINY, "label_fractions": 1, "tau_sweep": "none", "leakage_check": "false"}


@pytest.mark.slow
def test_whole_recordings_without_labels_may_be_added(folder: Path) -> None:
    run_trainer(folder, "eeg_simclr", **{**SHORT, "pretrain_epochs": 1}, unlabelled_runs="1,2,14")
    (run,) = runs(folder)
    assert run.info.status == "FINISHED"
    assert {"simulated", "simulated-unlabelled"} == {given.dataset.name for given in run.inputs.dataset_inputs}


@pytest.mark.slow
def test_windows_of_torcheeg_give_the_same_pretraining(finished: tuple[Path, str, str], folder: Path) -> None:
    run_trainer(folder, "eeg_simclr", **SHORT, windows="torcheeg")
    (run,) = runs(folder)
    assert run.info.status == "FINISHED"
    name = "pretrain_subject_1_train_loss"
    ours, theirs = (
        [value for _, value in history(*of, name)] for of in ((folder, run.info.run_id), (finished[0], finished[1]))
    )
    assert len(ours) == 3
    assert ours == pytest.approx(theirs, abs=1e-3)


@pytest.mark.slow
def test_real_recordings_within_one_person(real_data: Path, folder: Path) -> None:
    text = run_trainer(
        folder,
        "eeg_simclr",
        **{**TINY, "subjects": 1, "runs": "4,8,12", "overlap": 80, "tau_sweep": "none"},
        dataset="physionet",
        data_dir=real_data / "eegmmi",
        split="within_subject",
        leakage_check="false",
    )
    assert "45 trials, 405 windows, 1 subjects, 3 folds" in text
    assert "1 person of EEGMMI" in text

"""A resume that is refused, or fails, leaves a finished run as it is; what `allow_changes` allows goes on."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InputError
from tests.conftest import PATIENCE
from tests.running import client, command, environment, runs
from tests.trainers.eeg_simclr.test_run import TINY as SIMCLR
from tests.trainers.eeg_transformer.test_run import TINY as TRANSFORMER
from tests.trainers.wgan.test_run import TINY as WGAN
from tracking.checkpoint import load_checkpoint, save_checkpoint
from tracking.outbox.spool import is_finished
from tracking.store import local_artifacts
from trainers.eeg_simclr import run as eeg_simclr
from trainers.eeg_simclr.config import EegSimclrConfig
from trainers.eeg_transformer import run as eeg_transformer
from trainers.eeg_transformer.config import EegTransformerConfig
from trainers.efficient_attention import run as efficient_attention
from trainers.efficient_attention.config import EfficientAttentionConfig
from trainers.wgan import run as wgan
from trainers.wgan.config import WganConfig
from training.config import preset_config
from training.eeg.load import load_for
from training.session import Session

EEG: dict[str, tuple[Any, Any, dict[str, Any], dict[str, Any]]] = {
    "eeg_transformer": (EegTransformerConfig, eeg_transformer.run_eeg_transformer, TRANSFORMER, {"n_networks": 2}),
    "eeg_transformer windows": (
        EegTransformerConfig,
        eeg_transformer.run_eeg_transformer,
        {**TRANSFORMER, "network": "windows"},
        {"d_model": 16},
    ),
    "eeg_simclr": (EegSimclrConfig, eeg_simclr.run_eeg_simclr, {**SIMCLR, "pretext": "neighbour"}, {"n_draws": 3}),
    "eeg_simclr channel": (EegSimclrConfig, eeg_simclr.run_eeg_simclr, SIMCLR, {"width": 0.5}),
    "efficient_attention": (
        EfficientAttentionConfig,
        efficient_attention.run_efficient_attention,
        {key: value for key, value in TRANSFORMER.items() if key not in ("network", "n_updates")},
        {"n_heads": 1},
    ),
}
"""{trainer: (config, its function, a tiny training, a change with which a checkpoint cannot go on)}."""


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work_in(folder, monkeypatch)
    return folder


def work_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment(folder)["MLFLOW_TRACKING_URI"])
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)


def state_of(folder: Path, run_id: str) -> Any:
    """All that the store and the run's folder hold of the run."""
    run = client(folder).get_run(run_id)
    files = {path.name: path.read_bytes() for path in (folder / "runs" / run_id).iterdir() if path.is_file()}
    return run.info.status, run.info.end_time, run.data.params, run.data.metrics, run.data.tags, files


def assert_refused(folder: Path, run_id: str, words: str, start: Callable[[], Any]) -> None:
    """One line, and the finished run is what it was."""
    before = state_of(folder, run_id)
    assert before[0] == "FINISHED"
    with pytest.raises(InputError, match=words):
        start()
    assert state_of(folder, run_id) == before


def a_wgan(monkeypatch: pytest.MonkeyPatch, photos: Path) -> Callable[..., int]:
    """Trains a WGAN here, without evaluation and registry, given what differs."""
    for name in ("evaluate", "register_networks"):
        monkeypatch.setattr(wgan, name, lambda *_, **__: {})
    for name in ("log_figures", "write_summary"):
        monkeypatch.setattr(wgan, name, lambda *_, **__: None)
    tiny = {**WGAN, "steps": 3, "dataset": "folder", "data_dir": photos, "device": "cpu", "batch_size": 4}
    tiny["cache_dir"] = photos.parent / "cache"

    def start(**changes: Any) -> int:
        return wgan.run_wgan(preset_config(WganConfig, {"quick": {}}, "quick", **{**tiny, **changes}))

    return start


def write_photos(folder: Path, n: int, first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(first, first + n):
        pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, str]:
    """(folder, run id) of a finished WGAN of 13 images."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as context:
        work_in(folder, context)
        assert a_wgan(context, write_photos(folder / "photos", 13))() == 0
    return folder, runs(folder)[-1].info.run_id


@pytest.fixture
def finished(here: Path, trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[..., int], str]:
    """(trains a WGAN of 13 images, the id of a run of it that is finished), with copies of that run and its store."""
    folder, run_id = trained
    shutil.copy(folder / "mlflow.db", here / "mlflow.db")
    shutil.copytree(folder / "runs", here / "runs")
    return a_wgan(monkeypatch, folder / "photos"), run_id


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ngf": 32}, "resume: ngf was 16, now 32; the run's checkpoint cannot go on with that: give the old"),
        ({"nz": 9, "gp_scale": 5}, r"gp_scale was 10.0, now 5.0; nz was 8, now 9|nz was 8, now 9; the run's"),
        ({"ndf": 32}, "ndf was 16, now 32"),
        ({"image_size": 48}, "image_size was 32, now 48"),
        ({"nets": "mimicry"}, "nets was 'own', now 'mimicry'"),
        ({"steps": 2}, "3 steps are done already"),
        ({"batch_size": 14}, "13 images do not fill one batch"),
    ],
)
def test_what_a_checkpoint_cannot_go_on_with_leaves_the_run_finished(
    here: Path, finished: tuple[Callable[..., int], str], changes: dict[str, Any], words: str
) -> None:
    start, run_id = finished
    assert_refused(here, run_id, words, lambda: start(resume=run_id, allow_changes=True, **changes))


def test_other_batches_and_other_images_go_on_where_that_is_allowed(
    here: Path, finished: tuple[Callable[..., int], str]
) -> None:
    start, run_id = finished
    steps = 3
    path = here / "runs" / run_id / "checkpoint.pt"
    # The last of an epoch's three batches: of batches of 6 there are two.
    save_checkpoint(path, {**load_checkpoint(path), "batches": {"epoch": 0, "batch": 2}})
    write_photos(here / "fewer", 5, first=50)
    for changes in ({"batch_size": 6, "lr_critic": 2e-3}, {"data_dir": here / "fewer", "batch_size": 2}):
        steps += 2
        assert start(resume=run_id, allow_changes=True, steps=steps, **changes) == 0
        [run] = runs(here)
        assert run.info.status == "FINISHED"
        checkpoint = load_checkpoint(path)
        assert checkpoint["training"]["step"] == steps
        assert checkpoint["config"]["batch_size"] == changes["batch_size"]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        *((part, f"does not fit .it lacks '{part}'") for part in ("config", "data", "backlog", "training", "batches")),
        ("log", "it lacks 'log'"),
        (("training", "step"), "it lacks 'step'"),
        (("training", "optimizer_D"), "it lacks 'optimizer_D'"),
        (("training", "G"), "it lacks 'G'"),
        (("log", "history"), "it lacks 'history'"),
    ],
)
def test_a_checkpoint_that_lacks_a_part_leaves_the_run_finished(
    here: Path, finished: tuple[Callable[..., int], str], part: Any, words: str
) -> None:
    start, run_id = finished
    path = here / "runs" / run_id / "checkpoint.pt"
    state = load_checkpoint(path)
    names = part if isinstance(part, tuple) else (part,)
    inner = state
    for name in names[:-1]:
        inner = inner[name]
    del inner[names[-1]]
    save_checkpoint(path, state)
    assert_refused(here, run_id, words, lambda: start(resume=run_id))


def test_shapes_are_compared_even_where_the_parameters_agree(
    here: Path, finished: tuple[Callable[..., int], str]
) -> None:
    start, run_id = finished
    path = here / "runs" / run_id / "checkpoint.pt"
    state = load_checkpoint(path)
    name = next(iter(state["training"]["D"]))
    state["training"]["D"][name] = torch.zeros(2, 2, 2)
    save_checkpoint(path, state)
    assert_refused(here, run_id, f"size mismatch for {name}", lambda: start(resume=run_id))


def test_a_finished_run_without_checkpoint_is_not_trained_again(
    here: Path, finished: tuple[Callable[..., int], str]
) -> None:
    start, run_id = finished
    for path in (here / "runs" / run_id).glob("checkpoint*"):
        path.unlink()
    artifacts = local_artifacts(client(here).get_run(run_id).info.artifact_uri)
    assert artifacts is not None
    (artifacts / "checkpoints" / "checkpoint.pt").unlink(missing_ok=True)  # the copy that was uploaded
    assert_refused(here, run_id, "is finished, and its checkpoint is neither in", lambda: start(resume=run_id))


def test_a_run_deleted_in_the_ui_is_refused(here: Path, finished: tuple[Callable[..., int], str]) -> None:
    start, run_id = finished
    client(here).delete_run(run_id)
    restore = f"is deleted in sqlite.*mlflow runs restore --run-id {run_id}"
    assert_refused(here, run_id, restore, lambda: start(resume=run_id, steps=5))
    assert_refused(here, run_id, restore, lambda: start(resume=run_id))


def test_a_run_that_another_store_has_is_refused(
    here: Path, finished: tuple[Callable[..., int], str], empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, run_id = finished
    (here / "other.db").write_bytes(empty_store.read_bytes())
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/other.db")
        elsewhere.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
        assert_refused(here, run_id, f"run {run_id} is not in", lambda: start(resume=run_id, steps=5))


@pytest.mark.parametrize("trainer", EEG)
def test_folds_of_other_data_or_networks_leave_the_run_finished(here: Path, trainer: str) -> None:
    config_class, train, tiny, change = EEG[trainer]

    def config(**changes: Any) -> Any:
        return preset_config(
            config_class, {"quick": {"dataset": "simulated", "n_folds": 3}}, "quick", **{**tiny, **changes}
        )

    session = Session(train.__name__.removeprefix("run_"), config())
    load_for(session, config())
    with session:
        session.save({"done": {}, "under_way": None})
        session.end_training()
    run_id = session.run.run_id
    name, value = next(iter(change.items()))
    for changes in ({name: value}, {"seed": 5}, {"n_folds": 0}):
        words = f"resume: .*{next(iter(changes))} was .*; the run's checkpoint cannot go on with that"
        assert_refused(
            here, run_id, words, lambda changes=changes: train(config(**changes, resume=run_id, allow_changes=True))
        )
    path = here / "runs" / run_id / "checkpoint.pt"
    state = load_checkpoint(path)
    save_checkpoint(path, {**state, "data": "others"})
    words = "resume: the recordings are others; the run's checkpoint cannot go on with that"
    assert_refused(here, run_id, words, lambda: train(config(resume=run_id, allow_changes=True)))
    save_checkpoint(path, {**state, "under_way": {"key": "x"}})
    assert_refused(here, run_id, "it lacks 'fit'", lambda: train(config(resume=run_id)))


def test_a_backlog_whose_bytes_are_damaged_is_left_out(here: Path, finished: tuple[Callable[..., int], str]) -> None:
    start, run_id = finished
    path = here / "runs" / run_id / "checkpoint.pt"
    line = json.dumps({"op": "file", "time": 1, "file": "files/1/x.txt", "name": "x", "folder": "", "bytes": "a"})
    save_checkpoint(path, {**load_checkpoint(path), "backlog": line})
    assert start(resume=run_id, steps=4) == 0
    assert runs(here)[-1].info.status == "FINISHED"


KILLED_AT_THE_END = """
import os, sys
from tracking.run import Run
from trainers.wgan import run as wgan

def killed(run, patience=None, limit=None):
    os._exit(9)

Run.deliver = killed
wgan.evaluate = wgan.register_networks = lambda *_, **__: {}
wgan.log_figures = lambda *_, **__: None
wgan.main(sys.argv[1:])
"""


def test_killed_in_the_last_delivery_it_is_delivered_and_not_trained_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = command("wgan", **{**WGAN, "steps": 3})[3:]
    done = subprocess.run([sys.executable, "-c", KILLED_AT_THE_END, *options], env=environment(here), timeout=PATIENCE)
    assert done.returncode == 9
    [run] = runs(here)
    assert run.info.status == "RUNNING"
    fresh = client(here).create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", fresh)
    monkeypatch.setattr(wgan, "train_and_record", lambda *_, **__: pytest.fail("it is trained again"))
    with pytest.raises(SystemExit, match="0"):
        wgan.main([*options, "--resume=latest"])
    run = client(here).get_run(run.info.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["entry_point"] == "wgan"
    assert "generator_loss" in run.data.metrics
    assert client(here).get_run(fresh).data.tags["resumes"] == run.info.run_id
    assert client(here).get_run(fresh).info.status == "FINISHED"
    assert f"give resume={run.info.run_id}" in capsys.readouterr().out
    assert is_finished(here / "runs" / run.info.run_id)

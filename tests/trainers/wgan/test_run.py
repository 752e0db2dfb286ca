"""The wgan entry point: what it records, that it loses nothing, and what it refuses."""

import copy
import json
import random
import re
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from common.errors import InputError
from data.images.load import ImageSet
from models.gan.losses import loss_D, loss_G, loss_GP
from models.gan.networks import Critic, Generator
from models.sync_norm import synchronise_batch_norms
from tests.conftest import PATIENCE
from tests.data.images.image_trees import write_celeba
from tests.running import begin_warm, client, history, read_json, run_trainer, runs
from tests.warm import Warm
from trainers.wgan.config import WganConfig
from trainers.wgan.loop import METRICS, Training, sample_images, train, training_steps
from trainers.wgan.records import evaluate, few_images, lost_critic
from trainers.wgan.run import check_resumable
from training.config import as_params
from training.processes import Processes
from training.session import NotFinite, Session
from training.step_log import StepLog

TINY: dict[str, object] = {
    "image_size": 32,
    "ngf": 16,
    "ndf": 16,
    "nz": 8,
    "batch_size": 8,
    "steps": 24,
    "log_every": 5,
    "sample_every": 10,
    "checkpoint_every": 7,
    "n_samples": 4,
}


def checkpoint_of(folder: Path, run_id: str) -> dict[str, Any]:
    return torch.load(folder / "runs" / run_id / "checkpoint.pt", weights_only=True)


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a nest of dicts and lists."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors(item, f"{path}/{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from tensors(item, f"{path}/{index}")


def assert_same_weights(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Bit for bit: networks, average, optimisers, randomness."""
    ours, theirs = dict(tensors(first["training"])), dict(tensors(second["training"]))
    assert ours.keys() == theirs.keys()
    assert len(ours) > 100
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, str, str]:
    """(folder, run id, what was printed) of one uninterrupted run, which several tests look at."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    text = run_trainer(folder, "wgan", **TINY)
    return folder, runs(folder)[-1].info.run_id, text


def test_a_run_records_all_it_should(finished: tuple[Path, str, str]) -> None:
    folder, run_id, text = finished
    run = client(folder).get_run(run_id)
    assert run.info.status == "FINISHED"
    for name, value in {**TINY, "gp_scale": 10.0, "dataset": "digits", "preset": "quick", "lr_critic": 0.001}.items():
        assert run.data.params[name] == str(value), name
    for tag in ("git.commit", "git.dirty", "data.digits", "torch", "python", "device"):
        assert tag in run.data.tags
    assert run.inputs.dataset_inputs[0].dataset.name == "digits"

    steps = [5, 10, 15, 20, 24]
    for metric in (*METRICS, "step_seconds", "images_per_second"):
        assert [step for step, _ in history(folder, run_id, metric)] == steps, metric
        assert all(np.isfinite(value) for _, value in history(folder, run_id, metric))
    for name in ("wasserstein_train", "wasserstein_held_out"):
        assert name in run.data.metrics

    artifacts = {
        file.path
        for path in ("", "figures", "checkpoints", "images")
        for file in client(folder).list_artifacts(run_id, path)
    }
    assert {
        "config.json",
        "environment.json",
        "figures/loss_curves.png",
        "figures/samples_ema.png",
        "checkpoints/checkpoint.pt",
    } <= artifacts
    image_steps = sorted(
        {path.split("+step+")[1].split("+")[0] for path in artifacts if path.endswith(".png") and "+step+" in path}
    )
    assert image_steps == ["10", "20", "24"]

    assert "open it: mlflow ui" in text
    for name in ("wgan-generator", "wgan-generator-raw", "wgan-critic"):
        assert f"models:/{name}/1" in text


def test_registered_models_are_the_trained_networks(
    finished: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from tracking.registry.models import load_weights

    folder, run_id, _ = finished
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    try:
        served = mlflow.pyfunc.load_model("models:/wgan-generator@latest-good")
        state, config = load_weights("models:/wgan-generator")
        critic = mlflow.pyfunc.load_model("models:/wgan-critic/1")
    finally:
        mlflow.set_tracking_uri(None)
    saved = checkpoint_of(folder, run_id)["training"]
    assert all(torch.equal(state[name], value) for name, value in saved["ema"].items())
    G = Generator(config["image_size"], config["nz"], config["ngf"], config["grey"])
    G.load_state_dict(state)
    D = Critic(32, 16)
    D.load_state_dict(saved["D"])
    z = torch.randn(5, 8)
    with torch.no_grad():
        images = G.eval()(z)
        answer = served.predict({"codes": z.numpy()}, params={"output": "float"})
        np.testing.assert_allclose(answer, images.numpy(), atol=1e-5)
        np.testing.assert_allclose(critic.predict(images.numpy()), D(images).numpy(), atol=1e-4)


def test_killed_at_random_points_and_resumed_it_ends_the_same(folder: Path, finished: tuple[Path, str, str]) -> None:
    """kill -9 in the middle, again and again: the same weights bit for bit, a history without gaps or doubles."""
    reference_folder, reference_id, _ = finished
    chance = random.Random(5)
    killed = 0
    for attempt in range(12):
        process = begin_warm(folder, "wgan", **TINY, resume="latest")
        if attempt < 3:
            # Not before the first checkpoint of the attempt may exist: then each kill falls into a later stretch of the
            # run.
            _wait_for_a_later_checkpoint(folder, process)
            time.sleep(chance.uniform(0, 0.4))
            process.kill()
        status, output = process.end()
        if status == 0:  # the last attempt; or a fast machine came to the end first
            break
        assert (attempt < 3, status) == (True, -signal.SIGKILL), output
        killed += 1
    assert killed >= 2
    [run] = runs(folder)
    assert run.info.status == "FINISHED"
    assert_same_weights(checkpoint_of(folder, run.info.run_id), checkpoint_of(reference_folder, reference_id))
    for metric in METRICS:
        assert history(folder, run.info.run_id, metric) == history(reference_folder, reference_id, metric), metric


def _wait_for_a_later_checkpoint(folder: Path, process: Warm) -> None:
    """Until there is a checkpoint of a later step than now, or the process ended. It is read only when it changed."""

    def stamp() -> int:
        return max((path.stat().st_mtime_ns for path in folder.glob("runs/*/checkpoint.pt")), default=0)

    read, before, deadline = stamp(), _step_on_disk(folder), time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        found = stamp()
        if found != read and _step_on_disk(folder) > before:
            return
        read = found
        time.sleep(0.01)


def _step_on_disk(folder: Path) -> int:
    """The step of the newest checkpoint, 0 without one."""
    paths = list(folder.glob("runs/*/checkpoint.pt"))
    return torch.load(paths[0], weights_only=True)["training"]["step"] if paths else 0


def test_sigterm_checkpoints_and_the_same_command_goes_on(folder: Path, finished: tuple[Path, str, str]) -> None:
    reference_folder, reference_id, _ = finished
    process = begin_warm(folder, "wgan", **TINY)
    _wait_for_a_later_checkpoint(folder, process)
    process.send_signal(signal.SIGTERM)
    status, output = process.end()
    assert status == 143, output
    [run] = runs(folder)
    assert run.info.status == "KILLED"
    assert f"go on with resume={run.info.run_id}" in output
    assert 7 <= _step_on_disk(folder) < 24

    # from the server's copy, as on another machine
    (folder / "runs").rename(folder / "elsewhere")
    run_trainer(folder, "wgan", **TINY, resume=run.info.run_id)
    [run] = runs(folder)
    assert run.info.status == "FINISHED"
    assert_same_weights(checkpoint_of(folder, run.info.run_id), checkpoint_of(reference_folder, reference_id))
    for metric in METRICS:
        assert history(folder, run.info.run_id, metric) == history(reference_folder, reference_id, metric), metric


def test_changed_hyper_parameters_need_a_flag_and_more_steps_do_not(
    folder: Path, finished: tuple[Path, str, str]
) -> None:
    reference_folder, run_id, _ = finished
    for name in ("runs", "cache"):
        (folder / name).symlink_to(reference_folder / name)
    arguments = {**TINY, "gp_scale": 5.0, "resume": run_id}
    text = run_trainer(folder, "wgan", status=2, **arguments)
    assert text.strip().endswith(
        "error: resume: gp_scale was 10.0, now 5.0; give the old values, or allow_changes=true to continue with the "
        "new ones"
    )
    assert runs(folder) == []


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(folder: Path) -> None:
    run_trainer(folder, "wgan", **{**TINY, "steps": 10})
    [run] = runs(folder)
    arguments = {**TINY, "lr_critic": 1e30, "checkpoint_every": 1, "resume": run.info.run_id, "allow_changes": True}
    text = run_trainer(folder, "wgan", status=1, **arguments)
    [run] = runs(folder)
    assert run.info.status == "FAILED"
    assert re.search(rf"({'|'.join(METRICS)}) became (nan|inf|-inf) at step 1[1-9]", run.data.tags["error"])
    assert run.data.tags["error"] in text
    checkpoint = checkpoint_of(folder, run.info.run_id)["training"]
    assert 10 <= checkpoint["step"] < 20
    assert all(value.isfinite().all() for part in ("G", "D") for name, value in tensors(checkpoint[part]))


def test_step_log_names_the_first_bad_step_and_term() -> None:
    class Points:
        logged: list[Any] = []  # noqa: RUF012

        def log_metrics(self, values: Any, step: int) -> None:
            self.logged.append((values, step))

    log = StepLog(Points(), Processes(0, 1, torch.device("cpu")), METRICS, log_every=4, batch_size=8)  # type: ignore[arg-type]
    rows = torch.arange(4 * len(METRICS), dtype=torch.float32).view(4, -1)
    assert log.last("critic_loss") is None
    for step, row in enumerate(rows, 1):
        log.add(row, step)
    assert log.steps == [4]
    assert log.last("generator_loss") == log.column("generator_loss")[-1]
    assert log.column("critic_loss") == [rows[:, 0].mean().item()]
    log.add(rows[0], 5)
    bad = rows[1].clone()
    bad[METRICS.index("generator_loss")] = float("nan")
    log.add(bad, 6)
    log.add(bad, 7)
    with pytest.raises(NotFinite, match="generator_loss became nan at step 6"):
        log.check(7)
    with pytest.raises(NotFinite, match="generator_loss became nan at step 6"):
        log.add(rows[0], 8)
    assert log.steps == [4]


def test_a_critic_that_lost_its_hold_is_told() -> None:
    falls = [10.0, -3.0, *[-2.0] * 18]
    assert lost_critic(falls, 10.0) is None
    assert lost_critic([10.0, 9.0, 8.0], 10.0) is None  # too few steps to have had a hold
    lost = [*falls[:-2], 12.0, 17.0]
    warning = lost_critic(lost, 10.0)
    assert warning is not None
    assert "critic_loss ended at 14.5" in warning
    assert lost_critic(lost, 0.0) is None  # there is no penalty
    assert lost_critic([*falls, 15.0, *[-1.0] * 20], 10.0) is None  # found again


@pytest.mark.parametrize("allow_changes", [False, True])
def test_fewer_steps_than_are_done_are_refused(allow_changes: bool) -> None:
    before = WganConfig(steps=20)
    checkpoint = {"config": as_params(before), "training": {"step": 14}, "data": "abc"}
    images: Any = SimpleNamespace(fingerprint="abc", source="photos")

    def check(steps: int) -> None:
        config = WganConfig(steps=steps, allow_changes=allow_changes)
        session = Session("wgan", config)
        session.checkpoint = checkpoint
        check_resumable(config, session, images)

    with pytest.raises(InputError, match=r"resume: 14 steps are done already, .* give steps of at least 14"):
        check(13)
    check(14)
    images.fingerprint = "xyz"
    with nullcontext() if allow_changes else pytest.raises(InputError, match="resume: photos holds other images; give"):
        check(20)


def images_of(dataset: str, pixels: np.ndarray) -> ImageSet:
    return ImageSet(
        name=dataset,
        split="train",
        source="shades",
        pixels=pixels,
        fingerprint="print",
        preprocessing={},
        preprocessing_hash="hash",
        skipped=[],
        labels=None,
        upscaled=0,
    )


def test_too_few_photographs_for_their_features_are_told() -> None:
    pixels = np.zeros((1281, 3, 1, 1), np.uint8)
    note = few_images(images_of("folder", pixels[1:]))
    assert note is not None
    assert note.startswith("1,280 images are few: fid and isir_fid take more than 1,280, or force=true")
    assert few_images(images_of("folder", pixels)) is None
    assert few_images(images_of("digits", pixels[:1000])) is None  # theirs are 64


def test_the_estimate_is_of_the_whole_set_not_of_its_first_images() -> None:
    """Classes that are folders lie one after the other: here dark images and then bright ones, rated by their mean."""
    pixels = np.zeros((4000, 3, 32, 32), np.uint8)
    pixels[2000:] = 255
    image_set = images_of("folder", pixels)
    training = Training(Generator(32, 6, 16), torch.nn.Linear(1, 1), nz=6)
    training.D = Mean()
    training.ema.model = Black()
    found = evaluate(training, image_set, image_set, torch.device("cpu"), 0)
    assert found["wasserstein_train"] == pytest.approx(1.0, abs=0.1)  # halfway between black (-1) and white
    assert found["wasserstein_gap"] == 0


class Mean(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))


class Black(torch.nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return -torch.ones(len(z), 3, 32, 32)


def test_celeba_preset_on_its_own_layout(folder: Path) -> None:
    write_celeba(folder / "celeba", n_train=24, n_valid=8, n_test=8)
    tiny = {"ngf": 16, "ndf": 16, "nz": 8, "batch_size": 8, "steps": 3, "log_every": 1, "n_samples": 4}
    run_trainer(folder, "wgan", preset="celeba", data_dir="celeba", **tiny)
    [run] = runs(folder)
    assert run.info.status == "FINISHED"
    assert run.data.params["image_size"] == "64"
    assert run.data.params["flip"] == "True"
    assert "wasserstein_held_out" in run.data.metrics
    assert read_json(folder, run.info.run_id, "config.json")["dataset"] == "celeba"
    # Measured in another folder, it is compared with the same images.
    version = client(folder).get_model_version("wgan-generator", "1")
    stored = client(folder).get_logged_model(version.source.removeprefix("models:/"))
    config = json.loads((Path(stored.artifact_location) / "weights" / "config.json").read_text())
    assert config["trained_on"]["data_dir"] == str(folder / "celeba")


@pytest.mark.slow
def test_other_routes_run(folder: Path) -> None:
    """The package's own networks, mixed precision with decay, and two processes."""
    small = {**TINY, "steps": 4}
    run_trainer(folder, "wgan", **small, nets="mimicry")
    run_trainer(folder, "wgan", **small, precision="bf16", lr_decay="linear")
    run_trainer(folder, "wgan", **small, nproc=2)
    assert [run.info.status for run in runs(folder)] == ["FINISHED"] * 3
    assert runs(folder)[-1].data.tags["world_size"] == "2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 65}, "image_size: 65 is not allowed"),
        ({"dataset": "folder"}, "data_dir: dataset=folder needs one"),
        ({"dataset": "folder", "data_dir": "nowhere"}, "nowhere"),
        ({"image_size": 64, "ngf": 24}, "ngf=24: at 64 pixels it must be a positive multiple of 16"),
        ({"batch_size": 4000}, "1442 images do not fill one batch"),
        ({"resume": "no-such-run"}, "no-such-run"),
        ({"batch_size": 9, "nproc": 2}, "batch_size: 9 images cannot be shared evenly by nproc=2"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_run(folder: Path, arguments: dict[str, object], message: str) -> None:
    text = run_trainer(folder, "wgan", status=2, **arguments)
    assert message in text
    assert text.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in text
    assert runs(folder) == []


# ------------------------------------------------------------------------------------------- the loop, without the
# entry point


def networks() -> tuple[Generator, Critic]:
    torch.manual_seed(0)
    return Generator(32, 6, 8).double(), Critic(32, 8).double()


def images(n: int) -> Tensor:
    return torch.rand(n, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_train_is_a_plain_function_for_a_notebook() -> None:
    """Any DataLoader of (image, label) pairs will do; it is started anew when it ends."""
    torch.manual_seed(0)
    G, D = Generator(32, 128, 8), Critic(32, 8)
    dataset = torch.utils.data.TensorDataset(images(10).float(), torch.zeros(10))
    before = [p.detach().clone() for p in (*G.parameters(), *D.parameters())]
    training = train(G, D, torch.utils.data.DataLoader(dataset, batch_size=4, drop_last=True), 2, 10.0, steps=3)
    assert training.step == 3
    changed = [not torch.equal(old, new) for old, new in zip(before, (*G.parameters(), *D.parameters()), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    empty = torch.utils.data.DataLoader(dataset, batch_size=64, drop_last=True)
    with pytest.raises(ValueError, match="gives no batch"):
        train(G, D, empty, 1, 10.0, steps=4)


def _one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    G, D = networks()
    synchronise_batch_norms(G)
    mine = images(8)[4 * rank : 4 * rank + 4]
    processes = Processes(rank, 2, torch.device("cpu"))
    for _ in training_steps(_doubled(G, D), [mine], n_dis=2, gp_scale=10.0, steps=3, processes=processes):
        pass
    torch.save({"G": G.state_dict(), "D": D.state_dict()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _doubled(G: Generator, D: Critic) -> Training:
    """Float64 throughout: latent codes are drawn in float32 and must be widened."""
    training = Training(G, D, nz=6)
    G.register_forward_pre_hook(lambda module, args: (args[0].double(),))
    return training


def test_two_processes_give_the_weights_of_one_with_the_doubled_batch(tmp_path: Path) -> None:
    mp.spawn(_one_of_two, args=(str(tmp_path),), nprocs=2)
    G, D = networks()
    for _ in training_steps(_doubled(G, D), [images(8)], n_dis=2, gp_scale=10.0, steps=3):
        pass
    for rank in range(2):
        theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, net in (("G", G), ("D", D)):
            for key, value in net.state_dict().items():
                torch.testing.assert_close(
                    theirs[name][key], value, atol=1e-9, rtol=1e-7, msg=lambda text, key=key: f"{key}: {text}"
                )


def test_training_is_the_plain_definition_with_the_plain_adam() -> None:
    """Three steps against autograd and Adam's plain loop over the tensors, in float32, which takes the fast kernels.

    Adam's fused kernel reads the memory of a parameter and of its gradient side by side: a gradient in another memory
    layout would move other weights.
    """
    torch.manual_seed(0)
    G, D = Generator(32, 6, 16), Critic(32, 16)
    training = Training(copy.deepcopy(G), copy.deepcopy(D), nz=6, seed=5)
    batches = [images(8).float().roll(k, 3) for k in range(6)]
    for _ in training_steps(training, batches, n_dis=2, gp_scale=10.0, steps=3):
        pass

    optimizers = [
        torch.optim.Adam(net.parameters(), 2e-4, betas=(0.0, 0.9), foreach=False, fused=False) for net in (G, D)
    ]
    draws, real = torch.Generator().manual_seed(5), iter(batches)
    for _ in range(3):
        for _ in range(2):
            x_real, z = next(real), torch.randn(8, 6, generator=draws)
            alpha, x_fake = torch.rand(8, generator=draws), G(z).detach()
            D.zero_grad()
            (loss_D(D(x_fake), D(x_real)) + 10 * loss_GP(x_fake, x_real, D, alpha=alpha)).backward()
            optimizers[1].step()
        G.zero_grad()
        loss_G(D(G(torch.randn(8, 6, generator=draws)))).backward()
        optimizers[0].step()

    torch.manual_seed(0)
    start = [*Generator(32, 6, 16).parameters(), *Critic(32, 16).parameters()]
    ours, plain = [*training.G.parameters(), *training.D.parameters()], [*G.parameters(), *D.parameters()]
    for first, mine, theirs in zip(start, ours, plain, strict=True):
        moved, expected = mine - first, theirs - first
        if expected.dim() > 1:  # of some biases the gradient is rounding alone, and Adam makes whole steps of its sign
            assert (moved - expected).norm() < 0.05 * expected.norm()


def test_learning_rates_fall_to_zero_at_the_last_step() -> None:
    training = Training(*networks(), nz=6, lr_generator=1.0, lr_critic=2.0, decay_steps=10)
    rates = []
    for step in (0, 5, 10):
        training.step = step
        training.set_learning_rates()
        rates.append((training.optimizer_G.param_groups[0]["lr"], training.optimizer_D.param_groups[0]["lr"]))
    assert rates == [(1.0, 2.0), (0.5, 1.0), (0.0, 0.0)]


def test_a_resumed_training_has_the_betas_it_was_given() -> None:
    """Adam's state brings those of before: allow_changes would record new ones and train with the old."""
    before = Training(*networks(), nz=6)
    after = Training(*networks(), nz=6, betas_generator=(0.1, 0.99), betas_critic=(0.5, 0.98))
    after.load_state_dict(before.state_dict())
    assert [group["betas"] for group in after.optimizer_G.param_groups] == [(0.1, 0.99)]
    assert [group["betas"] for group in after.optimizer_D.param_groups] == [(0.5, 0.98)]


def test_samples_leave_the_generator_as_it_was() -> None:
    G, _ = networks()
    G.float().train()
    before = {name: value.clone() for name, value in G.state_dict().items()}
    samples = sample_images(G, torch.randn(5, 6))
    assert samples.shape == (5, 3, 32, 32)
    assert samples.dtype == np.uint8
    assert G.training
    assert all(torch.equal(value, G.state_dict()[name]) for name, value in before.items())


def test_config_from_python_is_checked_too() -> None:
    with pytest.raises(ValueError, match="gp_scale"):
        WganConfig(gp_scale=-1)

"""Train a WGAN-GP on images: `mlflow run . -e wgan`, or `python -m trainers.wgan --help`.

`run_wgan` reads from top to bottom: data -> networks -> loop -> evaluation -> figures -> registry. config.py has the
parameters, loop.py a training step, records.py what is measured and recorded.

Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", Algorithm 1, with the networks of torch-mimicry.
"""

import sys
import time
from typing import Any

import torch

from common.errors import InputError
from common.progress import Progress
from data.images.load import ImageBatches, ImageSet, divide, load_images
from data.images.sources import DATASETS
from evaluation.figures import image_grid
from models.sync_norm import synchronise_batch_norms
from trainers.wgan.config import PRESETS, WganConfig, build_networks, narrow_critic
from trainers.wgan.loop import METRICS, Training, sample_images, training_steps
from trainers.wgan.records import (
    describe,
    evaluate,
    few_images,
    log_figures,
    lost_critic,
    register_networks,
    write_summary,
)
from training.config import changeable_fields, launch_processes, operational_fields, parse_config
from training.processes import Processes
from training.session import Session, Stopped
from training.step_log import StepLog
from training.trial import StudyTrial

ADVICE = "Lower lr_critic and lr_generator and resume with allow_changes=true, or start a new run"
"""What to do about a loss that is not finite."""


def load_training_images(config: WganConfig, quiet: bool) -> ImageSet:
    """The images to train on: the split, less what `validation_share` keeps."""
    images = load_images(
        config.dataset,
        config.image_size,
        split=config.split,
        data_dir=config.data_dir,
        cache_dir=config.cache_dir,
        on_bad=config.on_bad,
        progress=not quiet,
    )
    return divide(images, config.validation_share)[0]


def load_held_out(config: WganConfig) -> ImageSet | None:
    """The partition the critic's estimate is checked on, where the dataset has one that was not trained on."""
    dataset = DATASETS[config.dataset]
    split = dataset.held_out_split
    if config.split != "train" or split is None or not dataset.has_split(config.data_dir, split):
        return None
    return load_images(
        config.dataset,
        config.image_size,
        split=split,
        data_dir=config.data_dir,
        cache_dir=config.cache_dir,
        on_bad=config.on_bad,
    )


def check_resumable(config: WganConfig, session: Session, images: ImageSet) -> None:
    """Refuse to resume with fewer steps than are done, and, unless `allow_changes`, with other hyper-parameters or
    images.
    """
    with session.restoring():
        done = int(session.checkpoint["training"]["step"]) if session.checkpoint else 0
    if config.steps < done:
        raise InputError(
            f"resume: {done} steps are done already, more than steps={config.steps}; give steps of at least {done}"
        )
    # With lr_decay=linear the rates depend on the number of steps.
    operational = operational_fields(WganConfig) - ({"steps"} if config.lr_decay == "linear" else set())
    changeable = changeable_fields(WganConfig) | {"steps", "data"}
    other_data = f"{images.source} holds other images"
    session.check_unchanged(images.fingerprint, other_data, operational=operational, changeable=changeable)


def build_training(config: WganConfig, processes: Processes, grey: bool) -> Training:
    """Networks, optimisers and average, as the parameters ask for; grey: for images without colour."""
    G, D = (network.to(processes.device) for network in build_networks(config, grey))
    if processes.world_size > 1:
        synchronise_batch_norms(G)
    return Training(
        G,
        D,
        nz=config.nz,
        lr_generator=config.lr_generator,
        lr_critic=config.lr_critic,
        betas_generator=(config.beta1_generator, config.beta2),
        betas_critic=(config.beta1_critic, config.beta2),
        decay_steps=config.steps if config.lr_decay == "linear" else None,
        ema_decay=config.ema_decay,
        bf16=config.precision == "bf16",
        seed=config.seed,
    )


def restore(
    config: WganConfig, session: Session, images: ImageSet, training: Training, batches: ImageBatches
) -> dict[str, Any]:
    """Bring networks and images to where the checkpoint was made; the state of its log.

    With another batch size or other images there is no such place: the next epoch begins.
    """
    if session.checkpoint is None:
        return {}
    with session.restoring():
        checkpoint = session.checkpoint
        training.load_state_dict(checkpoint["training"])
        log, position = checkpoint["log"], checkpoint["batches"]
        if (checkpoint["data"], checkpoint["config"]["batch_size"]) != (images.fingerprint, config.batch_size):
            position = {"epoch": position["epoch"] + 1, "batch": 0}
        batches.load_state_dict(position)
        return {name: list(log[name]) for name in ("rows", "steps", "history")}


def train_and_record(
    config: WganConfig, session: Session, training: Training, batches: ImageBatches, log: StepLog, codes: torch.Tensor
) -> None:
    """The loop: train step by step, and log, sample, report to a study, save and stop when it is time.

    codes: latent codes [n_samples, nz] of the sample grids. Raises Stopped after the step in which a signal came.
    """
    run, trial, processes = session.run, session.trial, session.processes
    progress = Progress(config.steps, training.step, quiet=not session.is_first)
    try:
        for metrics in training_steps(
            training,
            batches,
            n_dis=config.n_dis,
            gp_scale=config.gp_scale,
            steps=config.steps,
            processes=processes,
        ):
            step, is_last = training.step, training.step == config.steps
            log.add(metrics, step)
            estimate = log.last("wasserstein_estimate")
            progress.advance(note=None if estimate is None else f"Wasserstein estimate {estimate:.3f}")
            if session.is_first and (step % config.sample_every == 0 or is_last):
                run.log_image("samples", image_grid(sample_images(training.ema.model, codes)), step)
                log.restart_clock()
            if trial.every and (step % trial.every == 0 or is_last):
                trial.report(run, trial.measure(training.ema.model, codes), step)
                log.restart_clock()
            # Asking every process on every step would make the GPUs wait for each other; alone, asking is free.
            may_ask = processes.world_size == 1 or step % config.log_every == 0
            asked = may_ask and session.stop_asked()
            if step % config.checkpoint_every == 0 or asked:
                save(session, training, batches, log)
            if asked:
                raise Stopped
        if log.rows:
            log.flush(training.step)
    finally:
        progress.close()


def save(session: Session, training: Training, batches: ImageBatches, log: StepLog) -> None:
    """Write the checkpoint. It is never taken from weights that a NaN has reached: NotFinite is raised instead."""
    log.check(training.step)
    session.save({"training": training.state_dict(), "batches": batches.state_dict(), "log": log.state_dict()})
    log.restart_clock()


def run_wgan(config: WganConfig, trial: StudyTrial | None = None) -> int:
    """Train, record and register; the exit status: 0, 1 where a loss became NaN, 128 + signal where one stopped the
    run.

    trial: the run's place in a study, which may end it early (it is KILLED then, with status 0).
    """
    session = Session("wgan", config, trial, advice=ADVICE)
    images = load_training_images(config, quiet=not session.is_first)
    check_resumable(config, session, images)
    held_out = load_held_out(config) if session.is_first and not session.trial.searching else None
    batches = ImageBatches(
        images,
        config.batch_size,
        seed=config.seed,
        device=session.device,
        flip=config.flip,
        rank=session.processes.rank,
        world_size=session.processes.world_size,
    )
    training = build_training(config, session.processes, images.is_grey)
    log_before = restore(config, session, images, training=training, batches=batches)
    codes = torch.randn(config.n_samples, config.nz, generator=torch.Generator().manual_seed(config.seed))
    codes = codes.to(session.device)

    with session:
        run, began = session.run, time.monotonic()
        log = StepLog(run, session.processes, names=METRICS, log_every=config.log_every, batch_size=config.batch_size)
        if log_before:
            log.load_state_dict(log_before)
        run.log_data(images.name, images.fingerprint, describe(images))
        if session.is_first:
            begins = f"{'resumed at' if session.checkpoint else 'from'} step {training.step}"
            print(f"{images.source}, split {images.split}: {len(images):,} images; run {run.run_id}; {begins}")
            for note in filter(None, (narrow_critic(config), few_images(images))):
                print(f"note: {note}", file=sys.stderr)

        train_and_record(config, session, training=training, batches=batches, log=log, codes=codes)
        if session.trial.searching:
            return 0
        save(session, training, batches, log)
        session.end_training()
        seconds = time.monotonic() - began
        if session.is_first:
            figures = evaluate(training, images, held_out, device=session.device, seed=config.seed)
            run.log_metrics(figures, training.step)
            if warning := lost_critic(log.column("critic_loss"), config.gp_scale):
                run.set_tags({"warning": warning})
            log_figures(run, config, training, log=log, codes=codes)
            run.log_checkpoint()
            models = register_networks(run, config, training, figures=figures, images=images, alias=session.trial.alias)
            session.trial.conclude(run, training.ema.model, codes)
            write_summary(run, config, log, figures=figures, models=models, seconds=seconds)
    return session.status


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    config = parse_config(WganConfig, PRESETS, argv, "wgan")
    status = launch_processes(config.nproc, "trainers.wgan", argv, config.max_restarts)
    return run_wgan(config) if status is None else status

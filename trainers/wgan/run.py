"""Train a WGAN-GP on images: `mlflow run . -e wgan`, or `python -m trainers.wgan --help`.

Top to bottom: the parameters, what a run records, and `run_wgan`, which puts the parts together: config -> data ->
networks -> loop -> evaluation -> registry. The loop itself is `train` in trainers/wgan/loop.py, which a notebook can
call.

Gulrajani et al. 2017, "Improved Training of Wasserstein GANs", Algorithm 1, with the networks of torch-mimicry.
"""

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import InputError
from common.progress import Progress
from data.images.load import ImageBatches, ImageSet, divide, load_images
from evaluation.figures import image_grid, loss_curves, picture
from evaluation.images import drawn_rows
from models.sync_norm import synchronise_batch_norms
from tracking.checkpoint import StopRequest, find_checkpoint, load_checkpoint, save_checkpoint
from tracking.environment import git_state
from tracking.registry.models import ModelInfo, log_model
from tracking.resuming import find_resumable
from tracking.run import Run, start_run
from tracking.silent_run import SilentRun
from trainers.wgan.config import PRESETS, WganConfig, build_networks
from trainers.wgan.loop import METRICS, Training, sample_images, train
from training.config import (
    as_params,
    check_unchanged,
    launch_processes,
    operational_fields,
    parse_config,
)
from training.generators.stored import sampler_with
from training.processes import join_processes
from training.step_log import NotFinite, StepLog
from training.trial import Pruned, StudyTrial

# ------------------------------------------------------------------------------------------------------------------
# records


@torch.no_grad()
def mean_critic_value(D: nn.Module, batches: Iterable[Tensor]) -> float:
    """Mean of D over batches of images [N, 3, H, W] in [-1, 1]."""
    return torch.cat([D(x).reshape(-1) for x in batches]).double().mean().item()


def evaluate(
    training: Training, images: ImageSet, held_out: ImageSet | None, device: torch.device, seed: int
) -> dict[str, float]:
    """The critic's Wasserstein estimate E D(x) - E D(G(z)) on up to 1,000 training images and on up to 1,000 held-out
    ones.

    A critic that has learnt its training images by heart rates held-out ones lower: the gap between the two estimates
    shows it.
    """
    z = torch.randn(1000, training.nz, generator=torch.Generator().manual_seed(seed)).to(device)
    G = training.ema.model
    G.eval()
    fake = mean_critic_value(training.D, (G(part) for part in z.split(64)))
    figures = {}
    for name, image_set in (("train", images), ("held_out", held_out)):
        if image_set is not None:
            pixels = torch.from_numpy(np.array(image_set.pixels[drawn_rows(len(image_set), 1000, seed)])).to(device)
            real = mean_critic_value(training.D, (part.float() / 127.5 - 1 for part in pixels.split(64)))
            figures[f"wasserstein_{name}"] = real - fake
    if held_out is not None:
        figures["wasserstein_gap"] = figures["wasserstein_train"] - figures["wasserstein_held_out"]
    return figures


def lost_critic(losses: Sequence[float], gp_scale: float) -> str | None:
    """What to say if the critic lost its hold: its loss over the steps was below 0 once, but not over the last tenth.

    A critic of constant slope 1 has a loss of 0 or less; above 0 the penalty outweighs the distance that it finds. Runs
    with a high learning rate can fall into this state and stay there, |grad D| far above 1, and which of them do is
    decided by rounding. Without a penalty (gp_scale 0) this says nothing.
    """
    if gp_scale == 0:
        return None
    last = float(np.mean(losses[-max(1, len(losses) // 10) :]))
    if last <= 0 or min(losses) >= 0:
        return None
    return (
        f"the critic lost its hold: critic_loss ended at {last:.1f}, and above 0 the penalty outweighs the distance it "
        "finds; the images may be the worse for it. Another seed may do, or lower lr_generator and lr_critic"
    )


def draw_curves(log: StepLog, title: str) -> Any:
    """The loss-curve figure: losses, penalty with the gradient norm it works on, and the Wasserstein estimate."""
    return loss_curves(
        log.steps,
        {
            "losses": {"critic": log.column("critic_loss"), "generator": log.column("generator_loss")},
            "gradient penalty": {
                "penalty": log.column("gradient_penalty"),
                "|∇D|": log.column("input_gradient_norm"),
            },
            "Wasserstein estimate": {"E D(real) - E D(fake)": log.column("wasserstein_estimate")},
        },
        title,
    )


# ---------------------------------------------------------------------------------------------------------------------
# main


def load_held_out(config: WganConfig) -> ImageSet | None:
    """The partition the critic's estimate is checked on, where the dataset has one that was not trained on."""
    if config.split != "train" or config.dataset == "folder":
        return None
    split = "valid" if config.dataset == "celeba" else "test"
    return load_images(config.dataset, config.image_size, split, config.data_dir, config.cache_dir, config.on_bad)


def check_resumable(config: WganConfig, checkpoint: dict[str, Any], images: ImageSet) -> None:
    """Refuse to resume with fewer steps than are done, and, unless `allow_changes`, with other hyper-parameters or
    images.
    """
    done = checkpoint["training"]["step"]
    if config.steps < done:
        raise InputError(
            f"resume: {done} steps are done already, more than steps={config.steps}; give steps of at least {done}"
        )
    # With lr_decay the rates hang on the last step.
    operational = operational_fields(WganConfig) - ({"steps"} if config.lr_decay == "linear" else set())
    other_data = None if checkpoint["data"] == images.fingerprint else f"{images.source} holds other images"
    check_unchanged(config, checkpoint["config"], operational, other_data, config.allow_changes)


def describe(images: ImageSet) -> dict[str, Any]:
    """What a run records about its images."""
    return {
        "source": images.source,
        "split": images.split,
        "images": len(images),
        "skipped": images.skipped,
        "upscaled": images.upscaled,
        "preprocessing": images.preprocessing,
        "preprocessing_hash": images.preprocessing_hash,
    }


def record_results(
    run: Run | SilentRun,
    config: WganConfig,
    training: Training,
    log: StepLog,
    figures: dict[str, float],
    images: ImageSet,
    codes: Tensor,
    alias: str | None,
) -> list[ModelInfo]:
    """Log the closing figures, curves, grids and the checkpoint; register generator (its average and raw) and
    critic.
    """
    run.log_metrics(figures, training.step)
    if warning := lost_critic(log.column("critic_loss"), config.gp_scale):
        run.set_tags({"warning": warning})
    title = f"WGAN-GP on {config.dataset}, {config.image_size} pixels, gp_scale {config.gp_scale:g}"
    run.log_figure(draw_curves(log, title), "figures/loss_curves.png")
    for name, generator in (("ema", training.ema.model), ("raw", training.G)):
        grid = image_grid(sample_images(generator, codes))
        run.log_figure(
            picture(grid, f"{title}: samples of the {name} generator, step {training.step}"),
            f"figures/samples_{name}.png",
        )
    run.log_checkpoint()

    facts = {
        "dataset": config.dataset,
        "split": config.split,
        "data_fingerprint": images.fingerprint,
        "preprocessing_hash": images.preprocessing_hash,
        "image_size": config.image_size,
        "step": training.step,
        "commit": git_state().get("git.commit", "unknown"),
    }
    # What measures the generator later must prepare its reference images in the same way: the facts go with the
    # weights.
    trained_on = {**facts, "data_dir": as_params(config)["data_dir"]}
    shape = {"image_size": config.image_size, "nets": config.nets, "trained_on": trained_on}
    z = torch.randn(4, config.nz, generator=torch.Generator().manual_seed(0)).numpy()
    x = images.pixels[:4].astype(np.float32) / 127.5 - 1
    models: list[tuple[str, nn.Module, np.ndarray, dict[str, Any]]] = [
        ("generator", training.ema.model, z, {**shape, "nz": config.nz, "ngf": config.ngf, "weights": "ema"}),
        ("generator_raw", training.G, z, {**shape, "nz": config.nz, "ngf": config.ngf, "weights": "raw"}),
        ("critic", training.D, x, {**shape, "ndf": config.ndf}),
    ]
    return [
        log_model(
            run,
            network,
            name,
            example,
            registered_name=f"wgan-{name.replace('_', '-')}",
            config={"class": name.split("_")[0], **shape_},
            metrics=figures,
            params=as_params(config),
            tags=facts,
            metadata=facts,
            step=training.step,
            sampler=None if name == "critic" else sampler_with(training.D),
            alias=alias,
        )
        for name, network, example, shape_ in models
    ]


def report(
    run: Run | SilentRun,
    config: WganConfig,
    figures: dict[str, float],
    seconds: float,
    steps: int,
    log: StepLog,
    models: list[ModelInfo],
) -> None:
    """Print what was measured, where it is, and how to look at it."""
    last = dict(zip(METRICS, log.history[-1], strict=True))
    rate = steps * config.batch_size / max(seconds, 1e-9)
    print(f"\n{steps} steps in {seconds:.0f} s ({rate:.0f} images/s)")
    shown = ("critic_loss", "generator_loss", "gradient_penalty")
    print("  " + ", ".join(f"{name.replace('_', ' ')} {last[name]:.4f}" for name in shown))
    estimates = ", ".join(f"{name.removeprefix('wasserstein_')} {value:.3f}" for name, value in figures.items())
    print(f"  Wasserstein estimate: {estimates}")
    if warning := lost_critic(log.column("critic_loss"), config.gp_scale):
        print(f"  warning: {warning}", file=sys.stderr)
    for model in models:
        print(f"  model {model.uri}")
    print(f"  run {run.run_id}, files in {run.folder}")
    print(f"  open it: {run.url()}")


def end_early(run: Run | SilentRun, reason: NotFinite | Pruned) -> int:
    """Mark a run that a loss or its study ended; the exit status."""
    if isinstance(reason, Pruned):
        run.set_tags({"pruned": str(reason)})
        run.finish("KILLED")
        return 0
    run.set_tags({"error": str(reason)})
    run.finish("FAILED")
    kept = run.checkpoint_path if run.checkpoint_path.exists() else "none, it was the first steps"
    print(
        f"error: {reason}; the run is marked failed; last good checkpoint: {kept}. Lower lr_critic and lr_generator "
        "and resume with allow_changes=true, or start anew",
        file=sys.stderr,
    )
    return 1


def run_wgan(config: WganConfig, study_trial: StudyTrial | None = None) -> int:
    """Train, record and register; the exit status: 0, 1 where a loss became NaN, 128 + signal where one stopped the
    run.

    study_trial: the run's place in a study, which may end it early (it is KILLED then, with status 0).
    """
    study_trial = study_trial or StudyTrial()
    processes = join_processes(config.device)
    run_id = find_resumable(config.resume, "wgan", config.output_dir) if processes.is_first else None
    path = find_checkpoint(config.output_dir, run_id) if run_id else None
    checkpoint = processes.share(load_checkpoint(path) if path else None)

    images = load_images(
        config.dataset,
        config.image_size,
        config.split,
        config.data_dir,
        config.cache_dir,
        config.on_bad,
        progress=processes.is_first,
    )
    images, _ = divide(images, config.validation_share)
    if checkpoint is not None:
        check_resumable(config, checkpoint, images)
    held_out = load_held_out(config) if processes.is_first and not study_trial.searching else None
    batches = ImageBatches(
        images,
        config.batch_size,
        seed=config.seed,
        device=processes.device,
        flip=config.flip,
        rank=processes.rank,
        world_size=processes.world_size,
    )

    G, D = (network.to(processes.device) for network in build_networks(config))
    if processes.world_size > 1:
        synchronise_batch_norms(G)
    training = Training(
        G,
        D,
        nz=config.nz,
        lr_generator=config.lr_generator,
        lr_critic=config.lr_critic,
        betas=(config.beta1, config.beta2),
        decay_steps=config.steps if config.lr_decay == "linear" else None,
        ema_decay=config.ema_decay,
        bf16=config.precision == "bf16",
        seed=config.seed,
    )

    run = start_run(
        "wgan",
        as_params(config),
        tags={"world_size": processes.world_size, "device": processes.device.type, **study_trial.tags},
        output_dir=config.output_dir,
        experiment=study_trial.experiment,
        run_name=config.run_name,
        resume=run_id,
    )
    with run, StopRequest() as stop:
        study_trial.begin(run)
        log = StepLog(run, processes, METRICS, config.log_every, config.batch_size)
        if checkpoint is not None:
            training.load_state_dict(checkpoint["training"])
            batches.load_state_dict(checkpoint["batches"])
            log.load_state_dict(checkpoint["log"])
            run.restore(checkpoint["backlog"])
        run.log_data(images.name, images.fingerprint, describe(images))
        if processes.is_first:
            begins = f"{'resumed at' if checkpoint else 'from'} step {training.step}"
            print(f"{images.source}, split {images.split}: {len(images):,} images; run {run.run_id}; {begins}")

        def save() -> None:
            log.check(training.step)  # a checkpoint is never taken from weights that a NaN has reached
            if processes.is_first:
                save_checkpoint(
                    run.checkpoint_path,
                    {
                        "config": as_params(config),
                        "data": images.fingerprint,
                        "training": training.state_dict(),
                        "batches": batches.state_dict(),
                        "log": log.state_dict(),
                        "backlog": run.backlog(),
                    },
                )
            log.restart_clock()

        grid_codes = torch.randn(config.n_samples, config.nz, generator=torch.Generator().manual_seed(config.seed)).to(
            processes.device
        )
        progress = Progress(config.steps, training.step, quiet=not processes.is_first)

        def after_step(training: Training, metrics: Tensor) -> bool:
            step = training.step
            log.add(metrics, step)
            note = f"Wasserstein estimate {log.column('wasserstein_estimate')[-1]:.3f}" if log.history else None
            progress.advance(note=note)
            if processes.is_first and (step % config.sample_every == 0 or step == config.steps):
                run.log_image("samples", image_grid(sample_images(training.ema.model, grid_codes)), step)
                log.restart_clock()
            if study_trial.every and (step % study_trial.every == 0 or step == config.steps):
                study_trial.report(run, study_trial.measure(training.ema.model, grid_codes), step)
                log.restart_clock()
            # Asking every process on every step would make the GPUs wait for each other; alone, asking is free.
            asked = (
                processes.any(stop.requested) if processes.world_size == 1 or step % config.log_every == 0 else False
            )
            if step % config.checkpoint_every == 0 or asked:
                save()
            return asked

        began, began_at = time.monotonic(), training.step
        try:
            train(
                G,
                D,
                batches,
                config.n_dis,
                config.gp_scale,
                steps=config.steps,
                training=training,
                processes=processes,
                after_step=after_step,
            )
            if log.rows and training.step == config.steps:
                log.flush(training.step)
        except (NotFinite, Pruned) as reason:
            progress.close()
            return end_early(run, reason)
        progress.close()
        if training.step < config.steps:  # SIGTERM or Ctrl-C
            run.log_checkpoint()
            run.finish("KILLED")
            print(f"stopped at step {training.step}; go on with resume={run.run_id}", file=sys.stderr)
            return stop.exit_code or 143

        if study_trial.searching:
            run.finish()
            return 0
        save()
        seconds = time.monotonic() - began
        if processes.is_first:
            figures = evaluate(training, images, held_out, processes.device, config.seed)
            models = record_results(run, config, training, log, figures, images, grid_codes, study_trial.alias)
            study_trial.conclude(run, training.ema.model, grid_codes)
            run.finish()
            report(run, config, figures, seconds, training.step - began_at, log, models)
    return 0


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    config = parse_config(WganConfig, PRESETS, argv, "wgan")
    status = launch_processes(config.nproc, "trainers.wgan", argv, config.max_restarts)
    return run_wgan(config) if status is None else status

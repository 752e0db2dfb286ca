"""What a run of `wgan` measures of its networks, records and registers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from data.images.load import ImageSet
from data.images.sources import DATASETS
from evaluation.efficientnet import DIM
from evaluation.figures import image_grid, plot_image, plot_step_curves
from evaluation.images import drawn_rows
from tracking.environment import git_state
from tracking.registry.models import ModelInfo, log_model
from tracking.registry.programs import Program
from tracking.run import AnyRun
from trainers.wgan.config import WganConfig
from trainers.wgan.loop import METRICS, Training, sample_images
from training.config import as_params
from training.generators.stored import sampler_with
from training.step_log import StepLog
from training.summary import SUMMARY, render_summary


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
        "finds, so the images may be worse than they could be. Try another seed, or lower lr_generator and lr_critic"
    )


def few_images(images: ImageSet) -> str | None:
    """What to say of fewer photographs than the features have in which `fid` compares them; None where there are
    enough.
    """
    if DATASETS[images.name].features != "efficientnet" or len(images) > DIM:
        return None
    return (
        f"{len(images):,} images are few: fid and isir_fid take more than {DIM:,}, or force=true, and then their "
        "kernel distance counts; a generator may also learn so few by heart, which fid's authenticity shows"
    )


def plot_curves(log: StepLog, title: str) -> Figure:
    """The loss-curve figure: losses, penalty with the gradient norm it works on, and the Wasserstein estimate."""
    return plot_step_curves(
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


def log_figures(run: AnyRun, config: WganConfig, training: Training, log: StepLog, codes: Tensor) -> None:
    """The loss curves, and a grid of samples of the averaged generator and of the raw one, all of the codes [n, nz]."""
    title = f"WGAN-GP on {config.dataset}, {config.image_size} pixels, gp_scale {config.gp_scale:g}"
    run.log_figure(plot_curves(log, title), "figures/loss_curves.png")
    for name, generator in (("ema", training.ema.model), ("raw", training.G)):
        grid = image_grid(sample_images(generator, codes))
        caption = f"{title}: samples of the {name} generator, step {training.step}"
        run.log_figure(plot_image(grid, caption), f"figures/samples_{name}.png")


def register_networks(
    run: AnyRun, config: WganConfig, training: Training, figures: dict[str, float], images: ImageSet, alias: str | None
) -> list[ModelInfo]:
    """Register the averaged generator, the raw one and the critic, each with what it was trained on."""
    facts = {
        "dataset": config.dataset,
        "split": config.split,
        "data_fingerprint": images.fingerprint,
        "preprocessing_hash": images.preprocessing_hash,
        "image_size": config.image_size,
        "step": training.step,
        "commit": git_state().get("git.commit", "unknown"),
    }
    # What measures the generator later must compare it with the same images, prepared in the same way: the facts go
    # with the weights. The path is absolute, since the measuring may run in another folder.
    data_dir = "" if config.data_dir is None else str(config.data_dir.absolute())
    whole = images.split_fingerprint or images.fingerprint
    trained_on = {**facts, "data_dir": data_dir, "split_fingerprint": whole}
    about = {"image_size": config.image_size, "nets": config.nets, "trained_on": trained_on}
    grey = config.nets == "own" and images.is_grey
    of_generator = {**about, "nz": config.nz, "ngf": config.ngf, "grey": grey}
    z = torch.randn(4, config.nz, generator=torch.Generator().manual_seed(0)).numpy()
    x = images.pixels[:4].astype(np.float32) / 127.5 - 1
    critic = Program(training.D, x)  # in each of the three models
    networks: list[tuple[str, nn.Module | Program, np.ndarray, dict[str, Any]]] = [
        ("generator", training.ema.model, z, {**of_generator, "weights": "ema"}),
        ("generator_raw", training.G, z, {**of_generator, "weights": "raw"}),
        ("critic", critic, x, {**about, "ndf": config.ndf}),
    ]
    return [
        log_model(
            run,
            network,
            name,
            example,
            registered_name=f"wgan-{name.replace('_', '-')}",
            config={"class": name.split("_")[0], **shape},
            metrics=figures,
            params=as_params(config),
            tags=facts,
            metadata=facts,
            step=training.step,
            sampler=None if name == "critic" else sampler_with(critic),
            alias=alias,
        )
        for name, network, example, shape in networks
    ]


def write_summary(
    run: AnyRun, config: WganConfig, log: StepLog, figures: dict[str, float], models: list[ModelInfo], seconds: float
) -> None:
    """Record and print what was measured and where it is. seconds: of the training."""
    text = render_summary(
        Path(__file__).parent,
        config=config,
        last=dict(zip(METRICS, log.history[-1], strict=True)),
        figures=figures,
        warning=lost_critic(log.column("critic_loss"), config.gp_scale),
        models=models,
        seconds=seconds,
    )
    run.log_text(text, SUMMARY)
    run.finish()
    print(f"\n{text}\nrun {run.run_id}, files in {run.folder.absolute()}\nopen it: {run.url()}")

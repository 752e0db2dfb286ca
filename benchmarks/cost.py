"""What the exercise costs in full, counted: floating-point operations of every part, and the hours they take at a given
speed.

    python -m benchmarks.cost
    python -m benchmarks.cost --teraflops 20,50,100 --per_hour 2

Counted, not timed: torch.utils.flop_counter follows each part once with the sizes of `preset=celeba` and
`preset=physionet` (convolutions and matrix products, 2 operations per multiply-add), on tensors without numbers, and
scales it to the whole. Hours are
an estimate: operations divided by a sustained speed that is assumed. No race: the last line has operations instead of
ratios.
"""

import argparse
import json
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.fid import random_inception_state
from data.eeg.physionet import KNOWN_BAD
from evaluation.features import build_inception
from models.gan.losses import loss_G
from models.gan.networks import Critic, Generator
from models.gan.step import critic_step_gradients
from trainers.eeg_simclr.config import PRESETS as SIMCLR_PRESETS
from trainers.eeg_simclr.config import EegSimclrConfig
from trainers.eeg_simclr.networks import build_encoder, build_projector
from trainers.eeg_transformer.config import PRESETS as EEG_PRESETS
from trainers.eeg_transformer.config import EegTransformerConfig, build_network
from trainers.isir_fid.config import PRESETS as ISIR_PRESETS
from trainers.isir_fid.config import IsirFidConfig
from trainers.wgan.config import PRESETS as WGAN_PRESETS
from trainers.wgan.config import WganConfig
from training.config import preset_config

TRIALS, POSITIONS = 45, 9  # labelled trials of a person in runs 4, 8 and 12, and windows of a trial


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of what `run` does; on tensors of the meta device, which have shapes but no numbers."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def wgan_operations(config: WganConfig, n: int = 2) -> dict[str, float]:
    """Operations per image of G, of D, of the gradient of D(G(z)), of a critic step and of a generator step."""
    with torch.device("meta"):
        G, D = Generator(config.image_size, config.nz, config.ngf), Critic(config.image_size, config.ndf)
        z, alpha = torch.empty(n, config.nz), torch.empty(n)
        x = torch.empty(n, 3, config.image_size, config.image_size)
    with torch.no_grad():
        parts = {"G(z)": operations(lambda: G(z)), "D(x)": operations(lambda: D(x))}
        fake = G(z)
    critic = operations(lambda: critic_step_gradients(D, x, fake, alpha, gp_scale=config.gp_scale))
    leaf = z.clone().requires_grad_(True)
    # backward, since the counter cannot follow torch.autograd.grad to a leaf; without weight gradients, as in MALA
    for network in (G.eval(), D):
        network.requires_grad_(False)
    gradient = operations(lambda: D(G(leaf)).sum().backward())
    G.train().requires_grad_(True)
    generator = operations(lambda: loss_G(D(G(z))).backward())  # D stays frozen, as in generator_step_gradients
    parts |= {"gradient of D(G(z))": gradient, "critic step": critic + parts["G(z)"], "generator step": generator}
    return {name: count / n for name, count in parts.items()}


def inception_operations() -> int:
    """Operations of torch-fidelity's Inception for one image; it enlarges images of any size to 299 pixels."""
    network = build_inception(random_inception_state()).to("meta")
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8, device="meta")
    with torch.no_grad():
        return operations(lambda: network(image))


def eeg_operations(config: EegTransformerConfig, n: int = 4) -> float:
    """Operations of training the EEG Transformer on one window: forward and backward."""
    network = build_network(config, 64).to("meta")
    x = torch.empty(n, 64, config.window, device="meta")
    return operations(lambda: network(x).sum().backward()) / n


def contrast_operations(config: EegSimclrConfig, n: int = 8) -> float:
    """Operations of pre-training on one channel pair: two views, encoder and projector, forward and backward; the loss
    left out.
    """
    encoder, projector = build_encoder(config).to("meta"), build_projector(config).to("meta")
    x = torch.empty(n, config.window, device="meta")
    return 2 * operations(lambda: projector(encoder(x)).sum().backward()) / n


def whole(
    wgan: WganConfig, isir: IsirFidConfig, eeg: EegTransformerConfig, contrast: dict[str, EegSimclrConfig]
) -> dict[str, tuple[float, str]]:
    """{part of the exercise: (operations in all, how they come about)}."""
    parts, inception = wgan_operations(wgan), inception_operations()
    giga = {name: f"{count / 1e9:.2f}" for name, count in parts.items()}
    step = wgan.batch_size * (wgan.n_dis * parts["critic step"] + parts["generator step"])
    image, gradient = parts["G(z)"] + parts["D(x)"], parts["gradient of D(G(z))"]
    measured = parts["G(z)"] + inception
    particles = isir.n_iterations * isir.n_particles * image
    langevin = isir.n_iterations * isir.mala_steps * gradient
    ratio = isir.n_iterations * isir.n_particles * parts["G(z)"]  # the density ratio itself is next to nothing
    per_sampler = {"calibrated": ratio, "importance": particles, "density": particles}
    per_sampler |= {"ex2mcmc": particles + langevin, "mala": langevin}
    samplers = sum(per_sampler[name] + measured for name in isir.samplers)
    swept = sum(isir.n_iterations * n * parts["G(z)"] for n in isir.sweep_particles if n != isir.n_particles)
    swept += ratio * (1 + len(isir.sweep_beta))
    windows = (99 - sum(subject <= 99 for subject in KNOWN_BAD)) * TRIALS * POSITIONS
    share = (1 - 1 / eeg.n_folds) * (1 - eeg.validation_share)
    per_window = eeg_operations(eeg)
    pair = {preset: contrast_operations(config) for preset, config in contrast.items()}
    return {
        "wgan": (
            wgan.steps * step,
            f"{wgan.steps:,} steps x {wgan.batch_size} images x "
            f"({wgan.n_dis} x {giga['critic step']} + {giga['generator step']}) GFLOP",
        ),
        "fid": (
            isir.n_images * (parts["G(z)"] + inception) + isir.n_reference * inception,
            f"{isir.n_images:,} x ({giga['G(z)']} + {inception / 1e9:.2f}) + {isir.n_reference:,} x "
            f"{inception / 1e9:.2f} GFLOP",
        ),
        "isir_fid, one sampler (importance)": (
            isir.n_images * (particles + measured),
            f"{isir.n_images:,} x ({isir.n_iterations} x {isir.n_particles} x ({giga['G(z)']} + {giga['D(x)']}) + "
            f"{giga['G(z)']} + {inception / 1e9:.2f}) GFLOP",
        ),
        "isir_fid, all samplers and sweeps": (
            isir.n_images * samplers + isir.n_sweep * swept,
            f"{isir.n_images:,} x {samplers / 1e9:.0f} + {isir.n_sweep:,} x {swept / 1e9:.0f} GFLOP",
        ),
        "eeg_transformer, at most": (
            eeg.n_folds * eeg.epochs * share * windows * per_window,
            f"{eeg.n_folds} folds x {eeg.epochs} epochs x {share:.2f} x {windows:,} windows x {per_window / 1e9:.4f} "
            "GFLOP",
        ),
        **{
            f"eeg_simclr, preset={preset}: pre-training on a million channel pairs": (
                1e6 * count,
                f"1,000,000 x {count / 1e9:.3f} GFLOP",
            )
            for preset, count in pair.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teraflops", default="10,30,60", help="sustained speeds to assume, in TFLOP/s")
    parser.add_argument("--per_hour", type=float, help="price of a GPU hour, to add a column of costs")
    args = parser.parse_args()
    speeds = [float(speed) for speed in args.teraflops.split(",")]

    found = whole(
        preset_config(WganConfig, WGAN_PRESETS, "celeba"),
        preset_config(IsirFidConfig, ISIR_PRESETS, "celeba"),
        preset_config(EegTransformerConfig, EEG_PRESETS, "physionet"),
        {preset: preset_config(EegSimclrConfig, SIMCLR_PRESETS, preset) for preset in ("physionet", "drawn")},
    )
    header = ["part", "operations, PFLOP", *(f"hours at {speed:g} TFLOP/s" for speed in speeds)]
    if args.per_hour is not None:
        header += [f"price at {speed:g} TFLOP/s" for speed in speeds]
    print("| " + " | ".join([*header, "counted as"]) + " |")
    print("|---" * (len(header) + 1) + "|")
    for name, (count, derivation) in found.items():
        hours = [count / (speed * 1e12) / 3600 for speed in speeds]
        prices = [] if args.per_hour is None else [f"{hour * args.per_hour:.2f}" for hour in hours]
        print(
            "| " + " | ".join([name, f"{count / 1e15:,.3g}", *(f"{h:.2g}" for h in hours), *prices, derivation]) + " |"
        )
    conditions = {"teraflops": speeds, "per_hour": args.per_hour, "torch": torch.__version__}
    counts = {name: count for name, (count, _) in found.items()}
    print(json.dumps({"name": "cost", "ratios": {}, "spread": {}, "operations": counts, "conditions": conditions}))


if __name__ == "__main__":
    main()

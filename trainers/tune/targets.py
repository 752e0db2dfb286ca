"""What `tune` can tune: for each trainer its space, what is judged on which validation data, and the small budget of a
trial.

Nothing here trains: a trial is a run of the trainer's own code, with a config and a `StudyTrial`.
"""

import importlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import InputError
from evaluation.features import Extractor, extract
from evaluation.frechet import Gaussian, frechet_distance, squared_mmd
from evaluation.images import to_uint8
from tracking.run import AnyRun
from tracking.silent_run import SilentRun
from training.config import as_params, build_config
from training.trial import StudyTrial

Measure = Callable[[nn.Module, Tensor], Mapping[str, float]]

GENERATED = 512
"""Images that a generator is judged by; their latent codes are the same in all trials."""

LATENCY_ROUNDS = 25


@dataclass(frozen=True)
class Target:
    """A trainer that can be tuned.

    config, run: names in the trainer's module. objectives: {name: direction}, of which `default` are searched for.
    horizon: the field that ends a training, in the unit of the steps reported. searching: settings of every trial;
    always: of all runs of a study; quick: what the preset quick adds to both; quick_final: and to the last, longer
    training alone; quick_space: dimensions of the search that quick narrows.
    """

    name: str
    config: str
    run: str
    objectives: Mapping[str, str]
    default: tuple[str, ...]
    horizon: str
    searching: Mapping[str, Any]
    always: Mapping[str, Any]
    quick: Mapping[str, Any]
    quick_final: Mapping[str, Any]
    quick_space: Mapping[str, str] = field(default_factory=dict)

    @property
    def module(self) -> Any:
        """The trainer."""
        return importlib.import_module(f"trainers.{self.name}.run")

    def space(self, preset: str) -> Mapping[str, str]:
        """The search space that the trainer declares; less of it for the preset quick."""
        return {**self.module.SPACE, **(self.quick_space if preset == "quick" else {})}

    def build(self, preset: str, values: Mapping[str, Any]) -> Any:
        """The trainer's config: its preset, overridden by the study's settings and `values`."""
        if preset not in self.module.PRESETS:
            raise InputError(f"preset: target={self.name} has {', '.join(self.module.PRESETS)}, not {preset}")
        known = {field.name for field in fields(self.config_class)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(
                f"{self.name} has no parameter {', '.join(unknown)}; its own are {', '.join(sorted(known))}"
            )
        quick = self.quick if preset == "quick" else {}
        return build_config(
            self.config_class, {**self.module.PRESETS[preset], "preset": preset, **self.always, **quick, **values}
        )

    @property
    def config_class(self) -> type:
        """The trainer's config class."""
        return getattr(self.module, self.config)

    def train(self, config: Any, study_trial: StudyTrial) -> int:
        """Run the trainer; its exit status."""
        return int(getattr(self.module, self.run)(config, study_trial))

    def by_hand(self, config: Any) -> tuple[str, Any]:
        """(trainer, config) of the same network outside a study: efficient_attention by itself registers the exact
        mechanism.
        """
        if self.name != "efficient_attention":
            return self.name, config
        from trainers.efficient_attention.config import transformer_config

        return "eeg_transformer", transformer_config(config, config.mechanisms[0])

    def command(self, config: Any) -> str:
        """The command that trains this config again."""
        name, config = self.by_hand(config)
        presets = importlib.import_module(f"trainers.{name}.run").PRESETS
        preset: Any = build_config(type(config), {**presets[config.preset], "preset": config.preset})
        elsewhere = {"preset", "output_dir", "cache_dir", "run_name", "resume"}
        before = as_params(preset)
        changed = {k: v for k, v in as_params(config).items() if k not in elsewhere and v != before[k]}
        options = "".join(f" --{option} {_as_option(value)}" for option, value in changed.items())
        return f"python -m trainers.{name} --preset {config.preset}{options}"


def _as_option(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "none"
    return str(value)


EEG_OBJECTIVES = {"log_loss": "minimize", "accuracy": "maximize", "latency_ms": "minimize"}
EEG_TRIAL = {"baselines": False, "leakage_check": False}
# One group of people is held out to the end. A third of the others choose: one person alone would be a coin toss.
EEG_ALWAYS = {"run_folds": 1, "validation_share": 0.34}
# More people, and longer, than efficient_attention's own preset: with fewer no network gets beyond chance, and there is
# nothing to choose. The comparison over lengths is small, the tasks beside the EEG are left out.
SMALL_COMPARISON = {
    "subjects": "1-9",
    "n_folds": 3,
    "epochs": 12,
    "lengths": (39, 160, 512, 1024),
    "memory": False,
    "recall_pairs": (),
    "label_patches": (),
}

TARGETS = {
    "wgan": Target(
        "wgan",
        "WganConfig",
        "run_wgan",
        {"kernel_distance": "minimize", "frechet_distance": "minimize"},
        ("kernel_distance",),
        "steps",
        {},
        {"validation_share": 0.2},
        {"ngf": 16, "ndf": 16, "batch_size": 16, "steps": 250},
        {"steps": 400},
    ),
    # By accuracy, as its training chooses weights: a network that knows nothing has a lower log-loss than one that is
    # too sure.
    "eeg_transformer": Target(
        "eeg_transformer",
        "EegTransformerConfig",
        "run_eeg_transformer",
        EEG_OBJECTIVES,
        ("accuracy",),
        "epochs",
        EEG_TRIAL,
        {**EEG_ALWAYS, "network": "windows"},
        {},
        {"baselines": False},
    ),
    "eeg_simclr": Target(
        "eeg_simclr",
        "EegSimclrConfig",
        "run_eeg_simclr",
        EEG_OBJECTIVES,
        ("log_loss",),
        "pretrain_epochs",
        EEG_TRIAL,
        {**EEG_ALWAYS, "tau_sweep": (), "label_fractions": (1.0,)},
        {"pretrain_epochs": 4},
        {"pretrain_epochs": 8, "baselines": False},
    ),
    "efficient_attention": Target(
        "efficient_attention",
        "EfficientAttentionConfig",
        "run_efficient_attention",
        EEG_OBJECTIVES,
        ("accuracy", "latency_ms"),
        "epochs",
        EEG_TRIAL,
        EEG_ALWAYS,
        SMALL_COMPARISON,
        {},
        {"d_model": "32|64", "n_layers": "1..2", "patch_len": "16|32", "patch_stride": "4|8"},
    ),
}


# ------------------------------------------------------------------------------------------------------------------
# measures


def measure_of(target: Target, config: Any, objectives: tuple[str, ...], run: AnyRun, features: str | None) -> Measure:
    """What a trial's network is measured by on validation data, besides what its trainer reports itself."""
    if target.name != "wgan":
        return latency if "latency_ms" in objectives else lambda network, example: {}
    return _distance_to(validation_pixels(config), config, objectives, run, features)


def check_measurable(target: Target, config: Any) -> None:
    """Refuse, before anything is trained, what has no validation data of its own."""
    if target.name == "wgan":
        if config.dataset != "celeba" and config.validation_share == 0:
            raise InputError("fixed: validation_share=0 leaves no images to choose by; give a share above 0")
        if config.split != "train":
            raise InputError(f"fixed: split={config.split} may hold test images; a study trains on split=train")
    elif config.split != "cross_subject":
        raise InputError(f"fixed: split={config.split}; a study holds people out, so it needs split=cross_subject")
    if config.nproc != 1:
        raise InputError(f"fixed: nproc={config.nproc}; a trial is one process, give n_workers instead")


def validation_pixels(config: Any) -> np.ndarray:
    """The images [n, 3, S, S] that choices are made on: CelebA's own partition, else the share kept from training."""
    from data.images.load import divide, load_images

    split = "valid" if config.dataset == "celeba" else config.split
    images = load_images(
        config.dataset, config.image_size, split, config.data_dir, config.cache_dir, config.on_bad, progress=False
    )
    if split == "valid":
        return images.pixels
    validation = divide(images, config.validation_share)[1]
    assert validation is not None
    return validation.pixels


def measure_test(
    target: Target, config: Any, objectives: tuple[str, ...], run: AnyRun, features: str | None
) -> Measure:
    """The same as `measure_of` on the test images, for the last run alone; EEG trainers test by themselves."""
    from data.images.load import load_images

    if target.name != "wgan" or (config.dataset == "folder" and not (Path(config.data_dir) / "test").is_dir()):
        return lambda network, example: {}
    test = load_images(
        config.dataset, config.image_size, "test", config.data_dir, config.cache_dir, config.on_bad, progress=False
    )
    return _distance_to(test.pixels, config, objectives, run, features)


def wgan_extractor(config: Any, run: AnyRun, features: str | None) -> Extractor:
    """The feature network: the digits' own, Inception for other images, or what `features` names."""
    from training.generators.config import MeasureConfig
    from training.generators.measuring import build_extractor
    from training.processes import join_processes

    name = features or ("digits" if config.dataset == "digits" else "inception")
    return build_extractor(
        MeasureConfig(features=name, cache_dir=config.cache_dir), run, join_processes(config.device).device
    )


def _distance_to(
    pixels: np.ndarray, config: Any, objectives: tuple[str, ...], run: AnyRun, features: str | None
) -> Measure:
    """Kernel and Fréchet distance (those that are objectives) of a generator's images from `pixels`."""
    extractor = wgan_extractor(config, run, features)
    chosen = np.linspace(0, len(pixels) - 1, min(len(pixels), 5000)).astype(int)
    real = extract(
        extractor, (torch.from_numpy(np.array(pixels[i])) for i in np.array_split(chosen, max(1, len(chosen) // 100)))
    )
    gaussian = Gaussian.of(real.moments) if "frechet_distance" in objectives else None

    @torch.no_grad()
    def measure(network: nn.Module, example: Tensor) -> dict[str, float]:
        was_training = network.training
        network.eval()
        z = torch.randn(
            max(GENERATED, 2 * extractor.dim if gaussian else 0),
            example.shape[1],
            generator=torch.Generator().manual_seed(1),
        )
        fake = extract(extractor, (to_uint8(network(part.to(example.device))) for part in z.split(64)))
        network.train(was_training)
        values = {}
        if "kernel_distance" in objectives:
            # Of all images at once rather than of blocks: unbiased too, and with less variance.
            values["kernel_distance"] = squared_mmd(fake.x.double(), real.x.double())
        if gaussian is not None:
            values["frechet_distance"] = frechet_distance(Gaussian.of(fake.moments), gaussian)
        return values

    return measure


@torch.no_grad()
def latency(network: nn.Module, example: Tensor) -> dict[str, float]:
    """Milliseconds of one window through the network: CPU time of one thread, which other workers disturb little; or
    the GPU's.

    The lower quartile of LATENCY_ROUNDS passes in eval mode.
    """
    was_training, threads = network.training, torch.get_num_threads()
    network.eval()
    x = example[:1].to(next(network.parameters()).device)  # windows may lie on the CPU where the network does not
    torch.set_num_threads(1)
    try:
        taken = []
        for _ in range(LATENCY_ROUNDS):
            if x.is_cuda:
                torch.cuda.synchronize()
            began = time.perf_counter() if x.is_cuda else time.thread_time()
            network(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            taken.append((time.perf_counter() if x.is_cuda else time.thread_time()) - began)
    finally:
        torch.set_num_threads(threads)
        network.train(was_training)
    return {"latency_ms": 1000 * statistics.quantiles(taken, n=4)[0]}


def prepare(target: Target, config: Any, run: AnyRun, features: str | None) -> None:
    """What all workers need and only one should make: the registered feature network."""
    if target.name == "wgan":
        wgan_extractor(config, run, features)


NOWHERE = SilentRun()
"""A run to give to a worker's feature network: the leader's has registered it."""

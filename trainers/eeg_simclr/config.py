"""The parameters of `eeg_simclr`, and their presets."""

from dataclasses import replace
from typing import Any, Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from models.eeg.augment import NAMES, AugmentRanges
from training.config import CONFIG, Floats, Integers, OptionalStr, Strings, option, with_default
from training.eeg.config import OF_WINDOWS, QUICK, EegConfig

OWN = "simclr"
"""What results, metrics and figures call the pre-trained, fine-tuned classifier."""


@dataclass(frozen=True, config=CONFIG)
class EegSimclrConfig(EegConfig):
    """Pre-train an encoder by contrast, without labels, and see if that helps to classify imagined fist movement."""

    preset: Literal["quick", "physionet", "drawn"] = option(  # type: ignore[assignment]
        "physionet",
        "quick: simulated subjects, minutes on two CPU cores; physionet: 96 people of EEGMMI, downloaded; drawn: the "
        "same with the networks and settings of Mohsenvand et al. in full size",
        changeable=True,
    )
    pretext: Literal["neighbour", "channel"] = option(
        "neighbour",
        "neighbour: neighbouring slices after the cue against those before it, over all channels; channel: views of "
        "single channels (Mohsenvand et al.), to which the sizes, pre-training and augmentations of this list apply",
    )
    labelled_trials: Integers = option(
        (4, 12, 22, 50, 100), "pretext=neighbour: numbers of labelled trials to learn from, even; all of them is added"
    )
    n_draws: int = option(5, "pretext=neighbour: draws of each number of labelled trials", ge=1)
    # Networks
    channels: Literal["all", "motor"] = option(
        "all", "channels to classify by: all 64, or the 21 of rows FC, C and CP; pre-training draws from all"
    )
    encoder: Literal["recurrent", "convolutional"] = option("convolutional", "encoder (A) or (B) of Mohsenvand et al.")
    width: float = option(0.25, "scale of the drawn encoder's widths; 1: as drawn", gt=0)
    kernels: Integers = option(
        (64, 32, 16, 32), "kernel lengths of encoder=convolutional: three branches, blocks (drawn: 128,64,16,64)"
    )
    n_features: int = option(4, "features of a channel (drawn: 4)", ge=1)
    decimate: int = option(
        1, "decimation of the encoder's input; loses nothing while h_freq is below half the reduced rate", ge=1
    )
    head_width: float = option(0.25, "scale of the drawn projector's and classifier's widths; 1: as drawn", gt=0)
    head_pool: int = option(
        40,
        "samples averaged before the classifier's head; neighbouring averages overlap by half; 1: as drawn",
        ge=1,
    )
    projection_dim: int = option(32, "dimension of the projection for the contrastive loss (drawn: 32)", ge=2)
    # Pre-training
    pretrain_epochs: int = option(100, "passes of the pre-training over the training windows", ge=1, changeable=True)
    pretrain_batch: int = option(1024, "channel pairs in a batch of the pre-training, over all processes", ge=2)
    channels_per_window: int = option(2, "recombined channels drawn from each window", ge=1)
    pretrain_lr: float = option(0.001, "AdamW's learning rate in pre-training, after warm-up", gt=0, changeable=True)
    pretrain_weight_decay: float = option(0.0001, "AdamW's weight decay in pre-training", ge=0, changeable=True)
    tau: float = option(0.05, "temperature of NT-Xent", gt=0)
    mask_same_trial: bool = option(True, "exclude channels of the same trial from each other's negatives")
    unlabelled_runs: OptionalStr = option(
        "1-14", "runs that pretext=channel pre-trains on beside the labelled trials, or none"
    )
    # Augmentations
    augmentations: Strings = option(NAMES, f"augmentations that make the views: some of {', '.join(NAMES)}")
    n_augmentations: int = option(2, "augmentations drawn for each view of each channel", ge=1)
    amplitude: Floats = option((0.5, 2.0), "scale factor, from and to")
    time_shift: int = option(40, "shift in samples, at most, either way", ge=0)
    dc_shift: float = option(0.5, "offset in standard deviations, at most, up or down", ge=0)
    zero_mask: Integers = option((0, 24), "masked samples, from and to")
    noise: Floats = option((0.0, 0.2), "standard deviation of Gaussian noise, from and to")
    band_stop: Floats = option((9.5, 27.5), "centre of the stopped band in Hz, from and to")
    band_width: float = option(5.0, "width of the stopped band in Hz", gt=0)
    # What it is compared over
    label_fractions: Floats = option((0.01, 0.1, 0.5, 1.0), "shares of the labelled trials to train on")
    tau_sweep: Floats = option((0.05, 0.1, 0.5), "temperatures to pre-train the first fold with, or none")
    # Classifiers
    frozen_epochs: int = option(
        60, "epochs of the head on the frozen encoder, whose features are computed only once", ge=1, changeable=True
    )
    updates_per_epoch: int = with_default(EegConfig, "updates_per_epoch", 25)

    @model_validator(mode="after")
    def _values_agree(self) -> "EegSimclrConfig":
        if any(n < 2 or n % 2 for n in self.labelled_trials):
            raise ValueError(
                f"labelled_trials={self.labelled_trials}: give even numbers of at least 2, half of each class"
            )
        for name in ("amplitude", "zero_mask", "noise", "band_stop"):
            if len(getattr(self, name)) != 2:
                raise ValueError(f"{name}: give two numbers, from and to, such as 0,1")
        if len(self.kernels) != 4 or min(self.kernels) < 1:
            raise ValueError(f"kernels={self.kernels}: give four numbers of at least 1")
        unknown = [name for name in self.augmentations if name not in NAMES]
        if unknown or not 1 <= self.n_augmentations <= len(self.augmentations):
            raise ValueError(
                f"augmentations: {', '.join(unknown) or 'n_augmentations=' + str(self.n_augmentations)}; allowed are "
                f"{', '.join(NAMES)}, and at least as many as n_augmentations"
            )
        augment_ranges(self, self.sfreq)
        lower = self.sfreq / self.decimate
        if lower / 2 <= self.h_freq:
            raise ValueError(
                f"decimate={self.decimate}: at {lower:g} Hz, frequencies from {lower / 2:g} Hz on are aliased, but "
                f"h_freq={self.h_freq:g}; give a smaller decimate or h_freq"
            )
        if self.head_pool > self.window:
            raise ValueError(f"head_pool={self.head_pool} is longer than the window of {self.window} samples")
        least = max(2, self.nproc)
        if self.pretrain_batch // self.channels_per_window < least:
            raise ValueError(
                f"pretrain_batch={self.pretrain_batch}: it must hold {least} windows or more of "
                f"channels_per_window={self.channels_per_window} channels each (two, and one for each of "
                f"nproc={self.nproc} processes); give at least {least * self.channels_per_window}"
            )
        if not all(0 < share <= 1 for share in self.label_fractions):
            raise ValueError(f"label_fractions={self.label_fractions}: give shares above 0 and at most 1")
        if not all(tau > 0 for tau in self.tau_sweep):
            raise ValueError(f"tau_sweep={self.tau_sweep}: give temperatures above 0")
        shortest = -(-self.window // self.decimate)
        if self.encoder == "convolutional" and max(self.kernels) // 2 >= shortest:
            raise ValueError(
                f"kernels: {max(self.kernels)} samples are too many for reflection padding of a window of {shortest} "
                "(window / decimate)"
            )
        if self.pretext == "neighbour" and self.nproc > 1:
            raise ValueError(f"nproc={self.nproc}: pretext=neighbour trains in one process; give pretext=channel too")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        **QUICK,
        "subjects": "1-24",
        "epochs": 3,
        "patience": 3,
        "batch_size": 32,
        "frozen_epochs": 10,
        "lr": 0.003,
        "channels": "motor",
        "width": 0.03,
        "kernels": (16, 8, 4, 8),
        "decimate": 2,
        "head_width": 0.06,
        "pretrain_epochs": 6,
        "pretrain_batch": 128,
        "pretrain_lr": 0.003,
        "unlabelled_runs": None,
        "tau_sweep": (0.05, 0.2, 0.5),
    },
    "physionet": {},
    "drawn": {
        "pretext": "channel",
        "width": 1.0,
        "kernels": (128, 64, 16, 64),
        "head_width": 1.0,
        "head_pool": 1,
        "pretrain_epochs": 300,
        "pretrain_batch": 1000,
    },
}


OF_PRETEXT = {
    "channel": (
        *OF_WINDOWS,
        "channels",
        "encoder",
        "width",
        "kernels",
        "n_features",
        "decimate",
        "head_width",
        "head_pool",
        "projection_dim",
        "pretrain_epochs",
        "pretrain_batch",
        "channels_per_window",
        "pretrain_lr",
        "pretrain_weight_decay",
        "tau",
        "mask_same_trial",
        "unlabelled_runs",
        "augmentations",
        "n_augmentations",
        "amplitude",
        "time_shift",
        "dc_shift",
        "zero_mask",
        "noise",
        "band_stop",
        "band_width",
        "label_fractions",
        "tau_sweep",
        "frozen_epochs",
    ),
    "neighbour": ("labelled_trials", "n_draws"),
}
"""Fields that one choice of `pretext` alone uses."""


def frozen_fit(config: EegSimclrConfig) -> EegSimclrConfig:
    """How the head on a frozen encoder is trained: for `frozen_epochs`, all of them, since the first ones may find
    nothing.
    """
    return replace(config, epochs=config.frozen_epochs, patience=config.frozen_epochs)


def augment_ranges(config: EegSimclrConfig, sfreq: float) -> AugmentRanges:
    low_mask, high_mask = config.zero_mask
    amplitude, noise, band_stop = ((low, high) for low, high in (config.amplitude, config.noise, config.band_stop))
    return AugmentRanges(
        amplitude,
        config.time_shift,
        dc_shift=config.dc_shift,
        zero_mask=(low_mask, high_mask),
        noise=noise,
        band_stop=band_stop,
        band_width=config.band_width,
        sfreq=sfreq,
    )

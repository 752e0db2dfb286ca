"""The parameters of `efficient_attention`."""

from dataclasses import fields
from typing import Any

import torch
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from data.eeg.physionet import N_RUNS, parse_numbers
from models.attention.spec import MECHANISMS
from trainers.eeg_transformer.config import EegTransformerConfig, build_network
from trainers.efficient_attention.scaling import (
    EXACT,
)
from training.config import CONFIG, Integers, Strings, option
from training.eeg.config import PHYSIONET

SAME = "softmax"
"""The exact function once more, written out: its time and memory are measured, but it is not trained again."""


@dataclass(frozen=True, config=CONFIG)
class EfficientAttentionConfig(EegTransformerConfig):
    """Compare attention mechanisms: accuracy of the same EEG model, and time, memory and error over the length of the
    sequence.
    """

    mechanisms: Strings = option(
        ("softmax", "linear", "favor", "linformer", "nystrom", "local", "none"),
        "mechanisms to compare with sdpa, separated by commas: any of "
        f"{', '.join(m for m in MECHANISMS if m != EXACT)}",
    )
    lengths: Integers = option((5, 19, 39, 160, 512, 1024, 4096, 16384), "lengths of sequence, in tokens")
    rounds: int = option(3, "timings of each mechanism at each length", ge=1)
    memory: bool = option(
        True, "measure peak memory, a fresh process for each mechanism and length from 1,024 on (CPU)"
    )
    # Long slices that overlap: as many tokens as short ones would give, whose power is less of a guess
    patch_stride: int = option(3, "samples between the starts of neighbouring tokens", ge=1)
    subjects: str = option("1-16", "subjects, as 1,3,7-20")
    n_folds: int = option(2, "groups of subjects held out in turn; 0: one subject at a time", ge=0)
    epochs: int = option(6, "passes over the training windows at most", ge=1)
    lr: float = option(0.002, "AdamW's learning rate after warm-up", gt=0)
    baselines: bool = option(False, "CSP + LDA, tangent space + logistic regression and EEGNet on the same folds")
    leakage_check: bool = option(False, "train once more on labels shuffled by trial: it must end at chance")

    recall_pairs: Integers = option(
        (16, 64), "associative recall: pairs in a sequence of twice as many tokens; none: no recall"
    )
    recall_steps: int = option(400, "associative recall: updates of each mechanism", ge=1)
    label_patches: Integers = option(
        (160, 40, 8),
        "labelling whole recordings: samples of a token, longest first; none: no labelling, no streaming",
    )
    label_mechanisms: Strings = option(("sdpa", "linear", "local", "none"), "labelling: mechanisms to compare")
    label_epochs: int = option(40, "labelling: passes over the training recordings", ge=1)
    label_subjects: int = option(6, "labelling: how many of the subjects, at most", ge=1)
    label_exact_tokens: int = option(
        1000, "labelling: longest sequence that mechanisms of quadratic time are trained on", ge=1
    )
    stream_patch: int = option(8, "streaming: samples of a token", ge=1)
    stream_piece: int = option(16, "streaming: samples that come in at a time", ge=1)
    stream_seconds: int = option(300, "streaming: length of the signal, from one recording repeated", ge=1)

    @model_validator(mode="after")
    def _mechanisms_known(self) -> "EfficientAttentionConfig":
        for field in ("mechanisms", "label_mechanisms"):
            names = getattr(self, field)
            unknown = [name for name in names if name not in MECHANISMS]
            if unknown or not names:
                raise ValueError(f"{field}: {', '.join(unknown) or 'none given'}; allowed are {', '.join(MECHANISMS)}")
        if self.attention != EXACT:
            raise ValueError(
                f"attention={self.attention!r}: the exact one, {EXACT}, is what mechanisms are compared with; name "
                "them there"
            )
        if not self.lengths or min(self.lengths) < 2:
            raise ValueError(f"lengths={self.lengths}: at least one, of at least 2 tokens")
        if list(self.lengths) != sorted(set(self.lengths)):  # a mechanism that took too long is not tried at later ones
            raise ValueError(f"lengths={self.lengths}: each once, ascending, as 39,512,4096")
        for field in ("recall_pairs", "label_patches"):
            if min(getattr(self, field), default=1) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: at least 1")
        if self.label_patches and len(parse_numbers(self.runs, "runs", N_RUNS)) < 2:
            raise ValueError(
                f"runs={self.runs}: labelling trains on some runs and tests on the last; give two, or "
                "label_patches=none"
            )
        with torch.device("meta"):  # builds nothing, but checks the sizes of every mechanism
            for name in self.mechanisms:
                build_network(self, 64, name)
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {},
    "physionet": {
        **PHYSIONET,
        "mechanisms": tuple(m for m in MECHANISMS if m != EXACT),
        "lengths": (5, 19, 39, 160, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536),
        "recall_pairs": (16, 64, 256),
        "recall_steps": 2000,
        "label_patches": (160, 40, 8, 4, 1),
        "label_epochs": 60,
        "label_subjects": 99,
        "label_mechanisms": ("sdpa", "linear", "favor", "linformer", "nystrom", "local", "none"),
        "label_exact_tokens": 20000,
        "stream_seconds": 3600,
    },
}


def transformer_config(config: EegTransformerConfig, mechanism: str) -> EegTransformerConfig:
    """What `eeg_transformer` takes to train the network that is trained here with `mechanism`."""
    shared = {field.name: getattr(config, field.name) for field in fields(EegTransformerConfig)}
    return EegTransformerConfig(**{**shared, "attention": mechanism})

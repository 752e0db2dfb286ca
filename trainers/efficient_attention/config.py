"""The parameters of `efficient_attention`."""

from dataclasses import fields
from typing import Any, Literal

import torch
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from data.eeg.physionet import N_RUNS, parse_numbers
from data.eeg.sources import is_own
from models.attention.spec import MECHANISMS
from trainers.eeg_transformer.config import EegTransformerConfig, TransformerConfig, build_with_attention
from trainers.efficient_attention.scaling import EXACT
from training.config import CONFIG, Integers, Strings, option, with_default
from training.eeg.config import QUICK, EegConfig

SAME = "softmax"
"""The exact function once more, written out: its time and memory are measured, but it is not trained again."""

STREAMING = ("linear", "favor", "delta", "gated_delta", "ssd")
"""Mechanisms that need no more of the past than a state of fixed size (cosformer would need a length, too)."""


@dataclass(frozen=True, config=CONFIG)
class EfficientAttentionConfig(TransformerConfig):
    """Compare attention mechanisms: accuracy of the same EEG model, and time, memory and error over the length of the
    sequence.
    """

    mechanisms: Strings = option(
        tuple(m for m in MECHANISMS if m != EXACT),
        "mechanisms to compare with sdpa, separated by commas",
        changeable=True,
    )
    lengths: Integers = option(
        (5, 19, 39, 160, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536),
        "lengths of sequence, in tokens",
        changeable=True,
    )
    rounds: int = option(3, "timings of each mechanism at each length", ge=1, changeable=True)
    memory: bool = option(
        True,
        "measure peak memory, in a new process for each mechanism and length of 1,024 or more (CPU)",
        changeable=True,
    )
    recall_pairs: Integers = option(
        (16, 64, 256),
        "associative recall: pairs in a sequence of twice as many tokens; none: no recall",
        changeable=True,
    )
    recall_steps: int = option(2000, "associative recall: updates of each mechanism", ge=1, changeable=True)
    label_patches: Integers = option(
        (160, 40, 8, 4, 1),
        "labelling whole recordings: samples of a token, longest first; none: no labelling, no streaming",
        changeable=True,
    )
    label_mechanisms: Strings = option(
        ("sdpa", "linear", "favor", "delta", "linformer", "nystrom", "local", "none"),
        "labelling: mechanisms to compare",
        changeable=True,
    )
    label_epochs: int = option(60, "labelling: passes over the training recordings", ge=1, changeable=True)
    label_subjects: int = option(99, "labelling: number of subjects, at most", ge=1, changeable=True)
    label_exact_tokens: int = option(
        20000, "labelling: longest sequence for mechanisms that take quadratic time", ge=1, changeable=True
    )
    label_test: Literal["runs", "people"] = option(
        "runs", "labelling: test on each subject's last run, or on the last third of the subjects", changeable=True
    )
    stream_mechanisms: Strings = option(
        ("linear", "delta"), f"streaming: mechanisms to compare, of {', '.join(STREAMING)}", changeable=True
    )
    stream_patch: int = option(8, "streaming: samples of a token", ge=1, changeable=True)
    stream_piece: int = option(16, "streaming: samples that arrive at a time", ge=1, changeable=True)
    stream_seconds: int = option(3600, "streaming: length of the signal, one recording repeated", ge=1, changeable=True)
    # Long slices that overlap: as many tokens as short ones would give, with better estimates of their power
    patch_stride: int = with_default(TransformerConfig, "patch_stride", 3)
    d_model: int = with_default(TransformerConfig, "d_model", 32)
    n_layers: int = with_default(TransformerConfig, "n_layers", 1)
    d_ff: int = with_default(TransformerConfig, "d_ff", 64)
    n_filters: int = with_default(TransformerConfig, "n_filters", 16)
    validation_share: float = with_default(EegConfig, "validation_share", 0.25)
    batch_size: int = with_default(EegConfig, "batch_size", 32)
    lr: float = with_default(EegConfig, "lr", 0.002)
    weight_decay: float = with_default(EegConfig, "weight_decay", 0.3)
    baselines: bool = with_default(EegConfig, "baselines", False)
    leakage_check: bool = with_default(EegConfig, "leakage_check", False)

    @model_validator(mode="after")
    def _mechanisms_known(self) -> "EfficientAttentionConfig":
        for field in ("mechanisms", "label_mechanisms", "stream_mechanisms"):
            names, allowed = getattr(self, field), STREAMING if field == "stream_mechanisms" else MECHANISMS
            unknown = [name for name in names if name not in allowed]
            if unknown or not names:
                raise ValueError(f"{field}: {', '.join(unknown) or 'none given'}; allowed are {', '.join(allowed)}")
        if not self.lengths or min(self.lengths) < 2:
            raise ValueError(f"lengths={self.lengths}: at least one, of at least 2 tokens")
        if list(self.lengths) != sorted(set(self.lengths)):  # a mechanism that took too long is not tried at later ones
            raise ValueError(f"lengths={self.lengths}: each once, ascending, as 39,512,4096")
        for field in ("recall_pairs", "label_patches"):
            if min(getattr(self, field), default=1) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: at least 1")
        one_run = not is_own(self.dataset) and len(parse_numbers(self.runs, "runs", N_RUNS)) < 2
        if self.label_patches and self.label_test == "runs" and one_run:
            raise ValueError(
                f"runs={self.runs}: labelling trains on some runs and tests on the last; give two, label_test=people, "
                "or label_patches=none"
            )
        with torch.device("meta"):  # builds nothing, but checks the sizes of every mechanism
            for name in self.mechanisms:
                build_with_attention(self, 64, name)
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        **QUICK,
        "subjects": "1-16",
        "n_folds": 2,
        "epochs": 6,
        "patience": 8,
        "mechanisms": ("softmax", "linear", "favor", "delta", "linformer", "nystrom", "local", "none"),
        "lengths": (5, 19, 39, 160, 512, 1024, 4096, 16384),
        "recall_pairs": (16, 64),
        "recall_steps": 400,
        "label_patches": (160, 40, 8),
        "label_epochs": 40,
        "label_subjects": 6,
        "label_mechanisms": ("sdpa", "linear", "delta", "local", "none"),
        "label_exact_tokens": 1000,
        "stream_seconds": 300,
    },
    "physionet": {},
}


def transformer_config(config: TransformerConfig, mechanism: str) -> EegTransformerConfig:
    """The config with which `eeg_transformer` trains the network that is trained here with `mechanism`."""
    shared = {field.name: getattr(config, field.name) for field in fields(TransformerConfig)}
    return EegTransformerConfig(**shared, network="windows", attention=mechanism)

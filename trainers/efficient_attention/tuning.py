"""What `tune` searches and judges of `efficient_attention`: one mechanism at a time."""

from trainers.eeg_transformer.config import PRESETS as TRANSFORMER_PRESETS
from trainers.efficient_attention.config import PRESETS, EfficientAttentionConfig, transformer_config
from trainers.efficient_attention.run import run_efficient_attention
from training.eeg.config import presets_of
from training.eeg.tuning import (
    EVERY_RUN,
    EVERY_TRIAL,
    OBJECTIVES,
    check_recordings,
    measure_latency,
    test_metrics_of,
)
from training.tuning import ByHand, Target

SPACE = {
    "mechanisms": "sdpa|linear|cosformer|favor|delta|gated_delta|ssd|linformer|nystrom|local|fourier",
    "d_model": "32|64|128",
    "n_heads": "1|2|4|8",
    "n_layers": "1..4",
    "patch_len": "8|16|32",
    "patch_stride": "2|4|8",
}

SMALL_COMPARISON = {
    "subjects": "1-9",
    "n_folds": 3,
    "epochs": 12,
    "lengths": (39, 160, 512, 1024),
    "memory": False,
    "recall_pairs": (),
    "label_patches": (),
}
"""More people, and longer, than the trainer's own preset: with fewer no network gets beyond chance, and there is
nothing to choose. The comparison over lengths is small, the tasks beside the EEG are left out.
"""


def by_hand(config: EfficientAttentionConfig) -> ByHand:
    """By itself, efficient_attention registers the exact mechanism; eeg_transformer trains this one."""
    transformer = transformer_config(config, config.mechanisms[0])
    return ByHand("eeg_transformer", transformer, TRANSFORMER_PRESETS)


TARGET = Target(
    name="efficient_attention",
    config=EfficientAttentionConfig,
    presets=PRESETS,
    presets_of=presets_of,
    train=run_efficient_attention,
    space=SPACE,
    objectives=OBJECTIVES,
    default_objectives=("accuracy", "latency_ms"),
    horizon="epochs",
    check=check_recordings,
    every_run=EVERY_RUN,
    every_trial=EVERY_TRIAL,
    quick=SMALL_COMPARISON,
    quick_space={"d_model": "32|64", "n_layers": "1..2", "patch_len": "16|32", "patch_stride": "4|8"},
    split_seed="fold_seed",
    validation=measure_latency,
    test_metrics=lambda config: test_metrics_of(str(config.mechanisms[0])),
    by_hand=by_hand,
)

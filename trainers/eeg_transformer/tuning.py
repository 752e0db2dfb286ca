"""What `tune` searches and judges of `eeg_transformer`."""

from common.errors import InputError
from trainers.eeg_transformer.config import OWN, PRESETS, EegTransformerConfig
from trainers.eeg_transformer.run import run_eeg_transformer
from training.eeg.config import presets_of
from training.eeg.tuning import (
    EVERY_RUN,
    EVERY_TRIAL,
    OBJECTIVES,
    check_recordings,
    measure_latency,
    test_metrics_of,
)
from training.tuning import Target

SPACE = {
    "attention": "sdpa|linear|linformer|local|none",
    "d_model": "32|64|128",
    "n_heads": "1|2|4|8",
    "n_layers": "1..4",
    "patch_len": "16|20|40|80",
    "patch_stride": "8|10|20",
}


def check_tunable(config: EegTransformerConfig) -> None:
    """InputError where there is nothing to search, or a study would choose by people that it trains on."""
    if config.network != "windows":
        raise InputError(f"fixed: network={config.network} has none of the sizes to search; give network=windows")
    check_recordings(config)


TARGET = Target(
    name="eeg_transformer",
    config=EegTransformerConfig,
    presets=PRESETS,
    presets_of=presets_of,
    train=run_eeg_transformer,
    space=SPACE,
    objectives=OBJECTIVES,
    # By accuracy, as its training chooses weights: a network that knows nothing has a lower log-loss than one that is
    # too sure.
    default_objectives=("accuracy",),
    horizon="epochs",
    check=check_tunable,
    every_run={**EVERY_RUN, "network": "windows"},
    every_trial=EVERY_TRIAL,
    quick_final={"baselines": False},
    split_seed="fold_seed",
    validation=measure_latency,
    test_metrics=lambda config: test_metrics_of(OWN),
)

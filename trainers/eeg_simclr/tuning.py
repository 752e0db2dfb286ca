"""What `tune` searches and judges of `eeg_simclr`."""

from common.errors import InputError
from trainers.eeg_simclr.config import OWN, PRESETS, EegSimclrConfig
from trainers.eeg_simclr.run import run_eeg_simclr
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
    "tau": "log:0.02..1.0",
    "n_augmentations": "1|2|3|4",
    "amplitude": "0.8,1.25|0.5,2|0.25,4",
    "time_shift": "10|20|40",
    "dc_shift": "0.1..1.0",
    "zero_mask": "0,12|0,24|0,60",
    "noise": "0,0.1|0,0.2|0,0.5",
    "band_width": "2.0..10.0",
}


def check_tunable(config: EegSimclrConfig) -> None:
    """InputError where there is nothing to search, or a study would choose by people that it trains on."""
    if config.pretext != "channel":
        raise InputError(f"fixed: pretext={config.pretext} has none of the settings to search; give pretext=channel")
    check_recordings(config)


TARGET = Target(
    name="eeg_simclr",
    config=EegSimclrConfig,
    presets=PRESETS,
    presets_of=presets_of,
    train=run_eeg_simclr,
    space=SPACE,
    objectives=OBJECTIVES,
    default_objectives=("log_loss",),
    horizon="pretrain_epochs",
    check=check_tunable,
    every_run={**EVERY_RUN, "pretext": "channel", "tau_sweep": (), "label_fractions": (1.0,)},
    every_trial=EVERY_TRIAL,
    quick={"pretrain_epochs": 4},
    quick_final={"pretrain_epochs": 8, "baselines": False},
    split_seed="fold_seed",
    validation=measure_latency,
    test_metrics=lambda config: test_metrics_of(OWN),
)

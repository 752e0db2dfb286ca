"""What is said of parameters that a run does not use."""

import pytest

from trainers.eeg_simclr.config import OF_PRETEXT, EegSimclrConfig
from trainers.eeg_simclr.config import PRESETS as SIMCLR_PRESETS
from trainers.eeg_transformer.config import OF_NETWORK, PRESETS, EegTransformerConfig
from training.config import changed_fields, preset_config
from training.eeg.config import note_without_effect


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_of_the_other_network_are_named(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = preset_config(EegTransformerConfig, PRESETS, preset, d_model=16, lr=0.1, n_folds=2, attention="none")
    note_without_effect(given, PRESETS, OF_NETWORK["windows"], "network=windows")
    assert capsys.readouterr().err == "note: lr, d_model: of network=windows alone, without effect in this run\n"


@pytest.mark.parametrize("preset", SIMCLR_PRESETS)
def test_a_preset_itself_gives_no_note(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    for pretext in OF_PRETEXT:
        note_without_effect(
            preset_config(EegSimclrConfig, SIMCLR_PRESETS, preset), SIMCLR_PRESETS, OF_PRETEXT[pretext], pretext
        )
    assert capsys.readouterr().err == ""


def test_fields_of_one_choice_are_fields() -> None:
    for config_class, presets, choices in (
        (EegTransformerConfig, PRESETS, OF_NETWORK),
        (EegSimclrConfig, SIMCLR_PRESETS, OF_PRETEXT),
    ):
        for names in choices.values():
            assert len(set(names)) == len(names)
            assert changed_fields(preset_config(config_class, presets, "quick"), presets, names) == []

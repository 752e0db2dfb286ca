"""Networks that cannot learn are told."""

import pytest
import torch

from models.gan.networks import Critic, first_channels
from trainers.wgan.config import PRESETS, WganConfig, narrow_critic
from training.config import preset_config


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_has_a_critic_too_narrow_to_learn(preset: str) -> None:
    data_dir = "photos" if preset == "photos" else None
    assert narrow_critic(preset_config(WganConfig, PRESETS, preset, data_dir=data_dir)) is None


def test_a_narrow_critic_is_told_with_what_to_give() -> None:
    config = preset_config(WganConfig, PRESETS, "quick", dataset="folder", data_dir="photos", image_size=64)
    assert narrow_critic(config) == (
        "with ndf=32 at 64 pixels the critic has 2 channels in its first block, and hardly learns; give ngf=128 "
        "ndf=128, as preset=photos does"
    )


@pytest.mark.parametrize(("image_size", "ndf"), [(32, 32), (48, 64), (64, 64), (64, 1024), (128, 128)])
def test_the_channels_are_those_of_the_network(image_size: int, ndf: int) -> None:
    with torch.device("meta"):
        assert Critic(image_size, ndf).blocks[0].c1.out_channels == first_channels(image_size, ndf)

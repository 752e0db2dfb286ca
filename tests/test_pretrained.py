"""The published weights in pretrained/: whole, loadable, and of images that differ."""

from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from training.generators.published import checksums
from training.generators.stored import load_critic, load_density_ratio, load_generator

CPU = torch.device("cpu")
FOLDERS = sorted(path.parent for path in (ROOT / "pretrained").glob("*/SHA256SUMS"))


def test_there_are_some() -> None:
    assert {"digits32", "eurosat64"} <= {folder.name for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_they_load_and_belong_together(folder: Path) -> None:
    generator = load_generator(str(folder), CPU)
    z = torch.randn(16, generator.nz, generator=torch.Generator().manual_seed(0))
    images = generator.network(z)
    assert images.shape == (16, 3, generator.image_size, generator.image_size)
    assert images.abs().max() <= 1
    assert torch.pdist(images.flatten(1)).min() > 1  # no two are alike
    values = load_critic(None, generator, CPU).network(images)
    ratios = load_density_ratio(str(folder), generator, CPU).network(images)
    assert values.std() > 0
    assert ratios.std() > 0.1
    assert generator.trained_on["data_dir"] == ""
    assert len(checksums(folder)) == 6


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_card_says_how_and_its_pictures_are_there(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    assert f"pretrained/{folder.name}" in card
    for part in card.split("](")[1:]:
        assert (folder / part.split(")")[0]).is_file(), part[:60]
    assert load_generator(str(folder), CPU).trained_on["commit"][:7] in card

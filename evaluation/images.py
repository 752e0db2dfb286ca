"""Between the networks' images and the bytes that are measured and shown."""

import torch
from torch import Tensor


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8 in [0, 255], rounded to the nearest (truncation would darken them by half a level)."""
    return ((x.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)

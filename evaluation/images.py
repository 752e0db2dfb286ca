"""Between the networks' images and the bytes that are measured and shown; which of many images are measured."""

import numpy as np
import torch
from torch import Tensor


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] to uint8 in [0, 255], rounded to the nearest (truncation would darken them by half a level)."""
    return ((x.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def drawn_rows(n: int, k: int, seed: int) -> np.ndarray:
    """min(k, n) of n rows, drawn at random, in their order (the first k would be the first classes where these are
    folders).
    """
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:k]
    return np.sort(order.numpy())

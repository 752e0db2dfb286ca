"""What the floor of Inception is made of: a convolution with its ReLU in one call, and the products it comes to."""

import pytest
import torch
from torch import nn

from benchmarks.inception_floor import FusedConvolution, products, recorded


class Block(nn.Module):
    """As torch-fidelity's: the convolution is named conv."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN's kernel")
@torch.no_grad()
def test_a_fused_convolution_is_the_convolution_and_its_relu() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, (3, 1), stride=2, padding=(1, 0)).to(memory_format=torch.channels_last)
    x = torch.randn(2, 5, 9, 8).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(FusedConvolution(conv, x.shape)(x), conv(x).relu())


@torch.no_grad()
def test_a_convolution_comes_to_patches_by_weights() -> None:
    network = nn.Sequential(Block(nn.Conv2d(3, 4, 3)), Block(nn.Conv2d(4, 6, 1, stride=2)))
    calls = recorded(network, torch.randn(2, 3, 10, 10))
    assert [tuple(x.shape) for _, _, x in calls] == [(2, 3, 10, 10), (2, 4, 8, 8)]
    assert [(tuple(a.shape), tuple(b.shape)) for a, b in products(calls)] == [
        ((2 * 8 * 8, 27), (27, 4)),
        ((2 * 4 * 4, 4), (4, 6)),
    ]

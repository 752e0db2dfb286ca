"""Generator and critic of WGAN-GP at 32, 48, 64 and 128 pixels.

The architecture is torch-mimicry's (the ResNets of Gulrajani et al. 2017 with bilinear upsampling): same parameter
names, shapes and initialisation, so its checkpoints load here and the reverse; tests/models/gan/test_mimicry.py holds
outputs and gradients equal. The computation is arranged to do less work for the same function:

- critic: a 3x3 convolution followed by a 2x2 average pool is one 4x4 convolution of stride 2 (2.25 times fewer
operations);
- critic: the shortcut's 1x1 convolution comes after the pool, at a quarter of the positions (the two commute);
- generator: the shortcut's 1x1 convolution comes before the bilinear upsampling, likewise.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE_SIZES = (32, 48, 64, 128)

# image_size: (width of the first feature map, default ngf, channels after l1 and after each block as shifts: ngf >>
# shift)
GENERATOR_PLANS: dict[int, tuple[int, int, tuple[int, ...]]] = {
    32: (4, 256, (0, 0, 0, 0)),
    48: (6, 512, (0, 1, 2, 3)),
    64: (4, 1024, (0, 1, 2, 3, 4)),
    128: (4, 1024, (0, 0, 1, 2, 3, 4)),
}

# image_size: (default ndf, channels after each block as shifts: ndf >> shift, which blocks halve the image)
CRITIC_PLANS: dict[int, tuple[int, tuple[int, ...], tuple[bool, ...]]] = {
    32: (128, (0, 0, 0, 0), (True, True, False, False)),
    48: (1024, (4, 3, 2, 1, 0), (True, True, True, True, False)),
    64: (1024, (4, 3, 2, 1, 0), (True, True, True, True, True)),
    128: (1024, (4, 3, 2, 1, 0, 0), (True, True, True, True, True, False)),
}


def first_channels(image_size: int, ndf: int) -> int:
    """Channels of the critic's first block, which sees the image: ndf at 32 pixels, else ndf / 16."""
    return ndf >> CRITIC_PLANS[image_size][1][0]


def pooled_kernel(weight: Tensor) -> Tensor:
    """The 4x4 kernel [O, I, 4, 4] that, with stride 2 and padding 1, equals `weight` [O, I, 3, 3] (padding 1) then a
    2x2 average.

    Each of its entries is a quarter of the sum of those entries of `weight`, one to four, that meet the same pixel in
    the four pooled positions.
    """
    return F.avg_pool2d(F.pad(weight, (1, 1, 1, 1)), 2, stride=1)


class GeneratorBlock(nn.Module):
    """[N, in_channels, H, W] -> [N, out_channels, 2H, 2W]: BN, ReLU, up, conv, BN, ReLU, conv; plus the shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.c1 = _conv3x3(in_channels, out_channels)
        self.c2 = _conv3x3(out_channels, out_channels)
        self.b1 = nn.BatchNorm2d(in_channels)
        self.b2 = nn.BatchNorm2d(out_channels)
        self.c_sc = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, 2H, 2W]."""
        # In place where nothing needs the old values, in the backward pass either: fresh memory costs more than sums.
        h = self.c1(_double(F.relu(self.b1(x), inplace=True)))
        h = self.c2(F.relu(self.b2(h), inplace=True))
        h += _double(self.c_sc(x))
        return h


class Generator(nn.Module):
    """Latent codes [N, nz] -> images [N, 3, image_size, image_size] in (-1, 1).

    Args:
        image_size: 32, 48, 64 or 128.
        nz: size of the latent code, drawn from N(0, I).
        ngf: width; None for torch-mimicry's (256, 512, 1024, 1024). The last block has ngf / 8 or ngf / 16 channels
        (ngf at 32).
        grey: the three channels are one, the mean of the last convolution's: for data without colour, which the network
        would else have to learn to leave out. Same weights.
    """

    def __init__(self, image_size: int = 64, nz: int = 128, ngf: int | None = None, grey: bool = False) -> None:
        super().__init__()
        _check_image_size(image_size)
        self.grey = grey
        self.bottom_width, default, shifts = GENERATOR_PLANS[image_size]
        ngf = default if ngf is None else ngf
        _check_width("ngf", ngf, max(shifts), image_size)
        if nz < 1:
            raise ValueError(f"nz={nz}: the latent code needs at least one number")
        self.image_size, self.nz, self.ngf = image_size, nz, ngf
        channels = [ngf >> shift for shift in shifts]

        self.l1 = nn.Linear(nz, self.bottom_width**2 * channels[0])
        nn.init.xavier_uniform_(self.l1.weight, 1.0)
        self.block_names = [f"block{i}" for i in range(2, len(channels) + 1)]
        for name, c_in, c_out in zip(self.block_names, channels[:-1], channels[1:], strict=True):
            self.add_module(name, GeneratorBlock(c_in, c_out))
        last = len(channels) + 1  # torch-mimicry numbers its layers through
        self.last_norm, self.last_conv = f"b{last}", f"c{last}"
        self.add_module(self.last_norm, nn.BatchNorm2d(channels[-1]))
        self.add_module(self.last_conv, nn.Conv2d(channels[-1], 3, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        """Latent codes [N, nz] -> images [N, 3, image_size, image_size] in (-1, 1)."""
        h = self.l1(z).view(z.shape[0], -1, self.bottom_width, self.bottom_width)
        # With the 8 or 16 channels of a narrow generator's last blocks, channels_last convolutions are 2-10 times
        # faster on a CPU.
        h = h.contiguous(memory_format=torch.channels_last)
        for name in self.block_names:
            h = self.get_submodule(name)(h)
        h = F.relu(self.get_submodule(self.last_norm)(h), inplace=True)
        x = self.get_submodule(self.last_conv)(h)
        return x.mean(1, keepdim=True).tanh().repeat(1, 3, 1, 1) if self.grey else x.tanh()


class CriticBlock(nn.Module):
    """[N, in_channels, H, W] -> [N, out_channels, H / 2, W / 2], or [N, out_channels, H, W] without `downsample`.

    `first`: the block that sees the image itself, without a ReLU on it and with the width of its output throughout. In
    every other block the shortcut, too, starts from relu(x): torch-mimicry's ReLU works in place, so its shortcut sees
    that tensor.
    """

    def __init__(self, in_channels: int, out_channels: int, downsample: bool, first: bool = False) -> None:
        super().__init__()
        hidden = out_channels if first else in_channels
        self.c1 = _conv3x3(in_channels, hidden)
        self.c2 = _conv3x3(hidden, out_channels)
        self.c_sc = nn.Conv2d(in_channels, out_channels, 1) if downsample or in_channels != out_channels else None
        self.downsample, self.first = downsample, first

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H / 2, W / 2], or H, W without `downsample`."""
        r = x if self.first else F.relu(x)
        s = F.relu(self.c1(r))
        if self.downsample:
            h = F.conv2d(s, pooled_kernel(self.c2.weight), self.c2.bias, stride=2, padding=1)
            r = F.avg_pool2d(r, 2)
        else:
            h = self.c2(s)
        return h + (r if self.c_sc is None else self.c_sc(r))


class Critic(nn.Module):
    """Images [N, 3, image_size, image_size] in [-1, 1] -> values [N, 1]. No normalisation: each image is judged alone.

    Args:
        image_size: 32, 48, 64 or 128.
        ndf: width; None for torch-mimicry's (128, 1024, 1024, 1024). The first block has ndf / 16 channels (ndf at 32).
    """

    def __init__(self, image_size: int = 64, ndf: int | None = None) -> None:
        super().__init__()
        _check_image_size(image_size)
        default, shifts, downsamples = CRITIC_PLANS[image_size]
        ndf = default if ndf is None else ndf
        _check_width("ndf", ndf, max(shifts), image_size)
        self.image_size, self.ndf = image_size, ndf
        channels = [3, *(ndf >> shift for shift in shifts)]

        self.block_names = [f"block{i}" for i in range(1, len(channels))]
        for i, name in enumerate(self.block_names):
            self.add_module(name, CriticBlock(channels[i], channels[i + 1], downsamples[i], first=i == 0))
        self.last_linear = f"l{len(channels)}"
        self.add_module(self.last_linear, nn.Linear(channels[-1], 1))
        nn.init.xavier_uniform_(self.linear.weight, 1.0)

    @property
    def blocks(self) -> list[CriticBlock]:
        """The residual blocks, from the image on."""
        return [self.get_submodule(name) for name in self.block_names]  # type: ignore[misc]

    @property
    def linear(self) -> nn.Linear:
        """The last layer, from the mean features to the value."""
        return self.get_submodule(self.last_linear)  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, image_size, image_size] in [-1, 1] -> values [N, 1]."""
        h = x
        for block in self.blocks:
            h = block(h)
        return self.linear(F.relu(h).mean((2, 3)))


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.xavier_uniform_(conv.weight, math.sqrt(2.0))
    return conv


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _check_image_size(image_size: int) -> None:
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"image_size={image_size}: there are networks for {', '.join(map(str, IMAGE_SIZES))} pixels")


def _check_width(name: str, width: int, shift: int, image_size: int) -> None:
    if width < 1 << shift or width % (1 << shift):
        raise ValueError(f"{name}={width}: at {image_size} pixels it must be a positive multiple of {1 << shift}")

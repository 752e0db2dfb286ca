"""Part 3: a real training for the time that is left, with a grid of images at powers of two of the step."""

import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.box import Box, set_precision
from models.gan.networks import Critic, Generator
from trainers.wgan.loop import METRICS, Training, sample_images, training_steps
from training.processes import Processes


def run(box: Box) -> None:
    box.attempt("training", lambda: train(box))


def train(box: Box) -> None:
    """WGAN-GP in bf16 at the exercise's width until the box's end."""
    size, width, n = (32, 16, 8) if box.tiny else (64, 1024, 64)
    set_precision("bf16")
    images, what = (
        (load(box.images), box.images.name) if box.images else (discs(256, size), "discs drawn for want of --images")
    )
    size = images.shape[-1]
    torch.manual_seed(0)
    training = Training(
        Generator(size, ngf=width).to(box.device), Critic(size, width).to(box.device), bf16=box.on_gpu, ema_decay=0.999
    )
    z = torch.randn(64, 128, generator=torch.Generator().manual_seed(1)).to(box.device)
    processes, began = Processes(0, 1, box.device), time.monotonic()
    most = 4 if box.tiny else 10**9
    for metrics in training_steps(
        training, batches(images, n, box.device), 2, gp_scale=10.0, steps=most, processes=processes
    ):
        last = box.left() < 5 or training.step == most
        if last or training.step & (training.step - 1) == 0:
            values = dict(zip(METRICS, metrics.tolist(), strict=True))
            name = f"step_{training.step:06d}.png"
            write_png(box.out / name, grid(sample_images(training.ema.model, z)))
            box.row(
                f"A training on {what}, {len(images):,} images, width {width}, batch {n}",
                step=training.step,
                seconds=round(time.monotonic() - began, 1),
                **{
                    key: round(values[key], 3)
                    for key in ("wasserstein_estimate", "gradient_penalty", "input_gradient_norm")
                },
                images=f"![{training.step}]({name})",
            )
        if last:
            return


def load(path: Path) -> Tensor:
    """uint8 images [n, 3, s, s] or [n, s, s, 3] from a .npy file (such as pixels.npy of an image cache)."""
    pixels = np.load(path)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or 3 not in (pixels.shape[1], pixels.shape[3]):
        raise ValueError(f"{path}: {pixels.dtype} {pixels.shape}; needed are uint8 images [n, 3, s, s] or [n, s, s, 3]")
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    return images if images.shape[1] == 3 else images.permute(0, 3, 1, 2).contiguous()


def discs(n: int, size: int) -> Tensor:
    """Images with a coloured disc each on a coloured ground, uint8 [n, 3, size, size]."""
    dice = torch.Generator().manual_seed(0)
    colours = torch.rand(2, n, 3, 1, 1, generator=dice)
    centre = torch.rand(2, n, 1, 1, generator=dice) * size
    radius = (0.15 + 0.2 * torch.rand(n, 1, 1, generator=dice)) * size
    line = torch.arange(size, dtype=torch.float32)
    inside = (line[:, None] - centre[0]) ** 2 + (line[None] - centre[1]) ** 2 < radius**2
    return (255 * torch.where(inside[:, None], colours[0], colours[1])).to(torch.uint8)


def batches(images: Tensor, n: int, device: torch.device) -> Iterator[Tensor]:
    """Batches [n, 3, s, s] in [-1, 1] on the device, where the images lie if they are less than 8 GB."""
    held = images.to(device) if images.nbytes < 8e9 else images
    dice = torch.Generator().manual_seed(0)
    while True:
        chosen = torch.randint(len(images), (n,), generator=dice).to(held.device)
        yield held[chosen].to(device).float() / 127.5 - 1


def grid(images: np.ndarray, columns: int = 8) -> np.ndarray:
    """uint8 [n, 3, s, s] -> one image [rows s, columns s, 3]."""
    n, _, s, _ = images.shape
    rows = n // columns
    return (
        images[: rows * columns]
        .reshape(rows, columns, 3, s, s)
        .transpose(0, 3, 1, 4, 2)
        .reshape(rows * s, columns * s, 3)
    )


def write_png(path: Path, image: np.ndarray) -> None:
    """An uint8 image [h, w, 3] as PNG, without any library (PNG specification, sections 5 and 11.2)."""
    height, width, _ = image.shape
    lines = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))

"""Part 6: Inception's images a second with the moments of its features in one pass. Needs torch-fidelity."""

from functools import partial
from typing import TYPE_CHECKING

import torch

from benchmarks.gpu.box import Box, median_seconds, peak_megabytes, seconds_of, set_precision, start_memory
from evaluation.frechet import Moments

if TYPE_CHECKING:
    from evaluation.features import Extractor


def run(box: Box) -> None:
    for precision in ("tf32", "fp32"):
        for n in (4,) if box.tiny else (64, 256):
            box.attempt(f"Inception, {precision}, {n} images at a time", partial(measure, box, precision, n))


def measure(box: Box, precision: str, n: int) -> None:
    """Images of 64 pixels a second, from uint8 to the sums of Moments."""
    set_precision(precision)
    start_memory(box.device)
    extractor = build(box.device)
    images = torch.randint(256, (n, 3, 64, 64), dtype=torch.uint8, device=box.device)
    moments = Moments.of(torch.zeros(2, 2048))

    @torch.inference_mode()
    def call() -> None:
        moments.update(extractor.network(images)[0].cpu())

    first = seconds_of(call, box.device)
    seconds = median_seconds(call, box.device, 1 if box.tiny else 10, at_most=5.0)
    box.row(
        "Inception with one-pass moments",
        precision=precision,
        images=n,
        first_s=round(first, 2),
        images_per_second=round(n / seconds, 1),
        peak_MB=peak_megabytes(box.device),
    )


def build(device: torch.device) -> "Extractor":
    """Inception as `fid` runs it, with weights drawn at random: the time does not depend on them."""
    from benchmarks.fid import random_inception_state
    from evaluation.features import build_inception, wrap_inception

    return wrap_inception(build_inception(random_inception_state()), "0" * 64, False, device)

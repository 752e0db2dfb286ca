"""Part 4: updates of the EEG Transformer and of contrastive pre-training at the sizes of preset=physionet."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.gpu.box import Box, median_seconds, peak_megabytes, seconds_of, set_precision, start_memory
from models.eeg.augment import AugmentRanges, views
from models.eeg.nt_xent import nt_xent
from models.eeg.simclr import ChannelEncoder, Projector, scaled
from models.eeg.transformer import EegTransformer

N_CHANS, WINDOW = 64, 160
TRANSFORMER: dict[str, Any] = {
    "patch_len": 40,
    "patch_stride": 20,
    "d_model": 64,
    "n_heads": 4,
    "n_layers": 2,
    "n_decoder_layers": 1,
    "d_ff": 128,
    "dropout": 0.5,
    "pool": "decoder",
    "embedding": "power",
    "n_filters": 32,
    "filter_len": 33,
}
"""As in EegTransformerConfig, which cannot be imported without pydantic; a test holds them equal."""
BATCH = 128
SIMCLR: dict[str, Any] = {
    "encoder": "convolutional",
    "width": 0.25,
    "kernels": (64, 32, 16, 32),
    "n_features": 4,
    "head_width": 0.25,
    "projection_dim": 32,
    "pretrain_batch": 1024,
    "tau": 0.05,
}
"""As in EegSimclrConfig."""
WINDOWS = 40_000
"""About 96 people's: an epoch."""

Update = Callable[[], None]


def run(box: Box) -> None:
    for precision in ("fp32", "tf32", "bf16"):
        box.attempt(f"eeg_transformer, {precision}", partial(measure, box, "eeg_transformer", precision))
        box.attempt(f"eeg_simclr, {precision}", partial(measure, box, "eeg_simclr", precision))


def measure(box: Box, what: str, precision: str) -> None:
    set_precision(precision)
    torch.manual_seed(0)
    start_memory(box.device)
    build, windows = (transformer, BATCH) if what == "eeg_transformer" else (simclr, SIMCLR["pretrain_batch"] // 2)
    windows = 4 if box.tiny else windows
    update = build(box, windows, torch.autocast(box.device.type, torch.bfloat16, enabled=precision == "bf16"))
    first = seconds_of(update, box.device)
    seconds = median_seconds(update, box.device, 1 if box.tiny else 20, at_most=3.0)
    box.row(
        "Updates of the EEG networks",
        what=what,
        precision=precision,
        windows=windows,
        ms=round(1000 * seconds, 2),
        first_s=round(first, 2),
        peak_MB=peak_megabytes(box.device),
        seconds_for_40000_windows=round(seconds * WINDOWS / windows, 1),
    )


def transformer(box: Box, windows: int, precision: AbstractContextManager[Any]) -> Update:
    """Classify windows by network=windows."""
    network = EegTransformer(N_CHANS, 2, **TRANSFORMER).to(box.device)
    x = torch.randn(windows, N_CHANS, WINDOW, device=box.device)
    label = torch.randint(2, (windows,), device=box.device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)

    def update() -> None:
        with precision:
            logits = network(x)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), label).backward()
        optimizer.step()

    return update


def simclr(box: Box, windows: int, precision: AbstractContextManager[Any]) -> Update:
    """Two views of two channels a window, and NT-Xent (pretext=channel)."""
    *widths, d = scaled(SIMCLR["head_width"], 256, 128, 64, 128)
    encoder = ChannelEncoder(SIMCLR["encoder"], SIMCLR["width"], SIMCLR["kernels"], n_features=SIMCLR["n_features"])
    network = nn.Sequential(encoder, Projector(SIMCLR["n_features"], SIMCLR["projection_dim"], widths, d)).to(
        box.device
    )
    ranges, dice = AugmentRanges(), torch.Generator().manual_seed(0)
    channels = torch.randn(2 * windows, WINDOW + 2 * ranges.time_shift, device=box.device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)

    def update() -> None:
        pair = views(channels, WINDOW, ranges, dice)
        with precision:
            z = network(torch.cat(pair))
        optimizer.zero_grad()
        nt_xent(*z.float().chunk(2), SIMCLR["tau"]).backward()
        optimizer.step()

    return update

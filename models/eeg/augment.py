"""The six channel augmentations of Mohsenvand et al. 2020 (table 1), and channel recombination, over whole batches on
any device.

Their ranges are for 20 s windows at 200 Hz; the defaults here are for windows of a second at 160 Hz in a 7 to 30 Hz
band: a time shift is cut from the longer stretch around the window instead of wrapped, the mask stays a small share of
the window, and the stopped band lies inside the pass-band. Signals are in units of a window's standard deviation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NAMES = ("amplitude", "time_shift", "dc_shift", "zero_mask", "noise", "band_stop")


@dataclass(frozen=True)
class AugmentRanges:
    """Ranges from which each channel of each view draws its own value, uniformly.

    amplitude: factor. time_shift: at most this many samples to either side. dc_shift: at most this many standard
    deviations up or down. zero_mask: length in samples, anywhere. noise: standard deviation of Gaussian noise, its own
    for each sample of time.
    band_stop: centre in Hz of the stopped band, `band_width` wide.
    """

    amplitude: tuple[float, float] = (0.5, 2.0)
    time_shift: int = 40
    dc_shift: float = 0.5
    zero_mask: tuple[int, int] = (0, 24)
    noise: tuple[float, float] = (0.0, 0.2)
    band_stop: tuple[float, float] = (9.5, 27.5)
    band_width: float = 5.0
    sfreq: float = 160.0

    def __post_init__(self) -> None:
        for name in ("amplitude", "zero_mask", "noise", "band_stop"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name}=({low}, {high}): needs 0 <= low <= high")
        if self.band_stop[1] + self.band_width / 2 > self.sfreq / 2:
            raise ValueError(
                f"band_stop up to {self.band_stop[1]} Hz and {self.band_width} Hz wide reaches past {self.sfreq / 2} "
                "Hz, half the sampling rate"
            )
        if self.time_shift < 0 or self.dc_shift < 0:
            raise ValueError(f"time_shift={self.time_shift}, dc_shift={self.dc_shift}: neither may be negative")


def recombine(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n random channels [N, n, T] for each recording [N, C, T]: a channel, or the difference of two (a bipolar
    derivation).

    Each is drawn from the C originals and C (C - 1) / 2 unordered differences alike; sign flips, which would be
    near-equal negatives of each other, are left out. Nothing of size C^2 x T is made.
    """
    batch, c, _ = x.shape
    if n < 1 or c < 1:
        raise ValueError(f"recombine: n={n} channels of {c}; both must be at least 1")
    pair = torch.randint(c * (c + 1) // 2, (batch, n), generator=generator).to(x.device)
    # Pair number p < C is the original p; the others count the (i, j), i < j, row by row.
    rows, columns = torch.triu_indices(c, c, 1, device=x.device)
    original = pair < c
    p = (pair - c).clamp_min(0)
    first = torch.where(original, pair, rows[p] if len(rows) else pair)
    second = columns[p] if len(columns) else pair
    index = torch.arange(batch, device=x.device)[:, None]
    return x[index, first] - x[index, second] * (~original)[..., None]


def augment(
    x: Tensor,
    length: int,
    ranges: AugmentRanges,
    generator: torch.Generator,
    *,
    n_applied: int = 2,
    names: Sequence[str] = NAMES,
) -> Tensor:
    """One view [M, ..., length] of signals [M, ..., length + 2 margin]: `n_applied` different augmentations (of
    `names`) of each.

    A signal is a channel [M, T], which draws its augmentations and their strengths by itself, or a whole window [M,
    n_chans, T]
    that draws them once for all its channels: the ratios of power between channels, which hold a movement's side, stay.
    The window is the middle of x; a shifted one is cut elsewhere, so the margin must be at least `time_shift`. All is
    drawn from `generator` (on the CPU). Not in place.
    """
    m, total = x.shape[0], x.shape[-1]
    margin = (total - length) // 2
    unknown = sorted(set(names) - set(NAMES))
    if unknown or not names:
        raise ValueError(f"augmentations {', '.join(unknown) or 'none given'}: allowed are {', '.join(NAMES)}")
    if not 1 <= n_applied <= len(names):
        raise ValueError(f"n_applied={n_applied}: there are {len(names)} augmentations")
    if margin < ranges.time_shift and "time_shift" in names:
        raise ValueError(f"time_shift={ranges.time_shift} samples, but there are {margin} on each side of the window")
    one = (m, *[1] * (x.dim() - 1))  # a value for each signal
    chosen = torch.rand(m, len(names), generator=generator).argsort(1)[:, :n_applied]
    applied = torch.zeros(m, len(names), dtype=torch.bool).scatter_(1, chosen, True).to(x.device)
    on = {name: applied[:, i].view(one) for i, name in enumerate(names)}

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(one, generator=generator)).to(x.device)

    t = torch.arange(length, device=x.device)
    if "time_shift" in on:
        shift = (uniform(-ranges.time_shift, ranges.time_shift + 1).floor() * on["time_shift"]).long()
        y = x.gather(-1, (margin + shift + t).expand(*x.shape[:-1], length))
    else:
        y = x[..., margin : margin + length].clone()
    if "band_stop" in on:
        stopped = band_stop(y, uniform(*ranges.band_stop), ranges.band_width, ranges.sfreq)
        y = torch.where(on["band_stop"], stopped, y)
    if "amplitude" in on:
        y = y * torch.where(on["amplitude"], uniform(*ranges.amplitude), 1.0)
    if "noise" in on:
        noise = torch.randn(y.shape, generator=generator).to(x.device)
        y = y + noise * torch.where(on["noise"], uniform(*ranges.noise), 0.0)
    if "dc_shift" in on:
        y = y + torch.where(on["dc_shift"], uniform(-ranges.dc_shift, ranges.dc_shift), 0.0)
    if "zero_mask" in on:
        size = torch.where(on["zero_mask"], uniform(ranges.zero_mask[0], ranges.zero_mask[1] + 1).floor(), 0.0)
        start = (uniform(0, 1) * (length - size + 1)).floor()
        y = y.masked_fill((t >= start) & (t < start + size), 0.0)
    return y


def band_stop(x: Tensor, centre: Tensor, width: float, sfreq: float) -> Tensor:
    """x [M, ..., T] without the frequencies within width / 2 of each signal's `centre` [M, ..., 1] in Hz."""
    f = torch.fft.rfftfreq(x.shape[-1], 1 / sfreq, device=x.device)
    spectrum = torch.fft.rfft(x) * ((f - centre).abs() > width / 2)
    return torch.fft.irfft(spectrum, x.shape[-1])


def views(
    x: Tensor,
    length: int,
    ranges: AugmentRanges,
    generator: torch.Generator,
    *,
    n_applied: int = 2,
    names: Sequence[str] = NAMES,
) -> tuple[Tensor, Tensor]:
    """Two views [M, length] of the same channels [M, length + 2 margin], each with its own augmentations."""
    first = augment(x, length, ranges, generator, n_applied=n_applied, names=names)
    return first, augment(x, length, ranges, generator, n_applied=n_applied, names=names)


def pad_by_reflection(x: Tensor, margin: int) -> Tensor:
    """[..., T] -> [..., T + 2 margin], mirrored at both ends: for recordings that end where the window does."""
    return F.pad(x.reshape(-1, 1, x.shape[-1]), (margin, margin), mode="reflect").reshape(*x.shape[:-1], -1)

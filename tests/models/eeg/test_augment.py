"""Each augmentation alone does what it says, strengths stay in range, and nothing depends on the neighbours of a
batch.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.eeg import augment as eeg_augment
from models.eeg.augment import NAMES, AugmentRanges, augment, band_stop, pad_by_reflection, recombine, views

RANGES = AugmentRanges()
MARGIN, LENGTH = 40, 160


def signals(m: int = 200) -> Tensor:
    return torch.randn(m, LENGTH + 2 * MARGIN, generator=torch.Generator().manual_seed(5))


def only(name: str, x: Tensor, monkeypatch: pytest.MonkeyPatch, ranges: AugmentRanges = RANGES) -> Tensor:
    """`augment` with nothing but `name` applied, to every channel."""
    order = [NAMES.index(name), *(i for i in range(len(NAMES)) if NAMES[i] != name)]
    monkeypatch.setattr(torch.Tensor, "argsort", lambda self, dim: torch.tensor(order).expand(len(self), -1))
    return augment(x, LENGTH, ranges, torch.Generator().manual_seed(0), n_applied=1)


def middle(x: Tensor) -> Tensor:
    return x[:, MARGIN:-MARGIN]


def test_amplitude(monkeypatch: pytest.MonkeyPatch) -> None:
    x = signals()
    factor = only("amplitude", x, monkeypatch) / middle(x)
    assert torch.allclose(factor, factor[:, :1].expand_as(factor), rtol=1e-3)
    assert 0.5 <= factor.min() < 0.6
    assert 1.9 < factor.max() <= 2.001


def test_time_shift_is_cut_from_the_longer_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(LENGTH + 2 * MARGIN).float().expand(500, -1)
    shifts = only("time_shift", x, monkeypatch) - middle(x)
    assert torch.allclose(shifts, shifts[:, :1].round().expand_as(shifts), atol=1e-3)  # a shift, no wrap-around
    assert {round(s) for s in shifts[:, 0].tolist()} >= {-40, 0, 40}
    assert shifts.abs().max() < 40.01


def test_dc_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    x = signals()
    shift = only("dc_shift", x, monkeypatch) - middle(x)
    assert torch.allclose(shift, shift[:, :1].expand_as(shift), atol=1e-5)
    assert -0.5 <= shift.min() < -0.4
    assert 0.4 < shift.max() <= 0.5


def test_zero_mask_is_one_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    zero = only("zero_mask", signals(1000), monkeypatch) == 0
    lengths = zero.sum(1)
    assert set(lengths.tolist()) == set(range(25))
    edges = (zero[:, 1:] != zero[:, :-1]).sum(1) + zero[:, 0].int() + zero[:, -1].int()
    assert (edges[lengths > 0] == 2).all()
    assert zero[:, 0].any()
    assert zero[:, -1].any()


def test_noise_is_drawn_for_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    x = signals()
    noise = only("noise", x, monkeypatch) - middle(x)
    deviation = noise.std(1)
    assert deviation.max() < 0.25
    assert deviation.max() > 0.15
    neighbours = (noise[:, 1:] * noise[:, :-1]).mean() / noise.square().mean()
    assert abs(neighbours) < 0.05


def test_band_stop_removes_its_band_only(monkeypatch: pytest.MonkeyPatch) -> None:
    x = signals()
    before, after = (torch.fft.rfft(s).abs() for s in (middle(x), only("band_stop", x, monkeypatch)))
    gone = after < 1e-3 * before
    f = torch.fft.rfftfreq(LENGTH, 1 / 160)
    assert ((gone.sum(1) >= 4) & (gone.sum(1) <= 6)).all()  # 5 Hz at one a bin
    assert f[gone.any(0)].min() >= 7
    assert f[gone.any(0)].max() <= 30
    assert torch.allclose(after[~gone], before[~gone], rtol=1e-3, atol=1e-3)
    assert torch.allclose(band_stop(x, torch.full((len(x), 1), -160.0), 5.0, 160.0), x, atol=1e-5)  # a band below zero


def test_two_different_ones_are_applied_and_views_differ() -> None:
    x = signals(60)
    kept = x.clone()
    a, b = views(x, LENGTH, RANGES, torch.Generator().manual_seed(0))
    assert a.shape == b.shape == (60, LENGTH)
    assert not torch.allclose(a, b)
    assert torch.equal(x, kept)
    again, _ = views(x, LENGTH, RANGES, torch.Generator().manual_seed(0))
    assert torch.equal(a, again)
    flat = replace(RANGES, amplitude=(1, 1), time_shift=0, dc_shift=0.0, zero_mask=(0, 0), noise=(0, 0))
    untouched = (augment(x, LENGTH, flat, torch.Generator().manual_seed(0)) - middle(x)).abs().amax(1) < 1e-4
    assert 0.5 < untouched.float().mean() < 0.85  # all but the third of channels that drew band_stop among two of six


def test_ranges_and_margins_are_checked() -> None:
    with pytest.raises(ValueError, match="reaches past 80"):
        AugmentRanges(band_stop=(9.0, 82.5))
    with pytest.raises(ValueError, match="amplitude"):
        AugmentRanges(amplitude=(2.0, 0.5))
    with pytest.raises(ValueError, match=r"time_shift=40 samples, but there are 10"):
        augment(signals()[:, 30:-30], LENGTH, RANGES, torch.Generator())
    with pytest.raises(ValueError, match="n_applied=7"):
        augment(signals(), LENGTH, RANGES, torch.Generator(), n_applied=7)


def test_recombination_draws_originals_and_unordered_differences() -> None:
    c = 5
    x = torch.randn(1, c, 30)
    expected = [x[0, i] for i in range(c)] + [x[0, i] - x[0, j] for i in range(c) for j in range(i + 1, c)]
    made = recombine(x, 600, torch.Generator().manual_seed(0))[0]
    which = torch.cdist(made, torch.stack(expected)).argmin(1)
    assert torch.allclose(made, torch.stack(expected)[which])
    counts = torch.bincount(which, minlength=len(expected))
    assert (counts > 15).all()  # 15 kinds, 40 each on average
    assert recombine(x[:, :1], 3, torch.Generator()).shape == (1, 3, 30)


def test_reflection() -> None:
    assert pad_by_reflection(torch.tensor([[1.0, 2, 3]]), 2).tolist() == [[3, 2, 1, 2, 3, 2, 1]]
    assert eeg_augment.NAMES == ("amplitude", "time_shift", "dc_shift", "zero_mask", "noise", "band_stop")


def test_a_whole_window_draws_once_for_all_its_channels() -> None:
    """Every channel of a window is changed alike, so that copies of a channel stay copies, and powers keep their
    ratio.
    """
    x = signals(50)[:, None].repeat(1, 3, 1) * torch.tensor([1.0, 2.0, 0.5])[:, None]
    y = augment(
        x,
        LENGTH,
        RANGES,
        torch.Generator().manual_seed(0),
        names=("amplitude", "time_shift", "zero_mask", "band_stop"),
    )
    assert y.shape == (50, 3, LENGTH)
    assert torch.allclose(y[:, 1], 2 * y[:, 0], atol=1e-4)
    assert torch.allclose(y[:, 2], 0.5 * y[:, 0], atol=1e-4)
    generator = torch.Generator().manual_seed(0)
    noisy = augment(x, LENGTH, RANGES, generator, n_applied=1, names=("noise",)) - x[..., MARGIN:-MARGIN]
    assert not torch.allclose(noisy[:, 1], noisy[:, 0], atol=1e-3)  # each channel has its own


def test_only_the_named_augmentations_are_drawn() -> None:
    x = signals()
    generator = torch.Generator().manual_seed(0)
    shifted = augment(x, LENGTH, RANGES, generator, n_applied=1, names=("dc_shift",)) - middle(x)
    assert torch.allclose(shifted, shifted[:, :1].expand_as(shifted), atol=1e-5)
    with pytest.raises(ValueError, match=r"louder.*amplitude"):
        augment(x, LENGTH, RANGES, torch.Generator(), n_applied=1, names=("louder",))

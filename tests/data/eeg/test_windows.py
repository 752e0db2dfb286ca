"""Windows have the right samples and moments; the order of batches can be resumed and shared."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import InputError
from data.eeg.load import EegData
from data.eeg.windows import EegWindows, WindowBatches, window_moments, window_starts


def test_nine_windows_a_trial_the_first_a_second_before_the_cue(simulated: EegData) -> None:
    windows = simulated.windows()
    assert len(windows) == 9 * 180
    np.testing.assert_array_equal(windows.start[:10], [*range(0, 641, 80), 0])
    np.testing.assert_array_equal(windows.position[:10], [*range(9), 0])
    np.testing.assert_array_equal(windows.trial[:10], [0] * 9 + [1])
    assert simulated.times[windows.start[0]] == -1.0
    np.testing.assert_array_equal(windows.label, np.repeat(simulated.label, 9))
    np.testing.assert_array_equal(windows.subject, np.repeat(simulated.subject, 9))
    np.testing.assert_array_equal(windows.run, np.repeat(simulated.run, 9))


@pytest.mark.parametrize(("window", "overlap"), [(160, 80), (160, 0), (801, 0), (33, 7)])
def test_gather_normalises_each_window_over_all_channels(simulated: EegData, window: int, overlap: int) -> None:
    windows = simulated.windows(window, overlap)
    chosen = np.random.default_rng(0).permutation(len(windows))[:50]
    batch = windows.gather(chosen)
    assert batch.dtype == torch.float32
    for row, index in zip(batch.numpy(), chosen, strict=True):
        first = windows.start[index]
        plain = simulated.trials[windows.trial[index], :, first : first + window].astype(np.float64)
        np.testing.assert_allclose(row, (plain - plain.mean()) / plain.std(), rtol=0, atol=4e-6)
    assert torch.equal(windows.gather(torch.from_numpy(chosen)), batch)


def test_the_ratio_between_channels_survives(simulated: EegData) -> None:
    """Per-channel normalisation would make every channel's deviation 1, and with it delete the label."""
    deviations = simulated.windows().gather(np.arange(9)).std(dim=2)
    assert deviations.max() / deviations.min() > 2


@settings(deadline=None)
@given(
    arrays(np.float32, (3, 4, 30), elements=st.floats(-100, 100, width=32)),
    st.integers(2, 30).flatmap(lambda w: st.tuples(st.just(w), st.integers(0, w - 1))),
)
def test_moments_are_those_of_each_window(trials: np.ndarray, size: tuple[int, int]) -> None:
    window, overlap = size
    starts = window_starts(30, window, overlap)
    mean, sd = window_moments(trials, starts, window)
    plain = [t[:, s : s + window].astype(np.float64) for t in trials for s in starts]
    np.testing.assert_allclose(mean, [p.mean() for p in plain], atol=1e-9)
    wanted = np.array([p.std() for p in plain])
    close = np.isclose(sd, wanted, rtol=1e-5, atol=1e-4) | ((wanted < 1e-4) & (sd == 1.0))
    assert close.all()


def test_a_constant_window_reads_as_zeros() -> None:
    trials = np.full((1, 2, 10), 3.0, np.float32)
    zero = np.zeros(1, np.int64)
    assert torch.equal(
        EegWindows(trials, label=zero, subject=zero, run=zero, window=5, overlap=0).gather(np.arange(2)),
        torch.zeros(2, 2, 5),
    )


@pytest.mark.parametrize("constant", [0.0, 1e-22, 3.3e-5, -0.001])
def test_a_constant_window_with_rounding_noise_is_not_amplified(constant: float) -> None:
    noise = np.random.default_rng(0).normal(size=(1, 2, 10)) * max(abs(constant) * 1e-8, 1e-20)
    zero = np.zeros(1, np.int64)
    windows = EegWindows(
        (constant + noise).astype(np.float32), label=zero, subject=zero, run=zero, window=10, overlap=0
    )
    assert windows.gather(np.arange(1)).abs().max() < 1e-9


@pytest.mark.parametrize(("window", "overlap"), [(802, 0), (1, 0), (160, 160), (160, -1)])
def test_impossible_windows_are_refused(window: int, overlap: int) -> None:
    with pytest.raises(InputError, match=r"^(window|overlap)="):
        window_starts(801, window, overlap)


def test_reading_windows_changes_nothing_on_the_disk(simulated: EegData) -> None:
    before = simulated.trials[0].copy()
    simulated.windows().gather(np.arange(9)).zero_()
    np.testing.assert_array_equal(simulated.trials[0], before)


# Batches


@pytest.fixture
def small() -> EegWindows:
    rng = np.random.default_rng(1)
    number = np.arange(20)
    return EegWindows(
        rng.normal(size=(20, 2, 40)).astype(np.float32),
        label=number % 2,
        subject=number // 5,
        run=number % 3,
        window=10,
        overlap=0,
    )


def visited(batches: WindowBatches) -> list[list[int]]:
    return [index.tolist() for _, _, index in batches]


def test_an_epoch_visits_each_window_once_in_an_order_of_its_own(small: EegWindows) -> None:
    batches = WindowBatches(small, np.arange(4, 80), 12, seed=3)
    first, second = visited(batches), visited(batches)
    assert len(first) == len(batches) == 6
    assert batches.epoch == 2
    assert first != second
    for epoch in (first, second):
        flat = [*itertools.chain(*epoch)]
        assert len(set(flat)) == 72
        assert set(flat) <= set(range(4, 80))
    assert visited(WindowBatches(small, np.arange(4, 80), 12, seed=3)) == first
    assert visited(WindowBatches(small, np.arange(4, 80), 12, seed=4)) != first


def test_batches_hold_the_windows_their_numbers_say(small: EegWindows) -> None:
    for x, y, index in WindowBatches(small, np.arange(80), 16, seed=0):
        assert torch.equal(x, small.gather(index))
        assert y.tolist() == small.label[index].tolist()


@pytest.mark.parametrize("stop", range(1, 13))
def test_stopping_after_any_batch_and_going_on_changes_nothing(small: EegWindows, stop: int) -> None:
    def run(batches: WindowBatches, n: int) -> list[list[int]]:
        seen: list[list[int]] = []
        while len(seen) < n:
            for _, _, index in batches:
                seen.append(index.tolist())
                if len(seen) == n:
                    break
        return seen

    whole = run(WindowBatches(small, np.arange(80), 16, seed=5), 14)
    first = WindowBatches(small, np.arange(80), 16, seed=5)
    seen = run(first, stop)
    state = first.state_dict()
    resumed = WindowBatches(small, np.arange(80), 16, seed=5)
    resumed.load_state_dict(state)
    assert seen + run(resumed, 14 - stop) == whole


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batch_that_one_would_see(small: EegWindows, world_size: int) -> None:
    alone = visited(WindowBatches(small, np.arange(80), 16, seed=5))
    parts = [
        visited(WindowBatches(small, np.arange(80), 16, seed=5, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert [[*itertools.chain(*shares)] for shares in zip(*parts, strict=True)] == alone


def test_impossible_batches_are_refused(small: EegWindows) -> None:
    with pytest.raises(InputError, match="batch_size=100: there are 80 training windows"):
        WindowBatches(small, np.arange(80), 100, seed=0)
    with pytest.raises(InputError, match="cannot be shared by 3 processes"):
        WindowBatches(small, np.arange(80), 16, seed=0, world_size=3)
    batches = WindowBatches(small, np.arange(80), 16, seed=0)
    with pytest.raises(InputError, match="drawn with seed=9"):
        batches.load_state_dict({"seed": 9, "epoch": 0, "batch": 0})


def test_gathering_from_a_tensor_gives_the_same_windows(simulated: EegData) -> None:
    """What a GPU does, on the CPU."""
    windows = simulated.windows(120, 50)
    chosen = np.random.default_rng(0).permutation(len(windows))[:100]
    expected = windows.gather(chosen)
    windows._on_device = torch.from_numpy(np.asarray(simulated.trials))
    torch.testing.assert_close(windows.gather(chosen), expected, rtol=0, atol=2e-6)


@pytest.mark.gpu
def test_gathering_on_a_gpu_gives_the_same_windows(simulated: EegData, eeg_cache: Path) -> None:
    on_cpu = simulated.windows()
    on_gpu = simulated.windows().to("cuda")
    chosen = np.random.default_rng(0).permutation(len(on_cpu))[:256]
    batch = on_gpu.gather(chosen)
    assert batch.device.type == "cuda"
    torch.testing.assert_close(batch.cpu(), on_cpu.gather(chosen), rtol=0, atol=2e-6)
    x, y, index = next(iter(WindowBatches(on_gpu, np.arange(512), 64, seed=0, device="cuda")))
    assert {x.device.type, y.device.type, index.device.type} == {"cuda"}

"""Batch norm over two processes equals batch norm over the whole batch in one."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from models.sync_norm import SyncBatchNorm1d, SyncBatchNorm2d, synchronise_batch_norms


def problem() -> tuple[nn.BatchNorm2d, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.rand(3, generator=generator) + 0.5)
        norm.bias.copy_(torch.rand(3, generator=generator))
    x = torch.randn(6, 3, 4, 5, dtype=torch.float64, generator=generator) * 3 + 7
    return norm, x, torch.randn(6, 3, 4, 5, dtype=torch.float64, generator=generator)


def one_process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    norm, x, weights = problem()
    synced = synchronise_batch_norms(nn.Sequential(norm))
    assert isinstance(synced[0], SyncBatchNorm2d)
    mine = slice(3 * rank, 3 * rank + 3)
    x = x[mine].requires_grad_(True)
    y = synced(x)
    (y * weights[mine]).mean().backward()
    torch.save(
        {"y": y.detach(), "x": x.grad, **synced[0].state_dict(), "w": synced[0].weight.grad, "b": synced[0].bias.grad},
        f"{folder}/{rank}.pt",
    )
    synced.eval()
    torch.testing.assert_close(
        synced(x), nn.functional.batch_norm(x, synced[0].running_mean, synced[0].running_var, *synced[0].parameters())
    )
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(one_process, args=(str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    norm, x, weights = problem()
    x.requires_grad_(True)
    y = norm(x)
    (y * weights).mean().backward()

    def same(a: torch.Tensor, b: torch.Tensor | None) -> None:
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)

    same(torch.cat([part["y"] for part in parts]), y.detach())
    # Each process's loss is the mean over its own half: the whole's gradient is the processes' mean.
    same(torch.cat([part["x"] for part in parts]) / 2, x.grad)
    same((parts[0]["w"] + parts[1]["w"]) / 2, norm.weight.grad)
    same((parts[0]["b"] + parts[1]["b"]) / 2, norm.bias.grad)
    for part in parts:
        same(part["running_mean"], norm.running_mean)
        same(part["running_var"], norm.running_var)
        assert part["num_batches_tracked"] == 1


def one_process_of_signals(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    synced = synchronise_batch_norms(nn.Sequential(nn.BatchNorm1d(3).double()))
    assert isinstance(synced[0], SyncBatchNorm1d)
    x = signals()[3 * rank : 3 * rank + 3]
    torch.save({"y": synced(x).detach(), **synced[0].state_dict()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def signals() -> torch.Tensor:
    return torch.randn(6, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 5


def test_signals_of_two_processes_are_normalised_as_in_one(tmp_path: Path) -> None:
    mp.spawn(one_process_of_signals, args=(str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    norm = nn.BatchNorm1d(3).double()
    torch.testing.assert_close(torch.cat([part["y"] for part in parts]), norm(signals()).detach())
    for part in parts:
        torch.testing.assert_close(part["running_mean"], norm.running_mean)
        torch.testing.assert_close(part["running_var"], norm.running_var)


def test_alone_it_is_ordinary_batch_norm() -> None:
    norm, x, _ = problem()
    synced = synchronise_batch_norms(nn.Sequential(norm))
    assert list(synced[0].state_dict()) == list(norm.state_dict())
    assert torch.equal(synced(x), norm(x))


def test_a_frozen_norm_in_eval_mode_stays_so() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3).eval().requires_grad_(False), nn.BatchNorm1d(3))
    synchronise_batch_norms(network)
    frozen, learning = network
    assert isinstance(frozen, SyncBatchNorm1d)
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert learning.training
    assert all(parameter.requires_grad for parameter in learning.parameters())

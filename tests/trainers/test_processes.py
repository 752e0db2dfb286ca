"""Collective operations among real processes."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trainers.processes import Processes


def _gather(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3)
    processes = Processes(rank, 3, torch.device("cpu"))
    mine = processes.share_of(7)
    rows = torch.arange(7.0).reshape(7, 1)[mine.start : mine.stop] * torch.tensor([1.0, 10.0])
    torch.save(processes.gather(rows), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_gather_gives_every_process_all_rows_in_order(tmp_path: Path) -> None:
    mp.spawn(_gather, (str(tmp_path),), nprocs=3)  # type: ignore[attr-defined]
    for rank in range(3):
        gathered = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert gathered.tolist() == [[float(i), 10.0 * i] for i in range(7)]


def test_shares_cover_everything_once() -> None:
    for world_size in (1, 2, 5, 9):
        shares = [list(Processes(rank, world_size, torch.device("cpu")).share_of(7)) for rank in range(world_size)]
        assert [i for share in shares for i in share] == list(range(7))

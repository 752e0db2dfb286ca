"""One process or many: devices, and the few collective operations that training needs.

torchrun starts the processes (RANK, LOCAL_RANK and WORLD_SIZE in the environment). Gradients are averaged by hand
rather than by DistributedDataParallel, whose hooks do not see the gradients of a penalty on gradients
(torch.autograd.grad through a DDP module is unsupported): after the local gradients are complete, one flat all-reduce
averages them.
"""

import atexit
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

from common.errors import InputError


@dataclass(frozen=True)
class Processes:
    """Where this process stands: its rank among `world_size` and the device it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """The first process's `value` (any picklable object) in every process."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in at least one process. A collective call: every process must make it."""
        if self.world_size == 1:
            return flag
        count = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(count)
        return bool(count.item() > 0)

    def share_of(self, n: int) -> range:
        """This process's part of n things: contiguous, in the order of ranks, equal to one."""
        return range(self.rank * n // self.world_size, (self.rank + 1) * n // self.world_size)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows [n_r, d] of every process's CPU tensor, in the order of ranks: [sum n_r, d] on the CPU, in every
        process.
        """
        if self.world_size == 1:
            return rows
        counts = torch.zeros(self.world_size, dtype=torch.int64, device=self.device)
        counts[self.rank] = len(rows)
        dist.all_reduce(counts)
        # Equal sizes for every process: nccl gathers nothing else.
        padded = torch.zeros(int(counts.max()), *rows.shape[1:], dtype=rows.dtype, device=self.device)
        padded[: len(rows)] = rows.to(self.device)
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)]).cpu()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of `values` over the processes, element by element."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values = values / self.world_size
        return values


def join_processes(device: str) -> Processes:
    """Join the process group torchrun started (nccl on GPUs, gloo on CPUs), or stand alone.

    `device` is "auto" (a GPU if there is one), "cpu" or "cuda". On a GPU, TF32 matrix products and convolutions
    and cuDNN's benchmark mode are switched on: the shapes never change, so its one-off search pays for itself within a
    few steps.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: 'cuda' was asked for, but PyTorch sees no GPU; use device=cpu or device=auto")
    on_gpu = torch.cuda.is_available() and device != "cpu"
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if on_gpu and here > gpus:
        raise InputError(
            f"nproc: {here} processes on this machine, but each needs a GPU of its own and PyTorch sees {gpus}; "
            f"give nproc of at most {gpus}, or device=cpu"
        )
    if on_gpu:
        torch.cuda.set_device(local_rank)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if world_size > 1 and not dist.is_initialized():
        _init_process_group("nccl" if on_gpu else "gloo")
        if not on_gpu:
            # A process that ends while gloo's thread lives is aborted at times (torch 2.15: 3 of 32), and torchrun then
            # stops the others in the middle of their work. Of nccl this was not seen, and leaving it after a failure
            # can hang.
            atexit.register(_leave_process_group)
    chosen = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    return Processes(int(os.environ.get("RANK", "0")), world_size, chosen)


def _init_process_group(backend: str) -> None:
    """Meet the other processes, under a name of this attempt's own where torchrun lends them its store.

    That store outlives a restart (torch 2.15), and in it the addresses of the dead: gloo connects to those, is refused,
    and the restart fails or hangs.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        dist.init_process_group(backend)
        return
    store, rank, world_size = next(rendezvous("env://"))
    store = dist.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)


def _leave_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def average_gradients(module: nn.Module) -> None:
    """Replace every gradient of `module` by its mean over the processes (nothing to do in a single process)."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    # One flat message instead of one per tensor: the critic at 64 pixels has 38 of them.
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))

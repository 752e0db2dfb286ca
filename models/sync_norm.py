"""Batch normalisation over all processes of a distributed training, on any device (PyTorch's SyncBatchNorm refuses CPU tensors)."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """The sum over processes; so is its gradient, since every process's loss depends on every summand."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the batches of all processes, which must be equally large.

    With W processes of N / W images each, outputs, gradients (averaged over the processes) and running statistics equal
    those of one process with N. In eval mode it is nn.BatchNorm2d. Its state dict has the same names.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        n = x.numel() // x.shape[1] * dist.get_world_size()
        # Mean first, then the squares about it: E x^2 - (E x)^2 would cancel.
        mean = _Sum.apply(x.sum((0, 2, 3))) / n
        centred = x - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            assert self.num_batches_tracked is not None
            assert self.running_mean is not None
            assert self.running_var is not None
            self.num_batches_tracked += 1
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(variance.detach().to(self.running_var.dtype) * n / (n - 1), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def synchronise_batch_norms(module: nn.Module) -> nn.Module:
    """Replace every nn.BatchNorm2d in `module` by a SyncBatchNorm2d with the same parameters and buffers; returns `module`."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            norm = SyncBatchNorm2d(
                child.num_features,
                child.eps,
                child.momentum,
                device=child.weight.device,
                dtype=child.weight.dtype,
            )
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        else:
            synchronise_batch_norms(child)
    return module

"""Batch normalisation over all processes of a distributed training, on any device (PyTorch's SyncBatchNorm refuses CPU
tensors).
"""

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


class _SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation whose training statistics are those of the batches of all processes, which must be equally
    large.

    With W processes of N / W samples each, outputs, gradients (averaged over the processes) and running statistics
    equal those of one process with N. In eval mode it is PyTorch's. Its state dict has the same names.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        n = x.numel() // x.shape[1] * dist.get_world_size()
        over = [d for d in range(x.dim()) if d != 1]
        shape = (-1, *[1] * (x.dim() - 2))
        # Mean first, then the squares about it: E x^2 - (E x)^2 would cancel.
        mean = _Sum.apply(x.sum(over)) / n
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(over)) / n
        with torch.no_grad():
            assert self.num_batches_tracked is not None
            assert self.running_mean is not None
            assert self.running_var is not None
            self.num_batches_tracked += 1
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(variance.detach().to(self.running_var.dtype) * n / (n - 1), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale.view(shape) + self.bias.view(shape)


class SyncBatchNorm1d(_SyncBatchNorm, nn.BatchNorm1d):
    """nn.BatchNorm1d over all processes."""


class SyncBatchNorm2d(_SyncBatchNorm, nn.BatchNorm2d):
    """nn.BatchNorm2d over all processes."""


SYNCHRONISED: dict[type, type[_SyncBatchNorm]] = {nn.BatchNorm1d: SyncBatchNorm1d, nn.BatchNorm2d: SyncBatchNorm2d}


def synchronise_batch_norms(module: nn.Module) -> nn.Module:
    """Replace every nn.BatchNorm1d and 2d in `module` by one over all processes, with the same parameters, frozen or
    not, buffers and mode; returns `module`.
    """
    for name, child in module.named_children():
        if type(child) in SYNCHRONISED:
            assert isinstance(child, nn.modules.batchnorm._BatchNorm)
            norm = SYNCHRONISED[type(child)](
                child.num_features,
                child.eps,
                child.momentum,
                device=child.weight.device,
                dtype=child.weight.dtype,
            )
            norm.load_state_dict(child.state_dict())
            for parameter, of_child in zip(norm.parameters(), child.parameters(), strict=True):
                parameter.requires_grad_(of_child.requires_grad)  # a frozen encoder's stay frozen
            setattr(module, name, norm.train(child.training))
        else:
            synchronise_batch_norms(child)
    return module

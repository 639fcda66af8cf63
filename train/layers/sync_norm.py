"""Batch norm over the batch of all processes, on CPU too (PyTorch's own SyncBatchNorm is for accelerators)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from train.layers.stateless import BatchNorm2d, fold_time, unfold_time


class _Sum(torch.autograd.Function):
    """Sum over processes, forward and backward: every process's loss depends on every process's input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class SyncBatchNorm2d(BatchNorm2d):
    """Batch norm with statistics of all processes and time steps; [T, B, C, H, W], equal shares for each process.

    mean = sum(x) / n, var = sum((x - mean)^2) / n over all processes; running statistics as in PyTorch (unbiased var).
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = fold_time(input)
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        mean: Tensor = _Sum.apply(x.float().sum((0, 2, 3)))  # type: ignore[no-untyped-call]
        mean = mean / count
        centred = x.float() - mean.view(-1, 1, 1)
        var: Tensor = _Sum.apply(centred.square().sum((0, 2, 3)))  # type: ignore[no-untyped-call]
        var = var / count
        self._track(mean.detach(), var.detach() * (count / max(count - 1, 1)))
        out = centred * torch.rsqrt(var + self.eps).view(-1, 1, 1)
        out = out * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)
        return unfold_time(out.to(input.dtype), len(input))

    def _track(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = self.momentum or 0.0
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(var.to(self.running_var.dtype), momentum)


def synchronise(model: nn.Module) -> None:
    """Replace every batch norm of `model` by one that sees all processes, with the same parameters and buffers."""
    for name, module in model.named_modules():
        for child_name, child in module.named_children():
            if type(child) is BatchNorm2d:
                synced = SyncBatchNorm2d(child.num_features, child.eps, child.momentum)
                synced.weight, synced.bias = child.weight, child.bias
                for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                    setattr(synced, buffer, getattr(child, buffer))
                setattr(model.get_submodule(name) if name else model, child_name, synced)

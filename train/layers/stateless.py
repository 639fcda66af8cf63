"""Layers without memory: PyTorch's own, applied to the T * B images of [T, B, C, H, W] as one batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.kernels import buffers
from train.layers import pieces


def fold_time(x: Tensor) -> Tensor:
    """[T, B, ...] to [T * B, ...]; a view where strides allow."""
    return x.flatten(0, 1)


def unfold_time(x: Tensor, steps: int) -> Tensor:
    """[T * B, ...] back to [T, B, ...]."""
    return x.view(steps, -1, *x.shape[1:])


class Conv2d(nn.Conv2d):
    """2-D convolution of every time step; [T, B, C, H, W] to [T, B, C', H', W']."""

    def forward(self, input: Tensor) -> Tensor:
        return unfold_time(super().forward(fold_time(input)), len(input))

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        form = pieces.form(self, input)
        whole = super()._conv_forward
        out: Tensor = whole(input, weight, bias) if form is None else pieces.convolve(input, weight, bias, form)
        return out


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm with one set of statistics and affine parameters for all time steps; [T, B, C, H, W].

    Source: BatchNorm3d over [B, C, T, H, W] in the official FSTA-SNN code; the same numbers, [C for FSTA, I else].
    """

    def forward(self, input: Tensor) -> Tensor:
        return unfold_time(super().forward(fold_time(input)), len(input))


class AvgPool2d(nn.AvgPool2d):
    """Average pooling of every time step; [T, B, C, H, W]."""

    def forward(self, input: Tensor) -> Tensor:
        return unfold_time(_pool(self, fold_time(input)), len(input))


def _pool(pool: nn.AvgPool2d, x: Tensor) -> Tensor:
    """Windows that tile the image go the way whose gradient is written once, not zeroed and added up, on a CPU."""
    windows, strides, padding = (_pair(value) for value in (pool.kernel_size, pool.stride, pool.padding))
    plain = windows == strides and padding == (0, 0) and pool.divisor_override is None and x.device.type == "cpu"
    if plain and x.shape[-2] % windows[0] == 0 and x.shape[-1] % windows[1] == 0 and x.requires_grad:
        out: Tensor = _TiledAverage.apply(x, windows)  # type: ignore[no-untyped-call]
        return out
    return nn.AvgPool2d.forward(pool, x)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


class _TiledAverage(torch.autograd.Function):
    """Averages of [N, C, H, W] over windows side by side: dL/dx = dL/dy / size, the same in all of a window."""

    @staticmethod
    def forward(ctx, x: Tensor, windows: tuple[int, int]) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.windows = windows
        ctx.like = (x.shape, x.stride())
        return functional.avg_pool2d(x, windows)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        rows, columns = ctx.windows
        share = gradient / (rows * columns)
        shape, stride = ctx.like
        out = buffers.empty_strided(shape, stride, gradient.dtype)
        for row in range(rows):
            for column in range(columns):
                out[..., row::rows, column::columns] = share
        return out, None


class Flatten(nn.Module):
    """[T, B, C, H, W] to [T, B, C * H * W], in C order."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)


class Linear(nn.Linear):
    """Fully connected at every time step; [T, B, F] to [T, B, F']."""


def initialise(module: nn.Module) -> None:
    """Initial values [C for FSTA, I else]: convolutions N(0, sqrt(2 / (k k C_out))), linear N(0, 1 / C_in)."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, 0.0, (2.0 / fan_out) ** 0.5)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 1.0 / module.in_features)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        with torch.no_grad():
            module.bias.zero_()

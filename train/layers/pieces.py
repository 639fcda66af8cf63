"""Convolutions of all T * B images, a few at a time into memory that is used again, where malloc would not keep it.

glibc gives blocks above 32 MB back when they are freed, unless it is tuned (`train.allocator`), and a new one costs a
page fault for every 4 kB. PyTorch's convolutions take their results from malloc: pieces of them are small enough to be
kept, and are copied while they are in cache to memory of our own (`train.kernels.buffers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from train import allocator
from train.kernels import buffers

RETURNED = 32 << 20  # bytes: larger blocks are given back (DEFAULT_MMAP_THRESHOLD_MAX in glibc's malloc.c)
PIECE = 4 << 20  # bytes: with 16 MB as fast, but for more memory


@dataclass(frozen=True)
class Form:
    """How to convolve, so many images at a time."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    images: int


def form(conv: nn.Conv2d, x: Tensor) -> Form | None:
    """For images [N, C, H, W]; None where the convolution as a whole does no worse."""
    if type(x) is not Tensor or x.device.type != "cpu" or x.ndim != 4 or allocator.keeps_memory():
        return None
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        return None
    sides = zip(x.shape[2:], conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True)
    height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides)
    largest = max(conv.out_channels * height * width, x.shape[1:].numel() if x.requires_grad else 0)
    bytes_of_one = largest * _dtype(x).itemsize
    if len(x) * bytes_of_one <= RETURNED:
        return None
    return Form(conv.stride, conv.padding, conv.dilation, conv.groups, max(1, PIECE // bytes_of_one))


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, form: Form) -> Tensor:
    """As `functional.conv2d`, [N, C, H, W] to [N, C', H', W']; the gradient of the weight is the sum of the pieces'."""
    dtype = _dtype(x)
    out: Tensor = _Pieces.apply(  # type: ignore[no-untyped-call]
        x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype), form
    )
    return out


def _dtype(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


class _Pieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, form: Form) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        ctx.form, ctx.biases = form, None if bias is None else list(bias.shape)
        how = (form.stride, form.padding, form.dilation, form.groups)
        return _joined(len(x), (functional.conv2d(piece, weight, bias, *how) for piece in x.split(form.images)))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        form, (by_input, by_weight, by_bias, _) = ctx.form, ctx.needs_input_grad
        how = (form.stride, form.padding, form.dilation, False, (0, 0), form.groups, (by_input, by_weight, by_bias))
        exact = torch.promote_types(weight.dtype, torch.float32)
        weights = torch.zeros_like(weight, dtype=exact)
        biases = torch.zeros(len(weight), dtype=exact)

        def pieces() -> Iterator[Tensor]:
            for behind, piece in zip(gradient.split(form.images), x.split(form.images), strict=True):
                found = torch.ops.aten.convolution_backward(behind, piece, weight, ctx.biases, *how)
                if by_weight:
                    weights.add_(found[1])
                if by_bias:
                    biases.add_(found[2])
                if by_input:
                    yield found[0]

        out = _joined(len(x), pieces())
        return (
            out if by_input else None,
            weights.to(weight.dtype) if by_weight else None,
            biases.to(weight.dtype) if by_bias else None,
            None,
        )


def _joined(images: int, pieces: Iterable[Tensor]) -> Tensor:
    """One tensor of all images, which lies in memory as the pieces do; empty of none."""
    out, done = torch.empty(0), 0
    for piece in pieces:
        if not done:
            out = buffers.empty_strided((images, *piece.shape[1:]), piece.stride(), piece.dtype)
        out[done : done + len(piece)] = piece
        done += len(piece)
    return out

"""The LIF fused over time on a GPU, in Triton: one program takes a block of neurons through all T steps.

The state stays in registers. The backward kernel needs the membrane potential in reverse order, so the forward kernel
leaves it in memory, in float32: rounded to 16 bits it could fire where the forward pass did not. Beside it only the
current is kept, and that only where leak, gain or bias learn. Has run in Triton's interpreter, not yet on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from train.kernels import layout, reference
from train.surrogate import ATan, Rectangle, Sigmoid, Surrogate, TanhWindow, Triangle

BLOCK = 256
LARGEST = 1 << 30  # neurons: the kernels count those of a step, and twice as many, in 32 bits


def _slope(v, threshold, k, kind: tl.constexpr):  # type: ignore[no-untyped-def]
    """dS/dV; the formulas are those of `train.surrogate`, in the order of `surrogate_code`."""
    d = v - threshold
    if kind == 0:  # tanh window, k (1 - tanh^2 z) / (2 tanh(k / 2)) / (2 threshold)
        z = k * d / (2 * threshold)
        s = tl.sigmoid(2 * z)
        half = tl.sigmoid(k)
        value = 4 * k * s * (1 - s) / (2 * (2 * half - 1)) / (2 * threshold)
        result = tl.where((v > 0) & (v < 2 * threshold), value, 0.0)
    elif kind == 1:
        result = tl.where(tl.abs(d) < k / 2, 1.0 / k, 0.0)
    elif kind == 2:
        result = tl.maximum(1 - tl.abs(d) / k, 0.0) / k
    elif kind == 3:
        s = tl.sigmoid(k * d)
        result = k * s * (1 - s)
    else:
        z = 1.5707963267948966 * k * d
        result = k / 2 / (1 + z * z)
    return result


_slope = triton.jit(_slope)


def _forward(x, spikes, potentials, leak, gain, bias, threshold, steps, n, stride, channels,  # type: ignore[no-untyped-def]
             each: tl.constexpr, keep: tl.constexpr, block: tl.constexpr):  # fmt: skip
    i = tl.program_id(0) * block + tl.arange(0, block)
    inside = i < n
    if each:  # one value a channel, else numbers
        c = (i // stride) % channels
        decay, scale = tl.load(leak + c, mask=inside, other=0.0), tl.load(gain + c, mask=inside, other=0.0)
        shift = tl.load(bias + c, mask=inside, other=0.0)
    else:
        decay, scale, shift = leak, gain, bias
    state = tl.zeros([block], tl.float32)
    at = i.to(tl.int64)
    for _ in range(steps):
        v = decay * state + (scale * tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + shift)
        fired = v > threshold
        tl.store(spikes + at, tl.where(fired, 1.0, 0.0).to(spikes.dtype.element_ty), mask=inside)
        if keep:
            tl.store(potentials + at, v, mask=inside)
        state = tl.where(fired, 0.0, v)
        at += n


def _backward(gradient, x, potentials, x_gradient, sums, leak, gain, threshold, k, steps, n, last, stride, channels,  # type: ignore[no-untyped-def]
              each: tl.constexpr, kind: tl.constexpr, detach: tl.constexpr, wanted: tl.constexpr,
              block: tl.constexpr):  # fmt: skip
    i = tl.program_id(0) * block + tl.arange(0, block)
    inside = i < n
    if each:
        c = (i // stride) % channels
        decay, scale = tl.load(leak + c, mask=inside, other=0.0), tl.load(gain + c, mask=inside, other=0.0)
    else:
        decay, scale = leak, gain
    carried = tl.zeros([block], tl.float32)
    leak_sum, gain_sum, bias_sum = carried, carried, carried
    at = i.to(tl.int64) + last
    v = tl.load(potentials + at, mask=inside, other=0.0)
    for _ in range(steps):
        g = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        if not detach:
            g -= v * carried
        dv = tl.where(v > threshold, 0.0, carried) + g * _slope(v, threshold, k, kind)
        carried = decay * dv
        tl.store(x_gradient + at, (scale * dv).to(x_gradient.dtype.element_ty), mask=inside)
        before = tl.load(potentials + at - n, mask=inside & (at >= n), other=0.0)
        if wanted:
            leak_sum += dv * tl.where(before > threshold, 0.0, before)
            gain_sum += dv * tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            bias_sum += dv
        v = before
        at -= n
    if wanted:
        tl.store(sums + i, leak_sum, mask=inside)
        tl.store(sums + n + i, gain_sum, mask=inside)
        tl.store(sums + 2 * n + i, bias_sum, mask=inside)


forward_kernel, backward_kernel = triton.jit(_forward), triton.jit(_backward)


def surrogate_code(surrogate: Surrogate) -> tuple[int, float] | None:
    """Kind and width of a surrogate that the kernel knows, else None."""
    match surrogate:
        case TanhWindow(k):
            return 0, k
        case Rectangle(width):
            return 1, width
        case Triangle(width):
            return 2, width
        case Sigmoid(alpha):
            return 3, alpha
        case ATan(alpha):
            return 4, alpha
    return None


class _LIF(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        current: Tensor,
        threshold: float,
        code: tuple[int, float],
        detach_reset: bool,
        *values: float | Tensor,
    ) -> Tensor:
        form = layout.of(current, per_channel=True)
        flat = form.flat(current)
        n, channels = flat[0].numel(), current.shape[2]
        stride = 1 if form.channels_last else form.segment
        tensors = [value for value in values if isinstance(value, Tensor)]
        given = [_per_channel(value, channels, flat.device) for value in values] if tensors else values
        spikes = torch.empty_like(flat)
        keep = any(ctx.needs_input_grad)
        potentials = torch.empty_like(flat, dtype=torch.float32) if keep else spikes
        grid = (triton.cdiv(n, BLOCK),)
        arguments = (*given, threshold, len(flat), n, stride, channels)
        with torch.cuda.device_of(flat):  # Triton launches on the current device, wherever the tensors are
            forward_kernel[grid](flat, spikes, potentials, *arguments, each=bool(tensors), keep=keep, block=BLOCK)
        if keep:
            learns = any(ctx.needs_input_grad[4:])
            ctx.save_for_backward(potentials, flat if learns else potentials, *(given[:2] if tensors else ()), *tensors)
            ctx.given = None if tensors else given[:2]
            ctx.form, ctx.threshold, ctx.code, ctx.detach = form, threshold, code, detach_reset
            ctx.numbers, ctx.dtype = (grid, n, stride, channels), current.dtype
            ctx.is_tensor = [isinstance(value, Tensor) for value in values]
        return form.shaped(spikes)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        potentials, flat, *tensors = ctx.saved_tensors
        each = ctx.given is None
        leak, gain, *tensors = tensors if each else ctx.given
        (grid, n, stride, channels), form = ctx.numbers, ctx.form
        kind, width = ctx.code
        wanted = ctx.needs_input_grad[4:]
        out = torch.empty_like(potentials, dtype=ctx.dtype)
        sums = torch.empty(3, n if any(wanted) else 0, device=out.device)
        steps = len(potentials)
        arguments = (leak, gain, ctx.threshold, width, steps, n, (steps - 1) * n, stride, channels)
        options = {"each": each, "kind": kind, "detach": ctx.detach, "wanted": any(wanted), "block": BLOCK}
        with torch.cuda.device_of(flat):
            backward_kernel[grid](form.flat(gradient), flat, potentials, out, sums, *arguments, **options)
        remaining = iter(tensors)
        values = [next(remaining) if tensor else None for tensor in ctx.is_tensor]
        found = [
            _summed(total, value, stride) if want and value is not None else None
            for total, value, want in zip(sums, values, wanted, strict=True)
        ]
        return form.shaped(out), None, None, None, *found


def _per_channel(value: float | Tensor, channels: int, device: torch.device) -> Tensor:
    """(C,) in float32; a number is filled in there: to copy it from the host would wait for the device."""
    if not isinstance(value, Tensor):
        return torch.full((channels,), value, dtype=torch.float32, device=device)
    return value.detach().to(device).float().expand(channels).contiguous()


def _summed(total: Tensor, parameter: Tensor, stride: int) -> Tensor:
    """Sums over time for every neuron, (M,), to the gradient of a scalar or (C,) parameter."""
    if parameter.ndim == 0:
        return total.sum().to(parameter.dtype)
    return total.view(-1, len(parameter), stride).sum((0, 2)).to(parameter.dtype)


def lif(
    current: Tensor,
    leak: float | Tensor,
    threshold: float,
    surrogate: Surrogate,
    gain: float | Tensor = 1.0,
    detach_reset: bool = False,
    bias: float | Tensor = 0.0,
) -> Tensor:
    """Spikes [T, B, C, ...]; see `reference.lif`, which takes float64, surrogates unknown to the kernel, and more than
    2^30 neurons.
    """
    code = surrogate_code(surrogate)
    neurons = current[0].numel() if len(current) else 0
    if code is None or current.dtype == torch.float64 or not 0 < neurons <= LARGEST:
        return reference.lif(current, leak, threshold, surrogate, gain, detach_reset, bias)
    out: Tensor = _LIF.apply(current, threshold, code, detach_reset, leak, gain, bias)  # type: ignore[no-untyped-call]
    return out

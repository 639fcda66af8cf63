"""The fused LIF's inner loops over one tile: each reads and writes a few cache-resident rows, so that LLVM vectorises.

Loops stay separate because LLVM gives up on a loop with too many arrays that might overlap. No fast-math: the order
of operations is that of the reference, so spikes in float32 and float64 are equal to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from train.kernels import trace, vector
from train.kernels.kept import inline
from train.kernels.layout import LINE
from train.surrogate import Surrogate

BFLOAT16_ONE = np.uint16(0x3F80)
DIALECT = {
    "abs": "abs({0})",
    "relu": "max({0}, real(0))",
    "tanh": "tanh({0})",
    "sigmoid": "sigmoid({0})",
    "exp": "exp({0})",
    "reciprocal": "real(1) / {0}",
    "where": "({1} if {0} else {2})",
    "number": "real({0})",
    "real": "(real(1) if {0} else real(0))",
}


def _fetch_line(typing: Any, source: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        form = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], form)
        builder.call(function, [builder.bitcast(builder.gep(data, [arguments[1]]), byte), flag(0), flag(2), flag(1)])
        return context.get_dummy_value()

    return types.void(source, types.intp), generate


fetch_line: Any = intrinsic(_fetch_line)


def _fetch(source: Any) -> None:
    """Have a row brought to the cache: the hardware does not see what comes next, since rows of T steps lie apart."""
    for i in range(0, source.shape[0], LINE // source.itemsize):
        fetch_line(source, i)


def _row(like: Any) -> Any:
    """Memory for a tile as wide as the rows of `like`, from a cache line on: loads across two lines cost double."""
    width = like.shape[1]
    room = np.empty(width + LINE, like.dtype)
    first = -room.ctypes.data % LINE // like.itemsize
    return room[first : first + width]


@dataclass(frozen=True)
class Storage:
    """How a tensor's elements become state and back: as they are, or bfloat16 as the upper half of a float32."""

    load: Any
    store_product: Any
    one: Any


def storage(real: type, bfloat16: bool) -> Storage:
    """Loops that read and write tensors of `real`, or of bfloat16 seen as uint16."""
    if not bfloat16:
        return Storage(inline(_load), inline(_store_product), real(1))
    return Storage(inline(_load_bfloat16), inline(_store_product_bfloat16), BFLOAT16_ONE)


def _load(buffer: Any, source: Any) -> Any:
    return source


def _load_bfloat16(buffer: Any, source: Any) -> Any:
    bits = buffer.view(np.uint32)
    for i in range(source.shape[0]):
        bits[i] = np.uint32(source[i]) << np.uint32(16)
    return buffer[: source.shape[0]]


def _store_product(target: Any, a: Any, b: Any, buffer: Any) -> None:
    for i in range(target.shape[0]):
        target[i] = a[i] * b[i]


def _store_product_bfloat16(target: Any, a: Any, b: Any, buffer: Any) -> None:
    """Rounds to nearest, ties to even; not-a-number stays not-a-number."""
    for i in range(target.shape[0]):
        buffer[i] = a[i] * b[i]
    bits = buffer.view(np.uint32)
    for i in range(target.shape[0]):
        word = bits[i]
        rounded = word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))
        nan = (word & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        target[i] = np.uint16((np.uint32(0x7FC00000) if nan else rounded) >> np.uint32(16))


def _fire(spikes: Any, state: Any, x: Any, leak: Any, gain: Any, bias: Any, threshold: Any, one: Any) -> None:
    """S = 1[V > threshold], V = leak H + (gain x + bias); H <- V (1 - S)."""
    zero, off = threshold - threshold, one - one
    for i in range(spikes.shape[0]):
        v = leak[i] * state[i] + (gain[i] * x[i] + bias[i])
        spikes[i] = one if v > threshold else off
        state[i] = zero if v > threshold else v


def _charge(potential: Any, state: Any, x: Any, leak: Any, gain: Any, bias: Any, threshold: Any) -> None:
    """V = leak H + (gain x + bias), kept; H <- V (1 - S)."""
    zero = threshold - threshold
    for i in range(potential.shape[0]):
        v = leak[i] * state[i] + (gain[i] * x[i] + bias[i])
        potential[i] = v
        state[i] = zero if v > threshold else v


def _copy(to: Any, a: Any) -> None:
    """Compiled in a hundredth of the time of an assignment between slices, which can fail with a message."""
    for i in range(a.shape[0]):
        to[i] = a[i]


def _add(total: Any, a: Any) -> None:
    for i in range(a.shape[0]):
        total[i] += a[i]


def _add_products(product: Any, plain: Any, a: Any, x: Any, centre: Any) -> None:
    """product += a (x - centre), plain += a; a centre near the mean of x keeps the sums of batch norm accurate."""
    for i in range(a.shape[0]):
        product[i] += a[i] * (x[i] - centre[i])
        plain[i] += a[i]


def _add_moments(first: Any, second: Any, x: Any, centre: Any) -> None:
    """first += x - centre, second += (x - centre)^2."""
    for i in range(x.shape[0]):
        d = x[i] - centre[i]
        first[i] += d
        second[i] += d * d


def _affine(out: Any, x: Any, slope: Any, offset: Any, base: Any) -> None:
    """out = base + slope x + offset."""
    for i in range(x.shape[0]):
        out[i] = base[i] + (slope[i] * x[i] + offset[i])


def _add_state_product(total: Any, a: Any, potential: Any, threshold: Any) -> None:
    """total += a H, with H the state that `potential` leaves after reset."""
    zero = threshold - threshold
    for i in range(a.shape[0]):
        total[i] += a[i] * (zero if potential[i] > threshold else potential[i])


fire, charge, copy = inline(_fire), inline(_charge), inline(_copy)
add, add_products, add_state_product = inline(_add), inline(_add_products), inline(_add_state_product)
add_moments, affine = inline(_add_moments), inline(_affine)
row, fetch = inline(_row), inline(_fetch)


def step_back_source(surrogate: Surrogate | None, threshold: float, detach: bool) -> str:
    """A loop that leaves dL/dV = (1 - S) dL/dH + dL/dS dS/dV in its first argument, and leak dL/dV in `carried`.

    With surrogate None, dS/dV is read from the last argument.

    Raises:
        trace.UntraceableError: the surrogate's derivative does not translate.
    """
    if surrogate is None:
        lines: tuple[str, ...] = ()
        result = "given[i]"
    else:
        lines, result = trace.expression(surrogate, threshold, DIALECT)
    body = [
        "v, h = potential[i], carried[i]",
        *lines,
        f"d = (real(0) if v > threshold else h) + (gradient[i]{'' if detach else ' - v * h'}) * {result}",
        "slope[i], carried[i] = d, leak[i] * d",
    ]
    header = "def step_back(slope, gradient, potential, carried, leak, threshold, given):\n"
    header += "    for i in range(slope.shape[0]):\n"
    return header + "".join(f"        {line}\n" for line in body)


def step_back_loop(source: str, real: type) -> Any:
    """That loop in numbers of `real`."""
    narrow = real is np.float32
    functions = {name: getattr(vector if narrow else math, name) for name in ("exp", "tanh")}
    sigmoid: Callable[..., Any] = vector.sigmoid if narrow else _sigmoid64
    namespace: dict[str, Any] = {"real": real, "sigmoid": sigmoid, **functions}
    exec(source, namespace)
    return inline(namespace["step_back"])


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


_sigmoid64 = inline(_sigmoid)

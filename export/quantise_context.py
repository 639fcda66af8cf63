"""The integers of STAA-SNN's global context."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from export.attention import GlobalContext
from export.coefficients import CURRENT, ROOM, Stage, affine, below, hidden, logits, output_shift, sigmoid_table
from export.context_gains import NORMAL_BITS, ContextGains
from export.graph import Floats, Shape
from export.whole import PER_LOGIT, SHIFTS, TABLE, WORD, Ints, peak, shifted, total

WEIGHT_BITS = 15  # of a softmax's largest weight, at most
HIDDEN_BITS = 14
EPSILON = 1 << 28  # LayerNorm's epsilon stays below it, in units of its squares


def context(node: GlobalContext, shape: Shape, scale: Floats, bias: Ints, bound: int, payload: int) -> ContextGains:
    """The program of STAA-SNN's context block.

    Args:
        scale: (C,) units of a_in per unit of the float current.
        bias: in units of a_in, broadcasting to `shape`.
        bound: |a_in + bias| is never larger.
        payload: the largest graded spike that it may send.

    Raises:
        UserError: its arithmetic cannot be kept in 32 bits.
    """
    channels, places, inner = shape[0], shape[1] * shape[2], len(node.squeeze)
    input_shift, limit = below(bound, CURRENT)
    # values and what multiplies them share the bits that a sum over channels, or over places, leaves
    value_bits = math.isqrt(ROOM // max(channels, places)).bit_length() - 1
    v, most = min(limit, 1 << value_bits), max(0, limit.bit_length() - value_bits)
    unit = 2.0**input_shift / scale
    key = logits((node.key * unit)[None], v, 0, "places", node.where)
    squeeze = _squeeze(node, unit, v, most)
    weight_bits = min(WEIGHT_BITS, ((WORD - 1) // ((2 * v + 2) * places)).bit_length() - 1)
    centre_shift, epsilon = _epsilon(node, inner, squeeze.exponent - squeeze.shift)
    normal = math.sqrt(inner) * node.scale[:, None]  # what comes is LayerNorm's over the root of R
    scaled, p = hidden(affine(normal, node.shift, 1 << NORMAL_BITS, NORMAL_BITS), 1 << NORMAL_BITS, HIDDEN_BITS)
    exponent = NORMAL_BITS + scaled.exponent - scaled.shift
    excite = logits(node.excite, p, exponent, "channels", node.where, node.excite_bias)
    program = ContextGains(
        limit=limit,
        bias=bias,
        input_shift=input_shift,
        gain_shift=0,
        value_bits=value_bits,
        key=key.values[0],
        score_shift=key.shift,
        exp_table=np.rint(np.exp(-np.arange(TABLE) / PER_LOGIT) * 2.0**weight_bits).astype(np.int64),
        squeeze=squeeze.values,
        squeeze_bias=squeeze.bias,
        squeeze_shift=squeeze.shift,
        centre_shift=centre_shift,
        epsilon=epsilon,
        scale=scaled.values[:, 0],
        shift=scaled.bias,
        normal_shift=scaled.shift,
        excite=excite.values,
        excite_bias=excite.bias,
        logit_shift=excite.shift,
        gain_table=np.rint(sigmoid_table() * 2.0**ContextGains.gain_bits).astype(np.int64),
    )
    program = replace(program, gain_shift=output_shift(limit, peak(program.gain_table), payload))
    program.check(shape, 1, node.where)
    return program


def _squeeze(node: GlobalContext, unit: Floats, v: int, most: int) -> Stage:
    """Hidden values of |operands| <= v times 2^most: with the bias they keep room for R times their difference."""
    stage = affine(node.squeeze * unit, 0 * node.squeeze_bias, v, 0)
    room = ROOM // (2 * len(node.squeeze))
    for shift in range(most, SHIFTS[1] + 1):
        bias = np.rint(node.squeeze_bias * 2.0 ** (stage.exponent - shift)).astype(np.int64)
        if shifted(total(stage.values) * v, shift - most) + peak(bias) < room:
            break
    return replace(stage, bias=bias, shift=shift)


def _epsilon(node: GlobalContext, inner: int, exponent: int) -> tuple[int, int]:
    """(centre_shift, epsilon) for hidden values in units of 2^-exponent.

    With d = R (h - mean), (h - mean) / sqrt(var + eps) = sqrt(R) d / sqrt(sum d^2 + eps R^3).
    """
    value, shift = node.epsilon * inner**3 * 4.0**exponent, SHIFTS[0]
    while value >= EPSILON:
        value, shift = value / 4, shift + 1
    return shift, max(1, round(value))

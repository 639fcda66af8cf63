"""The integers of STAA-SNN's step attention."""

from __future__ import annotations

import math

import numpy as np

from export.attention import StepAttention
from export.coefficients import affine, below, hidden, logits, sigmoid_table
from export.graph import Shape
from export.step_gains import StepGains

COUNT_BITS = 14
HIDDEN_BITS = 14


def step(node: StepAttention, shape: Shape, steps: int, spike: int, bits: int) -> StepGains:
    """The program of STAA-SNN's step attention.

    Args:
        spike: what one adds to a_in, a power of two.
        bits: of a graded spike.

    Raises:
        UserError: its arithmetic cannot be kept in 32 bits.
    """
    size = math.prod(shape)
    count_shift, m = below(size, 1 << COUNT_BITS)
    squeeze, p = hidden(affine(node.squeeze * 2.0**count_shift / size, node.squeeze_bias, m, 0), m, HIDDEN_BITS)
    exponent = squeeze.exponent - squeeze.shift
    excite = logits(node.excite, p, exponent, "steps", node.where, node.excite_bias)
    program = StepGains(
        limit=1,
        bias=np.zeros((1, 1, 1), dtype=np.int64),
        input_shift=spike.bit_length() - 1,
        gain_shift=StepGains.gain_bits - bits,
        count_shift=count_shift,
        squeeze=squeeze.values,
        squeeze_bias=squeeze.bias,
        hidden_shift=squeeze.shift,
        excite=excite.values,
        excite_bias=excite.bias,
        logit_shift=excite.shift,
        gain_table=np.rint(sigmoid_table() * 2.0**StepGains.gain_bits).astype(np.int64),
    )
    program.check(shape, steps, node.where)
    return program

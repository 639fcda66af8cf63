"""Scalar functions for the fused CPU kernels, written so that LLVM turns loops over them into SIMD code."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from train.kernels.kept import inline

LOG2_E = np.float32(1.4426950408889634)
LN_2_HIGH, LN_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # their sum is ln 2; n * high is exact
# Taylor's coefficients 1/2! .. 1/6!: |r| <= ln(2) / 2 leaves an error below 1.2e-7.
C2, C3, C4, C5, C6 = (np.float32(c) for c in (1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720))
HALF, ONE, TWO, LIMIT = np.float32(0.5), np.float32(1), np.float32(2), np.float32(87)
EXPONENT_BIAS, MANTISSA_BITS = np.int32(127), np.int32(23)


def _float_of_bits(typing_context: Any, bits: Any) -> Any:
    """float32 with the bit pattern of an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


float_of_bits: Any = intrinsic(_float_of_bits)


def _exp(x: Any) -> Any:
    """e^x in float32: 2^n e^r, n = round(x / ln 2); relative error below 3e-7, arguments clipped to +-87."""
    x = min(max(x, -LIMIT), LIMIT)
    n = np.floor(x * LOG2_E + HALF)
    r = x - n * LN_2_HIGH - n * LN_2_LOW
    p = ONE + r * (ONE + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * C6)))))
    return p * float_of_bits((np.int32(n) + EXPONENT_BIAS) << MANTISSA_BITS)


exp: Any = inline(_exp)


def _tanh(x: Any) -> Any:
    """tanh in float32; absolute error below 3e-7."""
    return ONE - TWO / (exp(TWO * x) + ONE)


def _sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) in float32."""
    return ONE / (ONE + exp(-x))


tanh: Any = inline(_tanh)
sigmoid: Any = inline(_sigmoid)

"""The integers of FSTA-SNN's attention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.attention import FrequencyAttention
from export.coefficients import CURRENT, ROOM, below, fit, logits, narrowed, output_shift, sigmoid_table
from export.frequency_gains import FrequencyGains
from export.graph import Floats, Shape
from export.whole import GAIN_BITS, Ints, peak

AMPLITUDE_BITS = 15
PLACE_BITS = 13


def frequency(
    node: FrequencyAttention, shape: Shape, steps: int, scale: Floats, bias: Ints, bound: int, payload: int
) -> FrequencyGains:
    """The program of FSTA-SNN's attention.

    Args:
        scale: (C,) units of a_in per unit of the float current.
        bias: in units of a_in, broadcasting to `shape`.
        bound: |a_in + bias| is never larger.
        payload: the largest graded spike that it may send.

    Raises:
        UserError: its arithmetic cannot be kept in 32 bits.
    """
    channels, places = shape[0], shape[1] * shape[2]
    input_shift, limit = below(bound, min(CURRENT, ROOM // places))
    unit = 2.0**input_shift / scale
    mean_shift = max(0, (places * limit).bit_length() - 17)
    average = (places * limit + (1 << mean_shift >> 1)) >> mean_shift
    both = np.concatenate([node.alpha * unit * 2.0**mean_shift / (places * channels), node.beta * unit / channels])
    sizes = np.repeat([float(average), float(limit)], channels)
    weights, fine = fit(both[None], sizes)
    amplitude_shift, amplitude = narrowed(weights, sizes, AMPLITUDE_BITS)
    temporal = logits(node.temporal, amplitude, fine - amplitude_shift, "steps", node.where)
    step_table = np.rint((1 + sigmoid_table()) * (1 << GAIN_BITS)).astype(np.int64)
    common, fine = fit(unit[None], np.full(channels, float(limit)))
    room = (ROOM // (steps * peak(step_table))).bit_length() - 1
    common_shift, summed = narrowed(common, np.full(channels, float(limit)), room)
    u = steps * peak(step_table) * summed
    place_shift = max(0, u.bit_length() - PLACE_BITS)
    u = (u + (1 << place_shift >> 1)) >> place_shift
    kernels = two_convolutions(node) / steps
    spatial = logits(kernels.reshape(1, -1), u, fine - common_shift + GAIN_BITS - place_shift, "places", node.where)
    place_table = np.rint((node.t + node.s * (1 + sigmoid_table())) / 2 * (1 << GAIN_BITS)).astype(np.int64)
    program = FrequencyGains(
        limit=limit,
        bias=bias,
        input_shift=input_shift,
        mean=weights[0, :channels],
        mean_shift=mean_shift,
        highest=weights[0, channels:],
        amplitude_shift=amplitude_shift,
        temporal=temporal.values,
        temporal_shift=temporal.shift,
        step_table=step_table,
        common=common[0],
        common_shift=common_shift,
        place_shift=place_shift,
        kernels=spatial.values.reshape(kernels.shape),
        logit_shift=spatial.shift,
        place_table=place_table,
        gain_shift=0,
    )
    shift = output_shift(limit, program.highest_gain, payload)
    program = replace(program, gain_shift=shift)
    program.check(shape, steps, node.where)
    return program


def two_convolutions(node: FrequencyAttention) -> Floats:
    """(k^2, k, k): kernel j is what the second convolution's tap j makes of the first one's kernels.

    spatial * (kernels * u) at a place is sum_j ((sum_k spatial[k, j] kernels[k]) * u)(place + offset j), since the
    second one reads zeros where the first one's output ends.
    """
    side = node.kernels.shape[-1]
    return np.asarray(np.einsum("kj,kab->jab", node.spatial.reshape(-1, side * side), node.kernels))

"""The integers of an attention program, from the float attention, the units of its input and bounds of it.

Every coefficient is as fine as 32 bits allow, for whatever arrives: `Fine.fit` takes the largest power of two at which
the sum of all sizes stays within ROOM, and a stage's result is shifted to the bits that the next one can use. Logits
come in units of 1 / PER_LOGIT. What this rounds is reported as the error of the gains; no overflow is left to check,
but `check` of the program proves it again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from export.attention import FrequencyAttention
from export.attention_programs import FrequencyGains
from export.graph import Floats, Shape
from export.whole import GAIN_BITS, PER_LOGIT, SHIFTS, TABLE, Ints, peak
from train.errors import UserError

ROOM = 1 << 30  # of the 2^31 of a word: half of it is left to rounding
COEFFICIENT_BITS = 16
AMPLITUDE_BITS = 15
PLACE_BITS = 13
LOGIT_BITS = PER_LOGIT.bit_length() - 1
FINEST = 40  # a power of two that no coefficient needs more of
LARGEST_PAYLOAD = 63_000  # units of a_in: half of the current is left to a gate


@dataclass(frozen=True, eq=False)
class Stage:
    """Coefficients in units of 2^-exponent, and the shift of their sum with what it multiplies."""

    values: Ints
    exponent: int
    shift: int


def sigmoid_table() -> Floats:
    """sigmoid of every logit that a table knows."""
    logits = (np.arange(TABLE) - TABLE // 2) / PER_LOGIT
    return np.asarray(1 / (1 + np.exp(-logits)))


def fit(values: Floats, sizes: Floats, room: int = ROOM) -> tuple[Ints, int]:
    """`values` (rows, n) times 2^f, rounded, f as large as sum of |value| size stays below `room` in every row."""
    spread = float((np.abs(values) * sizes).sum(-1).max(initial=0))
    largest = float(np.abs(values).max(initial=0))
    if spread == 0:
        return np.zeros(values.shape, dtype=np.int64), 0
    exponent = min(FINEST, math.floor(math.log2(room / spread)), COEFFICIENT_BITS - 1 - math.ceil(math.log2(largest)))
    while True:
        rounded = np.rint(values * 2.0**exponent).astype(np.int64)
        if float((np.abs(rounded) * sizes).sum(-1).max()) < room:
            return rounded, exponent
        exponent -= 1


def narrowed(values: Ints, sizes: Floats, bits: int) -> tuple[int, int]:
    """(shift, bound after it) that brings sums of `fit` to `bits` bits."""
    bound = int((np.abs(values) * sizes).sum(-1).max(initial=0))
    shift = max(0, bound.bit_length() - bits)
    return shift, (bound + (1 << shift >> 1)) >> shift


def logits(values: Floats, size: int, exponent: int, what: str, where: str) -> Stage:
    """Coefficients of operands in units of 2^-exponent, no larger than `size`, that give logits.

    Raises:
        UserError: logits that 32 bits cannot hold.
    """
    rounded, finest = fit(values, np.full(values.shape[-1], float(size)))
    shift = exponent + finest - LOGIT_BITS
    if shift > SHIFTS[1]:  # finer than it needs to be
        finest -= shift - SHIFTS[1]
        rounded, shift = np.rint(values * 2.0**finest).astype(np.int64), SHIFTS[1]
    if shift < SHIFTS[0]:
        raise UserError(f"the logits of its {what} can leave 32 bits", where=where)
    return Stage(rounded, finest, shift)


def narrow_limit(bound: int, shape: Shape) -> tuple[int, int]:
    """(shift of what arrives, the largest size after it) for |a_in + bias| <= bound: 17 bits, and sums over places."""
    most = min(1 << 17, ROOM // math.prod(shape[1:]))
    shift = 0
    while (bound + (1 << shift >> 1)) >> shift >= most:
        shift += 1
    return shift, max(1, (bound + (1 << shift >> 1)) >> shift)


def output_shift(limit: int, gain: int, payload: int) -> int:
    """The shift that brings x G to graded spikes no larger than `payload`."""
    shift = 0
    while (limit * gain + (1 << shift >> 1)) >> shift > payload:
        shift += 1
    return shift


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
    input_shift, limit = narrow_limit(bound, shape)
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
    program = FrequencyGains(**{**vars(program), "gain_shift": shift})
    program.check(shape, steps, node.where)
    return program


def two_convolutions(node: FrequencyAttention) -> Floats:
    """(k^2, k, k): kernel j is what the second convolution's tap j makes of the first one's kernels.

    spatial * (kernels * u) at a place is sum_j ((sum_k spatial[k, j] kernels[k]) * u)(place + offset j), since the
    second one reads zeros where the first one's output ends.
    """
    side = node.kernels.shape[-1]
    return np.asarray(np.einsum("kj,kab->jab", node.spatial.reshape(-1, side * side), node.kernels))


def float_unit(program: FrequencyGains, scale: Floats) -> Floats:
    """(C,) what one unit of a graded spike is worth, in units of the float current."""
    return np.asarray(2.0 ** (program.input_shift + program.gain_shift - GAIN_BITS) / scale)

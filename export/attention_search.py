"""The integers of attention and of what stands right before and behind it; as `export.search` for other populations.

Attention has no threshold that could tell a good scale from a bad one, so it takes the finest at which its weights have
their range and no input can leave the accumulator. The neurons behind attention on currents get its graded spikes
through one synapse each, of the smallest weight there is: the precision is in the spike. Step attention gets the spikes
of its neurons in the same way; a relay sums up its own for the read-out (`export.passes.relay_readout`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from export import limits, quantise
from export.attention import Attention as Node
from export.attention import FrequencyAttention, GlobalContext, Relay, StepAttention, gain
from export.attention_programs import Attention, UnitGains, respond
from export.candidate import integers, synapses
from export.coefficients import output_shift
from export.gains import LARGEST_INPUT
from export.graph import Accumulate, Clock, Convolution, Floats, Gating, Graph, Neuron
from export.headroom import needs
from export.interpret import Reals
from export.interpret import synapse as weighted_sum
from export.layer import Layer, Spikes, describe
from export.network import Ints, LayerRecord, Program
from export.quantise import Granularity, PerLayer, Signed, Weights
from export.quantise_context import context
from export.quantise_frequency import frequency
from export.quantise_step import step
from export.search import Choice, choice_of, weight_error
from export.whole import shifted
from train.errors import UserError

MAX_HALVINGS = 10  # of the scales that the search begins with
ROUNDING = 1 / 16  # of an accumulator is left to the rounding of weights
LARGEST_PAYLOAD = 63_000  # units of a_in: half of the current is left to a gate
TINY = 1e-30  # a current that is none, in float units
STEP_BITS = 7  # of the graded spikes of step attention: with more, the layers that add them up lack bits of weights


@dataclass(frozen=True, eq=False)
class Attended:
    """What was chosen for attention: `Weights` of its terms, its program, what a unit of its spikes is worth (C,)."""

    weights: tuple[Weights, ...]
    program: Attention
    unit: Floats
    record: LayerRecord


def attend(
    graph: Graph,
    node: Gating,
    sources: dict[str, Spikes],
    programs: dict[str, Program],
    units: Mapping[str, Floats],
    target: Reals,
    grid: Signed,
    granularity: Granularity,
) -> tuple[Attended, Ints]:
    """Choose the integers of attention in a graph not yet retimed; also what it sends, int64 [T, B, *shape].

    Raises:
        UserError: no scale at which its input or its arithmetic fits, or step attention of something else than spikes.
    """
    assert isinstance(node, Node)
    layer = describe(graph, node, sources, programs, units, target, gated=False)
    if isinstance(node, StepAttention):
        return _of_spikes(layer, node, grid)
    widest = _widest(layer, grid)
    if isinstance(granularity, PerLayer) or isinstance(node, Relay):  # classes must stay comparable
        widest = np.full_like(widest, widest.min())
    for halvings in range(MAX_HALVINGS + 1):
        scale = widest / 2**halvings
        found = _weights(layer, scale, grid)
        if found is not None:
            weights, low, high = found
            ndim = len(layer.shape)
            bias = np.rint(quantise.rows(layer.bias, ndim) * quantise.rows(scale, ndim)).astype(np.int64)
            bound = int(max(-(low + bias).min(), (high + bias).max(), 1))
            if max(bound, int(np.abs(bias).max())) < LARGEST_INPUT:
                program = _program(node, layer, scale, bias, bound, LARGEST_PAYLOAD // grid.step)
                return _chosen(layer, node, weights, program, scale, (int(low.min()), int(high.max())))
    raise UserError(
        f"what arrives can leave the {LARGEST_INPUT.bit_length()} bits of the accumulator at every scale",
        where=node.where,
        hint="fewer inputs per neuron, fewer input levels, or a smaller bias",
    )


def _widest(layer: Layer, grid: Signed) -> Floats:
    """(C,) the scales that the search begins with: the largest weight of each channel takes the top of the range.

    Beside graded spikes a clock, which sends 1, may need weights many times as large as theirs. So it is the largest of
    theirs, at the largest exponent for which every channel has room; a channel that has none takes what it has.
    """
    if not any(isinstance(term.source, Clock | Gating) for term in layer.terms):
        return np.asarray(grid.largest * 2.0**grid.largest_exponent / layer.peaks)
    weights = [term.synapse.weight for term in layer.terms if not isinstance(term.source, Clock)]
    peaks = np.max([np.abs(w).reshape(len(w), -1).max(1) for w in weights], axis=0)
    full = grid.largest / np.where(peaks > 0, peaks, peaks.max())
    need = needs(layer.terms, layer.payloads, [x.shape[2:] for x in layer.inputs])
    need += np.abs(layer.bias).reshape(len(layer.bias), -1).max(1)
    room = (1 - ROUNDING) * LARGEST_INPUT / np.maximum(need, TINY)
    room = np.minimum(room, grid.largest * 2.0 ** limits.WEIGHT_EXP_RANGE[1] / layer.peaks)
    exponent = max(grid.smallest_exponent, int(np.floor(np.log2((room / full).min()))))
    return np.asarray(np.minimum(room, full * 2.0**exponent))


def _program(
    node: FrequencyAttention | GlobalContext | Relay, layer: Layer, scale: Floats, bias: Ints, bound: int, payload: int
) -> Attention:
    if isinstance(node, FrequencyAttention):
        return frequency(node, layer.shape, layer.steps, scale, bias, bound, payload)
    if isinstance(node, GlobalContext):
        return context(node, layer.shape, scale, bias, bound, payload)
    program = UnitGains(bound, bias, 0, output_shift(bound, 1, payload // layer.steps))  # the read-out adds them up
    program.check(layer.shape, layer.steps, node.where)
    return program


def _of_spikes(layer: Layer, node: StepAttention, grid: Signed) -> tuple[Attended, Ints]:
    """Step attention gets one synapse for each neuron, of the smallest weight there is."""
    if not _one_each(layer):
        raise UserError("takes something else than the spikes of one population", where=node.where)
    scale = np.full(layer.shape[0], float(grid.step))
    found = _weights(layer, scale, grid)
    assert found is not None, "one synapse of the smallest weight fits"
    weights, low, high = found
    program = step(node, layer.shape, layer.steps, grid.step, STEP_BITS)
    return _chosen(layer, node, weights, program, scale, (int(low.min()), int(high.max())))


def _one_each(layer: Layer) -> bool:
    term, synapse = layer.terms[0], layer.terms[0].synapse
    alone = len(layer.terms) == 1 and isinstance(term.source, Neuron) and not term.delay.any()
    own = isinstance(synapse, Convolution) and synapse.groups == layer.shape[0] and synapse.weight.shape[2:] == (1, 1)
    return alone and own and bool((synapse.weight == 1).all()) and not layer.bias.any()


def _weights(layer: Layer, scale: Floats, grid: Signed) -> tuple[tuple[Weights, ...], Ints, Ints] | None:
    """The integers of every term, and the bounds of a_in of every neuron; None where they do not fit."""
    found = synapses(layer, scale, scale, grid)
    if found is None:
        return None
    _, low, high = found
    return found if max(-int(low.min()), int(high.max())) < LARGEST_INPUT else None


def _chosen(
    layer: Layer,
    node: Node,
    weights: tuple[Weights, ...],
    program: Attention,
    scale: Floats,
    bound: tuple[int, int],
) -> tuple[Attended, Ints]:
    a_in = np.zeros(layer.target.shape, dtype=np.int64)
    for term, w, x in zip(layer.terms, weights, layer.inputs, strict=True):
        synapse = replace(term.synapse, weight=w.values.astype(np.float64), bias=None)
        arriving = np.rint(weighted_sum(synapse, x.astype(np.float64))).astype(np.int64)
        a_in += np.broadcast_to(arriving << w.exponent, a_in.shape)
    x = program.taken(a_in)
    wanted = gain(node, x * quantise.rows(2.0**program.input_shift / scale, len(layer.shape)))
    rounding = program.gain_shift if isinstance(node, StepAttention) else 0  # its graded spike is the gain
    error = shifted(program.gain(x), rounding) / 2.0 ** (program.gain_bits - rounding) - wanted
    per_volt = scale * (1 << limits.STATE_SHIFT)
    record = LayerRecord(
        population=node.id,
        scale=(float(per_volt.min()), float(per_volt.max())),
        weight_error=weight_error(layer, weights, scale),
        saturated=sum(w.saturated for w in weights),
        spike_agreement=float(1 - np.sqrt(np.square(error).mean() / np.square(wanted).mean())),
        current_bound=bound,
        current_limit=LARGEST_INPUT,
    )
    return Attended(weights, program, float_unit(program, scale), record), respond(program, a_in)


def behind_attention(layer: Layer) -> bool:
    """Whether attention on currents is what drives a neuron, through one synapse each; a relay is, for a read-out.

    Raises:
        UserError: it is not all that does.
    """
    of_currents = FrequencyAttention | GlobalContext | Relay
    gating = [term.source for term in layer.terms if isinstance(term.source, of_currents)]
    if gating and (len(layer.terms) > 1 or isinstance(layer.node, Accumulate) is not isinstance(gating[0], Relay)):
        raise UserError(f"is driven by {gating[0].where} and something else", where=layer.node.where)
    return bool(gating)


def one_synapse(layer: Layer, grid: Signed) -> tuple[Choice, Spikes]:
    """The integers of a neuron right behind attention.

    Raises:
        UserError: its threshold does not fit, or its current could wrap.
    """
    scale = grid.step / layer.peaks
    chosen = integers(layer, scale, scale, grid)
    if chosen is None:
        raise UserError(
            "its threshold, or the current that attention sends it, does not fit the chip's state",
            where=layer.node.where,
            hint="--attention fold, or fewer inputs per neuron",
        )
    return choice_of(layer, chosen)


def float_unit(program: Attention, scale: Floats) -> Floats:
    """(C,) what one unit of a graded spike is worth, in units of the float current."""
    return np.asarray(2.0 ** (program.input_shift + program.gain_shift - program.gain_bits) / scale)

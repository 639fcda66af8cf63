"""The integers of attention and of what stands right before and behind it; as `export.search` for other populations.

Attention has no threshold that could tell a good scale from a bad one, so the largest weight of each channel takes the
top of the range, at the largest exponent with which no input can leave the accumulator. The neurons behind it get its
graded spikes through one synapse each, of the smallest weight there is: the precision is in the spike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from export import limits, proof, quantise, quantise_attention
from export.attention import FrequencyAttention, gain
from export.attention_programs import LARGEST_INPUT, Attention, respond
from export.candidate import exponents, integers
from export.graph import Floats, Gating, Graph, Neuron, Spiking
from export.interpret import Reals
from export.interpret import synapse as weighted_sum
from export.layer import Layer, Spikes, describe
from export.network import Ints, LayerRecord, Program
from export.quantise import Granularity, PerChannel, Signed, Weights
from export.search import Choice, choice_of, weight_error
from export.whole import GAIN_BITS, shifted
from train.errors import UserError


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
        UserError: a kind without an integer program, or no scale at which its input or its arithmetic fits.
    """
    if not isinstance(node, FrequencyAttention):
        raise UserError("this attention has no integer program yet", where=node.where, hint="--attention fold")
    layer = describe(graph, node, sources, programs, units, target, gated=False)
    top = 1 / layer.peaks if isinstance(granularity, PerChannel) else np.full_like(layer.peaks, 1 / layer.peaks.max())
    for power in range(grid.largest_exponent, -1, -1):
        scale = top * grid.largest * 2.0**power
        found = _weights(layer, scale, grid)
        if found is not None:
            weights, low, high = found
            bias = np.rint(quantise.rows(layer.bias, 3) * quantise.rows(scale, 3)).astype(np.int64)
            bound = int(max(-(low + bias).min(), (high + bias).max(), 1))
            if max(bound, int(np.abs(bias).max())) < LARGEST_INPUT:
                payload = quantise_attention.LARGEST_PAYLOAD // grid.step
                program = quantise_attention.frequency(node, layer.shape, layer.steps, scale, bias, bound, payload)
                return _chosen(layer, node, weights, program, scale, (int(low.min()), int(high.max())))
    raise UserError(
        f"what arrives can leave the {LARGEST_INPUT.bit_length()} bits of the accumulator at every scale",
        where=node.where,
        hint="fewer inputs per neuron, fewer input levels, or a smaller bias",
    )


def _weights(layer: Layer, scale: Floats, grid: Signed) -> tuple[tuple[Weights, ...], Ints, Ints] | None:
    """The integers of every term, and the bounds of a_in of every neuron; None where they do not fit."""
    shifts = exponents(layer, scale, grid)
    if shifts is None:
        return None
    weights = tuple(
        quantise.quantise_weights(t.synapse.weight, scale, exponent, grid)
        for t, exponent in zip(layer.terms, shifts, strict=True)
    )
    drivers = [
        proof.Driver(t.synapse, w.values, w.exponent, x.shape[2:], payload)
        for t, w, x, payload in zip(layer.terms, weights, layer.inputs, layer.payloads, strict=True)
    ]
    low, high = proof.current_bounds(drivers)
    return (weights, low, high) if max(-int(low.min()), int(high.max())) < LARGEST_INPUT else None


def _chosen(
    layer: Layer,
    node: FrequencyAttention,
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
    x = np.clip(shifted(a_in + program.bias, program.input_shift), -program.limit, program.limit)
    wanted = gain(node, x * quantise.rows(2.0**program.input_shift / scale, 3))
    error = program.gain(x) / (1 << GAIN_BITS) - wanted
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
    return Attended(weights, program, quantise_attention.float_unit(program, scale), record), respond(program, a_in)


def behind_attention(layer: Layer) -> Spiking | None:
    """The attention that is all that drives a neuron, through one synapse each; None where it is driven otherwise."""
    gating = [term.source for term in layer.terms if isinstance(term.source, FrequencyAttention)]
    if not gating:
        return None
    if len(layer.terms) > 1 or not isinstance(layer.node, Neuron):
        raise UserError(f"is driven by {gating[0].where} and something else", where=layer.node.where)
    return gating[0]


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

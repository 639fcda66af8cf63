"""The scale search: for each population, the scale whose integers fire most like the float model.

Layers are searched in order, each fed by the integer spikes of the layers before it, so that a later layer can make up
for what an earlier one lost. A candidate maps the largest weight of a channel to `factor` times the top of the range;
factors above 1 clip a few large weights to give the many small ones finer steps. The score is the number of spikes
and silences that differ from the float model's on the calibration samples, then the weight error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from export import limits, proof, quantise
from export.graph import Accumulate, Floats, Graph, Neuron
from export.headroom import HALVINGS, widest_scales
from export.interpret import Trace
from export.interpret import synapse as weighted_sum
from export.network import LIF, Ints, LayerRecord, Program, Reset
from export.quantise import Granularity, PerChannel, Signed, Weights
from export.terms import Term, terms, total_bias
from train.errors import UserError
from train.kernels import fixed_point

FACTORS = tuple(np.round(np.geomspace(0.75, 1.6, 20), 4))


@dataclass(frozen=True, eq=False)
class Choice:
    """The integers of one population: one `Weights` for each of its terms, its program, its record, its output."""

    weights: tuple[Weights, ...]
    program: LIF
    record: LayerRecord
    output: npt.NDArray[np.bool_] | Ints  # spikes, or the read-out's membrane potential, [T, B, *shape]


@dataclass(frozen=True, eq=False)
class _Layer:
    """What the search knows of one population."""

    node: Neuron | Accumulate
    terms: tuple[Term, ...]
    shape: tuple[int, ...]
    bias: Floats  # units of the float membrane potential, (C,) or (C, H, W)
    peaks: Floats  # (C,) largest |weight| into each channel
    inputs: tuple[Floats, ...]  # the integer network's spikes that each term weighs, delays applied [T, B, *shape]
    payloads: tuple[proof.Payload, ...]
    target: Floats  # the float model's output in its window
    steps: int
    gated: bool

    @property
    def recurrent(self) -> bool:
        """Its own spikes are among its inputs."""
        return any(term.source is self.node for term in self.terms)


def search(
    graph: Graph,
    node: Neuron | Accumulate,
    sources: dict[str, Floats],
    programs: dict[str, Program],
    trace: Trace,
    grid: Signed,
    granularity: Granularity,
    gated: bool,
) -> Choice:
    """Choose the integers of one population of a graph with windows not yet retimed.

    Args:
        sources: integer spikes (payloads for the input) of the populations before it, float64 [T, B, *shape].
        programs: their programs.
        trace: the float model's values on the same samples.
        gated: whether it must be held silent outside its window.

    Raises:
        UserError: no scale keeps its current within 24 bits; the message names the layer.
    """
    layer = _layer(graph, node, sources, programs, trace, gated)
    if node.scale is not None:
        return _given(layer, node.scale, grid)
    scales = _channel_scales(layer, grid, granularity)
    for halving in range(HALVINGS + 1):
        for exponent in range(grid.largest_exponent, -1, -1):
            top = grid.largest * 2.0 ** (exponent - halving)
            if _integers(layer, scales * (top * FACTORS[-1]), scales * top, grid) is None:
                continue  # the largest factor is the hardest to prove
            candidates = [
                _integers(layer, scales * (top * factor), scales * top, grid, prove=False) for factor in FACTORS
            ]
            scored = [_score(layer, candidate) for candidate in candidates if candidate is not None]
            return _best(layer, scales * top, scored, grid, granularity)
    raise _refused(node)


def _refused(node: Neuron | Accumulate) -> UserError:
    return UserError(
        f"its current can leave the 24 bits of the chip's state at every scale down to 2^-{HALVINGS} of full range",
        where=node.where,
        hint="fewer inputs per neuron, fewer input levels, or a smaller bias or time window",
    )


def _given(layer: _Layer, scale: Floats, grid: Signed) -> Choice:
    """The integers of a population that was trained in them: nothing is searched, the proof still has to hold."""
    chosen = _integers(layer, scale, scale, grid)
    if chosen is None:
        raise UserError(
            "its current can leave the 24 bits of the chip's state, at the scale it was trained at",
            where=layer.node.where,
            hint="the checkpoint was changed since it was trained with --quantize",
        )
    # the trained model is these integers, so its own output is what they agree with; `sim` holds the two together
    own = _run(layer, chosen)
    unit = scale * (1 << limits.STATE_SHIFT)
    target = own / unit if isinstance(layer.node, Accumulate) else own.astype(np.float64)
    scored = _score(replace(layer, target=target), chosen)
    return Choice(chosen.weights, chosen.program, _record(replace(layer, target=target), scored), own)


def _layer(
    graph: Graph,
    node: Neuron | Accumulate,
    sources: dict[str, Floats],
    programs: dict[str, Program],
    trace: Trace,
    gated: bool,
) -> _Layer:
    inputs = terms(graph, node)
    shape = graph.shapes[node.id]
    peaks = np.max([np.abs(t.synapse.weight).reshape(shape[0], -1).max(1) for t in inputs], axis=0)
    if not peaks.any():
        raise UserError("every weight into it is zero", where=node.where)
    return _Layer(
        node=node,
        terms=inputs,
        shape=shape,
        bias=total_bias(inputs, shape[0]),
        peaks=np.where(peaks > 0, peaks, peaks.max()),
        # what is fed back by a population that has no integers yet starts as the float model's spikes
        inputs=tuple(_delayed(sources.get(t.source.id, trace.values[t.source.id]), t.delay) for t in inputs),
        payloads=tuple(
            proof.payload(programs[t.source.id], len(t.delay), aligned=len(np.unique(t.delay)) == 1)
            if t.source.id in programs
            else proof.spikes(len(t.delay))
            for t in inputs
        ),
        target=trace.values[node.id],
        steps=graph.steps,
        gated=gated,
    )


def _delayed(x: Floats, delay: Ints) -> Floats:
    """x[t - delay[c], c] within the window, zero outside."""
    if not delay.any():
        return x
    out = np.zeros_like(x)
    for channel, d in enumerate(delay):
        if d >= 0:
            out[d:, :, channel] = x[: len(x) - d, :, channel]
        else:
            out[:d, :, channel] = x[-d:, :, channel]
    return out


def _channel_scales(layer: _Layer, grid: Signed, granularity: Granularity) -> Floats:
    """(C,) units of a_in per unit of the float potential that map the largest weight to 1.

    Less for a channel whose bias or current has no room for that: it alone is scaled down then, not its whole layer.
    """
    if isinstance(granularity, PerChannel) and isinstance(layer.node, Neuron):
        shapes = [x.shape[2:] for x in layer.inputs]
        full = grid.largest / layer.peaks
        widest = widest_scales(layer.terms, layer.payloads, shapes, layer.bias, layer.gated, full)
        if widest is None:
            raise _refused(layer.node)
        return np.asarray(np.minimum(full, widest / FACTORS[-1]) / grid.largest)
    return np.full_like(layer.peaks, 1 / layer.peaks.max())  # classes of a read-out must stay comparable


@dataclass(frozen=True, eq=False)
class _Integers:
    scale: Floats
    weights: tuple[Weights, ...]
    program: LIF
    bound: tuple[int, int]


def _integers(layer: _Layer, scale: Floats, unclipped: Floats, grid: Signed, prove: bool = True) -> _Integers | None:
    """The population at `scale`; None if a range or the overflow proof does not allow it.

    Without `prove` the bounds are left open, and so is the gate: enough to score a candidate.
    """
    weights = []
    for term in layer.terms:
        peak = (np.abs(term.synapse.weight).reshape(len(scale), -1).max(1) * unclipped).max()
        exponent = term.synapse.exponent
        if exponent is None:
            exponent = quantise.finest_exponent(float(peak), grid)
        if exponent is None:
            return None
        weights.append(quantise.quantise_weights(term.synapse.weight, scale, exponent, grid))
    bias_units = layer.bias * quantise.rows(scale, layer.bias.ndim) * (1 << limits.STATE_SHIFT)
    encoded = quantise.quantise_bias(bias_units, grid)
    program = _program(layer, scale, encoded)
    if program is None:
        return None
    if not prove:
        return _Integers(scale, tuple(weights), program, (0, 0))
    drivers = [
        proof.Driver(t.synapse, w.values, w.exponent, x.shape[2:], payload)
        for t, w, x, payload in zip(layer.terms, weights, layer.inputs, layer.payloads, strict=True)
    ]
    readout = isinstance(layer.node, Accumulate)
    proved = proof.prove(program, *proof.current_bounds(drivers), layer.steps, gated=layer.gated, readout=readout)
    return None if proved is None else _Integers(scale, tuple(weights), *proved)


def _program(layer: _Layer, scale: Floats, bias: tuple[Ints, int] | None) -> LIF | None:
    """The neuron's integers at `scale`, without a gate; None if a threshold or the bias does not fit."""
    if bias is None:
        return None
    node, ndim = layer.node, len(layer.shape)
    reset: Reset = "zero"
    vth = np.full((len(scale),) + (1,) * (ndim - 1), limits.VTH_LIMIT - 1)
    if isinstance(node, Neuron):
        reset = node.reset
        vth = np.rint(quantise.rows(scale, ndim) * quantise.rows(node.threshold, ndim)).astype(np.int64)
    if vth.max() >= limits.VTH_LIMIT:
        return None
    return LIF(
        du=quantise.rows(quantise.quantise_current_decay(node.current_leak), ndim),
        dv=quantise.rows(quantise.quantise_decay(node.leak), ndim),
        vth=vth,
        bias_mant=quantise.rows(bias[0], ndim),
        bias_exp=bias[1],
        reset=reset,
    )


@dataclass(frozen=True, eq=False)
class _Scored:
    integers: _Integers
    output: npt.NDArray[np.bool_] | Ints
    mismatches: Floats  # (C,) spikes that differ from the float model's; for the read-out one squared error for all
    error: Floats  # (C,) squared weight error in float units


def _run(layer: _Layer, integers: _Integers) -> npt.NDArray[np.bool_] | Ints:
    """Its output; a recurrent layer runs again on its own spikes until they stay: each time one more step is right."""
    inputs, output = layer.inputs, _respond(layer, integers, layer.inputs)
    while layer.recurrent:
        fed = tuple(
            _delayed(output.astype(np.float64), term.delay) if term.source is layer.node else x
            for term, x in zip(layer.terms, inputs, strict=True)
        )
        if all(np.array_equal(a, b) for a, b in zip(fed, inputs, strict=True)):
            break
        inputs, output = fed, _respond(layer, integers, fed)
    return output


def _respond(layer: _Layer, integers: _Integers, inputs: tuple[Floats, ...]) -> npt.NDArray[np.bool_] | Ints:
    current: Ints | int = 0
    for term, w, x, payload in zip(layer.terms, integers.weights, inputs, layer.payloads, strict=True):
        largest_sum = np.abs(w.values).reshape(len(w.values), -1).sum(1).max() * payload.peak
        exact = np.float32 if largest_sum < 1 << 24 else np.float64  # every partial sum is a whole number below it
        node = replace(term.synapse, weight=w.values.astype(exact), bias=None)
        current = current + (weighted_sum(node, x.astype(exact)).astype(np.int64) << w.exponent)
    program = integers.program
    spikes, membrane = fixed_point.loihi_lif(
        torch.as_tensor(current),
        torch.as_tensor(program.vth),
        torch.as_tensor(program.bias),
        torch.as_tensor(program.dv),
        torch.as_tensor(program.du),
        subtract=program.reset == "subtract",
    )
    result: npt.NDArray[np.bool_] | Ints = (membrane if isinstance(layer.node, Accumulate) else spikes).numpy()
    return result


def _score(layer: _Layer, integers: _Integers) -> _Scored:
    output = _run(layer, integers)
    channels = len(layer.peaks)
    if isinstance(layer.node, Accumulate):
        unit = integers.scale.reshape(1, 1, -1) * (1 << limits.STATE_SHIFT)
        mismatches = np.full(channels, np.square(output[-1:] / unit - layer.target[-1:]).sum())
    else:
        wrong = output != (layer.target > 0)
        mismatches = np.moveaxis(wrong, 2, 0).reshape(channels, -1).sum(1).astype(np.float64)
    error = np.zeros(channels)
    for term, w in zip(layer.terms, integers.weights, strict=True):
        back = (w.values << w.exponent) / quantise.rows(integers.scale, w.values.ndim)
        error += np.square(back - term.synapse.weight).reshape(channels, -1).sum(1)
    return _Scored(integers, output, mismatches, error)


def _best(layer: _Layer, top: Floats, scored: list[_Scored], grid: Signed, granularity: Granularity) -> Choice:
    mismatches = np.stack([s.mismatches for s in scored])
    errors = np.stack([s.error for s in scored])
    if not isinstance(granularity, PerChannel) or isinstance(layer.node, Accumulate):
        mismatches = np.broadcast_to(mismatches.sum(1, keepdims=True), mismatches.shape)
        errors = np.broadcast_to(errors.sum(1, keepdims=True), errors.shape)
    best = np.array([np.lexsort((errors[:, c], mismatches[:, c]))[0] for c in range(len(layer.peaks))])
    scale = np.array([scored[b].integers.scale[c] for c, b in enumerate(best)])
    chosen = _integers(layer, scale, top, grid)
    if chosen is None:  # channels are independent, so what each candidate satisfies, their mixture does: not reached
        raise UserError("the scales of its channels cannot be combined", where=layer.node.where)
    final = _score(layer, chosen)
    return Choice(chosen.weights, chosen.program, _record(layer, final), final.output)


def _record(layer: _Layer, scored: _Scored) -> LayerRecord:
    weights = sum(float(np.square(t.synapse.weight).sum()) for t in layer.terms)
    if isinstance(layer.node, Accumulate):
        agreement = np.mean(scored.output[-1].argmax(-1) == layer.target[-1].argmax(-1))
    else:
        agreement = 1 - scored.mismatches.sum() / layer.target.size
    per_volt = scored.integers.scale * (1 << limits.STATE_SHIFT)
    return LayerRecord(
        population=layer.node.id,
        scale=(float(per_volt.min()), float(per_volt.max())),
        weight_error=float(np.sqrt(scored.error.sum() / weights)),
        saturated=sum(w.saturated for w in scored.integers.weights),
        spike_agreement=float(agreement),
        current_bound=scored.integers.bound,
    )

"""The integers of one population at given scales: what the chip can hold, whether it is proved, and what it answers.

Every value here is a whole number below 2^24 in size, so float32 adds them exactly: the proof keeps the sum of all
positive and of all negative synapses of a neuron below 2^17.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from export import limits, proof, quantise
from export.graph import Accumulate, Dense, Floats, Gating, Neuron, Synapse
from export.interpret import delayed
from export.interpret import synapse as weighted_sum
from export.layer import Layer, Spikes
from export.network import LIF, Ints, Reset
from export.quantise import Signed, Weights
from train.kernels import fixed_point, loihi, scores

Output = npt.NDArray[np.bool_] | Ints  # spikes, or the read-out's membrane potential, [T, B, *shape]
Singles = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Integers:
    """A population in integers, proved: one `Weights` for each of its terms, its program, bounds of its current."""

    scale: Floats
    weights: tuple[Weights, ...]
    program: LIF
    bound: tuple[int, int]


def exponents(layer: Layer, top: Floats, grid: Signed) -> tuple[int, ...] | None:
    """The exponent of each term when no weight is clipped at the scales `top`; None if the chip has none."""
    found = []
    for term in layer.terms:
        exponent = term.synapse.exponent
        if exponent is None:
            peak = (np.abs(term.synapse.weight).reshape(len(top), -1).max(1) * top).max()
            exponent = quantise.finest_exponent(float(peak), grid)
        if exponent is None:
            return None
        found.append(exponent)
    return tuple(found)


def program(layer: Layer, scale: Floats, grid: Signed) -> LIF | None:
    """The neuron's integers at `scale`, without a gate; None if a threshold or the bias does not fit."""
    units = layer.bias * quantise.rows(scale, layer.bias.ndim) * (1 << limits.STATE_SHIFT)
    bias = quantise.quantise_bias(units, grid)
    node, ndim = layer.node, len(layer.shape)
    assert not isinstance(node, Gating), "attention has programs of its own"
    reset: Reset = "zero"
    vth = np.full((len(scale),) + (1,) * (ndim - 1), limits.VTH_LIMIT - 1)
    if isinstance(node, Neuron):
        reset = node.reset
        vth = np.rint(quantise.rows(scale, ndim) * quantise.rows(node.threshold, ndim)).astype(np.int64)
    if bias is None or vth.max() >= limits.VTH_LIMIT:
        return None
    return LIF(
        du=quantise.rows(quantise.quantise_current_decay(node.current_leak), ndim),
        dv=quantise.rows(quantise.quantise_decay(node.leak), ndim),
        vth=vth,
        bias_mant=quantise.rows(bias[0], ndim),
        bias_exp=bias[1],
        reset=reset,
    )


def synapses(layer: Layer, scale: Floats, top: Floats, grid: Signed) -> tuple[tuple[Weights, ...], Ints, Ints] | None:
    """The weights of every term at `scale`, and the bounds of every neuron's a_in; None if the chip has no exponent.

    Args:
        scale: (C,) units of a_in per unit of the float current.
        top: (C,) the largest scale that a weight exponent must hold.
    """
    shifts = exponents(layer, top, grid)
    if shifts is None:
        return None
    weights = tuple(
        quantise.quantise_weights(term.synapse.weight, scale, exponent, grid)
        for term, exponent in zip(layer.terms, shifts, strict=True)
    )
    drivers = [
        proof.Driver(t.synapse, w.values, w.exponent, x.shape[2:], payload)
        for t, w, x, payload in zip(layer.terms, weights, layer.inputs, layer.payloads, strict=True)
    ]
    return weights, *proof.current_bounds(drivers)


def integers(layer: Layer, scale: Floats, top: Floats, grid: Signed) -> Integers | None:
    """The population at `scale`; None if a range or the overflow proof does not allow it."""
    found, neuron = synapses(layer, scale, top, grid), program(layer, scale, grid)
    if found is None or neuron is None:
        return None
    weights, low, high = found
    readout = isinstance(layer.node, Accumulate)
    proved = proof.prove(neuron, low, high, layer.steps, gated=layer.gated, readout=readout)
    return None if proved is None else Integers(scale, weights, *proved)


def rounded(weight: Floats, scale: Floats, exponent: int, grid: Signed) -> tuple[Singles, Floats]:
    """The values of `quantise_weights` in units of a_in, and each channel's squared error in float units (C,)."""
    unit = grid.unit(exponent)
    return scores.rounded(weight, scale / unit, limits.WEIGHT_RANGE[0] / grid.step, grid.largest / grid.step, unit)


def respond(layer: Layer, weights: Sequence[Singles], neuron: LIF, inputs: Sequence[Spikes]) -> Output:
    """What the population answers to the spikes of its terms; weights in units of a_in.

    A recurrent one answers again to its own spikes until they stay: each time one more step is right.
    """
    currents = [_current(t.synapse, w, x) for t, w, x in zip(layer.terms, weights, inputs, strict=True)]
    output = _answer(layer, neuron, currents)
    while layer.recurrent:
        before = output
        for i, (term, w) in enumerate(zip(layer.terms, weights, strict=True)):
            if term.source is layer.node:
                currents[i] = _current(term.synapse, w, delayed(before, term.delay))
        output = _answer(layer, neuron, currents)
        if np.array_equal(output, before):
            break
    return output


def _answer(layer: Layer, neuron: LIF, currents: Sequence[Singles]) -> Output:
    current = sum(currents)
    assert isinstance(current, np.ndarray)
    subtract = neuron.reset == "subtract"
    if isinstance(layer.node, Neuron):
        return loihi.spikes(current, neuron.vth, neuron.bias, neuron.dv, neuron.du, subtract=subtract)
    constants = (torch.from_numpy(x) for x in (neuron.vth, neuron.bias, neuron.dv, neuron.du))
    _, membrane = fixed_point.loihi_lif(torch.from_numpy(current).long(), *constants, subtract=subtract)
    answer: Ints = membrane.numpy()
    return answer


def _current(node: Synapse, weight: Singles, x: Spikes) -> Singles:
    """a_in of one term; source channels that drive nobody (those that a temporal shift leaves) are left out."""
    if not isinstance(node, Dense) and node.groups == 1:
        used = weight.any(axis=(0, 2, 3))
        if used.any() and not used.all():
            weight, x = weight[:, used], x[:, :, used]
    single = replace(node, weight=np.ascontiguousarray(weight), bias=None)
    return weighted_sum(single, x.astype(np.float32))

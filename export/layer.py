"""One population as the scale search sees it: what drives it, the spikes that reach it, and what it should answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from export import proof
from export.graph import Dense, Driven, Floats, Graph, Neuron
from export.interpret import Reals, delayed
from export.network import Ints, Program
from export.terms import Term, terms, total_bias
from train.errors import UserError

Spikes: TypeAlias = npt.NDArray[Any]  # bool, or whole numbers where they are payloads, [T, B, *shape]


@dataclass(frozen=True, eq=False)
class Layer:
    """A population with its terms, and samples on which integers for it are judged.

    Attributes:
        terms: weights are per unit of what the source's spikes carry.
        bias: units of the float membrane potential, (C,) or (C, H, W).
        peaks: largest |weight| into each channel, (C,); the layer's largest where a channel has none but zeros.
        inputs: the integer network's spikes that each term weighs, delays applied; the float model's where they are fed
            back by a population that has no integers yet.
        payloads: what one of them can carry.
        target: the float model's spikes, its read-out's membrane potential, or what its attention sends.
        gated: it must be held silent outside its window.
    """

    node: Driven
    terms: tuple[Term, ...]
    shape: tuple[int, ...]
    bias: Floats
    peaks: Floats
    inputs: tuple[Spikes, ...]
    payloads: tuple[proof.Payload, ...]
    target: Spikes | Reals
    gated: bool

    @property
    def steps(self) -> int:
        """T, the length of a window."""
        return len(self.target)

    @property
    def recurrent(self) -> bool:
        """Its own spikes are among its inputs."""
        return any(term.source is self.node for term in self.terms)


def describe(
    graph: Graph,
    node: Driven,
    sources: dict[str, Spikes],
    programs: dict[str, Program],
    units: Mapping[str, Floats],
    target: Reals,
    gated: bool,
) -> Layer:
    """The layer of a graph with windows not yet retimed.

    Args:
        sources: integer spikes (payloads for the input) of the populations before it, [T, B, *shape].
        programs: their programs.
        units: (C,) what one unit of a graded spike is worth, for those whose spikes carry other units than 1.
        target: the float model's output on the same samples, [T, B, *shape].
        gated: whether it must be held silent outside its window.

    Raises:
        UserError: every weight into it is zero.
    """
    inputs = tuple(_in_units(term, units) for term in terms(graph, node))
    shape = graph.shapes[node.id]
    peaks = np.max([np.abs(t.synapse.weight).reshape(shape[0], -1).max(1) for t in inputs], axis=0)
    if not peaks.any():
        raise UserError("every weight into it is zero", where=node.where)
    return Layer(
        node=node,
        terms=inputs,
        shape=shape,
        bias=total_bias(inputs, shape[0]),
        peaks=np.where(peaks > 0, peaks, peaks.max()),
        inputs=tuple(delayed(sources[t.source.id], t.delay) for t in inputs),
        payloads=tuple(_payload(t, programs) for t in inputs),
        target=target > 0 if isinstance(node, Neuron) else target,
        gated=gated,
    )


def _in_units(term: Term, units: Mapping[str, Floats]) -> Term:
    """The term with weights per unit of what its source sends."""
    unit = units.get(term.source.id)
    if unit is None:
        return term
    node = term.synapse
    if isinstance(node, Dense):
        weight = node.weight * np.repeat(unit, node.weight.shape[1] // len(unit))
    else:
        columns = unit.reshape(node.groups, -1).repeat(node.weight.shape[0] // node.groups, axis=0)
        weight = node.weight * columns[:, :, None, None]
    return replace(term, synapse=replace(node, weight=weight))


def _payload(term: Term, programs: dict[str, Program]) -> proof.Payload:
    channels = len(term.delay)
    if term.source.id not in programs:  # what is fed back by a population that has no integers yet
        return proof.spikes(channels)
    return proof.payload(programs[term.source.id], channels, aligned=len(np.unique(term.delay)) == 1)


def part(layer: Layer, samples: Ints) -> tuple[tuple[Spikes, ...], Spikes | Reals]:
    """Inputs and target of some of the samples."""
    return tuple(x[:, samples] for x in layer.inputs), layer.target[:, samples]

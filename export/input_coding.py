"""The input's coding chosen for a graph by the rule of `train.quantise.coding`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from export.graph import Affine, Delay, Floats, Graph, Input, Neuron, Windowed
from export.headroom import needs
from export.passes.code_input import code_input
from export.proof import Payload, spikes
from export.quantise import Signed
from export.terms import Term, terms, total_bias
from train.errors import UserError
from train.quantise.coding import Choice, CodingName, InputCoding, centre, choose, range_lost


def choose_coding(traced: Graph, final: Graph, grid: Signed, name: CodingName) -> Choice:
    """The coding of the input of `final`, which all passes have been through; `traced` still has its normalisation.

    Raises:
        UserError: the model was trained with another one, or cannot have the one asked for.
    """
    (source,) = (node for node in final.nodes if isinstance(node, Input))
    trained = any(isinstance(node, Neuron) and node.scale is not None for node in final.nodes)
    if trained or source.coding:
        if name != "auto":
            raise UserError(f"--input-coding {name}, the model was trained in integers", hint="leave it out")
        return Choice(source.coding or InputCoding(source.bits), "because the model was trained with it")
    return choose(name, source.bits, _offset(traced, final, source), lambda c: _lost(final, grid, c), grid.bits)


def _offset(traced: Graph, final: Graph, source: Input) -> tuple[int, ...]:
    """What normalisation right behind the input maps to zero; () where there is none, or where silence is no mean."""
    if any(isinstance(node, Delay) for node in final.consumers(source.id)):
        return ()
    behind = traced.only_consumer(traced[source.id])
    return centre(-behind.shift / behind.scale, source.bits) if isinstance(behind, Affine) else ()


def _lost(final: Graph, grid: Signed, coding: InputCoding) -> Floats:
    """Bits of their weights' range that the channels behind the input lose."""
    graph = code_input(final, coding)
    lost = [_lost_by(graph, node, inputs, grid, coding) for node, inputs in _driven(graph)]
    return np.concatenate(lost) if lost else np.zeros(1)


def _driven(graph: Graph) -> Iterator[tuple[Windowed, tuple[Term, ...]]]:
    for node in graph.windowed():
        inputs = terms(graph, node)
        if any(isinstance(term.source, Input) for term in inputs):
            yield node, inputs


def _lost_by(graph: Graph, node: Windowed, inputs: tuple[Term, ...], grid: Signed, coding: InputCoding) -> Floats:
    channels = graph.shapes[node.id][0]
    peak = np.max([np.abs(term.synapse.weight).reshape(channels, -1).max(1) for term in inputs], axis=0)
    bias = np.abs(total_bias(inputs, channels)).reshape(channels, -1).max(1)
    shapes = [graph.shapes[term.source.id] for term in inputs]
    carried = [
        Payload(*coding.reach(len(term.delay))) if isinstance(term.source, Input) else spikes(len(term.delay))
        for term in inputs
    ]
    return range_lost(peak, needs(inputs, carried, shapes), bias, grid)

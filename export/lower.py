"""From the retimed float graph and the chosen integers to the network that the chip runs."""

from __future__ import annotations

import numpy as np

from export.attention_search import attend, behind_attention, one_synapse
from export.graph import Clock, Convolution, Dense, Feedback, Floats, Gating, Graph, Input, Synapse, Windowed
from export.interpret import walk
from export.layer import Spikes, describe
from export.network import Clock as ClockProgram
from export.network import Connection, LayerRecord, Network, Population, Program, Source
from export.network import Convolution as IntegerConvolution
from export.network import Dense as IntegerDense
from export.passes.retime import guard_steps
from export.quantise import Granularity, Signed, Weights
from export.search import search
from export.terms import terms
from train.errors import UserError
from train.quantise.coding import InputCoding


def quantise_network(
    graph: Graph, retimed: Graph, calibration: Floats, grid: Signed, granularity: Granularity
) -> Network:
    """The integer network of a graph.

    Args:
        graph: the graph before retiming; its windows all start at 0, and the search runs on it.
        retimed: the same graph after `retime(graph, synapse_steps=1)`; it gives starts and delays.
        calibration: raw inputs, float64 [T, B, *shape].

    Raises:
        UserError: a layer whose current cannot be proved to stay within 24 bits, or a range the chip does not have.
    """
    guard = guard_steps(graph)
    programs: dict[str, Program] = {}
    outputs: dict[str, Spikes] = {}
    units: dict[str, Floats] = {}
    weights: dict[str, tuple[Weights, ...]] = {}
    records: dict[str, LayerRecord] = {}
    for node, target in walk(graph, calibration.astype(np.float32)):
        if isinstance(node, Feedback):  # the float model's spikes, until those that it stands for have integers
            outputs.setdefault(node.of, target)
            continue
        if isinstance(node, Input):
            coding = node.coding or InputCoding(node.bits)
            programs[node.id] = Source(coding.payload_bits, coding.offset, coding.low_bits)
            outputs[node.id] = target
        elif isinstance(node, Clock):
            programs[node.id] = ClockProgram()
            outputs[node.id] = target
        elif isinstance(node, Gating):
            attended, outputs[node.id] = attend(graph, node, outputs, programs, units, target, grid, granularity)
            programs[node.id], units[node.id] = attended.program, attended.unit
            weights[node.id], records[node.id] = attended.weights, attended.record
        else:
            layer = describe(graph, node, outputs, programs, units, target, gated=guard > 0)
            if behind_attention(layer):
                choice, outputs[node.id] = one_synapse(layer, grid)
            else:
                choice, outputs[node.id] = search(layer, grid, granularity)
            programs[node.id] = choice.integers.program
            weights[node.id], records[node.id] = choice.integers.weights, choice.record
        outputs = {name: outputs[name] for name in outputs if _needed(graph, name, after=node)}
    return _network(retimed, guard, programs, weights, tuple(records.values()))


def _needed(graph: Graph, source: str, after: Windowed) -> bool:
    """Whether a population that comes after `after` takes spikes of `source`."""
    nodes = list(graph.windowed())
    return any(term.source.id == source for node in nodes[nodes.index(after) + 1 :] for term in terms(graph, node))


def _network(
    retimed: Graph,
    guard: int,
    programs: dict[str, Program],
    weights: dict[str, tuple[Weights, ...]],
    records: tuple[LayerRecord, ...],
) -> Network:
    populations, connections = [], []
    last = retimed.nodes[-1].id
    for node in retimed.windowed():
        name, shape = node.id, retimed.shapes[node.id]
        populations.append(Population(name, node.origin, shape, node.start, programs[name], readout=name == last))
        for term, integers in zip(terms(retimed, node), weights.get(name, ()), strict=True):
            if not integers.values.any():
                continue  # a connection of nothing but zeros drives nobody
            connections.append(_connection(term.synapse, term.source.id, name, integers, term.delay))
    if not populations[-1].readout or len(populations) < 2:
        raise UserError("has no read-out", where=f"model {retimed.name}", hint="end the model with MeanOverTime")
    return Network(
        name=retimed.name,
        populations=tuple(populations),
        connections=tuple(connections),
        steps=retimed.steps,
        period=retimed.steps + guard,
        records=records,
    )


def _connection(node: Synapse, source: str, target: str, weights: Weights, delay: np.ndarray) -> Connection:
    synapses: IntegerConvolution | IntegerDense
    if isinstance(node, Convolution):
        synapses = IntegerConvolution(weights.values, node.stride, node.padding, node.dilation, node.groups, node.crop)
    else:
        assert isinstance(node, Dense)
        synapses = IntegerDense(weights.values)
    return Connection(node.id, node.origin, source, target, synapses, weights.exponent, delay)

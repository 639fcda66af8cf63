"""The compiler's table of contents: from a trained model to the integer network, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from export.graph import Floats, Graph
from export.input_coding import choose_coding
from export.lower import quantise_network
from export.network import Network
from export.passes.absorb_gains import absorb_gains
from export.passes.bias_to_clock import bias_to_clock
from export.passes.code_input import code_input
from export.passes.compose_pooling import compose_pooling
from export.passes.compose_synapses import compose_synapses
from export.passes.delay_before_pooling import delay_before_pooling
from export.passes.delays_on_spikes import delays_on_spikes
from export.passes.distribute_sums import distribute_sums
from export.passes.drop_flatten import drop_flatten
from export.passes.fold_attention import Gate, depends_on_data, fold_attention
from export.passes.fold_batch_norm import fold_batch_norm
from export.passes.fold_input_scale import fold_input_scale
from export.passes.gather_currents import gather_currents
from export.passes.identity_synapses import identity_synapses
from export.passes.relay_readout import relay_readout
from export.passes.retime import retime
from export.passes.shift_of_currents import shift_of_currents
from export.passes.shift_to_delays import shift_to_delays
from export.quantise import Granularity, PerChannel, Signed
from export.terms import terms
from train.errors import UserError
from train.quantise.coding import Choice, CodingName

LOIHI_SYNAPSE_STEPS = 1  # every connection costs one step
NIR_SYNAPSE_STEPS = 0  # an edge of a NIR graph takes no time


@dataclass(frozen=True, eq=False)
class Compiled:
    """What the compiler leaves: stage name -> graph, the graph for NIR, the integer network, its input's coding."""

    stages: dict[str, Graph]
    nir: Graph
    network: Network
    coding: Choice


PASSES: tuple[Callable[[Graph], Graph], ...] = (
    drop_flatten,
    absorb_gains,
    distribute_sums,
    fold_batch_norm,
    delays_on_spikes,
    shift_of_currents,
    identity_synapses,
    fold_input_scale,
    shift_to_delays,
    delay_before_pooling,
    compose_pooling,
    compose_synapses,
    gather_currents,
    bias_to_clock,
    relay_readout,
)


def lower_graph(graph: Graph, gates: Sequence[Gate] = (), *, attention: bool = False) -> dict[str, Graph]:
    """Every pass in order; stage name -> graph after it. Each construction checks the invariants.

    All are exact but `fold_attention`, which runs where `gates` were measured for it. `attention`: what is left of it
    after that stays, for integer programs.

    Raises:
        UserError: what a pass cannot do; attention that is not folded.
    """
    stages = {"trace": graph}
    if gates:
        graph = stages[fold_attention.__name__] = fold_attention(graph, gates)
    for node in graph.nodes:
        if depends_on_data(node) and not attention:
            raise UserError(
                "attention multiplies by what a whole window decides, which no weight can do",
                where=node.where,
                hint="python -m export --attention fold, or --attention quantize",
            )
    for step in PASSES:
        graph = step(graph)
        stages[step.__name__] = graph
    return stages


def final(stages: dict[str, Graph]) -> Graph:
    """The graph after all passes."""
    return stages[PASSES[-1].__name__]


def compile_graph(
    stages: dict[str, Graph],
    calibration: Floats,
    grid: Signed | None = None,
    granularity: Granularity | None = None,
    coding: CodingName = "auto",
) -> Compiled:
    """The integer part: code the input, retime, search scales, prove that no current overflows.

    Args:
        calibration: raw inputs [T, B, *shape], float64, on which scales are searched.

    Raises:
        UserError: a layer that cannot be delayed or proved; it is named.
    """
    last = final(stages)
    grid = grid or Signed(8)
    chosen = choose_coding(stages["trace"], last, grid, coding)
    coded = code_input(last, chosen.coding)
    retimed = retime(coded, LOIHI_SYNAPSE_STEPS)
    network = quantise_network(coded, retimed, calibration, grid, granularity or PerChannel())
    said = stages[gather_currents.__name__]  # NIR has no clocks, and its synaptic currents take a bias as it is
    stages = {**stages, code_input.__name__: coded, "retime": retimed}
    return Compiled(stages, retime(said, NIR_SYNAPSE_STEPS), network, chosen)


def left_out(compiled: Compiled) -> tuple[str, ...]:
    """The synapses whose weights all became zero in integers, so that the network has no such connection."""
    graph, found = compiled.stages["retime"], {c.id for c in compiled.network.connections}
    drivers = [term.synapse for node in graph.windowed() for term in terms(graph, node)]
    return tuple(synapse.where for synapse in drivers if synapse.id not in found)

"""A first plan: every population cut into blocks, one block a core, with what the fullest core of each uses.

A population (C, H, W) is cut by a regular grid, as a cake is, into the fewest blocks that respect every limit. What is
assumed, and shown in the report (ASSUMPTIONS): no core is shared by two populations, the input is sent by the host,
and axons are counted by rectangles. It is a plan to judge feasibility by, not the placement a vendor's compiler makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from deploy.chip import Chip
from deploy.synapses import Mask, fan_in, grid, reach, unique_weights
from export.network import LIF, Connection, Convolution, Driven, Ints, Network, Population

ASSUMPTIONS = (
    "A core holds neurons of one population only; a population is cut into equal blocks of channels, rows and columns.",
    "The input population and clocks take no core: the host sends their events.",
    "An input axon is one source neuron that reaches a core, whatever the number of its synapses and delays there.",
    "An output axon is one neuron paired with one core that it reaches.",
    "Memory counts synapses (weight, neuron index, delay), the gate's synapse and the delay accumulators; not the"
    " neurons' own state or axon tables.",
    "Attention is placed as neurons that hold a window of inputs each; the sums over its population, its coefficients"
    " and tables, and the processor that works on them are not counted.",
)
ROUNDS = 8  # of a recurrent network: each takes the cuts of the one before for what lies behind a connection back
Cut = tuple[Ints, Ints, Ints]  # for each axis, where its blocks begin


@dataclass(frozen=True)
class Use:
    """How much of one resource the fullest core uses."""

    resource: str
    used: int
    limit: int
    unit: str

    @property
    def fraction(self) -> float:
        """used / limit; above 1 the population does not fit."""
        return self.used / self.limit


@dataclass(frozen=True)
class Placement:
    """One population on its cores.

    Attributes:
        blocks: into how many blocks channels, rows and columns are cut; their product is `cores`.
        synapses: synapses that end here, every one counted (convolutions expanded), gate included.
        unique_weights: nonzero weights when each kernel is counted once, gate included.
        shared_bits, expanded_bits: memory over all cores if convolutions are stored shared, or expanded.
        storage: which of the two the plan uses; a connection with delays is expanded under both.
        uses: neurons, memory, axons in, axons out of the fullest core, in this order.
    """

    population: str
    neurons: int
    blocks: tuple[int, int, int]
    synapses: int
    unique_weights: int
    shared_bits: int
    expanded_bits: int
    storage: str
    uses: tuple[Use, ...]

    @property
    def cores(self) -> int:
        """Number of cores."""
        return prod(self.blocks)

    @property
    def memory_bits(self) -> int:
        """Memory over all cores, as the plan stores it."""
        return self.shared_bits if self.storage == "shared" else self.expanded_bits


@dataclass(frozen=True)
class Plan:
    """A network on a chip: its populations in network order, without the input and clocks."""

    chip: Chip
    placements: tuple[Placement, ...]

    @property
    def cores(self) -> int:
        """Cores in all."""
        return sum(placement.cores for placement in self.placements)

    @property
    def chips(self) -> int:
        """Chips that these cores take."""
        return ceil(self.cores / self.chip.limits.cores.value)


@dataclass(frozen=True, eq=False)
class _Demand:
    """What a population asks of its cores: memory (bits) per neuron and per channel, axons in by source, axons out."""

    shape: tuple[int, int, int]
    neuron_bits: Ints
    channel_bits: Ints
    reaches: tuple[tuple[Mask, Mask, Mask], ...]
    axons_out: Ints


def plan(network: Network, chip: Chip) -> Plan:
    """Cut every population into as few blocks as the chip's limits allow.

    A limit that even a core with a single neuron breaks is left out of the search and shows as a use above its limit;
    `deploy.rules` turns it into a violation.
    """
    cuts: dict[str, Cut] = {}
    for _ in range(ROUNDS if _leads_back(network) else 1):
        earlier, cuts = cuts, {}
        demands: dict[str, _Demand] = {}
        for population in reversed(network.populations):  # targets first: axons out depend on how the targets are cut
            if isinstance(population.program, Driven):
                demands[population.id] = _demand(network, population, chip, {**earlier, **cuts})
                cuts[population.id] = _best_cut(demands[population.id], chip)
        if _same(cuts, earlier):
            break
    placed = [p for p in network.populations if p.id in demands]
    return Plan(chip, tuple(_placement(network, p, chip, demands[p.id], cuts[p.id]) for p in placed))


def _leads_back(network: Network) -> bool:
    place = {population.id: index for index, population in enumerate(network.populations)}
    return any(place[c.source] >= place[c.target] for c in network.connections)


def _same(cuts: dict[str, Cut], earlier: dict[str, Cut]) -> bool:
    return bool(earlier) and all(
        np.array_equal(a, b) for name in cuts for a, b in zip(cuts[name], earlier[name], strict=True)
    )


def synapse_bits(connection: Connection, chip: Chip) -> int:
    """Bits that one stored synapse of a connection takes."""
    delay = chip.storage.delay_bits.value if connection.delay.any() else 0
    return chip.limits.weight_bits.value + chip.storage.index_bits.value + delay


def is_shared(connection: Connection, storage: str) -> bool:
    """Whether its kernels are stored once a core: a convolution without delays, where the chip shares them."""
    return storage == "shared" and isinstance(connection.synapses, Convolution) and not connection.delay.any()


def _gate_bits(population: Population, chip: Chip) -> int:
    gated = isinstance(population.program, LIF) and population.program.gate is not None
    return chip.limits.weight_bits.value + chip.storage.index_bits.value if gated else 0


def _memory(network: Network, population: Population, chip: Chip, storage: str) -> tuple[Ints, Ints]:
    """Bits per neuron [C, H, W], and bits per output channel [C] that every core with that channel holds once."""
    shape = grid(population.shape)
    inputs = network.inputs_of(population.id)
    slots = max((int(c.delay.max()) for c in inputs), default=0)  # the present step's accumulator is part of the neuron
    slots += network.steps if population.waits else 0
    neuron = np.full(shape, _gate_bits(population, chip) + slots * chip.storage.accumulator_bits.value, dtype=np.int64)
    channel = np.zeros(shape[0], dtype=np.int64)
    for connection in inputs:
        bits = synapse_bits(connection, chip)
        if is_shared(connection, storage):
            channel += unique_weights(connection) * bits
        else:
            neuron += fan_in(connection, network.population(connection.source), population).reshape(shape) * bits
    return neuron, channel


def _demand(network: Network, population: Population, chip: Chip, cuts: dict[str, Cut]) -> _Demand:
    neuron_bits, channel_bits = _memory(network, population, chip, chip.storage.convolution.value)
    sources = dict.fromkeys(c.source for c in network.inputs_of(population.id))
    axons_out = np.zeros(grid(population.shape), dtype=np.int64)
    for target_id in dict.fromkeys(c.target for c in network.connections if c.source == population.id):
        if target_id not in cuts:  # the first round of a recurrent network
            continue
        axes = _union(network, population.id, target_id)
        blocks = (
            np.logical_or.reduceat(mask, starts, axis=0).sum(0)
            for mask, starts in zip(axes, cuts[target_id], strict=True)
        )
        axons_out += np.einsum("c,y,x->cyx", *blocks)
    return _Demand(
        shape=grid(population.shape),
        neuron_bits=neuron_bits,
        channel_bits=channel_bits,
        reaches=tuple(_union(network, source, population.id) for source in sources),
        axons_out=axons_out,
    )


def _union(network: Network, source_id: str, target_id: str) -> tuple[Mask, Mask, Mask]:
    """What the connections between two populations reach together, per axis."""
    source, target = network.population(source_id), network.population(target_id)
    each = [reach(c, source, target) for c in network.inputs_of(target_id) if c.source == source_id]
    channels, rows, columns = (np.logical_or.reduce(masks) for masks in zip(*each, strict=True))
    return channels, rows, columns


def _block_sums(values: Ints, cut: Cut) -> Ints:
    for axis, starts in enumerate(cut):
        values = np.add.reduceat(values, starts, axis=axis)
    return values


def _uses(demand: _Demand, cut: Cut, chip: Chip) -> Iterator[Use]:
    """The fullest core's use of each resource, cheapest to compute first."""
    limits = chip.limits
    sizes = [int(np.diff(starts, append=side).max()) for starts, side in zip(cut, demand.shape, strict=True)]
    yield Use("neurons", prod(sizes), limits.neurons_per_core.value, "neurons")
    per_channel = np.add.reduceat(demand.channel_bits, cut[0])
    bits = (_block_sums(demand.neuron_bits, cut) + per_channel[:, None, None]).max()
    yield Use("memory", ceil(int(bits) / 8), limits.memory_per_core.value, "bytes")
    axons_in = sum(
        prod(
            int(np.logical_or.reduceat(mask, starts, axis=0).sum(1).max())
            for mask, starts in zip(masks, cut, strict=True)
        )
        for masks in demand.reaches
    )
    yield Use("axons in", axons_in, limits.axons_in.value, "axons")
    yield Use("axons out", int(_block_sums(demand.axons_out, cut).max()), limits.axons_out.value, "axons")


def _starts(side: int, size: int) -> Ints:
    return np.arange(0, side, size, dtype=np.int64)


def _best_cut(demand: _Demand, chip: Chip) -> Cut:
    """The cut with the fewest blocks within the limits; among equals, the one that keeps channels together."""
    finest = tuple(_starts(side, 1) for side in demand.shape)
    assert len(finest) == 3
    hopeless = {use.resource for use in _uses(demand, finest, chip) if use.used > use.limit}
    sizes = [sorted({ceil(side / parts) for parts in range(1, side + 1)}) for side in demand.shape]
    candidates = sorted(
        (ceil(demand.shape[0] / c) * ceil(demand.shape[1] / y) * ceil(demand.shape[2] / x), -c, abs(y - x), y, x)
        for c in sizes[0]
        for y in sizes[1]
        for x in sizes[2]
        if c * y * x <= chip.limits.neurons_per_core.value
    )
    for _, negative_c, _, y, x in candidates:
        cut = (_starts(demand.shape[0], -negative_c), _starts(demand.shape[1], y), _starts(demand.shape[2], x))
        if all(use.used <= use.limit or use.resource in hopeless for use in _uses(demand, cut, chip)):
            return cut
    return finest


def _placement(network: Network, population: Population, chip: Chip, demand: _Demand, cut: Cut) -> Placement:
    inputs = network.inputs_of(population.id)
    gates = population.size if _gate_bits(population, chip) else 0
    blocks = (len(cut[0]), len(cut[1]), len(cut[2]))
    bits = {}
    for storage in ("shared", "expanded"):
        neuron, channel = _memory(network, population, chip, storage)
        bits[storage] = int(neuron.sum()) + int(channel.sum()) * blocks[1] * blocks[2]  # one copy for each tile
    return Placement(
        population=population.id,
        neurons=population.size,
        blocks=blocks,
        synapses=gates + sum(int(fan_in(c, network.population(c.source), population).sum()) for c in inputs),
        unique_weights=gates + sum(int(unique_weights(c).sum()) for c in inputs),
        shared_bits=bits["shared"],
        expanded_bits=bits["expanded"],
        storage=chip.storage.convolution.value,
        uses=tuple(_uses(demand, cut, chip)),
    )

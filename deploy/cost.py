"""What a sample costs: counts first, then energy and time as counts x constants that say where they come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deploy import chip as chips
from deploy.activity import Activity
from deploy.chip import Chip, Quantity
from deploy.synapses import fan_out
from export.network import LIF, Attention, Driven, Network, Source

_HOROWITZ = "Horowitz, ISSCC 2014, 45 nm, 32-bit floating point, as papers on spiking networks use it"
E_MAC = Quantity(4.6, "pJ", "secondary", _HOROWITZ)
E_AC = Quantity(0.9, "pJ", "secondary", _HOROWITZ)


@dataclass(frozen=True)
class ConnectionCost:
    """What one connection does per sample."""

    connection: str
    events: float
    synaptic_operations: float


@dataclass(frozen=True)
class Counts:
    """What the chip does per sample, averaged over the samples of an activity file.

    Attributes:
        connections: events and synaptic operations, in network order.
        spikes: spikes of all populations, those that attention sends too, which are graded; `input_events` are the
            graded ones that come from outside.
        gate_operations: synaptic operations of the gates, one per gated neuron and guard step.
        neuron_updates: every neuron in every step of a window; guard_updates: in every guard step.
        dense_input_macs: multiply-accumulates of the graded input's connections if they ran densely at each step.
        attention_products: multiplications of the attention programs; not part of any energy below.
    """

    connections: tuple[ConnectionCost, ...]
    spikes: float
    input_events: float
    gate_operations: int
    neuron_updates: float
    guard_updates: int
    dense_input_macs: int
    attention_products: int = 0

    @property
    def synaptic_operations(self) -> float:
        """All synaptic operations of a sample, gates included."""
        return sum(c.synaptic_operations for c in self.connections) + self.gate_operations


@dataclass(frozen=True)
class Term:
    """count x constant; `low` and `high` are in pJ and differ where the constant is a range."""

    what: str
    count: float
    constants: tuple[Quantity, ...]

    @property
    def low(self) -> float:
        """Count times the smallest constant, pJ."""
        return self.count * min(c.value for c in self.constants)

    @property
    def high(self) -> float:
        """Count times the largest constant, pJ."""
        return self.count * max(c.value for c in self.constants)


@dataclass(frozen=True)
class Energy:
    """An estimate per sample with the label that must stand beside it wherever it is shown."""

    label: str
    caveat: str
    terms: tuple[Term, ...]

    @property
    def low(self) -> float:
        """Sum of the terms with their smallest constants, pJ."""
        return sum(term.low for term in self.terms)

    @property
    def high(self) -> float:
        """Sum of the terms with their largest constants, pJ."""
        return sum(term.high for term in self.terms)


@dataclass(frozen=True)
class Timing:
    """Latency of one sample and distance between samples, in machine steps, and ns a step as published.

    Attributes:
        step_ns: fastest and slowest barrier between two steps.
        constants: where `step_ns` comes from.
    """

    latency: int
    period: int
    step_ns: tuple[float, float]
    constants: tuple[Quantity, ...]
    label: str


def count(network: Network, activity: Activity) -> Counts:
    """Counts per sample; the gates' and guard steps' share follows from the network alone."""
    guard = network.period - network.steps
    neurons = sum(p.size for p in network.populations if isinstance(p.program, Driven))
    gated = sum(p.size for p in network.populations if isinstance(p.program, LIF) and p.program.gate)
    source = network.source.id
    per_sample = 1 / activity.samples
    return Counts(
        connections=tuple(
            ConnectionCost(c.id, c.events * per_sample, c.synaptic_operations * per_sample)
            for c in activity.connections
        ),
        spikes=sum(p.spikes for p in activity.populations if p.id != source) * per_sample,
        input_events=sum(p.spikes for p in activity.populations if p.id == source) * per_sample,
        gate_operations=gated * guard,
        neuron_updates=float(neurons * network.steps),
        guard_updates=neurons * guard,
        dense_input_macs=_dense_input_macs(network),
        attention_products=sum(
            p.program.products(p.shape, network.steps) for p in network.populations if isinstance(p.program, Attention)
        ),
    )


def _graded(network: Network) -> bool:
    program = network.source.program
    return isinstance(program, Source) and program.spike_bits > 1


def _dense_input_macs(network: Network) -> int:
    """Nonzero synapses of the input's connections x T, when its events are graded; 0 for binary events."""
    if not _graded(network):
        return 0
    outgoing = (c for c in network.connections if c.source == network.source.id)
    synapses = sum(int(np.sum(fan_out(c, network.source, network.population(c.target)))) for c in outgoing)
    return synapses * network.steps


def energies(network: Network, counts: Counts, chip: Chip) -> tuple[Energy, ...]:
    """The two estimates: with a chip's published constants, and with the 45 nm ones of the literature."""
    return _chip_energy(counts, chip), _literature_energy(network, counts)


def _chip_energy(counts: Counts, chip: Chip) -> Energy:
    """The chip's own constants, or Loihi 1's where it has none."""
    used = chip if chip.energy else chips.load("loihi1")
    constant = used.energy
    borrowed = "" if used is chip else f" {chip.title} has no published constants; these are another chip's."
    return Energy(
        label=f"{used.title} constants",
        caveat=(
            "A floor: numbers from before silicon; spikes that leave their tile, hops and input/output are not counted"
            f" (they need a placement).{borrowed}{_uncounted(counts)}"
        ),
        terms=(
            Term("synaptic operations", counts.synaptic_operations, (constant["synaptic_operation"],)),
            Term(
                "neuron updates, all inactive to all active",
                counts.neuron_updates + counts.guard_updates,
                (constant["neuron_update_inactive"], constant["neuron_update_active"]),
            ),
            Term("spikes within a tile", counts.spikes, (constant["spike_within_tile"],)),
        ),
    )


def _literature_energy(network: Network, counts: Counts) -> Energy:
    """E = E_MAC x MACs of the graded input layer + E_AC x synaptic operations of the spiking ones."""
    by_id = {c.id: c for c in network.connections}
    attending = {p.id for p in network.populations if isinstance(p.program, Attention)}
    graded = sum(c.synaptic_operations for c in counts.connections if by_id[c.connection].source in attending)
    driven = sum(
        c.synaptic_operations
        for c in counts.connections
        if not (_graded(network) and by_id[c.connection].source == network.source.id)
    )
    return Energy(
        label="45 nm arithmetic only (E_MAC, E_AC)",
        caveat="Additions and multiplications alone: no memory, no routing, no neurons, no chip. For comparison with"
        f" papers that use this formula.{_uncounted(counts)}",
        terms=(
            Term("multiply-accumulates, graded input over all steps", counts.dense_input_macs, (E_MAC,)),
            Term("accumulates, driven by spikes", driven - graded, (E_AC,)),
            *([Term("multiply-accumulates, graded spikes of attention", graded, (E_MAC,))] if attending else []),
        ),
    )


def _uncounted(counts: Counts) -> str:
    if not counts.attention_products:
        return ""
    products = f"{counts.attention_products:,} multiplications"
    return f" The {products} of attention, its sums, divisions and tables are not counted."


def timing(network: Network, chip: Chip) -> Timing:
    """Latency and period in machine steps, and the barrier times of this chip or else of Loihi 1."""
    used = chip if chip.time else chips.load("loihi1")
    constants = (used.time["barrier_fastest"], used.time["barrier_slowest"])
    return Timing(
        latency=network.latency,
        period=network.period,
        step_ns=(constants[0].value, constants[1].value),
        constants=constants,
        label=f"{used.title} barrier alone; the work within a step comes on top",
    )

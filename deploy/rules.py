"""The chip's rules: small named functions, each of which returns all its violations; no rule stops another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deploy.mapping import Plan
from export.network import LIF, Attention, Network, Population, Source

WEIGHT_PRECISION = 9  # bits of a full weight, sign included: Lava keeps its highest `weight_bits` + sign


@dataclass(frozen=True)
class Violation:
    """One broken rule: where, value against limit, and what to do about it."""

    rule: str
    where: str
    value: int
    limit: int
    unit: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.value:,} {self.unit}, limit {self.limit:,} ({self.remedy})"


Rule = Callable[[Network, Plan], list[Violation]]


def violations(network: Network, plan: Plan) -> tuple[Violation, ...]:
    """Everything that keeps this network off this chip."""
    return tuple(violation for rule in RULES for violation in rule(network, plan))


def one_chip(network: Network, plan: Plan) -> list[Violation]:
    """All cores are on one chip."""
    limit = plan.chip.limits.cores.value
    if plan.cores <= limit:
        return []
    remedy = f"it takes {plan.chips} chips; make the network smaller, or plan a board of several"
    return [Violation("one chip", f"network {network.name}", plan.cores, limit, "cores", remedy)]


def _over(plan: Plan, resource: str, remedy: str) -> list[Violation]:
    return [
        Violation(resource, f"population {placement.population}", use.used, use.limit, f"{use.unit} a core", remedy)
        for placement in plan.placements
        for use in placement.uses
        if use.resource == resource and use.used > use.limit
    ]


def memory(network: Network, plan: Plan) -> list[Violation]:
    """The synapses of a core fit its memory."""
    return _over(plan, "memory", "even one neuron is too much: give it fewer inputs or shorter delays")


def axons_in(network: Network, plan: Plan) -> list[Violation]:
    """The source neurons that reach a core fit its input axons."""
    return _over(plan, "axons in", "even one neuron is too much: pool or stride before it, or use fewer channels")


def axons_out(network: Network, plan: Plan) -> list[Violation]:
    """The cores that a core's neurons reach fit its output axons."""
    return _over(plan, "axons out", "even one neuron is too much: its targets lie on too many cores")


def delays(network: Network, plan: Plan) -> list[Violation]:
    """No synaptic delay is longer than the chip can wait."""
    limit = plan.chip.limits.delay.value
    return [
        Violation("delay", f"connection {c.id}", int(c.delay.max()), limit, "steps", "split the path with a relay")
        for c in network.connections
        if int(c.delay.max()) > limit
    ]


def weight_precision(network: Network, plan: Plan) -> list[Violation]:
    """Weights are whole multiples of the smallest step that the chip's weight bits leave."""
    bits = plan.chip.limits.weight_bits.value
    step = 1 << max(WEIGHT_PRECISION - bits, 0)
    return [
        Violation("weight bits", f"connection {c.id}", count, 0, f"weights off the {bits}-bit grid", "quantise to it")
        for c in network.connections
        if (count := int(np.count_nonzero(c.synapses.weight % step)))
    ]


def graded_spikes(network: Network, plan: Plan) -> list[Violation]:
    """Graded spikes carry no more bits than a spike of this chip does."""
    limit = plan.chip.limits.payload_bits.value
    program = network.source.program
    assert isinstance(program, Source)
    remedy = "send binary events, or choose a chip with graded spikes"
    sent = {network.source.id: program.spike_bits}
    sent |= {p.id: p.program.spike_bits for p in _attending(network) if isinstance(p.program, Attention)}
    return [
        Violation("graded spikes", f"population {name}", bits, limit, "payload bits", remedy)
        for name, bits in sent.items()
        if bits > limit
    ]


def programs(network: Network, plan: Plan) -> list[Violation]:
    """The chip's neurons are programmed where the network needs programs that are not its own."""
    if plan.chip.neurons.reset.value == "any":
        return []
    remedy = "this chip has one neuron program: use --attention fold, or choose a chip whose neurons are programmed"
    return [
        Violation("program", f"population {p.id}", p.size, 0, "neurons of attention", remedy)
        for p in _attending(network)
    ]


def resets(network: Network, plan: Plan) -> list[Violation]:
    """The chip's neuron can do what a spike does to the membrane potential."""
    if plan.chip.neurons.reset.value == "any":
        return []
    remedy = "this chip resets to zero only: train with that reset, or choose a chip whose neurons are programmed"
    return [
        Violation("reset", f"population {p.id}", p.size, 0, "neurons whose spikes subtract the threshold", remedy)
        for p in _subtracting(network)
    ]


def not_stock(network: Network) -> list[str]:
    """What runs here, equal in all engines, but not with Lava's own processes; a line for each."""
    lines = []
    if names := ", ".join(p.id for p in _subtracting(network)):
        lines.append(
            f"A spike subtracts the threshold in {names}: not a stock neuron of Lava or Loihi. In Lava it is this"
            " project's process LIFSubtract; on Loihi 2 it takes a neuron program of its own."
        )
    if names := ", ".join(p.id for p in _attending(network)):
        lines.append(
            f"Attention in {names}: not a stock program of Lava or Loihi. In Lava it is this project's process"
            " Attention. On Loihi 2 it takes a neuron program that holds a window, and sums over a whole population,"
            " which no neuron program does: work for the embedded processors. Nobody has run it on a chip."
        )
    return lines


def _attending(network: Network) -> list[Population]:
    return [p for p in network.populations if isinstance(p.program, Attention)]


def _subtracting(network: Network) -> list[Population]:
    return [p for p in network.populations if isinstance(p.program, LIF) and p.program.reset == "subtract"]


RULES: tuple[Rule, ...] = (
    one_chip,
    memory,
    axons_in,
    axons_out,
    delays,
    weight_precision,
    graded_spikes,
    resets,
    programs,
)

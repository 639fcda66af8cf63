"""Everything the report says, as plain JSON data: report.json is this, and the page is drawn from it alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from deploy import cost, rules
from deploy.activity import Activity
from deploy.mapping import ASSUMPTIONS, Plan, is_shared
from deploy.report import formats
from deploy.rules import Violation
from deploy.synapses import fan_in, unique_weights
from export import limits
from export.network import (
    LIF,
    Attention,
    Clock,
    Connection,
    Dense,
    Driven,
    Network,
    Population,
    Program,
    Source,
)

SCHEMA_VERSION = 1


def build(
    network: Network,
    plan: Plan,
    broken: tuple[Violation, ...],
    activity: Activity | None,
    equivalence: dict[str, Any] | None,
    config: dict[str, Any] | None,
) -> dict[str, Any]:
    """All numbers of the report; a part is None where the file it comes from is not there."""
    accuracy = {**(equivalence["accuracy"] if equivalence else {})}
    if activity is not None:
        accuracy = {**{name: list(pair) for name, pair in activity.accuracy.items()}, **accuracy}
    return {
        "schema_version": SCHEMA_VERSION,
        "network": _network(network, plan.chip.storage.convolution.value),
        "equivalence": equivalence,
        "accuracy": accuracy or None,
        "activity": None if activity is None else _activity(network, activity),
        "quantisation": [_record(record) for record in network.records] or None,
        "cost": None if activity is None else _cost(network, activity, plan),
        "timing": dataclasses.asdict(cost.timing(network, plan.chip)),
        "plan": _plan(plan, broken),
        "provenance": config,
    }


def _network(network: Network, storage: str) -> dict[str, Any]:
    return {
        "name": network.name,
        "steps": network.steps,
        "period": network.period,
        "latency": network.latency,
        "not_stock": rules.not_stock(network),
        "neurons": sum(p.size for p in network.populations if isinstance(p.program, Driven)),
        "populations": [_population(p) for p in network.populations],
        "connections": [_connection(c, network, storage) for c in network.connections],
    }


def _population(population: Population) -> dict[str, Any]:
    program = population.program
    return {
        "id": population.id,
        "origin": population.origin,
        "shape": list(population.shape),
        "neurons": population.size,
        "start": population.start,
        "kind": _kind_of(population),
        "payload_bits": _payload_bits(program),
        "gated": isinstance(program, LIF) and program.gate is not None,
        "reset": program.reset if isinstance(program, LIF) else None,
    }


def _kind_of(population: Population) -> str:
    match population.program:
        case Source():
            return "input"
        case Clock():
            return "clock"
        case LIF():
            return "read-out" if population.readout else "LIF"
    return "attention"


def _payload_bits(program: Program) -> int:
    return program.spike_bits if isinstance(program, Source | Attention) else 1


def _connection(connection: Connection, network: Network, storage: str) -> dict[str, Any]:
    source, target = network.population(connection.source), network.population(connection.target)
    return {
        "id": connection.id,
        "source": connection.source,
        "target": connection.target,
        "kind": _kind(connection),
        "delays": sorted({int(delay) for delay in connection.delay}),
        "synapses": int(np.sum(fan_in(connection, source, target))),
        "unique_weights": int(np.sum(unique_weights(connection))),
        "shared": is_shared(connection, storage),
    }


def _kind(connection: Connection) -> str:
    synapses = connection.synapses
    if isinstance(synapses, Dense):
        return "dense"
    height, width = synapses.weight.shape[2:]
    stride = "" if synapses.stride == (1, 1) else f", stride {synapses.stride[0]}"
    groups = "" if synapses.groups == 1 else f", {synapses.groups} groups"
    return f"conv {height}{formats.TIMES}{width}{stride}{groups}"


def _activity(network: Network, activity: Activity) -> dict[str, Any]:
    return {
        "engine": activity.engine,
        "samples": activity.samples,
        "raster_sample": activity.raster_sample,
        "populations": [
            {
                "id": p.id,
                "spikes_per_sample": p.spikes / activity.samples,
                "rate": p.spikes / (activity.samples * activity.steps * p.spikes_per_neuron.size),
                "rate_per_step": [
                    float(rate) for rate in p.spikes_per_step / (activity.samples * p.spikes_per_neuron.size)
                ],
                "silent": int(np.count_nonzero(p.spikes_per_neuron == 0)),
                "neurons": int(p.spikes_per_neuron.size),
            }
            for p in activity.populations
        ],
    }


def _record(record: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(record), "bits_in_use": record.bits_in_use, "bits_limit": limits.STATE_BITS}


def _cost(network: Network, activity: Activity, plan: Plan) -> dict[str, Any]:
    counts = cost.count(network, activity)
    return {
        **dataclasses.asdict(counts),
        "synaptic_operations": counts.synaptic_operations,
        "energies": [
            {
                "label": energy.label,
                "caveat": energy.caveat,
                "low_pj": energy.low,
                "high_pj": energy.high,
                "terms": [
                    {**dataclasses.asdict(term), "low_pj": term.low, "high_pj": term.high} for term in energy.terms
                ],
            }
            for energy in cost.energies(network, counts, plan.chip)
        ],
    }


def _plan(plan: Plan, broken: tuple[Violation, ...]) -> dict[str, Any]:
    return {
        "chip": dataclasses.asdict(plan.chip),
        "fits": not broken,
        "cores": plan.cores,
        "cores_limit": plan.chip.limits.cores.value,
        "chips": plan.chips,
        "placements": [
            {
                **dataclasses.asdict(placement),
                "cores": placement.cores,
                "memory_bits": placement.memory_bits,
                "uses": [{**dataclasses.asdict(use), "fraction": use.fraction} for use in placement.uses],
            }
            for placement in plan.placements
        ],
        "violations": [{**dataclasses.asdict(violation), "text": str(violation)} for violation in broken],
        "assumptions": list(ASSUMPTIONS),
    }

"""The integer engine: layer by layer, all T steps and the whole batch at once.

A feed-forward network needs no machine clock. Within windows, target step i meets source step
i + start_target - start_source - 1 - delay, and everything outside a window is silent (gates and guard steps see to
that), so each connection is one convolution or matrix product over T * B images, and each population one scan over T.

Sums run in float32 where a bound from the weights proves them exact (below 2^24), in float64 otherwise; the neuron's
24-bit state and its 36-bit products are exact in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export import limits
from export.interpret import ticks
from export.network import LIF, Clock, Connection, Convolution, Ints, Network, Population, Source
from export.proof import payload
from sim.recording import Recording
from train.errors import UserError

FLOAT32_EXACT = 1 << 24
BATCH = 256


def run(
    network: Network, inputs: Ints, *, device: str = "cpu", progress: Callable[[int, int], None] | None = None
) -> Recording:
    """Simulate samples; inputs int64 [samples, T, *shape] of raw values. Memory is bounded by batches of samples.

    Raises:
        UserError: the network is not in layer order (a recurrent edge).
    """
    prepared = _prepare(network, torch.device(device))
    spiking = [p for p in network.populations if isinstance(p.program, LIF)]
    parts: dict[str, list[np.ndarray]] = {p.id: [] for p in spiking}
    for first in range(0, len(inputs), BATCH):
        batch = inputs[first : first + BATCH]
        for name, values in _forward(network, prepared, batch).items():
            parts[name].append(values)
        if progress:
            progress(min(first + BATCH, len(inputs)), len(inputs))
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    return Recording(
        engine="integer",
        spikes={p.id: joined[p.id] for p in spiking if not p.readout},
        membrane={p.id: joined[p.id] for p in spiking if p.readout},
    )


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Weights on the device, in the narrowest float that is exact."""

    device: torch.device
    weights: dict[str, Tensor]


def _prepare(network: Network, device: torch.device) -> _Prepared:
    seen: set[str] = set()
    weights: dict[str, Tensor] = {}
    for population in network.populations:
        for connection in network.inputs_of(population.id):
            if connection.source not in seen:
                raise UserError(
                    f"its source {connection.source} comes later: recurrent networks need an engine that runs by step",
                    where=f"connection {connection.id}",
                    hint="use --engines reference",
                )
            weights[connection.id] = torch.from_numpy(connection.synapses.weight).to(
                device, _exact(connection, network)
            )
        seen.add(population.id)
    return _Prepared(device, weights)


def _exact(connection: Connection, network: Network) -> torch.dtype:
    """float32 while no partial sum can reach 2^24, else float64 (always exact: the proof keeps sums below 2^32)."""
    rows = np.abs(connection.synapses.weight).reshape(len(connection.synapses.weight), -1).sum(1)
    source = network.population(connection.source)
    peak = int(rows.max()) * payload(source.program, source.shape[0]).peak
    return torch.float32 if peak < FLOAT32_EXACT else torch.float64


def _forward(network: Network, prepared: _Prepared, batch: Ints) -> dict[str, np.ndarray]:
    """Every LIF population's windows for one batch, [samples, T, *shape]: spikes bool, the read-out's v int64."""
    sent: dict[str, Tensor] = {}
    results: dict[str, np.ndarray] = {}
    for population in network.populations:
        if isinstance(population.program, Source):
            sent[population.id] = torch.from_numpy(population.program.encode(batch)).to(prepared.device).transpose(0, 1)
            continue
        if isinstance(population.program, Clock):  # the same for every sample, so one is enough
            sent[population.id] = torch.from_numpy(ticks(population.shape, 1)).to(prepared.device)
            continue
        current = torch.zeros(
            (network.steps, len(batch), *population.shape), device=prepared.device, dtype=torch.float64
        )
        for connection in network.inputs_of(population.id):
            source = network.population(connection.source)
            current += _arriving(connection, source, population, sent[source.id], prepared.weights[connection.id])
        spikes, membrane = _integrate(population.program, current)
        sent[population.id] = spikes
        kept = membrane.long() if population.readout else spikes
        results[population.id] = kept.transpose(0, 1).cpu().numpy()
    return results


def _arriving(connection: Connection, source: Population, target: Population, sent: Tensor, weight: Tensor) -> Tensor:
    """a_in of every window step from one connection: float64 [T, B, *shape], B = 1 for a clock."""
    x = _aligned(sent, target.start - source.start - 1 - connection.delay).to(weight.dtype)
    flat = x.flatten(0, 1)
    synapses = connection.synapses
    if isinstance(synapses, Convolution):
        out = functional.conv2d(
            flat, weight, None, synapses.stride, synapses.padding, synapses.dilation, synapses.groups
        )
    else:
        out = functional.linear(flat.flatten(1), weight)
    return out.to(torch.float64).mul_(1 << connection.weight_exp).view(*sent.shape[:2], *target.shape)


def _aligned(sent: Tensor, ahead: Ints) -> Tensor:
    """x[i + ahead[c], c] for each channel c, zero outside the window; [T, B, C, ...]."""
    if not ahead.any():
        return sent
    steps = len(sent)
    out = torch.zeros_like(sent)
    for offset in np.unique(ahead):
        channels = torch.from_numpy(np.flatnonzero(ahead == offset)).to(sent.device)
        first, last = max(0, -int(offset)), min(steps, steps - int(offset))
        if first < last:
            out[first:last, :, channels] = sent[first + int(offset) : last + int(offset), :, channels]
    return out


def _integrate(program: LIF, current: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes (bool) and membrane potential before reset (float64 integers) of one population, [T, B, *shape]."""
    limit, unity = limits.STATE_LIMIT, limits.DECAY_UNITY
    bias = torch.from_numpy(program.bias).to(current)
    threshold = torch.from_numpy(program.threshold).to(current)
    u, v = torch.zeros_like(current[0]), torch.zeros_like(current[0])
    spikes = torch.empty(current.shape, dtype=torch.bool, device=current.device)
    membrane = torch.empty_like(current)
    kept_current = (unity - 1 - torch.from_numpy(program.du).to(current)) / unity
    kept = (unity - torch.from_numpy(program.dv).to(current)) / unity
    for step, a_in in enumerate(current):
        u = torch.trunc(u * kept_current) + a_in * (1 << limits.STATE_SHIFT)
        u = torch.where(u > limit, u - 2 * limit, torch.where(u <= -limit, u + 2 * limit, u))
        v = (torch.trunc(v * kept) + u + bias).clamp_(1 - limit, limit - 1)
        membrane[step] = v
        torch.gt(v, threshold, out=spikes[step])
        v = v.masked_fill(spikes[step], 0) if program.reset == "zero" else v - spikes[step] * threshold
    return spikes, membrane

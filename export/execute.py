"""The integer network executed: layer by layer, all T steps and the whole batch at once.

A feed-forward network needs no machine clock. Within windows, target step i meets source step
i + start_target - start_source - 1 - delay, and everything outside a window is silent (gates and guard steps see to
that), so each connection is one convolution or matrix product over T * B images, and each population one scan over T.
Populations in a loop run together, one machine step after the other; what drives them from outside comes as before.

Sums run in float32 where a bound from the weights proves them exact (below 2^24), in float64 otherwise; the neuron's
24-bit state and its 36-bit products are exact in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export import limits
from export.interpret import ticks
from export.network import LIF, NO_CROP, Clock, Connection, Convolution, Ints, Network, Population, Source
from export.proof import payload

FLOAT32_EXACT = 1 << 24
BATCH = 256


def run(
    network: Network,
    inputs: Ints,
    *,
    keep: Collection[str] | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Windows of every LIF population, [samples, T, *shape]: spikes bool, the read-out's membrane potential int64.

    Args:
        inputs: int64 [samples, T, *shape] of raw values; memory is bounded by batches of samples.
        keep: ids of the populations to return, None for all.
    """
    prepared = _prepare(network, torch.device(device))
    simulated = [p.id for p in network.populations if isinstance(p.program, LIF)]
    wanted = [name for name in simulated if keep is None or name in keep]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for first in range(0, len(inputs), BATCH):
        batch = inputs[first : first + BATCH]
        for name, values in _forward(network, prepared, batch).items():
            if name in wanted:
                parts[name].append(values)
        if progress:
            progress(min(first + BATCH, len(inputs)), len(inputs))
    return {name: np.concatenate(values) for name, values in parts.items()}


def answers(network: Network, inputs: Ints) -> Ints:
    """The class with the highest membrane potential at the end of each window, int64 [samples]."""
    assert network.readout is not None
    final = run(network, inputs, keep=(network.readout.id,))[network.readout.id][:, -1]
    return np.asarray(final.argmax(-1), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Weights on the device, in the narrowest float that is exact."""

    device: torch.device
    weights: dict[str, Tensor]


def _prepare(network: Network, device: torch.device) -> _Prepared:
    weights = {c.id: torch.from_numpy(c.synapses.weight).to(device, _exact(c, network)) for c in network.connections}
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
    for run in network.loops():
        currents: dict[str, Tensor] = {}
        for population in run:
            if isinstance(population.program, Source):
                coded = torch.from_numpy(population.program.encode(batch))
                sent[population.id] = coded.to(prepared.device).transpose(0, 1)
                continue
            if isinstance(population.program, Clock):  # the same for every sample, so one is enough
                sent[population.id] = torch.from_numpy(ticks(population.shape, 1)).to(prepared.device)
                continue
            shape = (network.steps, len(batch), *population.shape)
            current = currents[population.id] = torch.zeros(shape, device=prepared.device, dtype=torch.float64)
            for connection in network.inputs_of(population.id):
                source = network.population(connection.source)
                if source not in run:
                    x = _aligned(sent[source.id], population.start - source.start - 1 - connection.delay)
                    current += _weighted(connection, population, x, prepared.weights[connection.id])
        members = [p for p in run if p.id in currents]
        integrated = _integrate_together(network, prepared, members, currents)
        for population, (spikes, membrane) in zip(members, integrated, strict=True):
            sent[population.id] = spikes
            kept = membrane.long() if population.readout else spikes
            results[population.id] = kept.transpose(0, 1).cpu().numpy()
    return results


def _integrate_together(
    network: Network, prepared: _Prepared, members: list[Population], currents: dict[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Spikes and membrane potential of the populations of one run; `currents` are those from outside of it."""
    states = {p.id: _State(p.program, currents[p.id]) for p in members if isinstance(p.program, LIF)}
    inner = {p.id: [c for c in network.inputs_of(p.id) if c.source in states] for p in members}
    first = min((p.start for p in members), default=0)
    last = max((p.start for p in members), default=0) + network.steps
    for step in range(first, last):
        for population in members:
            index = step - population.start
            if not 0 <= index < network.steps:
                continue
            for connection in inner[population.id]:
                source = network.population(connection.source)
                x = _sent_before(states[source.id].spikes, step - 1 - source.start - connection.delay)
                weight = prepared.weights[connection.id]
                currents[population.id][index] += _weighted(connection, population, x[None], weight)[0]
            states[population.id].step(index)
    return [(states[p.id].spikes, states[p.id].membrane) for p in members]


def _weighted(connection: Connection, target: Population, x: Tensor, weight: Tensor) -> Tensor:
    """a_in from one connection for the spikes that arrive, [T, B, *source.shape]: float64 [T, B, *target.shape]."""
    flat = x.flatten(0, 1).to(weight.dtype)
    synapses = connection.synapses
    if isinstance(synapses, Convolution):
        if synapses.crop != NO_CROP:
            (top, bottom), (left, right) = synapses.crop
            inner = flat[..., top : flat.shape[-2] - bottom, left : flat.shape[-1] - right]
            flat = functional.pad(inner, (left, right, top, bottom))
        out = functional.conv2d(
            flat, weight, None, synapses.stride, synapses.padding, synapses.dilation, synapses.groups
        )
    else:
        out = functional.linear(flat.flatten(1), weight)
    return out.to(torch.float64).mul_(1 << connection.weight_exp).view(*x.shape[:2], *target.shape)


def _sent_before(spikes: Tensor, steps: Ints) -> Tensor:
    """x[steps[c], c] for each channel c, zero outside the window; [B, C, ...]."""
    out = torch.zeros_like(spikes[0])
    for step in np.unique(steps):
        if 0 <= step < len(spikes):
            channels = torch.from_numpy(np.flatnonzero(steps == step)).to(spikes.device)
            out[:, channels] = spikes[int(step)][:, channels]
    return out


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


class _State:
    """One population while it runs: spikes (bool) and membrane potential before reset (float64 integers) so far."""

    def __init__(self, program: LIF, current: Tensor) -> None:
        self.program, self.current = program, current
        unity = limits.DECAY_UNITY
        self.bias, self.threshold = (torch.from_numpy(x).to(current) for x in (program.bias, program.threshold))
        self.kept_current = (unity - 1 - torch.from_numpy(program.du).to(current)) / unity
        self.kept = (unity - torch.from_numpy(program.dv).to(current)) / unity
        self.u, self.v = torch.zeros_like(current[0]), torch.zeros_like(current[0])
        self.spikes = torch.zeros(current.shape, dtype=torch.bool, device=current.device)
        self.membrane = torch.empty_like(current)

    def step(self, index: int) -> None:
        """One step of the window with the current of that step."""
        limit = limits.STATE_LIMIT
        u = torch.trunc(self.u * self.kept_current) + self.current[index] * (1 << limits.STATE_SHIFT)
        self.u = torch.where(u > limit, u - 2 * limit, torch.where(u <= -limit, u + 2 * limit, u))
        v = (torch.trunc(self.v * self.kept) + self.u + self.bias).clamp_(1 - limit, limit - 1)
        self.membrane[index] = v
        torch.gt(v, self.threshold, out=self.spikes[index])
        zero = self.program.reset == "zero"
        self.v = v.masked_fill(self.spikes[index], 0) if zero else v - self.spikes[index] * self.threshold

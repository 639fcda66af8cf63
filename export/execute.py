"""The integer network executed: layer by layer, all T steps and the whole batch at once.

A feed-forward network needs no machine clock. Within windows, target step i meets source step
i + start_target - start_source - 1 - delay, and everything outside a window is silent (gates and guard steps see to
that), so each connection is one convolution or matrix product over T * B images, and each population one scan over T.
Populations in a loop run together, one machine step after the other; what drives them from outside comes as before.

Attention runs as `export.attention_programs.respond` on whole windows, which is its definition.

Sums run in float32 where a bound from the weights proves them exact (below 2^24), in float64 otherwise; dense layers
with few spikes add up the weights of those instead. The neuron's 24-bit state and its 36-bit products are exact in
float64.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from export import limits
from export.attention_programs import respond
from export.interpret import ticks
from export.network import (
    LIF,
    NO_CROP,
    Attention,
    Clock,
    Connection,
    Convolution,
    Driven,
    Ints,
    Network,
    Population,
    Source,
)
from export.proof import payload

FLOAT32_EXACT = 1 << 24
EVENTS_FROM = 1 << 24  # synapses times images in a dense layer: below, compiling for events takes longer than the layer
EVENTS_BELOW = 0.4  # firing rate: above, a matrix product is faster
BATCH = 256
ATTENDED = 1 << 24  # values of windows that attention looks at together


def run(
    network: Network,
    inputs: Ints,
    *,
    keep: Collection[str] | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Windows of all that connections drive, [samples, T, *shape]: spikes bool; the read-out's membrane potential and
    the graded spikes of attention int64.

    Args:
        inputs: int64 [samples, T, *shape] of raw values; memory is bounded by batches of samples.
        keep: ids of the populations to return, None for all.
    """
    prepared = _prepare(network, torch.device(device))
    simulated = [p.id for p in network.populations if isinstance(p.program, Driven)]
    wanted = [name for name in simulated if keep is None or name in keep]
    found: dict[str, np.ndarray] = {}
    for first in range(0, len(inputs), BATCH):
        batch = inputs[first : first + BATCH]
        for name, values in _forward(network, prepared, batch).items():
            if name not in wanted:
                continue
            if name not in found:  # at once: parts that are joined at the end would be in memory twice
                found[name] = np.empty_like(values, shape=(len(inputs), *values.shape[1:]))
            found[name][first : first + len(batch)] = values
        if progress:
            progress(min(first + BATCH, len(inputs)), len(inputs))
    return {name: found[name] for name in wanted}


def answers(network: Network, inputs: Ints) -> Ints:
    """The class with the highest membrane potential at the end of each window, int64 [samples]."""
    assert network.readout is not None
    final = run(network, inputs, keep=(network.readout.id,))[network.readout.id][:, -1]
    return np.asarray(final.argmax(-1), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What a network needs on a device.

    Attributes:
        weights: connection id -> weights in the narrowest float that is exact.
        peaks: population id -> |a_in| cannot be larger.
        rows: connection id -> weights as the event kernel takes them, made when a layer has use for them.
    """

    device: torch.device
    weights: dict[str, Tensor]
    peaks: dict[str, int]
    rows: dict[str, npt.NDArray[np.int16]] = field(default_factory=dict)


def _prepare(network: Network, device: torch.device) -> _Prepared:
    weights: dict[str, Tensor] = {}
    peaks = dict.fromkeys((p.id for p in network.populations), 0)
    for c in network.connections:
        weight = torch.from_numpy(c.synapses.weight).to(device, _exact(c, network))
        weights[c.id] = weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight
        peaks[c.target] += _peak(c, network) << c.weight_exp
    return _Prepared(device, weights, peaks)


def _exact(connection: Connection, network: Network) -> torch.dtype:
    """float32 while no partial sum can reach 2^24, else float64 (always exact: the proof keeps sums below 2^32)."""
    return _narrowest(_peak(connection, network))


def _narrowest(peak: int) -> torch.dtype:
    """The float that holds all whole numbers up to `peak`."""
    return torch.float32 if peak < FLOAT32_EXACT else torch.float64


def _peak(connection: Connection, network: Network) -> int:
    """No sum of weighted spikes, nor any part of one, is larger; before the weight exponent."""
    rows = np.abs(connection.synapses.weight).reshape(len(connection.synapses.weight), -1).sum(1)
    source = network.population(connection.source)
    return int(rows.max()) * payload(source.program, source.shape[0]).peak


def _forward(network: Network, prepared: _Prepared, batch: Ints) -> dict[str, np.ndarray]:
    """The windows of `run` for one batch."""
    sent: dict[str, Tensor] = {}
    results: dict[str, np.ndarray] = {}
    for run in network.loops():
        currents: dict[str, Tensor] = {}
        for population in run:
            if isinstance(population.program, Source):
                sent[population.id] = _coded(population.program, batch, population.shape[0]).to(prepared.device)
                continue
            if isinstance(population.program, Clock):  # the same for every sample, so one is enough
                sent[population.id] = torch.from_numpy(ticks(population.shape, 1)).to(prepared.device)
                continue
            shape = (network.steps, len(batch), *population.shape)
            dtype, total = _narrowest(prepared.peaks[population.id]), None
            for connection in network.inputs_of(population.id):
                source = network.population(connection.source)
                if source not in run:
                    x = _aligned(sent[source.id], population.start - source.sends(network.steps) - 1 - connection.delay)
                    arriving = _arriving(prepared, connection, population, x).to(dtype)
                    total = arriving if total is None else total + arriving
            if total is None or total.shape != shape:  # no input from outside, or a clock's, which all samples share
                total = torch.zeros(shape, device=prepared.device, dtype=dtype) + (0 if total is None else total)
            if isinstance(population.program, Attention):
                graded = _attend(population.program, total)
                sent[population.id] = graded.to(_narrowest(payload(population.program, population.shape[0]).peak))
                results[population.id] = graded.transpose(0, 1).cpu().numpy()
                continue
            currents[population.id] = total
        members = [p for p in run if p.id in currents]
        integrated = _integrate_together(network, prepared, members, currents)
        for population, (spikes, membrane) in zip(members, integrated, strict=True):
            sent[population.id] = spikes
            kept = spikes if membrane is None else membrane.long()
            results[population.id] = kept.transpose(0, 1).cpu().numpy()
    return results


def _attend(program: Attention, current: Tensor) -> Tensor:
    """What attention sends for a_in [T, B, *shape], int64; a few samples at a time, since int64 is large."""
    a_in = current.cpu()
    parts = a_in.split(max(1, ATTENDED * a_in.shape[1] // max(1, a_in.numel())), dim=1)
    answers = [torch.from_numpy(respond(program, part.long().numpy())) for part in parts]
    return torch.cat(answers, dim=1).to(current.device)


def _integrate_together(
    network: Network, prepared: _Prepared, members: list[Population], currents: dict[str, Tensor]
) -> list[tuple[Tensor, Tensor | None]]:
    """Spikes and a read-out's membrane potential, of one run's populations; `currents` are those from outside of it."""
    states = {p.id: _State(p, currents[p.id], prepared.peaks[p.id]) for p in members}
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


def _coded(program: Source, batch: Ints, channels: int) -> Tensor:
    """What the source sends, [T, B, *shape]: bool if that is spikes, else whole numbers in the narrowest float."""
    reach = payload(program, channels)
    coded = torch.from_numpy(program.encode(batch).swapaxes(0, 1).copy())
    spikes = reach.peak == 1 and int(reach.low.min()) == 0
    return coded.to(torch.bool if spikes else _narrowest(reach.peak))


def _arriving(prepared: _Prepared, connection: Connection, target: Population, x: Tensor) -> Tensor:
    """`_weighted`; by events where x is spikes of a dense layer, on the CPU, and few."""
    weight = connection.synapses.weight
    if (
        isinstance(connection.synapses, Convolution)
        or x.dtype is not torch.bool
        or x.device.type != "cpu"
        or x.numel() * len(weight) < EVENTS_FROM
        or int(x.count_nonzero()) > EVENTS_BELOW * x.numel()
    ):
        return _weighted(connection, target, x, prepared.weights[connection.id])
    from train.kernels import events  # loads Numba

    if connection.id not in prepared.rows:
        prepared.rows[connection.id] = events.transposed(weight)
    total = torch.from_numpy(events.sums(x.flatten(0, 1).flatten(1).numpy(), prepared.rows[connection.id]))
    exact = total.to(prepared.weights[connection.id].dtype)
    return exact.mul_(1 << connection.weight_exp).view(*x.shape[:2], *target.shape)


def _weighted(connection: Connection, target: Population, x: Tensor, weight: Tensor) -> Tensor:
    """a_in from one connection for what arrives, [T, B, *source.shape]: [T, B, *target.shape], whole numbers."""
    flat = x.flatten(0, 1).to(weight.dtype)
    synapses = connection.synapses
    if isinstance(synapses, Convolution):
        flat = flat.contiguous(memory_format=torch.channels_last)
        if synapses.crop != NO_CROP:
            (top, bottom), (left, right) = synapses.crop
            inner = flat[..., top : flat.shape[-2] - bottom, left : flat.shape[-1] - right]
            flat = functional.pad(inner, (left, right, top, bottom))
        out = functional.conv2d(
            flat, weight, None, synapses.stride, synapses.padding, synapses.dilation, synapses.groups
        )
    else:
        out = functional.linear(flat.flatten(1), weight)
    if connection.weight_exp:
        out.mul_(1 << connection.weight_exp)
    currents: Tensor = out.unflatten(0, x.shape[:2]).view(*x.shape[:2], *target.shape)
    return currents


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
    """One population while it runs: spikes (bool) so far, and a read-out's membrane potential (float64 integers)."""

    def __init__(self, population: Population, current: Tensor, peak: int) -> None:
        assert isinstance(population.program, LIF)
        self.program, self.current = population.program, current
        unity = limits.DECAY_UNITY
        bias, threshold, du, dv = (
            torch.from_numpy(x).to(current.device, torch.float64)
            for x in (self.program.bias, self.program.threshold, self.program.du, self.program.dv)
        )
        self.bias, self.threshold = bias, threshold
        self.kept_current, self.kept = (unity - 1 - du) / unity, (unity - dv) / unity
        self.forgets = not self.kept_current.any()
        self.wraps = not self.forgets or peak >= limits.CURRENT_LIMIT
        self.u = torch.zeros_like(current[0], dtype=torch.float64)
        self.v = torch.zeros_like(self.u)
        self.spikes = torch.zeros_like(current, dtype=torch.bool)
        self.membrane = torch.empty_like(current, dtype=torch.float64) if population.readout else None

    def step(self, index: int) -> None:
        """One step of the window with the current of that step."""
        limit = limits.STATE_LIMIT
        u = self.current[index].to(torch.float64) * (1 << limits.STATE_SHIFT)
        if not self.forgets:
            u += torch.trunc(self.u * self.kept_current)
        if self.wraps:
            u = torch.where(u > limit, u - 2 * limit, torch.where(u <= -limit, u + 2 * limit, u))
        self.u = u
        v = self.v.mul_(self.kept).trunc_().add_(u).add_(self.bias).clamp_(1 - limit, limit - 1)
        if self.membrane is not None:
            self.membrane[index] = v
        fired = torch.gt(v, self.threshold, out=self.spikes[index])
        self.v = v.masked_fill_(fired, 0) if self.program.reset == "zero" else v - fired * self.threshold

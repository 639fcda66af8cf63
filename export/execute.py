"""The integer network executed: layer by layer, all T steps and many samples at once.

A feed-forward network needs no machine clock. Within windows, target step i meets source step
i + start_target - start_source - 1 - delay, and everything outside a window is silent (gates and guard steps see to
that), so each population sees whole windows of those before it. It runs in one of three ways, which give the same:

* On spikes (CPU): for each sample and step the weights of the spikes that arrive are added up and the neurons take
  their step, all in the cache (`export.arriving`, `train.kernels.loihi`): small kernels by patterns of spikes, whose
  sums are looked up, others by events, a row of weights for each spike, where there are few.
* By currents: one convolution or matrix product over the images of a few steps, then the neurons over these steps
  (`export.neurons`). Sums run in float32 where a bound from the weights proves them exact (below 2^24), else in
  float64.
* Populations in a loop run together, one machine step after the other; what drives them from outside comes as before.

Attention runs as `export.attention_programs.respond` on whole windows, which is its definition.

All arrays are [B, T, *shape] with the channels last, (H, W, C), until they are returned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export import neurons
from export.attention_programs import respond
from export.connections import in_channels_last
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
from export.neurons import Output, State, as_bytes, channels_last
from export.proof import payload

if TYPE_CHECKING:
    from export.arriving import Tables

FLOAT32_EXACT = 1 << 24
EVENTS_FROM = 1 << 24  # synapses times images: below, loading what is compiled takes longer than the layer
EVENTS_BELOW = 0.4  # firing rate: above, matrix products and convolutions are faster
SEEN = 16  # samples whose rate is looked at
BATCH = 256
SPIKES = 1 << 28  # neurons times T times samples of a batch, a byte each
CURRENTS = 1 << 24  # values of a_in that are in memory at once
ATTENDED = 1 << 24  # values of windows that attention looks at together


def run(
    network: Network,
    inputs: Ints,
    *,
    keep: Collection[str] | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Windows of all that connections drive, [samples, T, *shape]: spikes bool; the read-out's membrane potential and
    the graded spikes of attention int64.

    Args:
        inputs: int64 [samples, T, *shape] of raw values; memory is bounded by batches of samples.
        keep: ids of the populations to return, None for all.
        device: a CPU or a CUDA device.
    """
    prepared = _prepare(network, torch.device(device))
    wanted = [p for p in network.populations if isinstance(p.program, Driven) and (keep is None or p.id in keep)]
    found: dict[str, Tensor] = {}
    for p in wanted:  # at once: parts that are joined at the end would be in memory twice
        spikes = isinstance(p.program, LIF) and not p.readout
        found[p.id] = _empty(network, p, len(inputs), torch.bool if spikes else torch.int64)
    size = batch_size(network)
    for first in range(0, len(inputs), size):
        batch = inputs[first : first + size]
        _forward(network, prepared, batch, {name: x[first : first + len(batch)] for name, x in found.items()})
        if progress:
            progress(first + len(batch), len(inputs))
    return {name: _first(x).numpy() for name, x in found.items()}


def batch_size(network: Network) -> int:
    """Samples that are simulated at once."""
    return max(1, min(BATCH, SPIKES // (network.steps * sum(p.size for p in network.populations))))


def answers(network: Network, inputs: Ints) -> Ints:
    """The class with the highest membrane potential at the end of each window, int64 [samples]."""
    assert network.readout is not None
    final = run(network, inputs, keep=(network.readout.id,))[network.readout.id][:, -1]
    return np.asarray(final.argmax(-1), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What a network needs on a device.

    Attributes:
        weights: connection id -> weights in the narrowest float that is exact, dense ones in channels-last order.
        peaks: population id -> |a_in| cannot be larger.
        tables: population id -> its connections as the kernel of spikes takes them, made when it has use for them.
    """

    network: Network
    device: torch.device
    weights: dict[str, Tensor]
    peaks: dict[str, int]
    tables: dict[str, Tables | None] = field(default_factory=dict)


@lru_cache(maxsize=1)  # a data set is run in parts
def _prepare(network: Network, device: torch.device) -> _Prepared:
    weights: dict[str, Tensor] = {}
    peaks = dict.fromkeys((p.id for p in network.populations), 0)
    for c in network.connections:
        weight = c.synapses.weight
        if not isinstance(c.synapses, Convolution):
            weight = in_channels_last(weight, network.population(c.target).shape, 0)
            weight = in_channels_last(weight, network.population(c.source).shape, 1)
        held = torch.from_numpy(weight).to(device, _exact(c, network, device))
        weights[c.id] = held.contiguous(memory_format=torch.channels_last) if held.ndim == 4 else held
        peaks[c.target] += _peak(c, network) << c.weight_exp
    return _Prepared(network, device, weights, peaks)


def _exact(connection: Connection, network: Network, device: torch.device) -> torch.dtype:
    """float32 while no partial sum can reach 2^24, else float64 (always exact: the proof keeps sums below 2^32).

    float64 on CUDA, whose float32 convolutions are not sums: they round to TF32, or go by Winograd's way.
    """
    return torch.float64 if device.type == "cuda" else _narrowest(_peak(connection, network))


def _narrowest(peak: int) -> torch.dtype:
    """The float that holds all whole numbers up to `peak`."""
    return torch.float32 if peak < FLOAT32_EXACT else torch.float64


def _peak(connection: Connection, network: Network) -> int:
    """No sum of weighted spikes, nor any part of one, is larger; before the weight exponent."""
    rows = np.abs(connection.synapses.weight).reshape(len(connection.synapses.weight), -1).sum(1)
    source = network.population(connection.source)
    return int(rows.max()) * payload(source.program, source.shape[0]).peak


def _first(x: Tensor) -> Tensor:
    """A view of [B, T, *shape] with the channels first again."""
    return x.movedim(-1, 2)


def _empty(network: Network, population: Population, samples: int, dtype: torch.dtype) -> Tensor:
    return torch.empty((samples, network.steps, *channels_last(population.shape)), dtype=dtype)


Sums = dict[Connection, Tensor]  # what arrives by each connection from outside a run, aligned, [B, T, *source.shape]


def _forward(network: Network, prepared: _Prepared, batch: Ints, results: dict[str, Tensor]) -> None:
    """The windows of `run` for one batch, into `results`."""
    sent: dict[str, Tensor] = {}
    for run in network.loops():
        for population in run:
            if isinstance(population.program, Source):
                sent[population.id] = _coded(population.program, batch, population.shape[0]).to(prepared.device)
            elif isinstance(population.program, Clock):  # the same for every sample, so one is enough
                ticking = torch.from_numpy(ticks(population.shape, 1)).transpose(0, 1)
                sent[population.id] = ticking.movedim(2, -1).contiguous().to(prepared.device)
        driven = [p for p in run if isinstance(p.program, Driven)]
        outside = {
            p.id: {
                c: _aligned(sent[c.source], p.start - network.population(c.source).sends(network.steps) - 1 - c.delay)
                for c in network.inputs_of(p.id)
                if c.source in sent
            }
            for p in driven
        }
        for p in driven:
            if isinstance(p.program, Attention):
                graded = _attend(network, prepared, p, outside[p.id], len(batch))
                sent[p.id] = graded.to(prepared.device, _narrowest(payload(p.program, p.shape[0]).peak))
                if p.id in results:
                    results[p.id].copy_(graded)
        members = [p for p in driven if isinstance(p.program, LIF)]
        outputs = {p.id: _output(network, prepared, p, len(batch), results.get(p.id)) for p in members}
        if any(len(outside[p.id]) < len(network.inputs_of(p.id)) for p in members):
            _run_loop(network, prepared, members, outside, outputs)
        else:
            for population in members:
                _run_window(prepared, population, outside[population.id], outputs[population.id])
        for p in members:
            output, result = outputs[p.id], results.get(p.id)
            sent[p.id] = output.spikes
            kept = output.membrane if p.readout else output.spikes
            if result is not None and kept is not None and kept.data_ptr() != result.data_ptr():
                result.copy_(kept)


def _output(
    network: Network, prepared: _Prepared, population: Population, samples: int, result: Tensor | None
) -> Output:
    """In `result` itself where that is on the device."""
    shape = (samples, network.steps, *channels_last(population.shape))
    given = result if prepared.device.type == "cpu" else None
    if not population.readout:
        spikes = torch.empty(shape, dtype=torch.bool, device=prepared.device) if given is None else given
        return Output(spikes, None)
    spikes = torch.empty(shape, dtype=torch.bool, device=prepared.device)
    if result is None:
        return Output(spikes, None)
    return Output(spikes, torch.empty(shape, dtype=torch.int64, device=prepared.device) if given is None else given)


def _attend(network: Network, prepared: _Prepared, population: Population, arriving: Sums, samples: int) -> Tensor:
    """What attention sends, int64 [B, T, *shape]; a few samples at a time, since int64 is large."""
    program, shape = population.program, (samples, network.steps, *channels_last(population.shape))
    assert isinstance(program, Attention)
    a_in = _currents(prepared, population, arriving, torch.empty(shape, device="meta"), slice(0, network.steps))
    parts = _first(a_in).transpose(0, 1).cpu().split(max(1, ATTENDED // (network.steps * population.size)), dim=1)
    answers = [torch.from_numpy(respond(program, part.long().numpy())) for part in parts]
    return torch.cat(answers, dim=1).transpose(0, 1).movedim(2, -1).contiguous()


def _run_window(prepared: _Prepared, population: Population, arriving: Sums, output: Output) -> None:
    """A population that only those before it drive."""
    samples, steps = output.spikes.shape[:2]
    tables = _tables(prepared, population, arriving, samples * steps)
    if tables is not None:
        parts = tuple(t.arriving(as_bytes(x)) for t, x in zip(tables.tables, arriving.values(), strict=True))
        neurons.on_spikes(population, output, prepared.peaks[population.id], parts, tables.exponent, tables.sums)
        return
    chunk = max(1, CURRENTS // (samples * population.size))
    run = neurons.on_currents(population, output, prepared.peaks[population.id])
    for begin in range(0, steps, chunk):
        run(_currents(prepared, population, arriving, output.spikes, slice(begin, min(begin + chunk, steps))), begin)


def _run_loop(
    network: Network,
    prepared: _Prepared,
    members: list[Population],
    outside: dict[str, Sums],
    outputs: dict[str, Output],
) -> None:
    """Populations that drive each other, or themselves: one machine step after the other."""
    whole = slice(0, network.steps)
    currents = {p.id: _currents(prepared, p, outside[p.id], outputs[p.id].spikes, whole) for p in members}
    states = {p.id: State(p, outputs[p.id], prepared.peaks[p.id]) for p in members}
    for p in members:
        outputs[p.id].spikes.zero_()  # a step that has not been is silent
    inner = {p.id: [c for c in network.inputs_of(p.id) if c.source in states] for p in members}
    first, last = min(p.start for p in members), max(p.start for p in members) + network.steps
    for step in range(first, last):
        for population in members:
            index = step - population.start
            if not 0 <= index < network.steps:
                continue
            current = currents[population.id][:, index]
            for connection in inner[population.id]:
                source = network.population(connection.source)
                x = _sent_before(outputs[source.id].spikes, step - 1 - source.start - connection.delay)
                weight = prepared.weights[connection.id]
                current += _weighted(connection, population, x[:, None], weight)[:, 0]
            states[population.id].step(index, current)


def _coded(program: Source, batch: Ints, channels: int) -> Tensor:
    """What the source sends, [B, T, *shape]: bool if that is spikes, else whole numbers in the narrowest float."""
    reach = payload(program, channels)
    coded = torch.from_numpy(program.encode(batch)).movedim(2, -1)
    if reach.peak == 1 and int(reach.low.min()) == 0:
        return (coded != 0).contiguous()
    return coded.to(_narrowest(reach.peak)).contiguous()


def _tables(prepared: _Prepared, population: Population, arriving: Sums, images: int) -> Tables | None:
    """How to run it on the spikes that arrive; None where that is not possible, or not faster."""
    synapses = sum(c.synapses.weight[0].size for c in arriving) * population.size
    if prepared.device.type != "cpu" or not synapses or synapses * images < EVENTS_FROM:
        return None
    if any(x.dtype is not torch.bool for x in arriving.values()):
        return None
    if population.id not in prepared.tables:
        from export.arriving import tables  # loads Numba

        prepared.tables[population.id] = tables(tuple(arriving), prepared.network, population)
    found = prepared.tables[population.id]
    return None if found is None or (found.by_events and _busy(arriving)) else found


def _busy(arriving: Sums) -> bool:
    """Whether any of them brings so many spikes that currents are faster than events."""
    for x in arriving.values():
        seen = x[:: 1 + len(x) // SEEN]
        if np.count_nonzero(seen.numpy()) > EVENTS_BELOW * seen.numel():
            return True
    return False


def _currents(prepared: _Prepared, population: Population, arriving: Sums, like: Tensor, steps: slice) -> Tensor:
    """a_in for these steps, [B, steps, *shape], whole numbers; `like` is [B, T, *shape]."""
    total: Tensor | None = None
    shape, dtype = like[:, steps].shape, _narrowest(prepared.peaks[population.id])
    for connection, x in arriving.items():
        part = _weighted(connection, population, x[:, steps], prepared.weights[connection.id]).to(dtype)
        total = part if total is None else total + part
    if total is None or total.shape != shape:  # no input from outside, or a clock's, which all samples share
        total = torch.zeros(shape, device=prepared.device, dtype=dtype) + (0 if total is None else total)
    return total


def _weighted(connection: Connection, target: Population, x: Tensor, weight: Tensor) -> Tensor:
    """a_in from one connection for what arrives, [B, T, *source.shape]: [B, T, *target.shape], whole numbers."""
    flat = x.to(weight.dtype).flatten(0, 1)
    synapses = connection.synapses
    if isinstance(synapses, Convolution):
        flat = flat.movedim(-1, 1)
        if synapses.crop != NO_CROP:
            (top, bottom), (left, right) = synapses.crop
            inner = flat[..., top : flat.shape[-2] - bottom, left : flat.shape[-1] - right]
            flat = functional.pad(inner, (left, right, top, bottom))
        out = functional.conv2d(
            flat, weight, None, synapses.stride, synapses.padding, synapses.dilation, synapses.groups
        )
        out = out.movedim(1, -1).contiguous()
    else:
        out = functional.linear(flat.flatten(1), weight)
    if connection.weight_exp:
        out.mul_(1 << connection.weight_exp)
    return out.view(*x.shape[:2], *channels_last(target.shape))


def _sent_before(spikes: Tensor, steps: Ints) -> Tensor:
    """x[:, steps[c], ..., c] for each channel c, zero outside the window; [B, ..., C]."""
    out = torch.zeros_like(spikes[:, 0])
    for step in np.unique(steps):
        if 0 <= step < spikes.shape[1]:
            channels = torch.from_numpy(np.flatnonzero(steps == step)).to(spikes.device)
            out[..., channels] = spikes[:, int(step)][..., channels]
    return out


def _aligned(sent: Tensor, ahead: Ints) -> Tensor:
    """x[:, i + ahead[c], ..., c] for each channel c, zero outside the window; [B, T, ..., C]."""
    if not ahead.any():
        return sent
    steps = sent.shape[1]
    out = torch.zeros_like(sent)
    for offset in np.unique(ahead):
        channels = torch.from_numpy(np.flatnonzero(ahead == offset)).to(sent.device)
        first, last = max(0, -int(offset)), min(steps, steps - int(offset))
        if first < last:
            out[:, first:last, ..., channels] = sent[:, first + int(offset) : last + int(offset)][..., channels]
    return out

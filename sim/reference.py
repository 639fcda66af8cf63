"""The slow and obvious simulator: every population, every machine step, int64, one sample stream at a time.

It runs the machine, not the model: synapses deliver one step late, delays are rings of future input, gates and resets
act at their steps, and samples follow each other without a pause. All other engines are tested against it, and it
explains a divergence: with `watch`, it returns the state of one population at one step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from export import limits
from export.attention_programs import respond
from export.network import (
    LIF,
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
from sim.recording import Recording, recording

Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Stream:
    """What a stream of back-to-back samples did, for every machine step.

    Attributes:
        spikes: population id -> bool [machine steps, *shape], the read-out included (it never fires).
        current: synaptic input a_in that arrived, int64, gate included.
        before: membrane potential before the step's update (after a reset), int64.
        membrane: membrane potential after the update and before a spike resets it, int64.
        graded: what attention sends, int64; of it and of `current` alone attention has an entry.
    """

    spikes: dict[str, npt.NDArray[np.bool_]]
    current: dict[str, Ints]
    before: dict[str, Ints]
    membrane: dict[str, Ints]
    graded: dict[str, Ints]


def run(network: Network, inputs: Ints) -> Recording:
    """Simulate samples back to back; inputs int64 [samples, T, *shape] of raw values."""
    stream = simulate(network, inputs)
    found = {**stream.spikes, **stream.graded}
    if network.readout is not None:
        found[network.readout.id] = stream.membrane[network.readout.id]
    by_id = {p.id: windows(found[p.id], p, network) for p in network.populations if p.id in found}
    return recording("reference", network, by_id)


def windows(stream: npt.NDArray[Value], population: Population, network: Network) -> npt.NDArray[Value]:
    """What a population sent, [machine steps, *shape], in its windows [samples, T, *shape]."""
    samples = (len(stream) - network.machine_steps(1)) // network.period + 1
    starts = [population.sends(network.steps) + n * network.period for n in range(samples)]
    return np.stack([stream[start : start + network.steps] for start in starts])


def simulate(network: Network, inputs: Ints) -> Stream:
    """Every machine step of `len(inputs)` samples."""
    total = network.machine_steps(len(inputs))
    lifs = [p for p in network.populations if isinstance(p.program, LIF)]
    driven = [p for p in network.populations if isinstance(p.program, Driven)]
    attending = {p.id: _Attending(p, network) for p in network.populations if isinstance(p.program, Attention)}
    shapes = {p.id: (total, *p.shape) for p in lifs}
    stream = Stream(
        spikes={name: np.zeros(shape, dtype=np.bool_) for name, shape in shapes.items()},
        current={p.id: np.zeros((total, *p.shape), dtype=np.int64) for p in driven},
        before={name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()},
        membrane={name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()},
        graded={name: np.zeros((total, *each.population.shape), dtype=np.int64) for name, each in attending.items()},
    )
    sent: dict[str, Ints] = {p.id: np.zeros((total, *p.shape), dtype=np.int64) for p in network.populations}
    for p in network.populations:
        if isinstance(p.program, Source):
            _play(sent[p.id], p, network, p.program.encode(inputs))
        elif isinstance(p.program, Clock):
            _play(sent[p.id], p, network, [_ticks(p)] * len(inputs))
    u = {p.id: np.zeros(p.shape, dtype=np.int64) for p in lifs}
    v = {p.id: np.full(p.shape, _initial(p), dtype=np.int64) for p in lifs}
    for step in range(total):
        for p in driven:
            arriving = np.zeros(p.shape, dtype=np.int64)
            for connection in network.inputs_of(p.id):
                arriving += _deliver(connection, sent[connection.source], step).reshape(p.shape)
            if isinstance(p.program, Attention):
                stream.current[p.id][step] = arriving
                sent[p.id][step] = stream.graded[p.id][step] = attending[p.id].step(step, arriving)
                continue
            assert isinstance(p.program, LIF)
            if p.program.gate is not None and step >= 1 and not _inside(step, p, network):
                arriving -= p.program.gate.current
            if step >= p.start and (step - p.start) % network.period == 0:
                u[p.id][:], v[p.id][:] = 0, 0
            stream.current[p.id][step], stream.before[p.id][step] = arriving, v[p.id]
            u[p.id], v[p.id] = _update(p.program, u[p.id], v[p.id], arriving)
            fired = v[p.id] > p.program.threshold
            stream.spikes[p.id][step], stream.membrane[p.id][step] = fired, v[p.id]
            threshold = np.broadcast_to(p.program.threshold, p.shape)
            v[p.id][fired] = 0 if p.program.reset == "zero" else (v[p.id] - threshold)[fired]
            sent[p.id][step] = fired
    return stream


class _Attending:
    """A population of attention, one machine step after the other: a ring of T inputs, and what they will send."""

    def __init__(self, population: Population, network: Network) -> None:
        self.population, self.network = population, network
        self.taken: list[Ints] = []
        self.answers: list[Ints] = []

    def step(self, step: int, arriving: Ints) -> Ints:
        """What it sends at this machine step, of which `arriving` is the input."""
        program = self.population.program
        assert isinstance(program, Attention)
        answer = self.answers.pop(0) if self.answers else np.zeros_like(arriving)
        if not _inside(step, self.population, self.network):
            return answer
        if not program.waits:
            return np.asarray(respond(program, arriving[None, None])[0, 0])
        self.taken.append(arriving)
        if len(self.taken) == self.network.steps:
            self.answers = list(respond(program, np.stack(self.taken)[:, None])[:, 0])
            self.taken = []
        return answer


def _initial(population: Population) -> int:
    """A gated population starts far below threshold, since no gate can reach machine step 0."""
    assert isinstance(population.program, LIF)
    return 0 if population.program.gate is None else 1 - limits.STATE_LIMIT


def _play(stream: Ints, population: Population, network: Network, samples: Iterable[Ints]) -> None:
    for sample, frames in enumerate(samples):
        start = population.start + sample * network.period
        stream[start : start + network.steps] = frames


def _ticks(clock: Population) -> Ints:
    """What a clock sends in one window: at step t, 1 from every neuron (t, ...)."""
    frames = np.zeros((clock.shape[0], *clock.shape), dtype=np.int64)
    for step, frame in enumerate(frames):
        frame[step] = 1
    return frames


def _inside(step: int, population: Population, network: Network) -> bool:
    return step >= population.start and (step - population.start) % network.period < network.steps


def _deliver(connection: Connection, sent: Ints, step: int) -> Ints:
    """a_in that a connection delivers at `step`: what each channel sent 1 + delay steps ago, weighted."""
    arriving = np.zeros(sent.shape[1:], dtype=np.int64)
    for channel, delay in enumerate(connection.delay):
        if step - 1 - delay >= 0:
            arriving[channel] = sent[step - 1 - delay, channel]
    synapses = connection.synapses
    if isinstance(synapses, Convolution):
        total = _convolve(synapses, arriving)
    else:
        total = synapses.weight @ arriving.reshape(-1)
    return np.asarray(total << connection.weight_exp)


def _convolve(synapses: Convolution, x: Ints) -> Ints:
    """Cross-correlation by its definition: one shifted, strided view of the padded image for each kernel tap."""
    (ph, pw), (sh, sw), (dh, dw) = synapses.padding, synapses.stride, synapses.dilation
    outputs, height, width = synapses.output_shape(x.shape)
    (top, bottom), (left, right) = synapses.crop
    inside = x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]
    padded = np.pad(inside, ((0, 0), (ph + top, ph + bottom), (pw + left, pw + right)))
    result = np.zeros((outputs, height, width), dtype=np.int64)
    per_group_in, per_group_out = synapses.weight.shape[1], outputs // synapses.groups
    for group in range(synapses.groups):
        image = padded[group * per_group_in : (group + 1) * per_group_in]
        out = slice(group * per_group_out, (group + 1) * per_group_out)
        for i in range(synapses.weight.shape[2]):
            for j in range(synapses.weight.shape[3]):
                rows = slice(i * dh, i * dh + sh * (height - 1) + 1, sh)
                columns = slice(j * dw, j * dw + sw * (width - 1) + 1, sw)
                result[out] += np.tensordot(synapses.weight[out, :, i, j], image[:, rows, columns], axes=1)
    return result


def _round_to_zero(x: Ints, shift: int) -> Ints:
    return np.asarray(np.sign(x) * (np.abs(x) >> shift))


def _update(program: LIF, u: Ints, v: Ints, a_in: Ints) -> tuple[Ints, Ints]:
    """One step of the neuron's equations (see `export.network.LIF`)."""
    unity, limit = limits.DECAY_UNITY, limits.STATE_LIMIT
    u = _round_to_zero(u * (unity - (program.du + 1)), 12) + (a_in << limits.STATE_SHIFT)
    u = np.where(u > limit, u - 2 * limit, np.where(u <= -limit, u + 2 * limit, u))
    v = _round_to_zero(v * (unity - program.dv), 12) + u + program.bias
    return u, np.clip(v, 1 - limit, limit - 1)

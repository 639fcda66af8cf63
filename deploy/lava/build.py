"""The Lava processes of a network: one run over all samples back to back.

All neurons and synapses are stock processes, but for what Lava does not have: neurons with the reset that subtracts,
and attention.

Every population is flat in C order. Machine step m (from 0) is Lava's time step m + 1.

    source      io.source.RingBuffer, one column per machine step; a clock too
    population  LIFReset, reset at the start of each of its windows (du, dv and vth may be one for each neuron); its
                sibling LIFSubtract, this project's own, where spikes subtract the threshold; Attention, its own too
    synapses    Dense or Sparse; DelayDense or DelaySparse where a channel is delayed; Conv where the matrix of a
                convolution would be too large (below that Sparse is several times faster in Lava's simulator)
    gates       one RingBuffer with a neuron per gated population, and a Dense to each
    recordings  Record on every spiking population and on attention, io.sink.Read on the read-out's v

`shims.apply()` must have been called before this module is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lava.proc.dense.process import DelayDense
from lava.proc.dense.process import Dense as LavaDense
from lava.proc.io.sink import Read
from lava.proc.io.source import RingBuffer
from lava.proc.lif.process import LIFReset
from lava.proc.sparse.process import DelaySparse, Sparse
from lava.utils.weightutils import SignMode

from deploy.lava import layout, synapses
from deploy.lava.processes.attention import Attention
from deploy.lava.processes.lif_subtract import LIFSubtract
from deploy.lava.processes.record import Record
from export.network import LIF, NO_CROP, Connection, Convolution, Gate, Ints, Network, Population, Source
from export.network import Attention as AttentionProgram

CONV_ABOVE = 1 << 24  # synapses; as a sparse matrix they would take 128 MiB
CONV_SIDE_LIMIT = 127  # Conv keeps its geometry in int8, and NumPy 2 no longer widens it


@dataclass(frozen=True, eq=False)
class Graph:
    """A connected process graph that is ready to run.

    Attributes:
        processes: population id -> its process; running one of them runs all.
        steps: machine steps to run.
    """

    processes: Mapping[str, Any]
    steps: int


def build(network: Network, inputs: Ints, folder: Path) -> Graph:
    """The process graph for raw inputs [samples, T, ...]; spikes will be written to files in `folder`."""
    samples = len(inputs)
    steps = network.machine_steps(samples)
    processes = {p.id: _process(network, p, inputs) for p in network.populations}
    for connection in network.connections:
        _connect(network, connection, processes)
    _gate(network, samples, processes)
    for population in layout.spiking(network):
        _record(layout.spikes_file(folder, population), layout.UNRECORDED, np.uint8, population, steps, processes)
    for population in layout.attending(network):
        _record(layout.graded_file(folder, population), layout.UNSENT, np.int32, population, steps, processes)
    return Graph(processes, steps)


def read_membrane(network: Network, graph: Graph) -> Read | None:
    """A sink that will hold the read-out's v at the end of every step; None if the network has no read-out."""
    if network.readout is None:
        return None
    membrane = Read(buffer=graph.steps)
    membrane.connect_var(graph.processes[network.readout.id].v)
    return membrane


def _process(network: Network, population: Population, inputs: Ints) -> Any:
    program = population.program
    if isinstance(program, LIF):
        return _neurons(network, population, program)
    if isinstance(program, AttentionProgram):
        first, period = population.start + 1, network.period  # time steps count from 1
        return Attention(program=program, shape=population.shape, steps=network.steps, period=period, first=first)
    if isinstance(program, Source):
        return RingBuffer(data=_columns(network, population, program.encode(inputs)))
    ticks = np.eye(network.steps, dtype=np.int32).repeat(population.size // network.steps, axis=1)
    return RingBuffer(data=_columns(network, population, np.broadcast_to(ticks, (len(inputs), *ticks.shape))))


def _columns(network: Network, population: Population, sent: Ints) -> npt.NDArray[np.int32]:
    """What is sent in windows [samples, T, *shape] at its machine steps, else silence: (size, machine_steps)."""
    samples = len(sent)
    rows = np.zeros((network.machine_steps(samples), population.size), dtype=np.int32)
    rows[layout.window_steps(network, population, samples)] = sent.reshape(samples, network.steps, -1)
    return np.ascontiguousarray(rows.T)


def _neurons(network: Network, population: Population, program: LIF) -> LIFReset:
    flat = (population.size,)
    process = LIFReset if program.reset == "zero" else LIFSubtract
    return process(
        shape=flat,
        du=_each(program.du, population),
        dv=_each(program.dv, population),
        vth=_each(program.vth, population),
        bias_mant=_each(program.bias_mant, population),
        bias_exp=program.bias_exp,
        reset_interval=network.period,
        reset_offset=(population.start + 1) % network.period,  # time steps count from 1
    )


def _each(values: Ints, population: Population) -> Ints:
    """One value for each neuron, flat; Lava's model takes any of its parameters so."""
    return np.broadcast_to(values, population.shape).reshape(-1)


def _connect(network: Network, connection: Connection, processes: Mapping[str, Any]) -> None:
    source, target = (network.population(end) for end in (connection.source, connection.target))
    sends, receives = processes[source.id].s_out, processes[target.id].a_in
    payload = _payload_bits(source)
    delay = synapses.delay_of_inputs(connection, source)
    if _as_conv(connection, source):
        conv = _conv(connection, source, payload)
        sends.reshape(source.shape).transpose((2, 1, 0)).connect(conv.s_in)
        conv.a_out.transpose((2, 1, 0)).reshape((target.size,)).connect(receives)
        return
    mode = _sign_mode(connection.synapses.weight)
    process = _matrix_process(connection, source, delay, _weight_options(connection.weight_exp, payload, mode))
    sends.connect(process.s_in)
    process.a_out.connect(receives)


def _payload_bits(source: Population) -> int:
    """Bits of a graded spike with its sign, 0 for binary spikes."""
    return source.program.spike_bits if isinstance(source.program, Source | AttentionProgram) else 0


def _weight_options(exponent: int, payload_bits: int, mode: SignMode = SignMode.MIXED) -> dict[str, Any]:
    """Options of all matrix processes.

    The sign mode is given because Lava would infer it: a matrix without positive weights is then clipped at -255.
    """
    return {
        "weight_exp": exponent,
        "num_weight_bits": 8,
        "num_message_bits": payload_bits,
        "sign_mode": mode,
    }


def _sign_mode(weight: Ints) -> SignMode:
    """Mixed wherever it can be; odd weights, which a network may have in one sign alone, need that sign's mode."""
    if not np.any(weight & 1):
        return SignMode.MIXED
    return SignMode.EXCITATORY if weight.max() > 0 else SignMode.INHIBITORY


def _matrix_process(connection: Connection, source: Population, delay: Ints, options: Mapping[str, Any]) -> Any:
    if isinstance(connection.synapses, Convolution):
        matrix = synapses.convolution_matrix(connection.synapses, source.shape)
        if not delay.any():
            return Sparse(weights=matrix, **options)
        return DelaySparse(weights=matrix, delays=synapses.delay_matrix(matrix, delay), **options)
    weight = connection.synapses.weight
    if not delay.any():
        return LavaDense(weights=weight, **options)
    return DelayDense(weights=weight, delays=np.tile(delay, (len(weight), 1)), **options)


def _as_conv(connection: Connection, source: Population) -> bool:
    kernel = connection.synapses
    if not isinstance(kernel, Convolution) or connection.delay.any() or kernel.crop != NO_CROP:
        return False
    sizes = [kernel.weight.shape[0], source.shape[0]]
    for axis in (0, 1):
        sizes.append(source.shape[axis + 1] + 2 * kernel.padding[axis])
        sizes.append(kernel.dilation[axis] * kernel.weight.shape[axis + 2])
    return max(sizes) <= CONV_SIDE_LIMIT and synapses.synapse_count(kernel, source.shape) > CONV_ABOVE


def _conv(connection: Connection, source: Population, payload_bits: int) -> Any:
    from lava.proc.conv.process import Conv  # loads scipy.signal, more than a second that few networks need

    kernel = connection.synapses
    assert isinstance(kernel, Convolution)
    return Conv(
        weight=synapses.flipped_kernel(kernel, connection.weight_exp),
        input_shape=source.shape[::-1],
        padding=kernel.padding[::-1],
        stride=kernel.stride[::-1],
        dilation=kernel.dilation[::-1],
        groups=kernel.groups,
        num_message_bits=payload_bits,
    )


def _gate(network: Network, samples: int, processes: Mapping[str, Any]) -> None:
    """Inhibit every gated population at each machine step outside its windows."""
    gated = [(p, p.program.gate) for p in network.populations if isinstance(p.program, LIF) and p.program.gate]
    if not gated:
        return
    closed = np.stack([layout.outside_windows(network, population, samples) for population, _ in gated])
    emitted = np.zeros(closed.shape, dtype=np.int32)
    emitted[:, :-1] = closed[:, 1:]  # a synapse costs one step
    gates = RingBuffer(data=emitted)
    for index, (population, gate) in enumerate(gated):
        weights = np.zeros((population.size, len(gated)), dtype=np.int64)
        weights[:, index] = -gate.weight
        synapse = LavaDense(weights=weights, **_weight_options(gate.exponent, 0))
        synapse.a_buff.init = _in_flight(gate, bool(closed[index, 0]))
        gates.s_out.connect(synapse.s_in)
        synapse.a_out.connect(processes[population.id].a_in)


def _in_flight(gate: Gate, closed: bool) -> int:
    """What a gate spike of machine step -1 delivers at step 0.

    An initial v below threshold would do less: a population whose start is a multiple of the period is reset at step 0.
    """
    return -gate.current if closed else 0


def _record(
    path: Path, nothing: int, dtype: type[np.generic], population: Population, steps: int, processes: Mapping[str, Any]
) -> None:
    """Have what a population sends written to a file of `nothing`."""
    _create_recording(path, (steps, population.size), nothing, dtype)
    sink = Record(shape=(population.size,), path=path)
    processes[population.id].s_out.connect(sink.a_in)


def _create_recording(path: Path, shape: tuple[int, int], nothing: int, dtype: type[np.generic]) -> None:
    """A file in which no step is recorded yet; it gets its name when it is complete, for readers of the progress."""
    part = path.with_suffix(".part")
    rows = np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
    rows[:] = nothing
    rows.flush()
    part.rename(path)

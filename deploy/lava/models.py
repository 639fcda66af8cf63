"""Lava's own ProcessModels, stepped in this process: `python -m deploy.lava.models NETWORK.h5 INPUTS.npy FOLDER`.

The processes are those of `build`, the ProcessModels and their ports those that Lava's compiler and builders make of
them. Not Lava's are the runtime and the channels, which cost it most of its time: a value is handed over in memory
here, and one loop stands for the protocol of the processes.

A synapse sends what it computed one step before and only then receives, a neuron receives and then sends. So one time
step is: every synapse up to where it waits for spikes; every source and neuron; every synapse again and the sinks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.lava import layout, shims
from export.network import Ints, Network
from export.store import read_network


def main(arguments: list[str]) -> None:
    """Run the network and leave the recordings in FOLDER, as `worker` does."""
    network_file, inputs_file, folder = (Path(argument) for argument in arguments)
    shims.apply()
    run(read_network(network_file), np.load(inputs_file), folder)


def run(network: Network, inputs: Ints, folder: Path) -> None:
    """Run all samples in one go and write the recordings to `folder`; inputs: raw values [samples, T, *raw shape].

    `shims.apply()` must have been called. The files are those of Lava's runtime, see `layout`.
    """
    from lava.magma.core.run_configs import Loihi2SimCfg

    from deploy.lava import build  # imports lava, so after the shims

    graph = build.build(network, inputs, folder)
    executable = graph.processes[network.source.id].compile(Loihi2SimCfg(select_tag="fixed_pt"))
    wires = _connect(executable)
    models = {process: builder.build() for process, builder in executable.proc_builders.items()}
    synapses = [model for model in models.values() if hasattr(model, "a_out")]
    neurons = [model for model in models.values() if hasattr(model, "s_out")]
    sinks = [model for model in models.values() if not hasattr(model, "a_out") and not hasattr(model, "s_out")]
    for synapse in synapses:
        _keep_delayed_weights(synapse)
    readout = None if network.readout is None else models[graph.processes[network.readout.id]]
    membrane = None if readout is None else np.empty((graph.steps, readout.v.size), dtype=np.int64)
    for step in range(graph.steps):
        for model in models.values():
            model.time_step = step + 1
        for synapse in synapses:
            _run_until_it_waits(synapse)
        _run(neurons)
        _run(synapses)
        _run(sinks)
        if membrane is not None and readout is not None:
            membrane[step] = readout.v
        for wire in wires:
            wire.value = None
    if membrane is not None and network.readout is not None:
        np.save(layout.membrane_file(folder, network.readout), membrane)


class WaitingError(Exception):
    """A ProcessModel receives what has not been sent in this step."""


class _Wire:
    """One connection from an OutPort to an InPort, in place of Lava's channel: a copy in the sender's dtype."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.shape, self.dtype = shape, dtype
        self.value: npt.NDArray[Any] | None = None


class _Send:
    """The end of a wire that an OutPort sends to."""

    def __init__(self, name: str, wire: _Wire) -> None:
        self.name, self.wire = name, wire

    def send(self, data: npt.NDArray[Any]) -> None:
        """Put a value on the wire; it replaces the one before."""
        if data.shape != self.wire.shape:
            raise AssertionError(f"{self.name} sends {data.shape}, its channel takes {self.wire.shape}")
        self.wire.value = data.astype(self.wire.dtype)


class _Receive:
    """The end of a wire that an InPort receives from."""

    def __init__(self, name: str, wire: _Wire) -> None:
        self.name, self.wire = name, wire

    def recv(self) -> npt.NDArray[Any]:
        """What was sent in this step.

        Raises:
            WaitingError: nothing yet.
        """
        if self.wire.value is None:
            raise WaitingError(self.name)
        return self.wire.value


def _connect(executable: Any) -> list[_Wire]:
    """What `Runtime._build_channels` does, with wires: the builders get the ends of their ports' channels."""
    from lava.magma.core.process.ports.ports import create_port_id

    wires = []
    for channel in executable.channel_builders:
        sends, receives = channel.src_port_initializer, channel.dst_port_initializer
        wire = _Wire(sends.shape, sends.d_type)
        end = _Receive(receives.name, wire)
        source, target = (executable.proc_builders[p] for p in (channel.src_process, channel.dst_process))
        source.set_csp_ports([_Send(sends.name, wire)])
        target.set_csp_ports([end])
        target.add_csp_port_mapping(create_port_id(channel.src_process.id, sends.name), end)
        wires.append(wire)
    return wires


def _run_until_it_waits(synapse: Any) -> None:
    """Have a synapse send what arrives in this step; all it did until there it does once more when the spikes come."""
    try:
        synapse.run_spk()
    except WaitingError:
        return
    raise AssertionError(f"{type(synapse).__name__} did not wait for its input")


def _run(models: Iterable[Any]) -> None:
    for model in models:
        model.run_spk()


def _keep_delayed_weights(synapse: Any) -> None:
    """DelayDense and DelaySparse sort their weights by delay at every step; they do not change, so once is enough."""
    sort: Callable[..., Any] | None = getattr(synapse, "get_delay_wgts_mat", None)
    if sort is None:
        return
    kept: list[Any] = []

    def sorted_once(weights: Any, delays: Any, most: int) -> Any:
        if not kept:
            kept.append(sort(weights, delays, most))
        return kept[0]

    synapse.get_delay_wgts_mat = sorted_once


if __name__ == "__main__":
    main(sys.argv[1:])

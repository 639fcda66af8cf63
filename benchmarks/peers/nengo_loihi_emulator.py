"""One row of `simulators.py` in NengoLoihi's emulator, in an environment of its own: NETWORK.npz in, SPIKES.npy out.

NETWORK.npz is a chain that `simulator_worker.py` wrote: the integer weights of each layer as sparse rows, one for each
input, thresholds and decays, and input spikes [samples, T, inputs]. The blocks are made of these integers directly, so
Nengo's builder scales and rounds nothing: the spikes must be this project's.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import numpy as np  # noqa: E402
from nengo_loihi.block import Axon, LoihiBlock, Synapse  # noqa: E402
from nengo_loihi.builder import Model  # noqa: E402
from nengo_loihi.emulator import EmulatorInterface  # noqa: E402
from nengo_loihi.inputs import SpikeInput  # noqa: E402

from benchmarks.samples import memory_kb, on_cpu  # noqa: E402

STATE_LIMIT = 2**23


def build(data):
    """The emulator and the input of its first layer."""
    model = Model()
    inputs = SpikeInput(int(data["inputs"].shape[-1]))
    model.add_input(inputs)
    source = inputs
    for index in range(int(data["layers"])):
        indptr, indices, weights = (data[f"{name}{index}"] for name in ("indptr", "indices", "weights"))
        block = LoihiBlock(int(data[f"size{index}"]))
        neurons = block.compartment
        neurons.scale_u = neurons.scale_v = False
        for name in ("vth", "decay_u", "decay_v"):
            values = np.broadcast_to(data[f"{name}{index}"], (block.n_neurons,))
            setattr(neurons, name, values.astype(np.int32))
        neurons.bias = np.zeros(block.n_neurons, np.int32)
        neurons.vmin, neurons.vmax = 1 - STATE_LIMIT, STATE_LIMIT - 1
        synapse = Synapse(len(indptr) - 1)
        rows, targets = (np.split(values, indptr[1:-1]) for values in (weights.astype(np.int32), indices))
        synapse._set_weights_indices(rows, targets, weight_dtype=np.int32)
        block.add_synapse(synapse)
        axon = Axon(synapse.n_axons)
        axon.target = synapse
        source.add_axon(axon)
        model.add_block(block)
        source = block
    return EmulatorInterface(model, seed=0), inputs


def run(emulator, inputs, spikes, layers):
    """What fired at each step of each sample, [samples, T + layers, neurons]; every sample starts from zero."""
    fired = np.zeros((len(spikes), spikes.shape[1] + layers, emulator.compartment.n_compartments), bool)
    for sample, frames in enumerate(spikes):
        state = emulator.compartment
        for values in (state.current, state.voltage, state.spiked, state.ref_count, state.input):
            values[:] = 0
        for step, frame in enumerate(frames):
            inputs.add_spikes(emulator.t + 1 + step, frame.nonzero()[0])
        for step in range(fired.shape[1]):
            emulator.step()
            fired[sample, step] = state.spiked
    return fired


def main(network, recording, wanted):
    before = memory_kb("VmRSS")
    with np.load(network) as file:
        data = dict(file)
    emulator, inputs = build(data)
    spikes, layers = data["inputs"], int(data["layers"])
    np.save(recording, run(emulator, inputs, spikes, layers))
    timed = on_cpu(lambda: run(emulator, inputs, spikes, layers), wanted)
    print(json.dumps({"peak_mb": (memory_kb("VmHWM") - before) / 1024, "samples": timed}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""The integer networks that `simulators.py` runs, and the same layers with ReLU: what any simulator costs at least.

Weights are random; thresholds are a multiple of the standard deviation that the input of a neuron has then, which gives
firing rates of about 5 to 20 % (the table shows what they are).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from export import limits
from export.network import LIF, Connection, Convolution, Dense, Ints, Network, Population, Source, Synapses
from train import layers

RATE = 0.12  # of input spikes, and about that of all others
LARGEST = 16  # weight
LEAK = 2048  # of 4096: v keeps half of it
MARGIN = 1.35  # threshold over the standard deviation of the synaptic input
IDENTITY = 1.5  # what a spike through a shortcut brings, in standard deviations


@dataclass
class Builder:
    """Populations and connections of a network in the making."""

    steps: int
    seed: int = 0
    populations: list[Population] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def input(self, shape: tuple[int, ...], bits: int) -> Population:
        return self._add(Population("input", "", shape, 0, Source(bits)))

    def conv(
        self, source: Population, channels: int, stride: int = 1, shortcut: Population | None = None
    ) -> Population:
        """3x3, padding 1, and LIF neurons; `shortcut` joins them one or more steps late."""
        kernel = Convolution(self._even(channels, source.shape[0], 3, 3), (stride, stride), (1, 1))
        return self._neurons(kernel, kernel.output_shape(source.shape), source, shortcut)

    def dense(self, source: Population, outputs: int, readout: bool = False) -> Population:
        return self._neurons(Dense(self._even(outputs, source.size)), (outputs,), source, readout=readout)

    def network(self, name: str) -> Network:
        return Network(name, tuple(self.populations), tuple(self.connections), self.steps, self.steps)

    def _neurons(
        self,
        synapses: Synapses,
        shape: tuple[int, ...],
        source: Population,
        shortcut: Population | None = None,
        readout: bool = False,
    ) -> Population:
        index = len(self.populations)
        fan_in = synapses.weight[0].size
        deviation = float(synapses.weight.std()) * np.sqrt(fan_in * _power(source))
        vth = limits.VTH_LIMIT - 1 if readout else int(MARGIN * deviation)
        program = LIF(4095, 0 if readout else LEAK, vth, 0, 0)
        target = self._add(Population(f"layer{index}", f"{index}.neurons", shape, source.start + 1, program, readout))
        self._connect(source, target, synapses)
        if shortcut is not None:
            side = shortcut.shape[1] // shape[1]
            if shortcut.shape == shape:
                weight = np.full((shape[0], 1, 1, 1), 2 * round(IDENTITY * deviation / 2)).clip(2, 254)
                self._connect(shortcut, target, Convolution(weight.astype(np.int64), groups=shape[0]))
            else:
                weight = self._even(shape[0], shortcut.shape[0], 1, 1) * 4
                self._connect(shortcut, target, Convolution(weight, (side, side)))
        return target

    def _connect(self, source: Population, target: Population, synapses: Synapses) -> None:
        delay = np.full(source.shape[0], target.start - source.start - 1, dtype=np.int64)
        name = f"{source.id}-{target.id}"
        origin = target.origin.replace("neurons", "synapses")
        self.connections.append(Connection(name, origin, source.id, target.id, synapses, 0, delay))

    def _even(self, *shape: int) -> Ints:
        return np.asarray(2 * self.rng.integers(-LARGEST // 2, LARGEST // 2 + 1, shape), dtype=np.int64)

    def _add(self, population: Population) -> Population:
        self.populations.append(population)
        return population


def _power(source: Population) -> float:
    """Mean square of what a neuron sends."""
    bits = source.program.payload_bits if isinstance(source.program, Source) else 1
    return RATE if bits == 1 else (1 << bits) ** 2 / 3


def dense(steps: int) -> Network:
    """784-512-10, spikes as input."""
    make = Builder(steps)
    make.dense(make.dense(make.input((784,), 1), 512), 10, readout=True)
    return make.network("dense")


def conv(steps: int) -> Network:
    """2x32x32 - 16 maps of 16x16 - 32 of 8x8 - 10, spikes as input: 6154 neurons."""
    make = Builder(steps)
    make.dense(make.conv(make.conv(make.input((2, 32, 32), 1), 16, 2), 32, 2), 10, readout=True)
    return make.network("conv")


def resnet19(steps: int) -> Network:
    """ResNet-19 of full width on 3x32x32 pixels of 8 bits: stem 128, 3 blocks of 128, 3 of 256, 2 of 512."""
    make = Builder(steps)
    last = make.conv(make.input((3, 32, 32), 8), 128)
    for channels, blocks, stride in ((128, 3, 1), (256, 3, 2), (512, 2, 2)):
        for block in range(blocks):
            inner = make.conv(last, channels, stride if block == 0 else 1)
            last = make.conv(inner, channels, 1, shortcut=last)
    make.dense(last, 10, readout=True)
    return make.network("resnet-19")


def fashion(steps: int) -> Network:
    """1x28x28 pixels of 8 bits - 32 maps - 32 of 14x14 - 64 of 7x7 - 10: for memory over a whole test set."""
    make = Builder(steps)
    make.dense(make.conv(make.conv(make.conv(make.input((1, 28, 28), 8), 32), 32, 2), 64, 2), 10, readout=True)
    return make.network("fashion")


NETWORKS: dict[str, Callable[[int], Network]] = {
    "dense": dense,
    "conv": conv,
    "resnet-19": resnet19,
    "fashion": fashion,
}


def inputs(network: Network, samples: int) -> Ints:
    """Spikes at RATE, new in every step; or random pixels, the same in all steps. int64 [samples, T, *shape]."""
    rng = np.random.default_rng(1)
    program = network.source.program
    assert isinstance(program, Source)
    shape = network.source.shape
    if program.payload_bits == 1:
        return np.asarray(rng.random((samples, network.steps, *shape)) < RATE, dtype=np.int64)
    pixels = rng.integers(0, 1 << program.payload_bits, (samples, 1, *shape), dtype=np.int64)
    return np.broadcast_to(pixels, (samples, network.steps, *shape))


class Relu(nn.Module):
    """The network's layers with ReLU for neurons, in float32 and channels-last, on T * B images; no time, no delay."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        layers = {c.id.replace(".", "_"): _float(c.synapses) for c in network.connections}
        self.layers = nn.ModuleDict(layers).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        values = {self.network.source.id: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x}
        for population in self.network.populations[1:]:
            total: Tensor | None = None
            for c in self.network.inputs_of(population.id):
                source = values[c.source] if isinstance(c.synapses, Convolution) else values[c.source].flatten(1)
                is_identity = isinstance(c.synapses, Convolution) and c.synapses.groups == population.shape[0]
                out = source if is_identity else self.layers[c.id.replace(".", "_")](source)
                total = out if total is None else total + out
            assert total is not None
            values[population.id] = total if population.readout else functional.relu(total, inplace=True)
        return values[self.network.populations[-1].id]


def _float(synapses: Synapses) -> nn.Module:
    weight = torch.from_numpy(synapses.weight).float() / 100
    layer: nn.Module
    if isinstance(synapses, Convolution):
        sizes = (weight.shape[1] * synapses.groups, weight.shape[0], tuple(weight.shape[2:]))
        layer = nn.Conv2d(*sizes, synapses.stride, synapses.padding, groups=synapses.groups)  # type: ignore[arg-type]
    else:
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = weight
    layer.bias.data.zero_()
    return layer


def torch_model(network: Network) -> nn.Module:
    """A chain's layers as a PyTorch model, named as the network has them; the engine replaces them."""
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    for population, c in zip(network.populations[1:], network.connections, strict=True):
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        weight = c.synapses.weight
        if isinstance(c.synapses, Convolution):
            stage["synapses"] = layers.Conv2d(weight.shape[1], weight.shape[0], 3, c.synapses.stride, 1, bias=False)
        else:
            stage["flatten"] = layers.Flatten()
            stage["synapses"] = layers.Linear(weight.shape[1], weight.shape[0])
        stage["neurons"] = layers.MeanOverTime() if population.readout else layers.LIF()
        stages[population.origin.partition(".")[0]] = nn.Sequential(stage)
    return nn.Sequential(stages)

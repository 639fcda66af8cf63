"""The torch engine: the trained PyTorch model itself, its layers swapped for integer ones.

It shares the wiring of the model (its `forward`), not that of the compiler: temporal shift is the training code's own
shift with zero padding, no delay, no window and no gate appears. So it checks the whole compiler, retiming included.
A model that was trained in integers (--quantize) runs as it is: it shares no number with the network file either.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.attention_programs import respond
from export.network import LIF, Attention, Connection, Convolution, Driven, Ints, Network, Source
from sim.recording import Recording, recording
from train import layers
from train.errors import UserError
from train.layers.fixed_point import (
    CodedInput,
    FixedPointCode,
    FixedPointConv2d,
    FixedPointLIF,
    FixedPointLinear,
    FixedPointRecurrent,
    JoinedSynapses,
    ShiftIntegers,
)
from train.layers.neurons import LearnableNeuron
from train.models.blocks import BasicBlock
from train.quantise.layers import is_prepared
from train.quantise.neurons import IntegerReadout

BATCH = 256
LATE = {"shift", "future", "past"}  # how the compiler names the synapses of a temporal shift's neighbouring steps


def run(
    network: Network, model: nn.Module, inputs: Ints, *, progress: Callable[[int, int], None] | None = None
) -> Recording:
    """Run the quantised model on inputs int64 [samples, T, *shape], on the device of `model`.

    Raises:
        UserError: the network was not exported from this model.
    """
    driven = [p for p in network.populations if isinstance(p.program, Driven)]
    parts = record(with_membrane(network, model), {p.origin: p.id for p in driven}, inputs, progress)
    spiking = {p.id for p in driven if isinstance(p.program, LIF) and not p.readout}
    windows = {name: values > 0 if name in spiking else values.astype(np.int64) for name, values in parts.items()}
    return recording("torch", network, windows)


@torch.no_grad()
def record(
    model: nn.Module, ids: dict[str, str], inputs: Ints, progress: Callable[[int, int], None] | None = None
) -> dict[str, np.ndarray]:
    """Outputs of the modules at the paths in `ids`, by id: [samples, T, *shape]."""
    captured: dict[str, list[Tensor]] = {name: [] for name in ids.values()}
    dtype, device = next(model.parameters(), torch.zeros(())).dtype, _device(model)

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, arguments, output: captured[name].append(output.transpose(0, 1).cpu())

    handles = [model.get_submodule(path).register_forward_hook(hook(name)) for path, name in ids.items()]
    try:
        model.eval()
        for first in range(0, len(inputs), BATCH):
            batch = torch.from_numpy(inputs[first : first + BATCH]).transpose(0, 1)
            model(batch.to(device, dtype))
            if progress:
                progress(min(first + BATCH, len(inputs)), len(inputs))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(values).numpy() for name, values in captured.items()}


def with_membrane(network: Network, model: nn.Module) -> nn.Module:
    """A copy of `model` in integers whose read-out gives its membrane potential at every step.

    A model that was trained in integers stays as it is: not one number of the network goes into it.

    Raises:
        UserError: a layer of the network is not in the model.
    """
    if not is_prepared(model):
        return quantise_model(network, model)
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, IntegerReadout):
            module.forward = module.membrane  # type: ignore[method-assign]
    return copied


def quantise_model(network: Network, model: nn.Module) -> nn.Module:
    """A copy of `model` in the integers of `network`, layer by layer; found by module path.

    Raises:
        UserError: a layer of the network is not in the model.
    """
    quantised = copy.deepcopy(model)
    done: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(f"{parent}.") for parent in done):
            continue  # part of a layer that was replaced as a whole
        if isinstance(module, BasicBlock) and module.shortcut is None:
            own = any(c.origin == f"{path}.shortcut" for c in network.connections)  # not if all its weights became zero
            quantised.get_submodule(path).shortcut = _synapses(network, f"{path}.shortcut") if own else NoCurrent()
        replacement = _replacement(network, path, module)
        if replacement is not None:
            parent, _, name = path.rpartition(".")
            setattr(quantised.get_submodule(parent), name, replacement)
            done.append(path)
    program = network.source.program
    assert isinstance(program, Source)
    coded = CodedInput(torch.tensor(program.offset or (0,)), program.low_bits).to(_device(model))
    quantised.register_forward_pre_hook(lambda module, arguments: (coded(arguments[0]),))
    return quantised.to(_device(model))


def _device(model: nn.Module) -> torch.device:
    return next(chain(model.parameters(), model.buffers()), torch.zeros(())).device


def _replacement(network: Network, path: str, module: nn.Module) -> nn.Module | None:
    if isinstance(module, layers.Normalise | layers.BatchNorm2d | layers.AvgPool2d | layers.Flatten):
        return nn.Identity()  # folded into the weights behind or before it
    if isinstance(module, layers.FSTA | layers.GlobalContext | layers.StepAttention):
        return _attention(network, path)
    if isinstance(module, layers.TemporalShift):
        return ShiftIntegers(module.fixed_split, _code(network, path))
    if isinstance(module, layers.Conv2d | layers.Linear):
        return _relayed(network, path, _synapses(network, path))
    if isinstance(module, layers.PositionCode):
        return FixedPointCode(_code(network, path))
    if isinstance(module, layers.Recurrent):
        return FixedPointRecurrent(_layer(network, _recurrent(network, path)), _neuron(network, path))
    if isinstance(module, layers.LIF | LearnableNeuron | layers.MeanOverTime):
        return _behind_own_synapses(network, path, _neuron(network, path))
    return None


class NoCurrent(nn.Module):
    """Synapses that are not there: zeros of the shape of what arrives."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class IntegerAttention(nn.Module):
    """A program of `export.attention_programs`: a_in [T, B, *shape] to graded spikes, float64 whole numbers."""

    def __init__(self, program: Attention) -> None:
        super().__init__()
        self.program = program

    def forward(self, current: Tensor) -> Tensor:
        return torch.from_numpy(respond(self.program, current.long().cpu().numpy())).double().to(current.device)


def _attention(network: Network, path: str) -> nn.Module:
    for population in network.populations:
        if population.origin == path and isinstance(population.program, Attention):
            return _behind_own_synapses(network, path, IntegerAttention(population.program))
    return nn.Identity()  # folded into thresholds and weights


def _relayed(network: Network, path: str, synapses: nn.Module) -> nn.Module:
    """`synapses` in front of the relay that adds up what they bring, where there is one."""
    relay = (p.program for p in network.populations if p.origin == path and isinstance(p.program, Attention))
    return nn.Sequential(synapses, *map(IntegerAttention, relay))


def _behind_own_synapses(network: Network, path: str, layer: nn.Module) -> nn.Module:
    """`layer` behind the synapses that bring it spikes, where no layer of the model has them."""
    own = any(c.origin == f"{path}.shortcut" for c in network.connections)
    return nn.Sequential(_synapses(network, f"{path}.shortcut"), layer) if own else layer


def _synapses(network: Network, path: str) -> nn.Module:
    found = [c for c in network.connections if c.origin == path]
    if not found:
        raise UserError("the network has no connection from this layer", where=path, hint="export the model again")
    if len({c.source for c in found}) > 1:
        raise UserError("a layer that reads the sum of populations", where=path, hint="choose --engines integer lava")
    late = [c.id.partition(".edge")[0].rpartition(".")[2] in LATE for c in found]
    present, neighbours = (
        [_layer(network, c) for c, side in zip(found, late, strict=True) if side is w] for w in (False, True)
    )
    return JoinedSynapses(present, neighbours)


def _recurrent(network: Network, path: str) -> Connection:
    for connection in network.connections:
        if connection.origin == path and connection.source == connection.target:
            return connection
    raise UserError("the network has no recurrent connection there", where=path, hint="export the model again")


def _code(network: Network, path: str) -> Tensor:
    """What each step adds, [T, 1, C, 1, 1]: column t of the weights that a clock has in this layer."""
    found = [torch.from_numpy(c.synapses.weight << c.weight_exp) for c in network.connections if c.origin == path]
    return sum((w.flatten(1).T[:, None, :, None, None] for w in found), torch.zeros((), dtype=torch.int64))


def _layer(network: Network, connection: Connection) -> nn.Module:
    weight = torch.from_numpy(connection.synapses.weight << connection.weight_exp)
    synapses = connection.synapses
    if not isinstance(synapses, Convolution):
        return FixedPointLinear(weight)
    geometry = (synapses.stride, synapses.padding, synapses.dilation, synapses.groups, synapses.crop)
    return FixedPointConv2d(weight, *geometry)


def _neuron(network: Network, path: str) -> FixedPointLIF:
    for population in network.populations:
        program = population.program
        if population.origin == path and isinstance(program, LIF):
            return FixedPointLIF(
                *(torch.from_numpy(values) for values in (program.vth, program.bias, program.dv, program.du)),
                subtract=program.reset == "subtract",
                readout=population.readout,
            )
    raise UserError("the network has no population from this layer", where=path, hint="export the model again")

"""From the float model to the integer one that goes on training: the same modules, in integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from train import layers
from train.data.spec import DataSpec
from train.errors import UserError
from train.layers.neurons import LearnableNeuron
from train.models.base import Classifier
from train.quantise.coding import Choice, Floats, InputCoding, centre, choose, range_lost
from train.quantise.grid import Signed
from train.quantise.integers import quantise_decay
from train.quantise.layers import constrain
from train.quantise.neurons import IntegerLIF, IntegerReadout
from train.quantise.reach import reach
from train.quantise.recurrent import IntegerRecurrent
from train.quantise.scales import Scaled, Term, scaled
from train.quantise.shifted_currents import Edges, ShiftedCurrents
from train.quantise.synapses import (
    IntegerConv2d,
    IntegerEdges,
    IntegerHead,
    IntegerLinear,
    IntegerScale,
    IntegerSynapses,
    Numbers,
)
from train.quantise.weight_layout import ByChannel
from train.quantise.wiring import Population, Spikes, Synapse, scaled_by, wiring
from train.surrogate import Surrogate


@torch.no_grad()
def prepare(
    model: Classifier, data: DataSpec, steps: int, bits: int = 8, coding: InputCoding | None = None
) -> Classifier:
    """Turn `model` into the integer network that it would be on Loihi 2, in place, and return it.

    Its forward pass is what the chip computes; its weights stay float (latent) and train straight through. Batch norm
    with its running statistics, normalisation, temporal shift's alpha and pooling go into weights and biases, a
    neuron's gain too; leaks, one a layer or one a channel, become dv. Leaks and thresholds are fixed from here on.

    Args:
        steps: T, which bounds what the read-out adds up.
        coding: of the input; None: by the rule of `train.quantise.coding`.

    Raises:
        UserError: a layer without a rule, a leak outside [0, 1]; the message names its module path.
    """
    grid = Signed(bits)
    plan = wiring(model, data, coding or input_coding(model, data, grid).coding)
    modules = dict(plan.between)
    for population in plan.populations:
        modules |= _population(population, steps, grid)
    device = next(model.parameters()).device
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module.to(device))
    constrain(model)
    return model


def input_coding(model: Classifier, data: DataSpec, grid: Signed) -> Choice:
    """The input's coding by the rule, from the weights that the model has now."""
    first = next((m for m in model.modules() if isinstance(m, layers.Normalise)), None)
    offset = () if first is None else centre(first.mean.double().cpu().numpy().reshape(-1), data.bits)

    def lost(coding: InputCoding) -> Floats:
        found = [
            _range_lost(population, grid)
            for population in wiring(model, data, coding).populations
            if any(synapse.source.coding is not None for synapse in population.synapses)
        ]
        return np.concatenate(found) if found else np.zeros(1)

    return choose("auto", data.bits, offset, lost, grid.bits)


def _range_lost(population: Population, grid: Signed) -> Floats:
    terms = [_term(synapse) for synapse in population.synapses]
    peak = torch.stack([term.weight.abs().reshape(len(term.weight), -1).amax(1) for term in terms]).amax(0)
    need = torch.stack([reach(term.weight, term.low, term.high) for term in terms]).sum(0)
    bias = _sum(population.synapses)
    bias = bias.abs().reshape(len(bias), -1).amax(1)
    peak, need, bias = (values.cpu() for values in (peak, need, bias))
    return range_lost(peak.numpy(), need.numpy(), bias.numpy(), grid)


def _population(population: Population, steps: int, grid: Signed) -> dict[str, nn.Module]:
    neuron, path = population.neuron, population.path
    if isinstance(neuron, layers.MeanOverTime):
        return _readout(population, steps, grid)
    cell = neuron.neuron if isinstance(neuron, layers.Recurrent) else neuron
    dv, gain, threshold, surrogate = _constants(cell, path)
    synapses, currents = population.synapses, population.currents
    gains = torch.as_tensor(gain, dtype=torch.float64, device=synapses[0].weight.device).expand(len(synapses[0].weight))
    synapses = tuple(scaled_by(synapse, gains, torch.zeros_like(gains)) for synapse in synapses)
    bias = _sum(synapses)
    shifted = None if currents.shift is None else ShiftedCurrents(currents.shift, synapses, bias)
    if shifted is not None:
        synapses, bias = shifted.all, shifted.bias
    numbers = scaled(tuple(map(_term, synapses)), bias, threshold, steps, grid, path)
    built = {s.path: _synapses(s, _numbers(s, numbers, i), grid) for i, s in enumerate(synapses)}
    decays = dv.view(-1, *(1,) * (bias.ndim - 1)) if dv.ndim else dv
    lif = IntegerLIF(bias, numbers.bias_limit, numbers.scale, decays, threshold, surrogate)
    if population.feedback is not None:
        weights = built.pop(population.feedback.path)
        assert isinstance(weights, IntegerLinear)
        return {**built, path: IntegerRecurrent(lif, weights)}
    return {**(built if shifted is None else shifted.joined(built)), path: lif}


def _readout(population: Population, steps: int, grid: Signed) -> dict[str, nn.Module]:
    path, synapses = population.path, population.synapses
    (head,) = synapses if len(synapses) == 1 else (None,)
    if head is None or not isinstance(head.layout, ByChannel) or population.currents.shift is not None:
        raise UserError("does not read one linear layer", where=path, hint="--quantize has no rule for it")
    numbers = scaled((_term(head),), head.bias, None, steps, grid, path)
    own = _numbers(head, numbers, 0)
    return {
        head.path: IntegerHead(head.weight, own, grid, head.layout, head.bias, numbers.bias_limit),
        path: IntegerReadout(numbers.scale),
    }


def _constants(neuron: nn.Module, path: str) -> tuple[Tensor, Tensor | float, float, Surrogate]:
    """dv, int64 () or (C,), then gain, threshold and surrogate."""
    assert isinstance(neuron, layers.LIF | LearnableNeuron)
    gain = 1.0 if isinstance(neuron, layers.LIF) else neuron.gain
    leak = torch.as_tensor(neuron.leak, dtype=torch.float64).detach()
    outside = leak[(leak < 0) | (leak > 1)]
    if outside.numel():
        raise UserError(f"a leak of {outside[0]:.3f}, allowed 0..1", where=path, hint="use --neuron lif or plif")
    dv = torch.as_tensor(quantise_decay(leak.cpu().numpy()), device=leak.device)
    return dv.reshape(-1) if dv.ndim else dv, gain, neuron.threshold, neuron.surrogate


def _sum(synapses: Sequence[Synapse]) -> Tensor:
    """(C, 1, 1), or (C, H, W) where one of them differs by place; (C,) where there are no places."""
    biases = [s.bias for s in synapses]
    if len(synapses[0].shape) > 1:
        biases = [bias.view(len(bias), *(bias.shape[1:] or (1, 1))) for bias in biases]
    return torch.stack(torch.broadcast_tensors(*biases)).sum(0)


def _term(synapse: Synapse) -> Term:
    """Weights as they meet what arrives, which is all that their layout and the factors of their source change."""
    source, weight = synapse.source, synapse.layout(synapse.weight)
    factor = source.factor.view(-1, *(1,) * (weight.ndim - 2)) if weight.ndim > 1 else source.factor
    return Term(weight * factor, source.low, source.high, _halves(source))


def _halves(source: Spikes) -> tuple[slice, ...]:
    """Columns of the weights that read `source` with an exponent of their own: shifted ones, and each slice's."""
    if source.coding is not None and source.coding.low_bits:
        return slice(0, None, 2), slice(1, None, 2)
    channels = source.shape[0]
    return (slice(0, channels), slice(channels, 2 * channels)) if source.split else (slice(None),)


def _numbers(synapse: Synapse, numbers: Scaled, index: int) -> Numbers:
    source, exponents = synapse.source, numbers.units[index]
    unit = torch.empty_like(source.factor)
    for half, exponent in zip(_halves(source), exponents, strict=True):
        unit[half] = exponent
    rows = len(synapse.weight)
    return Numbers(numbers.scale[:rows], unit, source.factor, numbers.limits[index][:rows], source.low, source.high)


def _synapses(synapse: Synapse, numbers: Numbers, grid: Signed) -> IntegerSynapses:
    weight, layout = synapse.weight, synapse.layout
    if isinstance(synapse, Edges):
        return IntegerEdges(weight, numbers, grid, layout, synapse.split)
    if isinstance(layout, ByChannel):
        return IntegerLinear(weight, numbers, grid, layout)
    if synapse.geometry is None:
        return IntegerScale(weight, numbers, grid, layout, synapse.source.pool)
    return IntegerConv2d(weight, numbers, grid, layout, synapse.geometry)

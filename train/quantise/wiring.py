"""What a float model is made of, as quantisation sees it: populations, the layers into each, and batch norm folded.

The model's forward pass is traced symbolically down to the layers of `train.layers`; nothing is run.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn

from train import layers
from train.data.spec import DataSpec
from train.errors import UserError
from train.layers.fixed_point import CodedInput, StackShifted
from train.layers.neurons import LearnableNeuron
from train.layers.temporal_shift import Split
from train.models.blocks import BasicBlock
from train.quantise.coding import InputCoding
from train.quantise.fold import scaled_rows, through_normalisation, through_shift
from train.quantise.neurons import SumPool2d
from train.quantise.synapses import Geometry


@dataclass(frozen=True, eq=False)
class Spikes:
    """Whole numbers in `low`..`high`, and what the next weights must make up for: factor, shift, alpha; (I,)."""

    channels: int
    low: Tensor
    high: Tensor
    factor: Tensor
    offset: Tensor | None = None  # (I,), of the normalisation, after `factor`
    split: Split | None = None
    alpha: float = 0.0
    pooled: bool = False
    coding: InputCoding | None = None  # of the raw values of the input


@dataclass(frozen=True, eq=False)
class Synapse:
    """One layer of weights: latent weight [O, I, ...] or (C,), bias (O,) or (O, H, W); float64."""

    path: str
    weight: Tensor
    bias: Tensor
    source: Spikes
    geometry: Geometry | None = None  # None: dense, or one weight a channel


@dataclass(frozen=True, eq=False)
class Population:
    """One neuron layer, or the read-out, and the layers whose sum is its current."""

    path: str
    neuron: nn.Module
    synapses: tuple[Synapse, ...]


@dataclass(frozen=True, eq=False)
class Wiring:
    """Populations in order, and what takes the place of the layers between them, by module path."""

    populations: tuple[Population, ...]
    between: dict[str, nn.Module]


Value: TypeAlias = Spikes | tuple[Synapse, ...]
NEURONS = (layers.LIF, LearnableNeuron)
_HINT = "--quantize has no rule for it"


class _Tracer(fx.Tracer):
    """Traces down to this project's layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith(("train.layers", "torch.nn")) and not isinstance(m, nn.Sequential)


@dataclass
class _Walk:
    """The state of one walk over the traced graph."""

    model: nn.Module
    data: DataSpec
    coding: InputCoding
    populations: list[Population] = field(default_factory=list)
    between: dict[str, nn.Module] = field(default_factory=dict)

    def module(self, path: str, value: Value) -> Value:
        """The value behind a layer."""
        module = self.model.get_submodule(path)
        if isinstance(value, Spikes):
            return self._of_spikes(module, path, value)
        if isinstance(module, nn.BatchNorm2d) and len(value) == 1:
            self.between[path] = nn.Identity()
            return (_normalised(value[0], module, path),)
        if isinstance(module, (*NEURONS, layers.MeanOverTime)):
            self.populations.append(Population(path, module, value))
            channels = len(value[0].weight)
            ones = torch.ones(channels, dtype=torch.float64, device=value[0].weight.device)
            return Spikes(channels, 0 * ones, ones, ones)
        raise _refused(module, path)

    def _of_spikes(self, module: nn.Module, path: str, spikes: Spikes) -> Value:
        match module:
            case layers.Normalise():
                return self._normalised_input(module, path, spikes)
            case layers.TemporalShift() if spikes.offset is None and not spikes.pooled:
                self.between[path] = StackShifted(module.fixed_split)
                return replace(spikes, split=module.fixed_split, alpha=module.alpha.item())
            case layers.AvgPool2d() if spikes.offset is None and spikes.split is None:
                kernel, stride = _pair(module.kernel_size), _pair(module.stride)
                if _pair(module.padding) != (0, 0) or module.ceil_mode or kernel != stride:
                    raise UserError("average pooling with padding or overlap", where=path, hint=_HINT)
                size = kernel[0] * kernel[1]
                self.between[path] = SumPool2d(kernel, stride)
                return replace(spikes, high=spikes.high * size, factor=spikes.factor / size, pooled=True)
            case layers.Flatten():
                return spikes
            case layers.Conv2d():
                return (self._convolution(module, path, spikes),)
            case layers.Linear() if spikes.offset is None and spikes.split is None:
                return (Synapse(path, module.weight.detach().double(), _bias(module), spikes),)
        raise _refused(module, path)

    def _normalised_input(self, module: layers.Normalise, path: str, spikes: Spikes) -> Spikes:
        """Raw values as they are sent; `offset` is what normalisation still adds to them."""
        factor = 1 / module.std.double().reshape(-1)
        centre = torch.tensor(self.coding.offset or (0,), device=factor.device)
        plain = self.coding == InputCoding(self.coding.payload_bits)
        self.between[path] = nn.Identity() if plain else CodedInput(centre, self.coding.low_bits)
        low, high = (
            torch.as_tensor(side, dtype=torch.float64, device=factor.device)
            for side in self.coding.reach(spikes.channels * self.coding.slices)
        )
        offset = (centre - module.mean.double().reshape(-1)) * factor
        return replace(spikes, low=low, high=high, factor=factor, offset=offset, coding=self.coding)

    def _convolution(self, module: layers.Conv2d, path: str, spikes: Spikes) -> Synapse:
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise UserError(f"padding {module.padding!r}, mode {module.padding_mode!r}", where=path, hint=_HINT)
        weight, bias = module.weight.detach().double(), _bias(module)
        geometry = Geometry(_pair(module.stride), _pair(module.padding), _pair(module.dilation), module.groups)
        if module.groups != 1 and (spikes.split is not None or spikes.offset is not None):
            raise UserError(f"{module.groups} groups behind a shift or normalisation", where=path, hint=_HINT)
        if spikes.offset is not None:
            bias = through_normalisation(weight, bias, spikes.offset, self.data.shape, geometry)
        if spikes.coding is not None and spikes.coding.low_bits:
            weight = weight.repeat_interleave(2, 1)  # each slice has weights of its own from here on
            units = torch.tensor([1 << spikes.coding.low_bits, 1], device=weight.device)
            spikes = replace(spikes, factor=(spikes.factor.view(-1, 1) * units).reshape(-1))
        if spikes.split is not None:
            weight, present = through_shift(weight, spikes.split, spikes.alpha)
            low, high = spikes.low.repeat(2), spikes.high.repeat(2)
            spikes = replace(spikes, factor=spikes.factor.repeat(2) * present, low=low, high=high)
        elif module.groups != 1:  # one and the same for all channels
            few = slice(weight.shape[1])
            spikes = replace(spikes, factor=spikes.factor[few], low=spikes.low[few], high=spikes.high[few])
        return Synapse(path, weight, bias, spikes, geometry)

    def add(self, step: fx.Node, values: list[Value]) -> Value:
        """The sum of currents; spikes among them get one weight a channel."""
        total: list[Synapse] = []
        for value in values:
            total += [self._shortcut(step, value)] if isinstance(value, Spikes) else value
        return tuple(total)

    def _shortcut(self, step: fx.Node, spikes: Spikes) -> Synapse:
        stack = step.meta.get("nn_module_stack") or {"": ("", None)}
        owner = str(next(reversed(stack.values()))[0])
        block = self.model.get_submodule(owner)
        plain = spikes.split is None and spikes.offset is None and not spikes.pooled
        if not isinstance(block, BasicBlock) or block.shortcut is not None or not plain:
            raise UserError("a sum that is not that of a residual block", where=owner or step.name, hint=_HINT)
        ones = torch.ones(spikes.channels, dtype=torch.float64, device=spikes.factor.device)
        source = replace(spikes, factor=torch.ones_like(ones[0]))
        return Synapse(f"{owner}.shortcut", ones, torch.zeros_like(ones), source)


def wiring(model: nn.Module, data: DataSpec, coding: InputCoding) -> Wiring:
    """The populations of `model` whose input is sent in `coding`.

    Raises:
        UserError: a layer or an operation that integer training has no rule for; the message names its module path.
    """
    walk = _Walk(model, data, coding)
    values: dict[fx.Node, Value] = {}
    for step in _Tracer().trace(model).nodes:
        inputs = [values[argument] for argument in step.all_input_nodes if argument in values]
        if step.op == "placeholder":
            ones = torch.ones(data.shape[0], dtype=torch.float64, device=next(model.parameters()).device)
            values[step] = Spikes(data.shape[0], 0 * ones, ones * ((1 << data.bits) - 1), ones)
        elif step.op == "call_module" and len(inputs) == 1:
            value = values[step] = walk.module(str(step.target), inputs[0])
            if not isinstance(value, Spikes) and len(step.users) != 1:
                raise UserError("its current goes to several places", where=str(step.target), hint=_HINT)
        elif step.op == "call_function" and step.target in (operator.add, torch.add) and len(inputs) == 2:
            values[step] = walk.add(step, inputs)
        elif step.op != "output":
            raise UserError(f"operation {step.target}", where=step.name, hint=_HINT)
    return Wiring(tuple(walk.populations), walk.between)


def _refused(module: nn.Module, path: str) -> UserError:
    kind = type(module)
    if kind.__module__ in ("train.layers.fsta", "train.layers.staa"):
        return UserError("attention cannot be trained in integers", where=path, hint="no --attention with --quantize")
    if kind is layers.ReLU:
        return UserError("relu does not spike", where=path, hint="no --neuron relu with --quantize")
    if kind is layers.Recurrent:
        return UserError("a recurrent layer", where=path, hint="no --model recurrent with --quantize")
    if kind is layers.TemporalShift:
        return UserError(
            "temporal shift of currents or of pooled spikes", where=path, hint="use --shift-position conv-input"
        )
    return UserError(f"a layer of type {kind.__name__} in this place", where=path, hint=_HINT)


def _normalised(synapse: Synapse, norm: nn.BatchNorm2d, path: str) -> Synapse:
    """Batch norm with running statistics: gamma (x - mean) / sqrt(var + eps) + beta."""
    if norm.running_mean is None or norm.running_var is None:
        raise UserError("batch norm without running statistics", where=path, hint=_HINT)
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.detach().double() - scale * norm.running_mean.double()
    return scaled_by(synapse, scale, shift)


def scaled_by(synapse: Synapse, scale: Tensor, shift: Tensor) -> Synapse:
    """scale x + shift of a layer's output, channel by channel."""
    bias = scaled_rows(synapse.bias, scale)
    bias = bias + shift.view(-1, *(1,) * (bias.ndim - 1))
    return replace(synapse, weight=scaled_rows(synapse.weight, scale), bias=bias)


def _bias(module: nn.Conv2d | nn.Linear) -> Tensor:
    if module.bias is None:
        return torch.zeros(len(module.weight), dtype=torch.float64, device=module.weight.device)
    return module.bias.detach().double()


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)

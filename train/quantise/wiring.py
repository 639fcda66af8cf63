"""What a float model is made of, as quantisation sees it: populations, the layers into each, and batch norm folded.

Which layers the forward pass goes through says `train.tracing`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from train import layers
from train.data.spec import DataSpec
from train.errors import UserError
from train.layers.fixed_point import CodedInput, StackShifted
from train.layers.neurons import LearnableNeuron
from train.layers.temporal_shift import Split
from train.models.blocks import BasicBlock
from train.quantise.coding import InputCoding
from train.quantise.composition import Axis, compose
from train.quantise.fold import scaled_rows, through_normalisation, through_shift
from train.quantise.neurons import SumPool2d
from train.quantise.synapses import Geometry
from train.quantise.weight_layout import ByChannel, Composed, Layout, as_they_are
from train.tracing import Step, pair, traced

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Spikes:
    """Whole numbers in `low`..`high`, and what the next weights must make up for: factor, shift, alpha; (I,).

    `shape`: (I, H, W) or (I,). `pool`: they are still to be summed, by the next layer, since the windows overlap or are
    padded; `factor` counts for it already.
    """

    shape: Shape
    low: Tensor
    high: Tensor
    factor: Tensor
    offset: Tensor | None = None  # (I,), of the normalisation, after `factor`
    split: Split | None = None
    alpha: float = 0.0
    pool: SumPool2d | None = None
    coding: InputCoding | None = None  # of the raw values of the input


@dataclass(frozen=True, eq=False)
class Synapse:
    """One layer of weights: latent weight (O, ...) as `layout` takes it, bias (O,) or (O, H, W); float64."""

    path: str
    weight: Tensor
    bias: Tensor
    source: Spikes
    shape: Shape  # of what it gives
    geometry: Geometry | None = None  # None: dense, or one weight a channel
    layout: Layout = as_they_are


@dataclass(frozen=True)
class CurrentShift:
    """A temporal shift of the sum of currents."""

    path: str
    split: Split
    alpha: float


@dataclass(frozen=True, eq=False)
class Currents:
    """A sum of layers, all of one shape, shifted in time or not."""

    synapses: tuple[Synapse, ...]
    shift: CurrentShift | None = None


@dataclass(frozen=True, eq=False)
class Population:
    """One neuron layer, or the read-out, and the layers whose sum is its current; `feedback`: its own spikes' layer."""

    path: str
    neuron: nn.Module
    currents: Currents
    feedback: Synapse | None = None

    @property
    def synapses(self) -> tuple[Synapse, ...]:
        """All of them."""
        return self.currents.synapses + (() if self.feedback is None else (self.feedback,))


@dataclass(frozen=True, eq=False)
class Wiring:
    """Populations in order, and what takes the place of the layers between them, by module path."""

    populations: tuple[Population, ...]
    between: dict[str, nn.Module]


Value: TypeAlias = Spikes | Currents
NEURONS = (layers.LIF, LearnableNeuron, layers.Recurrent, layers.MeanOverTime)
_HINT = "--quantize has no rule for it"


@dataclass
class _Walk:
    """The state of one walk over the traced layers."""

    model: nn.Module
    data: DataSpec
    coding: InputCoding
    populations: list[Population] = field(default_factory=list)
    between: dict[str, nn.Module] = field(default_factory=dict)

    def module(self, module: nn.Module, path: str, value: Value) -> Value:
        """The value behind a layer."""
        if isinstance(value, Spikes):
            return self._of_spikes(module, path, value)
        match module:
            case nn.BatchNorm2d() if len(value.synapses) == 1 and value.shift is None:
                self.between[path] = nn.Identity()
                return Currents((_normalised(value.synapses[0], module, path),))
            case layers.TemporalShift() if value.shift is None:
                if any(synapse.bias.ndim > 1 for synapse in value.synapses):
                    raise UserError("shifts a bias that differs from place to place", where=path, hint=_HINT)
                return Currents(value.synapses, CurrentShift(path, module.fixed_split, module.alpha.item()))
            case _ if isinstance(module, NEURONS):
                spikes = _plain_spikes(value.synapses[0].shape, value.synapses[0].weight)
                self.populations.append(Population(path, module, value, _feedback(module, path, spikes)))
                return spikes
        raise _refused(module, path)

    def _of_spikes(self, module: nn.Module, path: str, spikes: Spikes) -> Value:
        match module:
            case layers.Normalise():
                return self._normalised_input(module, path, spikes)
            case layers.TemporalShift() if spikes.offset is None and spikes.split is None:
                self.between[path] = StackShifted(module.fixed_split)
                return replace(spikes, split=module.fixed_split, alpha=module.alpha.item())
            case layers.AvgPool2d() if spikes.offset is None and spikes.split is None and spikes.pool is None:
                return self._pooled(module, path, spikes)
            case layers.Flatten():
                return spikes
            case layers.Conv2d():
                return Currents((self._convolution(module, path, spikes),))
            case layers.Linear() if spikes.split is None and spikes.pool is None:
                return Currents((self._linear(module, path, spikes),))
        raise _refused(module, path)

    def _normalised_input(self, module: layers.Normalise, path: str, spikes: Spikes) -> Spikes:
        """Raw values as they are sent; `offset` is what normalisation still adds to them."""
        factor = 1 / module.std.double().reshape(-1)
        centre = torch.tensor(self.coding.offset or (0,), device=factor.device)
        plain = self.coding == InputCoding(self.coding.payload_bits)
        self.between[path] = nn.Identity() if plain else CodedInput(centre, self.coding.low_bits)
        low, high = (
            torch.as_tensor(side, dtype=torch.float64, device=factor.device)
            for side in self.coding.reach(spikes.shape[0] * self.coding.slices)
        )
        offset = (centre - module.mean.double().reshape(-1)) * factor
        return replace(spikes, low=low, high=high, factor=factor, offset=offset, coding=self.coding)

    def _pooled(self, module: layers.AvgPool2d, path: str, spikes: Spikes) -> Spikes:
        kernel, stride, padding = pair(module.kernel_size), pair(module.stride), pair(module.padding)
        if module.ceil_mode or module.divisor_override or (padding != (0, 0) and not module.count_include_pad):
            raise UserError(
                "average pooling with ceil_mode, a divisor, or without its padding in the mean", where=path, hint=_HINT
            )
        pool = SumPool2d(kernel, stride, padding)
        sides = [Axis(k, s, p).outputs(n) for k, s, p, n in zip(kernel, stride, padding, spikes.shape[1:], strict=True)]
        size = kernel[0] * kernel[1]
        mean = replace(spikes, shape=(spikes.shape[0], *sides), factor=spikes.factor / size)
        if padding == (0, 0) and kernel == stride:  # weights behind sums are those behind the spikes, each seen once
            self.between[path] = pool
            return replace(mean, high=spikes.high * size)
        self.between[path] = nn.Identity()
        return replace(mean, pool=pool, shape=spikes.shape)

    def _convolution(self, module: layers.Conv2d, path: str, spikes: Spikes) -> Synapse:
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise UserError(f"padding {module.padding!r}, mode {module.padding_mode!r}", where=path, hint=_HINT)
        weight, bias = module.weight.detach().double(), _bias(module)
        geometry = Geometry(pair(module.stride), pair(module.padding), pair(module.dilation), module.groups)
        if module.groups != 1 and (spikes.split is not None or spikes.offset is not None or spikes.pool is not None):
            raise UserError(f"{module.groups} groups behind a shift, pooling or normalisation", where=path, hint=_HINT)
        if spikes.offset is not None:
            bias = through_normalisation(weight, bias, spikes.offset, self.data.shape, geometry)
        if spikes.coding is not None and spikes.coding.low_bits:
            weight = weight.repeat_interleave(2, 1)  # each slice has weights of its own from here on
            spikes = _sliced(spikes, spikes.coding)
        if spikes.split is not None:
            weight, present = through_shift(weight, spikes.split, spikes.alpha)
            low, high = spikes.low.repeat(2), spikes.high.repeat(2)
            spikes = replace(spikes, factor=spikes.factor.repeat(2) * present, low=low, high=high)
        elif module.groups != 1:  # one and the same for all channels
            few = slice(weight.shape[1])
            spikes = replace(spikes, factor=spikes.factor[few], low=spikes.low[few], high=spikes.high[few])
        kernel = pair(module.kernel_size)
        taps = [Axis(kernel[i], geometry.stride[i], geometry.padding[i], geometry.dilation[i]) for i in (0, 1)]
        sides, layout = (spikes.shape[1], spikes.shape[2]), as_they_are
        if spikes.pool is not None:
            pool = spikes.pool
            windows = [Axis(pool.kernel[i], pool.stride[i], pool.padding[i]) for i in (0, 1)]
            composition = compose((windows[0], windows[1]), (taps[0], taps[1]), sides)
            geometry = Geometry(composition.stride, composition.padding, crops=composition.crops)
            layout, sides = Composed(composition), (windows[0].outputs(sides[0]), windows[1].outputs(sides[1]))
        shape = (len(weight), taps[0].outputs(sides[0]), taps[1].outputs(sides[1]))
        return Synapse(path, weight, bias, spikes, shape, geometry, layout)

    def _linear(self, module: layers.Linear, path: str, spikes: Spikes) -> Synapse:
        weight, bias = module.weight.detach().double(), _bias(module)
        by_channel = ByChannel(spikes.shape[0])
        if spikes.offset is not None:
            bias = bias + (by_channel(weight) * spikes.offset.view(-1, 1)).sum((1, 2))
        if spikes.coding is not None and spikes.coding.low_bits:
            weight = by_channel(weight).repeat_interleave(2, 1).flatten(1)
            by_channel, spikes = ByChannel(2 * spikes.shape[0]), _sliced(spikes, spikes.coding)
        return Synapse(path, weight, bias, spikes, (len(weight),), layout=by_channel)

    def add(self, step: Step, values: list[Value]) -> Value:
        """The sum of currents; spikes among them get one weight a channel."""
        total: tuple[Synapse, ...] = ()
        for value in values:
            if isinstance(value, Currents) and value.shift is not None:
                raise UserError("a sum with a shifted current", where=step.place or step.name, hint=_HINT)
            total += (self._shortcut(step, value),) if isinstance(value, Spikes) else value.synapses
        return Currents(total)

    def _shortcut(self, step: Step, spikes: Spikes) -> Synapse:
        block = self.model.get_submodule(step.place)
        plain = spikes.split is None and spikes.offset is None
        if not isinstance(block, BasicBlock) or block.shortcut is not None or not plain:
            raise UserError("a sum that is not that of a residual block", where=step.place or step.name, hint=_HINT)
        ones, shape = torch.ones_like(spikes.factor), spikes.shape
        if spikes.pool is not None:
            pool = spikes.pool
            spikes = replace(spikes, high=spikes.high * (pool.kernel[0] * pool.kernel[1]))
            windows = zip(pool.kernel, pool.stride, pool.padding, shape[1:], strict=True)
            shape = (shape[0], *(Axis(k, s, p).outputs(side) for k, s, p, side in windows))
        return Synapse(f"{step.place}.shortcut", ones, torch.zeros_like(ones), spikes, shape)


def wiring(model: nn.Module, data: DataSpec, coding: InputCoding) -> Wiring:
    """The populations of `model` whose input is sent in `coding`.

    Raises:
        UserError: a layer or an operation that integer training has no rule for; the message names its module path.
    """
    walk = _Walk(model, data, coding)
    values: dict[str, Value] = {}
    for step in traced(model, _HINT):
        inputs = [values[name] for name in step.inputs]
        if step.module is not None:
            value = values[step.name] = walk.module(step.module, step.place, inputs[0])
            if isinstance(value, Currents) and step.readers != 1:
                raise UserError("its current goes to several places", where=step.place, hint=_HINT)
        elif inputs:
            values[step.name] = walk.add(step, inputs)
        else:
            spikes = _plain_spikes(data.shape, next(model.parameters()))
            values[step.name] = replace(spikes, high=spikes.high * ((1 << data.bits) - 1))
    return Wiring(tuple(walk.populations), walk.between)


def _plain_spikes(shape: Shape, like: Tensor) -> Spikes:
    ones = torch.ones(shape[0], dtype=torch.float64, device=like.device)
    return Spikes(shape, 0 * ones, ones, ones)


def _sliced(spikes: Spikes, coding: InputCoding) -> Spikes:
    """With two channels for each raw one; low and high are those of what is sent already."""
    units = torch.tensor([1 << coding.low_bits, 1], device=spikes.factor.device)
    return replace(spikes, factor=(spikes.factor.view(-1, 1) * units).reshape(-1))


def _feedback(module: nn.Module, path: str, spikes: Spikes) -> Synapse | None:
    if not isinstance(module, layers.Recurrent):
        return None
    weight = module.weight.detach().double()
    layout = ByChannel(spikes.shape[0])
    return Synapse(f"{path}.weights", weight, weight.new_zeros(len(weight)), spikes, spikes.shape, layout=layout)


def _refused(module: nn.Module, path: str) -> UserError:
    kind = type(module)
    if kind.__module__ in ("train.layers.fsta", "train.layers.staa"):
        return UserError("attention cannot be trained in integers", where=path, hint="no --attention with --quantize")
    if kind is layers.ReLU:
        return UserError("relu does not spike", where=path, hint="no --neuron relu with --quantize")
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

"""The factory that puts [attention + neuron] in the place of every LIF of a backbone."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from torch import nn

from train.choices import AttentionName, NeuronName
from train.layers.fsta import FSTA
from train.layers.lif import LIF
from train.layers.neurons import DALIF, IF, PLIF, AdaptiveLIF, ReLU
from train.layers.staa import STAANeuron
from train.surrogate import Surrogate, TanhWindow


@dataclass(frozen=True)
class NeuronSpec:
    """What fires in a network, and what attends to its current.

    `leak` is the leak, or its initial value where it is learned; `if` and `relu` have none. `per_channel` gives plif
    and da-lif one value a channel instead of one a layer; adaptive-lif always has one a channel.

    Raises:
        ValueError: attention on a neuron that does not spike, a leak outside (0, 1), no steps.
    """

    neuron: NeuronName = "lif"
    attention: AttentionName = "none"
    surrogate: Surrogate = field(default_factory=TanhWindow)
    steps: int = 4
    leak: float = 0.25
    threshold: float = 0.5
    per_channel: bool = False

    def __post_init__(self) -> None:
        if self.neuron == "relu" and self.attention != "none":
            raise ValueError(f"attention {self.attention!r} needs a spiking neuron, not relu")
        if not 0 < self.leak < 1:
            raise ValueError(f"leak {self.leak}, allowed between 0 and 1; without leak the neuron is 'if'")
        if self.steps < 1:
            raise ValueError(f"{self.steps} time steps")


def make_neuron(spec: NeuronSpec, channels: int) -> nn.Module:
    """The neuron of `spec` for `channels` channels, without attention; [T, B, C, ...] to the same shape."""
    leak, threshold, surrogate = spec.leak, spec.threshold, spec.surrogate
    learned = channels if spec.per_channel else None
    match spec.neuron:
        case "lif":
            return LIF(leak, threshold, surrogate)
        case "plif":
            return PLIF(leak, threshold, surrogate, learned)
        case "da-lif":
            return DALIF(leak, threshold, surrogate, learned)
        case "adaptive-lif":
            return AdaptiveLIF(channels, leak, threshold, surrogate)
        case "if":
            return IF(threshold, surrogate)
        case "relu":
            return ReLU()


def make(spec: NeuronSpec, channels: int) -> nn.Module:
    """[attention + neuron] for currents [T, B, C, H, W].

    Containers are `Sequential`, so that symbolic tracing sees attention and neuron as two layers.
    """
    neuron = make_neuron(spec, channels)
    match spec.attention:
        case "none":
            return neuron
        case "fsta":
            parts: OrderedDict[str, nn.Module] = OrderedDict(attention=FSTA(spec.steps), neuron=neuron)
            return nn.Sequential(parts)
        case "staa":
            return STAANeuron(neuron, channels, spec.steps)

"""A dense network with one recurrent spiking layer, for events and sequences."""

from __future__ import annotations

from torch import Tensor

from train.data.spec import DataSpec
from train.layers import LIF, Flatten, Linear, Normalise, Recurrent, make_neuron
from train.layers.neurons import LearnableNeuron
from train.layers.stateless import initialise
from train.models.base import Classifier
from train.models.parts import Parts

HIDDEN = 128


class RecurrentDense(Classifier):
    """linear 128 - recurrent neurons - linear; raw values [T, B, C, H, W] to logits [T, B, K].

    None of the six papers has such a network: this project's. It takes neither attention nor temporal shift, which are
    made for maps of channels.
    """

    def __init__(self, parts: Parts, data: DataSpec) -> None:
        super().__init__()
        channels, height, width = data.shape
        size = parts.channels(HIDDEN)
        neuron = make_neuron(parts.neuron, size)
        if not isinstance(neuron, LIF | LearnableNeuron) or parts.neuron.attention != "none" or parts.shift:
            raise ValueError("the recurrent network takes spiking neurons without attention and temporal shift")
        self.normalise = Normalise(data.mean, data.std)
        self.flatten = Flatten()
        self.input = Linear(channels * height * width, size)
        self.hidden = Recurrent(neuron, size)
        self.head = Linear(size, data.classes)
        self.apply(initialise)

    def logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(self.input(self.flatten(self.normalise(x)))))
        return logits

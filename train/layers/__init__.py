"""Multi-step layers: every one takes and returns [T, B, ...]; T and B are folded where time does not matter."""

from train.layers.chain import Chain as Chain
from train.layers.fsta import FSTA as FSTA
from train.layers.lif import LIF as LIF
from train.layers.neurons import DALIF as DALIF
from train.layers.neurons import IF as IF
from train.layers.neurons import PLIF as PLIF
from train.layers.neurons import AdaptiveLIF as AdaptiveLIF
from train.layers.neurons import ReLU as ReLU
from train.layers.normalise import Normalise as Normalise
from train.layers.readout import MeanOverTime as MeanOverTime
from train.layers.recurrent import Recurrent as Recurrent
from train.layers.spiking import NeuronSpec as NeuronSpec
from train.layers.spiking import make as make
from train.layers.spiking import make_neuron as make_neuron
from train.layers.staa import GlobalContext as GlobalContext
from train.layers.staa import PositionCode as PositionCode
from train.layers.staa import STAANeuron as STAANeuron
from train.layers.staa import StepAttention as StepAttention
from train.layers.stateless import AvgPool2d as AvgPool2d
from train.layers.stateless import BatchNorm2d as BatchNorm2d
from train.layers.stateless import Conv2d as Conv2d
from train.layers.stateless import Flatten as Flatten
from train.layers.stateless import Linear as Linear
from train.layers.static_gain import StaticGain as StaticGain
from train.layers.temporal_shift import TemporalShift as TemporalShift

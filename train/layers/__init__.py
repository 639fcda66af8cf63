"""Multi-step layers: every one takes and returns [T, B, ...]; T and B are folded where time does not matter."""

from train.layers.lif import LIF as LIF
from train.layers.normalise import Normalise as Normalise
from train.layers.readout import MeanOverTime as MeanOverTime
from train.layers.stateless import AvgPool2d as AvgPool2d
from train.layers.stateless import BatchNorm2d as BatchNorm2d
from train.layers.stateless import Conv2d as Conv2d
from train.layers.stateless import Flatten as Flatten
from train.layers.stateless import Linear as Linear
from train.layers.temporal_shift import TemporalShift as TemporalShift

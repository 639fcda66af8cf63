"""Integers for one population at a given scale: the functions and value objects that training uses too."""

from train.quantise.grid import Granularity as Granularity
from train.quantise.grid import PerChannel as PerChannel
from train.quantise.grid import PerLayer as PerLayer
from train.quantise.grid import Signed as Signed
from train.quantise.integers import Weights as Weights
from train.quantise.integers import finest_exponent as finest_exponent
from train.quantise.integers import quantise_bias as quantise_bias
from train.quantise.integers import quantise_current_decay as quantise_current_decay
from train.quantise.integers import quantise_decay as quantise_decay
from train.quantise.integers import quantise_weights as quantise_weights
from train.quantise.integers import rows as rows

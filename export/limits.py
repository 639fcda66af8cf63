"""What one Loihi 2 neuron and synapse can hold; the numbers are those that training uses, `train.quantise.limits`."""

from train.quantise.limits import BIAS_EXP_RANGE as BIAS_EXP_RANGE
from train.quantise.limits import BIAS_MANT_RANGE as BIAS_MANT_RANGE
from train.quantise.limits import CURRENT_LIMIT as CURRENT_LIMIT
from train.quantise.limits import DECAY_UNITY as DECAY_UNITY
from train.quantise.limits import DELAY_LIMIT as DELAY_LIMIT
from train.quantise.limits import DU_RANGE as DU_RANGE
from train.quantise.limits import DV_RANGE as DV_RANGE
from train.quantise.limits import ONE_SIGN_RANGE as ONE_SIGN_RANGE
from train.quantise.limits import PAYLOAD_BITS_LIMIT as PAYLOAD_BITS_LIMIT
from train.quantise.limits import STATE_BITS as STATE_BITS
from train.quantise.limits import STATE_LIMIT as STATE_LIMIT
from train.quantise.limits import STATE_SHIFT as STATE_SHIFT
from train.quantise.limits import VTH_LIMIT as VTH_LIMIT
from train.quantise.limits import WEIGHT_EXP_RANGE as WEIGHT_EXP_RANGE
from train.quantise.limits import WEIGHT_RANGE as WEIGHT_RANGE

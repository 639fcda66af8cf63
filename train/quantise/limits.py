"""What one Loihi 2 neuron and synapse can hold, as Lava's fixed-point models define it.

Sources: lava-nc 0.10.0 (`lava/proc/lif/models.py`, `lava/utils/weightutils.py`), where the ranges stand in docstrings
and in the code; the CPU models do not enforce them, so `export.network` and training do.
"""

STATE_BITS = 24  # current u and membrane potential v
STATE_LIMIT = 1 << (STATE_BITS - 1)  # |v| is clipped to STATE_LIMIT - 1; a current beyond it wraps
STATE_SHIFT = 6  # synaptic input and threshold are shifted left by 6 bits before they meet the state
DECAY_UNITY = 1 << 12  # decays are fractions of 4096
DU_RANGE = (-1, 4095)  # 4095: the current has no memory; -1: it never decays
DV_RANGE = (0, 4095)
VTH_LIMIT = 1 << 17  # 0 <= vth < VTH_LIMIT
BIAS_MANT_RANGE = (-4096, 4095)  # 13 bits, signed
BIAS_EXP_RANGE = (0, 7)  # 3 bits
WEIGHT_RANGE = (-256, 254)  # and even: mixed-sign 8-bit weights lose their lowest bit
ONE_SIGN_RANGE = (-255, 255)  # of a matrix whose weights all have the same sign, odd ones included
WEIGHT_EXP_RANGE = (0, 9)  # negative exponents floor after the sum; see `quantise.grid` for why none is needed
DELAY_LIMIT = 62  # 6 bits, and Lava needs one slot of its own
PAYLOAD_BITS_LIMIT = 24  # a graded spike must fit the 24-bit accumulator (the chip sends up to 32 bits)
CURRENT_LIMIT = STATE_LIMIT >> STATE_SHIFT  # |a_in| below this cannot wrap: (a_in << 6) stays within 24 bits

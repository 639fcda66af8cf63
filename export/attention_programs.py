"""Attention in integers: the programs whose neurons multiply what arrives by gains that their window decides.

A population of such a program takes its synaptic input a_in for the T steps of a window and sends a graded spike
y[t] = x[t] G[t] from each neuron, with x = clip(shifted(a_in + bias, input_shift), -limit, limit). `waits`: the gains
need the whole window, so that it sends step t of a sample T steps after it took it, from a ring of T values. The gains
of one that does not wait need the step alone: it answers within it, as a neuron does.

Every engine runs `respond`, so this is the one definition. Whatever arrives, no intermediate result leaves 32 bits:
`check` proves it from the numbers of the program, which are all that its bounds depend on, `limit` above all.
This module needs numpy alone.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from export.context_gains import ContextGains as ContextGains
from export.frequency_gains import FrequencyGains as FrequencyGains
from export.step_gains import StepGains as StepGains
from export.unit_gains import UnitGains as UnitGains
from export.whole import Ints, shifted

Attention: TypeAlias = FrequencyGains | ContextGains | StepGains | UnitGains


def respond(program: Attention, a_in: Ints) -> Ints:
    """What a population sends for the a_in of windows [T, B, *shape]: graded spikes of the same shape, 0 for none."""
    x = program.taken(a_in)
    return np.asarray(shifted(x * program.gain(x), program.gain_shift), dtype=np.int64)

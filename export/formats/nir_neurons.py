"""NIR neurons as graph neurons, under a discretisation: V counts in units of the input, from the reset potential on.

With what is kept in a step, a of the membrane potential and b of the current, and the gains g and w (`Discretisation`):
    i <- b i + w x      v <- a v + (1 - a) v_leak + g i      spike when v > theta      then v <- v_reset
Written with V = (v - v_reset) / (g w) and I = i / w this is the graph's neuron with a constant current:
    I <- b I + x        V <- a V + I + (1 - a) (v_leak - v_reset) / (g w)      spike when V > (theta - v_reset) / (g w)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.formats.nir_file import NirNode
from export.formats.nir_port import Port, reduced
from export.formats.nir_presets import Discretisation
from export.graph import Floats, Neuron
from train.errors import UserError


@dataclass(frozen=True, eq=False)
class Integration:
    """One step of V and I in units of the input; arrays of the population's shape.

    Attributes:
        leak: what is kept of V.
        current_leak: what is kept of I; zeros for a neuron without current.
        gain: what V would gain for each unit of input, were it written in the file's unit; positive.
        drive: what V gains in every step, in units of the input.
    """

    leak: Floats
    current_leak: Floats
    gain: Floats
    drive: Floats


def integration(node: NirNode, port: Port, how: Discretisation) -> Integration:
    """How a LIF, IF, CubaLIF, LI, CubaLI or I integrates.

    Raises:
        UserError: a parameter is missing, does not fit, or is out of range.
    """

    def field(name: str, default: float | None = None) -> Floats:
        return port.spread(node.floats(name, default), name, node.where)

    kind, none = node.kind, np.zeros(port.shape)
    if kind in ("IF", "I"):
        leak, current_leak, gain, leak_potential = none + 1, none, how.integrator_gain(field("r")), None
    elif kind in ("LIF", "LI"):
        leak, current_leak = how.kept(field("tau"), node.where), none
        gain, leak_potential = (1 - leak) * field("r"), field("v_leak")
    else:
        leak = how.kept(field("tau_mem"), node.where, "tau_mem")
        current_leak = how.kept(field("tau_syn"), node.where, "tau_syn")
        gain = (1 - leak) * field("r") * how.synapse_gain(current_leak, field("w_in", 1.0))
        leak_potential = field("v_leak")
    if gain.min() <= 0:
        raise UserError(
            f"its gain is {float(gain.min()):g}, must be positive",
            where=node.where,
            hint="r and w_in must be positive; put a sign into the weights before it",
        )
    base = field("v_reset", 0.0) if kind in ("LIF", "IF", "CubaLIF") else none
    drive = none if leak_potential is None else (1 - leak) * (leak_potential - base) / gain
    return Integration(leak, current_leak, gain, drive)


def neuron(
    node: NirNode, name: str, source: str, port: Port, how: Discretisation, step: Integration, recurrent: bool
) -> Neuron:
    """The spiking neuron of a LIF, IF or CubaLIF; its drive is added to its input by the caller.

    Raises:
        UserError: a reset or a start that the chip's neuron does not have; the node is named.
    """
    theta = port.spread(node.floats("v_threshold"), "v_threshold", node.where)
    base = port.spread(node.floats("v_reset", 0.0), "v_reset", node.where)
    _check_start(node, port, how, base)
    threshold = (theta - base) / step.gain
    if how.reset == "subtract" and base.any():
        raise UserError(
            f"v_reset is {float(base.flat[np.abs(base).argmax()]):g}, which means nothing with --reset subtract",
            where=node.where,
            hint="use --reset zero, or write the file with v_reset 0",
        )
    if how.writer.late and (how.reset == "subtract" or node.kind == "CubaLIF" or recurrent):
        what = f"{'recurrent ' if recurrent else ''}{node.kind}"
        raise UserError(
            f"with --writer {how.writer.name}, --reset {how.reset} of a {what} is at work in the step after the spike, "
            "on the chip in the step of the spike",
            where=node.where,
            hint="train with reset_delay=False, and say --reset-at once",
        )
    if threshold.min() < 0:
        raise UserError(
            f"its threshold {float(theta.min()):g} is below its reset potential, so it fires without input",
            where=node.where,
            hint="thresholds on the chip are not negative",
        )
    return Neuron(
        name,
        node.name,
        (source,),
        reduced(step.leak, port.shape),
        reduced(how.threshold(threshold), port.shape),
        current_leak=reduced(step.current_leak, port.shape),
        reset=how.reset,
    )


def _check_start(node: NirNode, port: Port, how: Discretisation, base: Floats) -> None:
    """A sample must start at the reset potential, which is the chip's zero."""
    if how.writer.initial == "v_reset":
        return
    start = np.zeros(port.shape)
    if how.writer.initial == "v_leak" and "v_leak" in node.fields:
        start = port.spread(node.floats("v_leak"), "v_leak", node.where)
    elif how.writer.initial == "v_leak":
        start = base
    if not np.array_equal(start, base):
        raise UserError(
            f"--writer {how.writer.name} starts a sample at {how.writer.initial} {float(start.flat[0]):g}, "
            f"the chip at v_reset, which is {float(base.flat[0]):g}",
            where=node.where,
            hint="make both equal and train again, or --writer nir for a start at v_reset",
        )


def threshold_neuron(node: NirNode, name: str, port: Port, how: Discretisation) -> Neuron:
    """Threshold: a neuron that keeps nothing.

    Raises:
        UserError: a negative threshold.
    """
    theta = how.threshold(port.spread(node.floats("threshold"), "threshold", node.where))
    if theta.min() < 0:
        raise UserError(f"a threshold of {float(theta.min()):g} is negative", where=node.where)
    return Neuron(name, node.name, (port.id,), np.zeros(1), reduced(theta, port.shape))

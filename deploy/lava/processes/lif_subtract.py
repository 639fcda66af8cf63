"""`LIFSubtract`: Lava's LIFReset, except that a spike subtracts the threshold from v instead of setting v to zero.

Not stock: no process of Lava and no neuron of Loihi 1 does it; on Loihi 2 it takes a neuron program of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif.models import AbstractPyLifModelFixed
from lava.proc.lif.process import LIFReset


class LIFSubtract(LIFReset):
    """LIFReset with v <- v - (vth << 6) at a spike; its arguments are those of LIFReset."""


@implements(proc=LIFSubtract, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyLifSubtractModel(AbstractPyLifModelFixed):
    """The update of u and v is Lava's own bit-accurate arithmetic; what stands here is around it."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    vth: npt.NDArray[np.int32] = LavaPyType(int, np.int32, precision=17)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.interval: int = proc_params["reset_interval"]
        self.offset: int = proc_params["reset_offset"] % self.interval
        self.threshold: Any = None  # vth << 6, once Lava has set vth

    def scale_threshold(self) -> None:
        """Bring vth to the units of v, once."""
        self.threshold = np.left_shift(self.vth, self.vth_shift)
        self.isthrscaled = True

    def spiking_activation(self) -> npt.NDArray[np.bool_]:
        """Which neurons fire."""
        fires: npt.NDArray[np.bool_] = self.v > self.threshold
        return fires

    def reset_voltage(self, spike_vector: npt.NDArray[np.bool_]) -> None:
        """v less the threshold where a neuron fired."""
        self.v[:] -= spike_vector * self.threshold

    def run_spk(self) -> None:
        """One time step; like LIFReset it starts from u = v = 0 where a window does."""
        if self.time_step % self.interval == self.offset:
            self.u[:], self.v[:] = 0, 0
        super().run_spk()

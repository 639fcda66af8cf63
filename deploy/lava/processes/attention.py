"""`Attention`: a population that multiplies what arrives in a window by gains which the window decides.

Not stock: no process of Lava and no neuron of Loihi does it. A neuron's part (a ring of T values, one multiplication)
is a neuron program; the sums over the population and the tables are not one neuron's work, and take a program of their
own on Loihi 2's embedded processors. The arithmetic is `export.attention_programs.respond`, that of every engine.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from export.attention_programs import respond
from export.network import Attention as Program


class Attention(AbstractProcess):
    """Takes a vector of synaptic input and sends a vector of graded spikes at every time step.

    Args:
        program: what it does.
        shape: of the population; its ports are flat.
        steps: T, of a window.
        period: time steps from one window to the next.
        first: the time step (from 1) at which the first window begins.
    """

    def __init__(self, *, program: Program, shape: tuple[int, ...], steps: int, period: int, first: int) -> None:
        super().__init__(program=program, shape=shape, steps=steps, period=period, first=first)
        flat = (int(np.prod(shape)),)
        self.a_in = InPort(shape=flat)
        self.s_out = OutPort(shape=flat)


@implements(proc=Attention, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyAttentionModel(PyLoihiProcessModel):
    """One vector in and one out at each step; what a window decides is known when its last step has come."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.program: Program = proc_params["program"]
        self.shape: tuple[int, ...] = proc_params["shape"]
        self.steps: int = proc_params["steps"]
        self.period: int = proc_params["period"]
        self.first: int = proc_params["first"]  # not `start`, a method of Lava's models
        self.taken: list[npt.NDArray[np.int64]] = []
        self.ready: deque[npt.NDArray[np.int64]] = deque()

    def run_spk(self) -> None:
        """One time step: take this step's vector, send the next one that is ready, silence if none is."""
        arriving = self.a_in.recv().astype(np.int64)
        send = self.ready.popleft() if self.ready else np.zeros_like(arriving)
        since = self.time_step - self.first
        if since >= 0 and since % self.period < self.steps:
            self.taken.append(arriving)
        if not self.program.waits and self.taken:
            send = self._respond()[0]
        elif len(self.taken) == self.steps:
            self.ready.extend(self._respond())
        self.s_out.send(send.astype(np.int32))

    def _respond(self) -> npt.NDArray[np.int64]:
        """The answers to what was taken, [steps, size]."""
        windows = np.stack(self.taken).reshape(len(self.taken), 1, *self.shape)
        self.taken = []
        return respond(self.program, windows).reshape(len(windows), -1)

"""`Record`: a sink that writes what it receives at each time step to a row of a .npy file."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class Record(AbstractProcess):
    """Writes its input of time step t (from 1) to row t - 1 of a .npy file of shape (steps, *shape).

    Args:
        shape: of the port that is recorded.
        path: an existing .npy file; its dtype is the recording's.
    """

    def __init__(self, *, shape: tuple[int, ...], path: str | os.PathLike[str]) -> None:
        super().__init__(shape=shape, path=os.fspath(path))
        self.a_in = InPort(shape=shape)


@implements(proc=Record, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyRecordModel(PyLoihiProcessModel):
    """Maps the file at its first step and lets the kernel write it back: a step costs one copy."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.rows = np.load(proc_params["path"], mmap_mode="r+")

    def run_spk(self) -> None:
        """Store one time step."""
        self.rows[self.time_step - 1] = self.a_in.recv()

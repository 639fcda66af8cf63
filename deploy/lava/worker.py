"""Run a network in Lava: `python -m deploy.lava.worker NETWORK.h5 INPUTS.npy FOLDER`.

A process of its own, because Lava sets the start method of multiprocessing, forks one process per Lava process and
waits for ever when one of them is gone. It never imports torch, which every fork would have to carry.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from deploy.lava import layout, shims
from export.network import Network
from export.store import read_network


def main(arguments: list[str]) -> None:
    """Build, run, stop, and leave the recordings in FOLDER; tracebacks of Lava's children go to its `errors.txt`.

    INPUTS.npy: raw values, int64 [samples, T, *raw shape].
    """
    network_file, inputs_file, folder = (Path(argument) for argument in arguments)
    shims.apply()
    shims.report_child_errors(folder / layout.ERRORS)
    run(read_network(network_file), np.load(inputs_file), folder)


def run(network: Network, inputs: np.ndarray[Any, np.dtype[np.int64]], folder: Path) -> None:
    """Run all samples in one go and write the recordings to `folder`."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    from deploy.lava import build  # imports lava, so after the shims

    graph = build.build(network, inputs, folder)
    sink = build.read_membrane(network, graph)
    entry = graph.processes[network.source.id]
    config = Loihi2SimCfg(select_tag="fixed_pt")
    _abort_when_a_child_ends(folder / layout.ERRORS)
    entry.run(condition=RunSteps(num_steps=graph.steps, blocking=True), run_cfg=config)
    if sink is not None and network.readout is not None:
        membrane = sink.data.get()  # (size, steps), float64 but whole numbers below 2^24
        np.save(layout.membrane_file(folder, network.readout), membrane.T.astype(np.int64))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    entry.stop()


def _abort_when_a_child_ends(errors: Path) -> None:
    """Before the run is stopped no child may end; if one does, say how and exit instead of waiting for it."""
    worker = os.getpid()

    def abort(signal_number: int, frame: FrameType | None) -> None:
        if os.getpid() != worker:  # the children inherit this handler
            return
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return
        how = "exit code" if ended.si_code == os.CLD_EXITED else "signal"
        with errors.open("a", encoding="utf-8") as file:
            file.write(f"Lava process {ended.si_pid} ended during the run with {how} {ended.si_status}\n")
        for child in multiprocessing.active_children():
            child.terminate()
        os._exit(shims.CHILD_FAILED)

    signal.signal(signal.SIGCHLD, abort)


if __name__ == "__main__":
    main(sys.argv[1:])

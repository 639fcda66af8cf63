"""Many networks in Lava's ProcessModels in one subprocess: Lava's import and start are most of a small one's time.

As a script: `python tests/lava_witness.py FOLDER...`, each with network.h5 and inputs.npy; recordings go beside them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.network import Ints, Network
from export.store import write_network
from sim import lava
from sim.recording import Recording


def run_all(
    cases: Sequence[tuple[Network, Ints]], timeout: float = 300.0, script: str = "", refused: bool = False
) -> list[Any]:
    """What `lava-models` records of each case; `script` is Python that runs first in the subprocess.

    `refused`: None for a network whose gates do not keep it silent, in place of the error.
    """
    with tempfile.TemporaryDirectory(prefix="spikeproof-witness-") as name:
        folders = [Path(name) / str(index) for index in range(len(cases))]
        for folder, (network, inputs) in zip(folders, cases, strict=True):
            folder.mkdir()
            write_network(folder / "network.h5", network)
            np.save(folder / "inputs.npy", inputs)
        command = [sys.executable, __file__, script, *map(str, folders)]
        done = subprocess.run(command, env=lava._environment(), capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stderr[-3000:]
        return [_read(n, len(x), folder, refused) for folder, (n, x) in zip(folders, cases, strict=True)]


def _read(network: Network, samples: int, folder: Path, refused: bool) -> Recording | None:
    try:
        return lava.read("lava-models", network, samples, folder)
    except lava.NotSilentError:
        if refused:
            return None
        raise


def main(script: str, *folders: str) -> None:
    from deploy.lava import models, shims

    shims.apply()
    from lava.magma.compiler.compiler_graphs import ProcGroupDiGraphs

    find, found = ProcGroupDiGraphs._find_proc_models, {}

    def find_once(proc: object) -> object:
        """Lava looks for the models of every process anew, in all files beside its class."""
        if type(proc) not in found:
            found[type(proc)] = find(proc)
        return found[type(proc)]

    ProcGroupDiGraphs._find_proc_models = staticmethod(find_once)
    exec(script)
    for folder in folders:
        models.main([f"{folder}/network.h5", f"{folder}/inputs.npy", folder])


if __name__ == "__main__":
    main(*sys.argv[1:])

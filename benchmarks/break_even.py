"""python benchmarks/break_even.py: up to which firing rate layers of the integer engine are faster by events.

Prints CPU milliseconds by events / by currents, the least of several runs on one thread, for 16 samples of 8 steps.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.simulator_networks import Builder  # noqa: E402
from export import execute, neurons  # noqa: E402
from export.network import Ints, Network  # noqa: E402

RATES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
SAMPLES, STEPS, RUNS = 16, 8, 7
LAYERS = (  # input shape, outputs, stride (0: dense)
    ((2, 32, 32), 16, 2),
    ((16, 16, 16), 32, 2),
    ((32, 16, 16), 32, 1),
    ((64, 16, 16), 128, 1),
    ((128, 8, 8), 128, 1),
    ((784,), 512, 0),
    ((2048,), 512, 0),
)


def milliseconds(network: Network, inputs: Ints, below: float) -> float:
    """CPU time of one run, with events below a firing rate."""
    execute.EVENTS_BELOW = below
    found = []
    for _ in range(RUNS):
        begin = time.thread_time()
        execute.run(network, inputs, keep=())
        found.append(time.thread_time() - begin)
    return 1e3 * min(found)


def main() -> None:
    """One line of a table for each layer."""
    torch.set_num_threads(1)
    execute.EVENTS_FROM = neurons.COMPILED_FROM = 0
    rng = np.random.default_rng(0)
    print(f"| layer | {' | '.join(f'{rate:.0%}' for rate in RATES)} |\n|{'---|' * (1 + len(RATES))}")
    for shape, outputs, stride in LAYERS:
        make = Builder(STEPS)
        source = make.input(shape, 1)
        target = make.conv(source, outputs, stride) if stride else make.dense(source, outputs)
        network = make.network("layer")
        cells = []
        for rate in RATES:
            inputs = np.asarray(rng.random((SAMPLES, STEPS, *shape)) < rate, dtype=np.int64)
            cells.append("{:.1f} / {:.1f}".format(*(milliseconds(network, inputs, below) for below in (1.0, -1.0))))
        sizes = ("x".join(map(str, size)) for size in (shape, target.shape))
        print(f"| {' - '.join(sizes)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

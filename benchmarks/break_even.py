"""python benchmarks/break_even.py: which way layers of the integer engine are fastest at which firing rate.

Prints CPU milliseconds by events / by patterns / by currents, the least of several runs on one thread, for 16 samples
of 8 steps; dense layers have no patterns.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.simulator_networks import Builder  # noqa: E402
from export import execute, neurons, patterns  # noqa: E402
from export.network import Ints, Network  # noqa: E402

RATES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
SAMPLES, STEPS, RUNS = 16, 8, 7
WAYS = {"events": (1.0, 0), "patterns": (1.0, 1 << 30), "currents": (-1.0, 0)}
LAYERS = (  # input shape, outputs, stride (0: dense)
    ((2, 32, 32), 16, 2),
    ((1, 28, 28), 32, 1),
    ((8, 16, 16), 16, 1),
    ((16, 16, 16), 16, 1),
    ((16, 16, 16), 32, 2),
    ((16, 16, 16), 64, 1),
    ((32, 16, 16), 32, 1),
    ((32, 16, 16), 64, 1),
    ((64, 16, 16), 128, 1),
    ((128, 8, 8), 128, 1),
    ((784,), 512, 0),
    ((2048,), 512, 0),
)


def milliseconds(network: Network, inputs: Ints, way: str) -> float:
    """CPU time of one run."""
    execute.EVENTS_BELOW, patterns.LARGEST = WAYS[way]
    network = replace(network)  # what is prepared is kept for the same one
    execute.run(network, inputs, keep=())
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
            ways = [way for way in WAYS if stride or way != "patterns"]
            cells.append(" / ".join(f"{milliseconds(network, inputs, way):.1f}" for way in ways))
        sizes = ("x".join(map(str, size)) for size in (shape, target.shape))
        print(f"| {' - '.join(sizes)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

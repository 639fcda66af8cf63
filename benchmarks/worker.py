"""One row of `train_step.py`, a process that trains a few steps whenever it is asked to; `turns.py` has the protocol.

By hand: `echo 4 | python benchmarks/worker.py ROW PRECISION ALLOCATOR INPUT STEPS BATCH THREADS`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from benchmarks.samples import memory_kb, sample  # noqa: E402


def main(row: str, precision: str, allocator: str, given: str, steps: int, batch: int, threads: int) -> None:
    """Print first step (s) and peak memory over the state before it (MB); then, for each line read, so many samples."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    if allocator == "tuned":
        from train import allocator as tuning

        assert tuning.tune(), "malloc cannot be tuned on this machine"
    import torch

    from benchmarks.steps import training

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if row.startswith(("relu", "spikeproof")):
        from benchmarks.networks import ROWS
    else:
        from benchmarks.peers.networks import ROWS
    model = ROWS[row]()
    if row.startswith(("relu", "spikeproof")):
        model = model.to(memory_format=torch.channels_last)
    frames, labels = torch.randn(steps, batch, 3, 32, 32), torch.randint(10, (batch,))
    if given == "image":
        frames = frames[:1].expand(frames.shape)
    step = training(model, frames, labels, precision == "bf16")
    before = memory_kb("VmRSS")

    def answer(**said: object) -> None:
        peak = (memory_kb("VmHWM") - before) / 1024
        print(json.dumps({**said, "peak_mb": peak}), file=answers, flush=True)

    begin = time.perf_counter()
    loss = float(step())
    first = time.perf_counter() - begin
    step()
    answer(loss=loss, first_s=first)
    for line in sys.stdin:
        step()  # cores and caches were another row's
        answer(samples=[sample(step) for _ in range(int(line))])


if __name__ == "__main__":
    name, precision, allocator, given, *numbers = sys.argv[1:]
    main(name, precision, allocator, given, *map(int, numbers))

"""One row of `train_step.py` in a process of its own: trains a few steps and prints one line of JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from benchmarks.samples import memory_kb, on_cpu  # noqa: E402


def main(
    row: str, precision: str, allocator: str, given: str, steps: int, batch: int, threads: int, samples: int
) -> None:
    """Print first step (s), peak memory over the state before it (MB), and every sample (s, part waited)."""
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
    begin = time.perf_counter()
    loss = float(step())
    first = time.perf_counter() - begin
    step()
    timed = on_cpu(step, samples)
    peak = (memory_kb("VmHWM") - before) / 1024
    print(json.dumps({"loss": loss, "first_s": first, "peak_mb": peak, "samples": timed}))


if __name__ == "__main__":
    name, precision, allocator, given, *numbers = sys.argv[1:]
    main(name, precision, allocator, given, *map(int, numbers))

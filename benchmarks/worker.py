"""One row of `train_step.py` in a process of its own: trains a few steps and prints one line of JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

MAX_WAIT = 0.03  # a sample counts if its threads waited for a core for less than this part of it
PATIENCE_S = float(os.environ.get("PATIENCE", "40"))  # how long in each round to look for undisturbed samples


def memory_kb(field: str) -> int:
    """VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def waited_s() -> float:
    """Seconds that the threads of this process have waited for a core so far."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[1])
        except (OSError, IndexError):  # a thread that ended
            continue
    return total / 1e9


def main(row: str, precision: str, allocator: str, steps: int, batch: int, threads: int, samples: int) -> None:
    """Print first step (s), peak memory over the state before it (MB), and every sample (s, part waited)."""
    if allocator == "tuned":
        from train import allocator as tuning

        assert tuning.tune(), "malloc cannot be tuned on this machine"
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if row.startswith(("relu", "spikeproof")):
        from benchmarks.networks import ROWS
    else:
        from benchmarks.peers.networks import ROWS
    model = ROWS[row]()
    if row.startswith(("relu", "spikeproof")):
        model = model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    frames, labels = torch.randn(steps, batch, 3, 32, 32), torch.randint(10, (batch,))

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = functional.cross_entropy(model(frames).float(), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    before = memory_kb("VmRSS")
    begin = time.perf_counter()
    loss = step()
    first = time.perf_counter() - begin
    step()
    timed: list[tuple[float, float, float]] = []
    deadline = time.perf_counter() + PATIENCE_S
    while sum(wait < MAX_WAIT for _, wait, _ in timed) < samples and time.perf_counter() < deadline:
        waited, begin, cpu = waited_s(), time.perf_counter(), time.process_time()
        step()
        seconds = time.perf_counter() - begin
        timed.append((seconds, (waited_s() - waited) / seconds, time.process_time() - cpu))
    peak = (memory_kb("VmHWM") - before) / 1024
    print(json.dumps({"loss": loss, "first_s": first, "peak_mb": peak, "samples": timed}))


if __name__ == "__main__":
    name, precision, allocator, *numbers = sys.argv[1:]
    main(name, precision, allocator, *map(int, numbers))

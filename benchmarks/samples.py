"""How workers on a CPU time a step, and how long each sample was disturbed; read by Python 3.9, too."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

MAX_WAIT = 0.03  # a sample counts if its threads waited for a core for less than this part of it
PATIENCE_S = float(os.environ.get("PATIENCE", "40"))  # how long in each round to look for undisturbed samples
Sample = tuple[float, float, float]  # seconds, part of them disturbed, CPU seconds


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


def sample(step: Callable[[], object]) -> Sample:
    """One step, timed."""
    waited, begin, cpu = waited_s(), time.perf_counter(), time.process_time()
    step()
    seconds = time.perf_counter() - begin
    return seconds, (waited_s() - waited) / seconds, time.process_time() - cpu


def on_cpu(step: Callable[[], object], wanted: int) -> list[Sample]:
    """Samples of a step until `wanted` of them were undisturbed, or patience is at its end."""
    timed: list[Sample] = []
    deadline = time.perf_counter() + PATIENCE_S
    while sum(wait < MAX_WAIT for _, wait, _ in timed) < wanted and time.perf_counter() < deadline:
        timed.append(sample(step))
    return timed

"""One row of `train_step_gpu.py` in a process of its own: its case as JSON in, one line of JSON out.

On a GPU a sample is the mean over as many steps as take SAMPLE_S, between two CUDA events, and all memory is that of
PyTorch's allocator. On a CPU, for dry runs, clock and memory are those of the process.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks import samples, steps  # noqa: E402
from benchmarks.samples import Sample  # noqa: E402

OWN = ("relu", "spikeproof", "reference")
WARM_UP = 10  # steps after the first, before the samples
SAMPLE_S = 0.1
PACKAGES = ("torch", "triton", "spikingjelly", "cupy-cuda12x", "cupy-cuda13x")


@dataclass(frozen=True)
class Case:
    """One cell of the comparison.

    Attributes:
        part: `resnet-19`, a training step, or `neuron`, forward and backward of the neuron alone.
        shape: (B, C, H = W); of the network, C are the channels of its first stage.
        device: `cuda` or `cpu`.
    """

    part: str
    row: str
    precision: str
    steps: int
    shape: tuple[int, int, int]
    device: str


@dataclass(frozen=True)
class Work:
    """The step to time, and the share of neurons that fire: the rows of `neuron` should agree about it."""

    step: Callable[[], object]
    rate: Callable[[], float | None] = lambda: None


def work(case: Case) -> Work:
    """What a case does.

    Raises:
        ModuleNotFoundError: what the row needs is not installed.
    """
    if case.row == "spikeproof" and case.device == "cuda":
        importlib.import_module("triton")  # without it, the reference would run in its place
    torch.manual_seed(0)
    return network(case) if case.part == "resnet-19" else neuron(case)


def network(case: Case) -> Work:
    """A training step of ResNet-19 on raw pixels."""
    from benchmarks.networks import resnet19

    batch, channels, side = case.shape
    model = resnet19("relu" if case.row == "relu" else "lif", channels, side, case.steps).to(case.device)
    frames = torch.randint(256, (case.steps, batch, 3, side, side), device=case.device).float()
    labels = torch.randint(10, (batch,), device=case.device)
    return Work(steps.training(model, frames, labels, case.precision == "bf16"))


def neuron(case: Case) -> Work:
    """Forward and backward of the neuron alone."""
    run = neuron_of(case)
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    current = torch.randn(case.steps, *case.shape, case.shape[-1], device=case.device, dtype=dtype).requires_grad_()
    gradient = torch.randn_like(current)

    @torch.no_grad()
    def rate() -> float:
        return float(run(current).float().mean())

    return Work(lambda: torch.autograd.grad(run(current), current, gradient), rate)


def neuron_of(case: Case) -> Callable[[Tensor], Tensor]:
    """Currents to spikes, [T, B, C, H, W]."""
    if case.row in OWN:
        from benchmarks.networks import NEURONS as OURS

        return OURS[case.row]
    from benchmarks.peers.neurons import NEURONS

    return NEURONS[case.row](case.precision)


def seconds(step: Callable[[], object], repeats: int = 1) -> float:
    """What all repeats take on a GPU by the wall clock."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(repeats):
        step()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def on_gpu(step: Callable[[], object], wanted: int) -> dict[str, object]:
    """First step (s), peak memory over the state before it (MB), and samples, (s, 0, CPU s) a step.

    The zero: CUDA does not tell whether others used the GPU meanwhile.
    """
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    first = seconds(step)
    seconds(step, WARM_UP)
    repeats = math.ceil(SAMPLE_S / (seconds(step, WARM_UP) / WARM_UP))
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    timed: list[Sample] = []
    for _ in range(wanted):
        cpu = time.process_time()
        begin.record()
        for _ in range(repeats):
            step()
        end.record()
        end.synchronize()
        timed.append((begin.elapsed_time(end) / 1e3 / repeats, 0.0, (time.process_time() - cpu) / repeats))
    peak = torch.cuda.max_memory_allocated() - before
    return {"first_s": first, "peak_mb": peak / 2**20, "samples": timed, "device": torch.cuda.get_device_name()}


def on_cpu(step: Callable[[], object], wanted: int) -> dict[str, object]:
    """The same for a dry run, by the clock and the memory of the process."""
    before, begin = samples.memory_kb("VmRSS"), time.perf_counter()
    step()
    first = time.perf_counter() - begin
    timed = samples.on_cpu(step, wanted)
    peak = samples.memory_kb("VmHWM") - before
    return {"first_s": first, "peak_mb": peak / 2**10, "samples": timed, "device": "CPU"}


def main(case: Case, wanted: int) -> None:
    """Print first step (s), peak memory over the state before it (MB), firing rate, samples and versions."""
    torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]  # no TF32 in any row
    try:
        todo = work(case)
    except ModuleNotFoundError as missing:
        print(json.dumps({"left_out": f"not installed: {missing.name}"}))
        return
    measure = on_gpu if case.device == "cuda" else on_cpu
    said = measure(todo.step, wanted)
    print(json.dumps({**said, "rate": todo.rate(), "versions": versions()}))


def versions() -> str:
    """What of PACKAGES is installed here."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    main(Case(**{**given, "shape": tuple(given["shape"])}), int(sys.argv[2]))

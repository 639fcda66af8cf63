"""python benchmarks/train_step_gpu.py: a training step, and the neuron alone, on a GPU, by this project and by others.

`resnet-19`: forward, cross-entropy, backward and SGD of this project's ResNet-19 with LIF, as `python -m train` builds
it (channels last, bf16 autocast, its default neuron), against the same network with ReLU on as many images, T * B.
`neuron`: forward and backward of the LIF over [T, B, C, H, W], contiguous: this project's kernel in Triton and its
plain PyTorch; SpikingJelly 2.0's kernels in Triton and in CUDA, and its plain PyTorch; 0.0.0.0.14's in CuPy.
Leak 0.5, threshold 1, hard reset without gradient, ATan in every row; benchmarks/peers/neurons.py says how.

TF32 is off in every row. Every row runs in a process of its own, which warms up before it takes samples; rows take
turns over several rounds, and a cell is the median of all samples. `--device cpu` is a dry run of the same code on tiny
tensors: its figures mean nothing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from benchmarks import rounds  # noqa: E402
from benchmarks.gpu_worker import OWN, Case  # noqa: E402
from benchmarks.peers import build  # noqa: E402
from benchmarks.rounds import Found, Job  # noqa: E402

NETWORKS = ("relu", "spikeproof")
TRITON, IN_BF16, CUDA, CUPY, TORCH = (
    f"spikingjelly-{name}" for name in ("triton", "triton-bf16-state", "cuda", "cupy", "torch")
)
NEURONS = ("spikeproof", TRITON, IN_BF16, CUDA, CUPY, TORCH, "reference")
KERNELS = (TRITON, IN_BF16, CUDA, CUPY)
ONLY = {CUPY: "fp32", IN_BF16: "bf16"}  # CuPy's kernels take float32 and float16
LIMIT = 1.25  # of a training step, against the ReLU network's
PEERS_PYTHON, CUPY_PYTHON = (build.python(build.FOLDERS[name]) for name in ("libraries", "cupy"))
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Options:
    """Print one table: ms a step, peak memory, first step; and what it says about the bars."""

    device: Literal["cuda", "cpu"] = "cuda"
    """cpu: a dry run on tiny tensors, and of one T only."""
    batch: int = 128
    """Of the network, whose T is 4."""
    neuron_steps: tuple[int, ...] = (4, 32)
    neuron_shape: Shape = (64, 64, 32)
    """B, C and H = W of the neuron's current."""
    rounds: int = 3
    samples: int = 10
    """In every round; each lasts 0.1 s or a step."""
    peers_python: Path = PEERS_PYTHON
    """Made by benchmarks/peers/build.py."""
    cupy_python: Path = CUPY_PYTHON
    """Made by benchmarks/peers/build.py cupy."""
    limit_s: float = 300.0
    """Leave out a row whose process, compilation included, takes longer than this."""
    json: Path | None = None
    """Also write the samples to this file."""


def cases(options: Options) -> Iterator[Case]:
    """Every case, in the order of the table."""
    dry = options.device == "cpu"
    network, neuron = ((2, 8, 16), (2, 4, 8)) if dry else ((options.batch, 128, 32), options.neuron_shape)
    for row in NETWORKS:
        yield Case("resnet-19", row, "bf16", 4, network, options.device)
    for steps in options.neuron_steps[: 1 if dry else None]:
        for precision in ("fp32", "bf16"):
            for row in NEURONS:
                if ONLY.get(row, precision) == precision:
                    yield Case("neuron", row, precision, steps, neuron, options.device)


def job(case: Case, options: Options, caches: Path) -> Job:
    """How one round of a case is run; what it compiles in the first, later ones find."""
    own = sys.executable if case.row in OWN else options.peers_python
    interpreter = options.cupy_python if case.row == CUPY else own
    command = [str(interpreter), "-W", "ignore", str(HERE / "gpu_worker.py"), json.dumps(asdict(case))]
    cache = str(caches / "-".join((case.part, case.row, case.precision, str(case.steps))))
    environment = {"TRITON_CACHE_DIR": cache, "CUPY_CACHE_DIR": cache}
    if case.device == "cpu":
        environment["PATIENCE"] = "0.2"
    label = f"{case.part} {case.row} {case.precision} T={case.steps}"
    return Job(label, [*command, str(options.samples)], options.limit_s, environment)


def table(results: Mapping[Case, Found]) -> str:
    """Devices and versions, the table, and the bars, in Markdown."""
    said = dict.fromkeys(f"{line['device']}: {line['versions']}" for found in results.values() for line in found.said)
    lines = [
        *(f"* {line}" for line in said),
        "",
        "| | row | precision | T | B, C, H = W | ms | least - most | first step s | peak MB | fires | samples |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    if any(case.device == "cpu" for case in results):
        lines.insert(0, "DRY RUN on a CPU with tiny tensors: not a measurement.\n")
    measured = rounds.measured(results)
    for case, found in results.items():
        shape = ", ".join(map(str, case.shape))
        cells = [case.part, case.row, case.precision, str(case.steps), shape]
        lines.append(f"| {' | '.join(cells + (figures(found) if case in measured else [found.reason]))} |")
    return "\n".join([*lines, "", "| bar | found | |", "|---|---|---|", *bars(results)])


def figures(found: Found) -> list[str]:
    """The cells of a row that was measured; the first step is that of the first round, which compiles."""
    times = [1e3 * seconds for seconds, _, _ in found.samples]
    rate = found.said[0]["rate"]
    return [
        f"{found.mark}{1e3 * found.seconds:.3g}",
        f"{min(times):.3g} - {max(times):.3g}",
        f"{found.said[0]['first_s']:.1f}",
        f"{found.peak_mb:.0f}",
        "" if rate is None else f"{rate:.3%}",
        found.counts,
    ]


def bars(results: Mapping[Case, Found]) -> Iterator[str]:
    """A line for each bar: the network against ReLU's, the neuron against other kernels; the memory has no bar."""
    for case, found in results.items():
        if case.row != "spikeproof":
            continue
        limit, others = (LIMIT, ("relu",)) if case.part == "resnet-19" else (1.0, KERNELS)
        for row in others:
            other = replace(case, row=row)
            if other not in results:
                continue
            against = results[other]
            bar = f"{case.part} {case.precision}, T = {case.steps}: at most {limit:g} x {row}"
            if not (found.samples and against.samples):
                yield f"| {bar} | {(against if found.samples else found).reason} | not measured |"
                continue
            ratio = found.seconds / against.seconds
            verdict = "dry run" if case.device == "cpu" else "met" if ratio <= limit else "**missed**"
            yield f"| {bar} | {ratio:.2f} x the time, {found.peak_mb / against.peak_mb:.2f} x the memory | {verdict} |"


def main(options: Options) -> None:
    """Run all rounds; print also when interrupted."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device, or a PyTorch without CUDA; --device cpu is a dry run of the same code")
    with tempfile.TemporaryDirectory() as caches:
        rounds.run(cases(options), options.rounds, lambda case: job(case, options, Path(caches)), table, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))

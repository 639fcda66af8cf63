"""python benchmarks/train_step.py: one training step of the same spiking CNN by this project and by other libraries.

Every row runs in a process of its own; rows take turns over several rounds. A sample counts only if its threads waited
less than 3 % of it for a core; a cell without such a sample shows the least disturbed one, marked with ~.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import tyro

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]
OWN = ("relu", "spikeproof")
PEERS = (
    "spikingjelly-multi",
    "spikingjelly-multi-compiled",
    "spikingjelly-single",
    "norse",
    "norse-compiled",
    "snntorch",
    "snntorch-compiled",
    "sinabs",
    "sinabs-compiled",
)
MAX_WAIT = 0.03


@dataclass(frozen=True)
class Options:
    """Print one table: ms a step, its ratio to the ReLU network in the same precision, peak memory, first step."""

    steps: tuple[int, ...] = (4, 32)
    batch: int = 32
    threads: int = 2
    rounds: int = 3
    samples: int = 4
    """Undisturbed samples to look for in every round."""
    rows: tuple[str, ...] = OWN + PEERS
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    peers_fp32_only: bool = True
    """Leave out the other libraries in bf16."""
    allocator: tuple[Literal["tuned", "glibc"], ...] = ("tuned",)
    peers_python: Path = HERE.parent / "build" / "peers" / "bin" / "python"
    """Made by benchmarks/peers/build.py."""
    limit_s: float = 300.0
    """Leave out a row whose process, compilation included, takes longer than this."""
    json: Path | None = None
    """Also write the samples to this file."""


@dataclass(frozen=True)
class Case:
    """One cell of the comparison."""

    row: str
    precision: str
    allocator: str
    steps: int


@dataclass
class Found:
    """What the rounds of one case brought."""

    first_s: float = 0.0
    peak_mb: float = 0.0
    clean_s: list[float] = field(default_factory=list)
    all: list[tuple[float, float]] = field(default_factory=list)

    @property
    def step_ms(self) -> float:
        """Median of the undisturbed samples, else the sample that waited least."""
        return 1e3 * (statistics.median(self.clean_s) if self.clean_s else min(self.all, key=lambda a: a[1])[0])


def cases(options: Options) -> Iterator[Case]:
    """Every case; the other libraries in float32 only unless asked for."""
    for steps in options.steps:
        for allocator in options.allocator:
            for precision in options.precisions:
                for row in options.rows:
                    if row in PEERS and precision == "bf16" and options.peers_fp32_only:
                        continue
                    yield Case(row, precision, allocator, steps)


def measure(case: Case, options: Options, found: Found, caches: Path) -> None:
    """One round of a case, added to `found`; a row that fails is reported and left out."""
    python = str(options.peers_python) if case.row in PEERS else sys.executable
    numbers = (case.steps, options.batch, options.threads, options.samples)
    command = [python, "-W", "ignore", str(HERE / "worker.py"), case.row, case.precision, case.allocator]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(caches / f"{case.row}-{case.steps}")}
    print(f"{case.row} {case.precision} {case.allocator} T={case.steps}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            [*command, *map(str, numbers)], capture_output=True, text=True, env=environment, timeout=options.limit_s
        )
    except subprocess.TimeoutExpired:
        print(f"{case.row}: not done within {options.limit_s:.0f} s", file=sys.stderr)
        return
    if done.returncode:
        print(f"{case.row}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}", file=sys.stderr)
        return
    result = json.loads(done.stdout.splitlines()[-1])
    if not found.all:
        found.first_s = result["first_s"]
    found.peak_mb = max(found.peak_mb, result["peak_mb"])
    found.all += [(seconds, wait) for seconds, wait, _ in result["samples"]]
    found.clean_s += [seconds for seconds, wait, _ in result["samples"] if wait < MAX_WAIT]


def table(results: dict[Case, Found]) -> str:
    """The table in Markdown."""
    lines = [
        "| row | precision | malloc | T | ms a step | x ReLU | peak MB | x ReLU | first step s | clean samples |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case, found in results.items():
        if not found.all:
            continue
        limit = results.get(Case("relu", case.precision, case.allocator, case.steps), Found())
        time = f"{found.step_ms / limit.step_ms:.2f}" if limit.all else ""
        memory = f"{found.peak_mb / limit.peak_mb:.2f}" if limit.all else ""
        mark = "" if found.clean_s else "~"
        lines.append(
            f"| {case.row} | {case.precision} | {case.allocator} | {case.steps} | {mark}{found.step_ms:.0f} | {time} | "
            f"{found.peak_mb:.0f} | {memory} | {found.first_s:.1f} | {len(found.clean_s)} of {len(found.all)} |"
        )
    return "\n".join(lines)


def main(options: Options) -> None:
    """Run all rounds; print also when interrupted."""
    results = {case: Found() for case in cases(options)}
    try:
        with tempfile.TemporaryDirectory() as caches:
            for _ in range(options.rounds):
                for case, found in results.items():
                    measure(case, options, found, Path(caches))
    finally:  # what was measured before an interruption counts
        print(table(results))
        if options.json:
            rows = [{**asdict(case), **asdict(found)} for case, found in results.items()]
            options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Options))

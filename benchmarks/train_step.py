"""python benchmarks/train_step.py: one training step of the same spiking CNN by this project and by other libraries.

Every row runs in a process of its own; rows take turns over several rounds. A sample counts only if its threads waited
less than 3 % of it for a core; a cell without such a sample shows the least disturbed one, marked with ~.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from benchmarks import rounds  # noqa: E402
from benchmarks.rounds import Found, Job  # noqa: E402

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


def cases(options: Options) -> Iterator[Case]:
    """Every case; the other libraries in float32 only unless asked for."""
    for steps in options.steps:
        for allocator in options.allocator:
            for precision in options.precisions:
                for row in options.rows:
                    if row in PEERS and precision == "bf16" and options.peers_fp32_only:
                        continue
                    yield Case(row, precision, allocator, steps)


def job(case: Case, options: Options, caches: Path) -> Job:
    """How one round of a case is run."""
    python = str(options.peers_python) if case.row in PEERS else sys.executable
    numbers = (case.steps, options.batch, options.threads, options.samples)
    command = [python, "-W", "ignore", str(HERE / "worker.py"), case.row, case.precision, case.allocator]
    return Job(
        f"{case.row} {case.precision} {case.allocator} T={case.steps}",
        [*command, *map(str, numbers)],
        options.limit_s,
        {"TORCHINDUCTOR_CACHE_DIR": str(caches / f"{case.row}-{case.steps}")},
    )


def table(results: Mapping[Case, Found]) -> str:
    """The table in Markdown; the first step is that of the first round, which compiles."""
    lines = [
        "| row | precision | malloc | T | ms a step | x ReLU | peak MB | x ReLU | first step s | clean samples |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    measured = rounds.measured(results)
    for case, found in results.items():
        if case not in measured:
            lines.append(f"| {case.row} | {case.precision} | {case.allocator} | {case.steps} | {found.reason} |")
            continue
        limit = measured.get(Case("relu", case.precision, case.allocator, case.steps))
        time = f"{found.seconds / limit.seconds:.2f}" if limit else ""
        memory = f"{found.peak_mb / limit.peak_mb:.2f}" if limit else ""
        lines.append(
            f"| {case.row} | {case.precision} | {case.allocator} | {case.steps} | {found.mark}{1e3 * found.seconds:.0f}"
            f" | {time} | {found.peak_mb:.0f} | {memory} | {found.said[0]['first_s']:.1f} | {found.counts} |"
        )
    return "\n".join(lines)


def main(options: Options) -> None:
    """Run all rounds; print also when interrupted."""
    with tempfile.TemporaryDirectory() as caches:
        rounds.run(cases(options), options.rounds, lambda case: job(case, options, Path(caches)), table, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))

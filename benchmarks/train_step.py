"""python benchmarks/train_step.py: one training step of the same spiking CNN by this project and by other libraries.

Every row runs in a process of its own; rows take turns over several rounds. A sample counts only if its threads waited
less than 3 % of it for a core; a cell without such a sample shows the least disturbed one, marked with ~.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
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
COLUMNS = (
    "row",
    "input",
    "precision",
    "malloc",
    "T",
    "ms a step",
    "x ReLU",
    "peak MB",
    "x ReLU",
    "first step s",
    "clean",
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
    inputs: tuple[Literal["frames", "image"], ...] = ("frames",)
    """T frames of their own, or one image that is shown at every step (direct coding)."""
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
    input: str


def cases(options: Options) -> Iterator[Case]:
    """Every case; the other libraries in float32 only unless asked for."""
    for steps in options.steps:
        for allocator in options.allocator:
            for precision in options.precisions:
                for row in options.rows:
                    if row in PEERS and precision == "bf16" and options.peers_fp32_only:
                        continue
                    for given in options.inputs:
                        yield Case(row, precision, allocator, steps, given)


def job(case: Case, options: Options, caches: Path) -> Job:
    """How one round of a case is run."""
    python = str(options.peers_python) if case.row in PEERS else sys.executable
    numbers = (case.steps, options.batch, options.threads, options.samples)
    command = [python, "-W", "ignore", str(HERE / "worker.py"), case.row, case.precision, case.allocator, case.input]
    return Job(
        f"{case.row} {case.precision} {case.allocator} {case.input} T={case.steps}",
        [*command, *map(str, numbers)],
        options.limit_s,
        {"TORCHINDUCTOR_CACHE_DIR": str(caches / f"{case.row}-{case.steps}")},
    )


def table(results: Mapping[Case, Found]) -> str:
    """The table in Markdown; the first step is that of the first round, which compiles."""
    lines = [_line(COLUMNS), "|---" * len(COLUMNS) + "|"]
    measured = rounds.measured(results)
    for case, found in results.items():
        what = (case.row, case.input, case.precision, case.allocator, str(case.steps))
        if case not in measured:
            lines.append(_line((*what, found.reason)))
            continue
        limit = measured.get(replace(case, row="relu"))
        time = (f"{found.mark}{1e3 * found.seconds:.0f}", f"{found.seconds / limit.seconds:.2f}" if limit else "")
        memory = (f"{found.peak_mb:.0f}", f"{found.peak_mb / limit.peak_mb:.2f}" if limit else "")
        lines.append(_line((*what, *time, *memory, f"{found.said[0]['first_s']:.1f}", found.counts)))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(options: Options) -> None:
    """Run all rounds; print also when interrupted."""
    with tempfile.TemporaryDirectory() as caches:
        rounds.run(cases(options), options.rounds, lambda case: job(case, options, Path(caches)), table, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))

"""python benchmarks/simulators.py: sample-steps a second of this project's engines, Lava's runtime and others.

Every row runs in a process of its own; rows take turns over several rounds. A sample counts only if its threads waited
less than 3 % of it for a core (for Lava, whose processes wait for each other: if others used less than 3 % of all
cores); a cell without such a sample shows the least disturbed one, marked with ~. What the engines do is the same
everywhere: `tests/` proves them equal, spike for spike. The ReLU network does less, and is the limit.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]
MAX_WAIT = 0.03
ROWS = ("relu", "integer", "torch", "onnx", "reference", "lava")
COLUMNS = (
    "network",
    "row",
    "T",
    "batch",
    "sample-steps/s",
    "x Lava",
    "time x ReLU",
    "CPU ms a batch",
    "firing rate",
    "peak MB",
    "clean samples",
)
STEPS = {"dense": 32, "conv": 32, "resnet-19": 4, "fashion": 4}
BATCH = {"dense": 64, "conv": 64, "resnet-19": 16, "fashion": 10_000}
SLOW = {"reference": 2, "lava": 192}
"""Samples of rows for which a whole batch takes too long, or does not last long enough."""
LEFT_OUT = {
    "resnet-19": ("reference", "lava", "torch"),  # minutes a sample; no PyTorch model of random integers
    "fashion": ("relu", "torch", "onnx", "reference", "lava"),  # for memory
}


@dataclass(frozen=True)
class Options:
    """Print one table: sample-steps a second, ratios to Lava's runtime and to the ReLU network, peak memory."""

    networks: tuple[str, ...] = ("dense", "conv", "resnet-19", "fashion")
    rows: tuple[str, ...] = ROWS
    threads: int = 2
    rounds: int = 3
    samples: int = 4
    """Undisturbed samples to look for in every round."""
    limit_s: float = 300.0
    """Leave out a row whose process takes longer than this."""
    json: Path | None = None
    """Also write the samples to this file."""


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    network: str
    row: str

    @property
    def batch(self) -> int:
        """Samples that are simulated at once."""
        if self.row == "lava" and self.network == "conv":
            return SLOW["lava"] // 6
        return SLOW.get(self.row, BATCH[self.network])

    @property
    def sample_steps(self) -> int:
        """Samples times T."""
        return self.batch * STEPS[self.network]


@dataclass
class Found:
    """What the rounds of one case brought."""

    rate: float = 0.0
    peak_mb: float = 0.0
    clean_s: list[float] = field(default_factory=list)
    all: list[tuple[float, float, float]] = field(default_factory=list)

    @property
    def cpu_s(self) -> float:
        """Median over all samples: what a disturbance changes least."""
        return statistics.median(cpu for _, _, cpu in self.all)

    @property
    def seconds(self) -> float:
        """Median of the undisturbed samples, else the sample that waited least."""
        return statistics.median(self.clean_s) if self.clean_s else min(self.all, key=lambda a: a[1])[0]


def cases(options: Options) -> Iterator[Case]:
    """Every case that is feasible."""
    for network in options.networks:
        for row in options.rows:
            if row not in LEFT_OUT.get(network, ()):
                yield Case(network, row)


def measure(case: Case, options: Options, found: Found) -> None:
    """One round of a case, added to `found`; a row that fails is reported and left out."""
    numbers = (STEPS[case.network], case.batch, options.threads, options.samples)
    command = [sys.executable, "-W", "ignore", str(HERE / "simulator_worker.py"), case.row, case.network]
    print(f"{case.network} {case.row}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run([*command, *map(str, numbers)], capture_output=True, text=True, timeout=options.limit_s)
    except subprocess.TimeoutExpired:
        print(f"{case.row}: not done within {options.limit_s:.0f} s", file=sys.stderr)
        return
    if done.returncode:
        print(f"{case.row}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}", file=sys.stderr)
        return
    result = json.loads(done.stdout.splitlines()[-1])
    found.rate = result["rate"]
    found.peak_mb = max(found.peak_mb, result["peak_mb"])
    found.all += [(seconds, wait, cpu) for seconds, wait, cpu in result["samples"]]
    found.clean_s += [seconds for seconds, wait, _ in result["samples"] if wait < MAX_WAIT]


def table(results: dict[Case, Found]) -> str:
    """The table in Markdown."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    for case, found in results.items():
        if not found.all:
            continue
        pace = case.sample_steps / found.seconds
        relative = {}
        for peer in ("lava", "relu"):
            other, what = Case(case.network, peer), results.get(Case(case.network, peer), Found())
            relative[peer] = pace / (other.sample_steps / what.seconds) if what.all else None
        lava = "" if relative["lava"] is None else f"{relative['lava']:.3g}"
        relu = "" if relative["relu"] is None else f"{1 / relative['relu']:.2f}"
        rate = f"{100 * found.rate:.1f} %" if found.rate else ""
        mark = "" if found.clean_s else "~"
        lines.append(
            f"| {case.network} | {case.row} | {STEPS[case.network]} | {case.batch} | {mark}{pace:,.0f} | {lava} | "
            f"{relu} | {1e3 * found.cpu_s:.0f} | "
            f"{rate} | {found.peak_mb:.0f} | {len(found.clean_s)} of {len(found.all)} |"
        )
    return "\n".join(lines)


def main(options: Options) -> None:
    """Run all rounds; print also when interrupted."""
    results = {case: Found() for case in cases(options)}
    try:
        for _ in range(options.rounds):
            for case, found in results.items():
                measure(case, options, found)
    finally:  # what was measured before an interruption counts
        print(table(results))
        if options.json:
            rows = [{**asdict(case), **asdict(found)} for case, found in results.items()]
            options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Options))

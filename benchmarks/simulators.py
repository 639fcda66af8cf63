"""python benchmarks/simulators.py: sample-steps a second of this project's engines, Lava's runtime and others.

Every row runs in a process of its own; rows take turns over several rounds. A sample counts only if its threads waited
less than 3 % of it for a core (for Lava, whose processes wait for each other: if others used less than 3 % of all
cores); a cell without such a sample shows the least disturbed one, marked with ~. What the engines do is the same
everywhere: `tests/` proves them equal, spike for spike. The ReLU network does less, and is the limit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from benchmarks import rounds  # noqa: E402
from benchmarks.rounds import Found, Job  # noqa: E402

ROWS = ("relu", "integer", "torch", "onnx", "reference", "lava", "lava-models", "nengo-loihi")
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
SLOW = {"reference": 2, "lava": 192, "lava-models": 192, "nengo-loihi": 2}
"""Samples of rows for which a whole batch takes too long, or does not last long enough."""
OTHERS = ("lava", "lava-models", "nengo-loihi")
LEFT_OUT = {
    "resnet-19": ("reference", "torch", *OTHERS),  # minutes a sample; no PyTorch model of random integers
    "fashion": ("relu", "torch", "onnx", "reference", *OTHERS),  # for memory
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
        if self.row in ("lava", "lava-models") and self.network == "conv":
            return SLOW[self.row] // 6
        return SLOW.get(self.row, BATCH[self.network])

    @property
    def sample_steps(self) -> int:
        """Samples times T."""
        return self.batch * STEPS[self.network]


def cases(options: Options) -> Iterator[Case]:
    """Every case that is feasible."""
    for network in options.networks:
        for row in options.rows:
            if row not in LEFT_OUT.get(network, ()):
                yield Case(network, row)


def job(case: Case, options: Options) -> Job:
    """How one round of a case is run."""
    numbers = (STEPS[case.network], case.batch, options.threads, options.samples)
    script = str(HERE / "simulator_worker.py")
    command = [sys.executable, "-W", "ignore", script, case.row, case.network, *map(str, numbers)]
    return Job(f"{case.network} {case.row}", command, options.limit_s)


def table(results: Mapping[Case, Found]) -> str:
    """The table in Markdown."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    measured = rounds.measured(results)
    for case, found in results.items():
        if case not in measured:
            lines.append(f"| {case.network} | {case.row} | {STEPS[case.network]} | {case.batch} | {found.reason} |")
            continue
        pace = case.sample_steps / found.seconds
        relative = {}
        for peer in ("lava", "relu"):
            other = Case(case.network, peer)
            relative[peer] = pace / (other.sample_steps / measured[other].seconds) if other in measured else None
        lava = "" if relative["lava"] is None else f"{relative['lava']:.3g}"
        relu = "" if relative["relu"] is None else f"{1 / relative['relu']:.2f}"
        rate = f"{100 * found.said[-1]['rate']:.1f} %" if found.said[-1]["rate"] else ""
        lines.append(
            f"| {case.network} | {case.row} | {STEPS[case.network]} | {case.batch} | {found.mark}{pace:,.0f} | "
            f"{lava} | {relu} | {1e3 * found.cpu_s:.0f} | {rate} | {found.peak_mb:.0f} | {found.counts} |"
        )
    return "\n".join(lines)


def main(options: Options) -> None:
    """Run all rounds; print also when interrupted."""
    rounds.run(cases(options), options.rounds, lambda case: job(case, options), table, options.json)


if __name__ == "__main__":
    main(tyro.cli(Options))

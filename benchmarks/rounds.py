"""What the benchmarks share: rows in processes of their own that take turns, and which of their samples count.

A worker prints one line of JSON: `samples`, each (seconds, part of them disturbed, CPU seconds), `peak_mb`, more; or
`left_out`, the reason why there are none.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.samples import MAX_WAIT, Sample


@dataclass
class Found:
    """What the rounds of one case brought: samples of all rounds, the rest of every round's line, the last failure."""

    samples: list[Sample] = field(default_factory=list)
    said: list[Mapping[str, Any]] = field(default_factory=list)
    failure: str = ""

    @property
    def reason(self) -> str:
        """Why there is no sample."""
        return self.failure.replace("|", "/") or "not run"

    @property
    def clean_s(self) -> list[float]:
        """Seconds of the undisturbed samples."""
        return [seconds for seconds, wait, _ in self.samples if wait < MAX_WAIT]

    @property
    def seconds(self) -> float:
        """Median of the undisturbed samples, else the sample that waited least."""
        return statistics.median(self.clean_s) if self.clean_s else min(self.samples, key=lambda s: s[1])[0]

    @property
    def cpu_s(self) -> float:
        """Median over all samples: what a disturbance changes least."""
        return statistics.median(cpu for _, _, cpu in self.samples)

    @property
    def peak_mb(self) -> float:
        """The most memory of any round."""
        return max(float(line["peak_mb"]) for line in self.said)

    @property
    def mark(self) -> str:
        """~ where no sample was undisturbed."""
        return "" if self.clean_s else "~"

    @property
    def counts(self) -> str:
        """How many samples counted."""
        return f"{len(self.clean_s)} of {len(self.samples)}"


@dataclass(frozen=True)
class Job:
    """How to run one round of a case; a round that takes longer than `limit_s` is left out, and the table says so."""

    label: str
    command: Sequence[str]
    limit_s: float
    environment: Mapping[str, str] = field(default_factory=dict)


Case = TypeVar("Case")


def measured(results: Mapping[Case, Found]) -> dict[Case, Found]:
    """The cases that have samples."""
    return {case: found for case, found in results.items() if found.samples}


def run(
    cases: Iterable[Case],
    rounds: int,
    job: Callable[[Case], Job],
    table: Callable[[Mapping[Case, Found]], str],
    to: Path | None,
) -> None:
    """Run all rounds and print the table, also when interrupted; write cases and samples to `to` as JSON."""
    results = {case: Found() for case in cases}
    try:
        for _ in range(rounds):
            for case, found in results.items():
                _measure(job(case), found)
    finally:  # what was measured before an interruption counts
        print(table(results))
        if to:
            rows = [{**asdict(case), **asdict(found)} for case, found in results.items()]  # type: ignore[call-overload]
            to.write_text(json.dumps(rows, indent=1))


def _measure(job: Job, found: Found) -> None:
    """One round, added to `found`; one that fails is reported and left out."""
    print(job.label, file=sys.stderr, flush=True)
    line = _line(job)
    taken = [(seconds, wait, cpu) for seconds, wait, cpu in line.pop("samples", [])]
    if not taken:
        found.failure = line.get("left_out", "no sample in its time")
        print(f"{job.label}: {found.failure}", file=sys.stderr)
        return
    found.samples += taken
    found.said.append(line)


def _line(job: Job) -> dict[str, Any]:
    """What a worker says."""
    environment = {**os.environ, **job.environment}
    try:
        done = subprocess.run(job.command, capture_output=True, text=True, env=environment, timeout=job.limit_s)
    except subprocess.TimeoutExpired:
        return {"left_out": f"not done within {job.limit_s:.0f} s"}
    except FileNotFoundError:
        return {"left_out": not_installed(job)}
    if done.returncode:
        return {"left_out": last_line(done.stderr) or "failed"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def not_installed(job: Job) -> str:
    """The reason of a job whose interpreter is not there."""
    return f"not installed: {Path(job.command[0]).parent.parent.name}, see benchmarks/peers/build.py"


def last_line(errors: str) -> str:
    """What a process that failed said at last."""
    return (errors.strip().splitlines() or [""])[-1]

"""python benchmarks/train_step.py: one training step of the same spiking CNN by this project and by other libraries.

For one T and input all rows of this project and of the ReLU network are alive together, each a process of its own; the
rows of other libraries join them one at a time, take their turns with all of them, and leave. A ratio is the median
over the turns of the ratio within a turn. A sample counts only if its threads waited less than 3 % of it for a core; a
time without such a sample is that of the least disturbed one, marked with ~, and has no ratio.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from benchmarks.paired import OWN, PEERS, Case, Ratio, Results, Turns, ratio  # noqa: E402
from benchmarks.rounds import Job  # noqa: E402
from benchmarks.step_bars import bars  # noqa: E402
from benchmarks.turns import Worker, WorkerError  # noqa: E402

COLUMNS = (
    "row",
    "input",
    "precision",
    "malloc",
    "T",
    "ms a step",
    "x ReLU",
    "x this project",
    "peak MB",
    "x ReLU",
    "first step s",
    "clean",
)
COMPILED = ("TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR")  # a row's own: the first of its kind in a run compiles


@dataclass(frozen=True)
class Options:
    """Print one table: ms a step, its ratios to the ReLU network and to this project, peak memory, first step; bars."""

    steps: tuple[int, ...] = (4, 32)
    batch: int = 32
    threads: int = 2
    turns: int = 6
    """Of every row of another library, and of all rows of this project with it."""
    samples: int = 2
    """Steps timed in a turn, after one that is not."""
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
    """Leave out a row that takes longer than this to start, compilation included, or for a turn."""
    json: Path | None = None
    """Also write samples, ratios with their quartiles, and bars to this file."""


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
    """The process of a case."""
    python = str(options.peers_python) if case.peer else sys.executable
    numbers = (case.steps, options.batch, options.threads)
    command = [python, "-W", "ignore", str(HERE / "worker.py"), case.row, case.precision, case.allocator, case.input]
    return Job(
        f"T={case.steps} {case.input} {case.row} {case.precision} {case.allocator}",
        [*command, *map(str, numbers)],
        options.limit_s,
        {variable: str(caches / f"{case.row}-{case.steps}") for variable in COMPILED},
    )


def run(results: Results, turns: int, samples: int, job: Callable[[Case], Job]) -> None:
    """All turns of all cases, added to `results`; a case that fails is reported and left out from there on."""
    begin, peers = time.monotonic(), [case for case in results if case.peer]
    for together in grouped(results):
        numbers = itertools.count()
        with contextlib.ExitStack() as until_all_are_done:
            own = {c: found for c, found in together.items() if not c.peer}
            _say(f"{len(own)} rows of this project and of the ReLU network start: {time.monotonic() - begin:.0f} s")
            stay = _started(own, job, until_all_are_done)
            for peer in (case for case in together if case.peer):
                where = f"{peers.index(peer) + 1} of {len(peers)}, {time.monotonic() - begin:.0f} s"
                _say(f"{job(peer).label}: {where}")
                with contextlib.ExitStack() as until_it_leaves:
                    if guest := _started({peer: together[peer]}, job, until_it_leaves):
                        alive = {case: (stay | guest)[case] for case in together if case in stay | guest}
                        _turns(alive, together, itertools.islice(numbers, turns), samples)
            if next(numbers) == 0:  # nobody came
                _turns(stay, together, range(turns), samples)


def grouped(results: Results) -> list[dict[Case, Turns]]:
    """The cases of one T and input; others are not compared."""
    groups: dict[tuple[int, str], dict[Case, Turns]] = {}
    for case, found in results.items():
        groups.setdefault((case.steps, case.input), {})[case] = found
    return list(groups.values())


def _started(
    wanted: Results, job: Callable[[Case], Job], until: contextlib.ExitStack[bool | None]
) -> dict[Case, Worker]:
    """Those that start, one after the other: a first step has the machine for itself."""
    workers = {}
    for case, found in wanted.items():
        with _reported(case, found):
            worker = until.enter_context(Worker(job(case)))
            found.said.append(worker.started())
            workers[case] = worker
    return workers


def _turns(alive: Mapping[Case, Worker], results: Results, numbers: Iterable[int], samples: int) -> None:
    """Every second turn backwards: a machine that gets slower within a turn then disturbs no ratio one way only."""
    for turn in numbers:
        for case in list(alive)[:: -1 if turn % 2 else 1]:
            found = results[case]
            if not found.failure:
                with _reported(case, found):
                    found.add(turn, alive[case].turn(samples))


@contextlib.contextmanager
def _reported(case: Case, found: Turns) -> Iterator[None]:
    try:
        yield
    except WorkerError as failure:
        found.failure = str(failure)
        _say(f"{case.row} {case.precision} {case.allocator} T={case.steps}: {failure}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def report(results: Results) -> str:
    """Table and bars in Markdown."""
    lines = [_line(COLUMNS), "|---" * len(COLUMNS) + "|"]
    for case, found in results.items():
        what = (case.row, case.input, case.precision, case.allocator, str(case.steps))
        lines.append(_line((*what, *(_figures(case, results) if found.samples else [found.reason]))))
    return "\n".join([*lines, "", *bars(results)])


def _figures(case: Case, results: Results) -> list[str]:
    """The cells of a row that was measured; where it failed later, they say so."""
    found, relu = results[case], results.get(replace(case, row="relu"), Turns())
    return [
        f"{found.mark}{1e3 * found.seconds:.0f}",
        *(f"{against.median:.2f}" if against else "" for against in _ratios(case, results).values()),
        f"{found.peak_mb:.0f}",
        f"{found.peak_mb / relu.peak_mb:.2f}" if relu.samples else "",
        f"{found.said[0]['first_s']:.1f}",
        f"{found.counts}, then {found.reason}" if found.failure else found.counts,
    ]


def _ratios(case: Case, results: Results) -> dict[str, Ratio | None]:
    """Its time against that of the ReLU network and of this project, of the same precision and malloc."""
    rows = {"x_relu": "relu", "x_this_project": "spikeproof"}
    against = {name: results.get(replace(case, row=row), Turns()) for name, row in rows.items()}
    return {name: ratio(results[case], other) for name, other in against.items()}


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_json(results: Results) -> str:
    """Cases, samples, `x_relu` and `x_this_project` (low, median and high quartile, turns), and the bars' lines."""
    rows = []
    for case, found in results.items():
        ratios = {name: against and against._asdict() for name, against in _ratios(case, results).items()}
        rows.append({**asdict(case), **asdict(found), **ratios})
    return json.dumps({"rows": rows, "bars": bars(results)}, indent=1)


def main(options: Options) -> None:
    """Measure; print also when interrupted: what was measured before counts."""
    results = {case: Turns() for case in cases(options)}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as caches:  # compilers may outlive their process
        try:
            run(results, options.turns, options.samples, lambda case: job(case, options, Path(caches)))
        finally:
            print(report(results), flush=True)
            if options.json:
                options.json.write_text(as_json(results))


if __name__ == "__main__":
    main(tyro.cli(Options))

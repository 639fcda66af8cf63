"""What the table of `train_step.py` says about its bars: a line each, for every case of this project."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.paired import Case, Ratio, Results, Turns, ratio

STEP = {4: 1.25, 32: 1.15}  # by T: at most so many times the ReLU network's step
MEMORY = {32: 1.25}  # and its peak memory
OTHERS = 1.8  # at least so many times as fast as other libraries as their users run them
HEAD = ("| bar | measured | |", "|---|---|---|")


def bars(results: Results) -> list[str]:
    """The lines in Markdown, by T and input; none without a row of this project."""
    own = [case for case in results if case.row == "spikeproof"]
    ordered = sorted(own, key=lambda case: (case.steps, case.input))
    lines = [line for case in ordered for line in _of(case, results)]
    return [*HEAD, *lines] if lines else []


def _of(case: Case, results: Results) -> Iterator[str]:
    where = f"T = {case.steps}, {case.input}, {case.precision}, {case.allocator}"
    relu = replace(case, row="relu")
    if case.steps in STEP:
        limit = STEP[case.steps]
        found = _against(case, relu, results)
        met = isinstance(found, Ratio) and found.median <= limit
        yield _line(f"{where}: step at most {limit:g} x ReLU", found, met)
    if case.steps in MEMORY:
        limit = MEMORY[case.steps]
        memory = _memory(case, relu, results)
        met = isinstance(memory, float) and memory <= limit
        yield _line(f"{where}: peak memory at most {limit:g} x ReLU", memory, met)
    peers = [other for other in results if other.peer and replace(other, row=case.row) == case]
    yield _fastest(f"{where}: behind none, at least 1 x this project", 1.0, case, peers, results)
    if case.allocator == "tuned":
        shipped = replace(case, precision="fp32", allocator="glibc")
        peers = [other for other in results if other.peer and replace(other, row=case.row) == shipped]
        bar = f"{where}: other libraries in fp32 with glibc's malloc at least {OTHERS:g} x this project"
        yield _fastest(bar, OTHERS, case, peers, results)


def _against(case: Case, other: Case, results: Results) -> Ratio | str:
    """How much longer `case` takes, or why that is not known."""
    reason = _missing(case, results) or _missing(other, results)
    return reason or ratio(results[case], results[other]) or "no turn in which both were undisturbed"


def _memory(case: Case, other: Case, results: Results) -> float | str:
    reason = _missing(case, results) or _missing(other, results)
    return reason or results[case].peak_mb / results[other].peak_mb


def _missing(case: Case, results: Results) -> str:
    """Why there is nothing of a case; empty if there is."""
    found = results.get(case, Turns(failure="not asked for"))
    return "" if found.samples else f"{case.row}: {found.reason}"


def _fastest(bar: str, limit: float, case: Case, peers: list[Case], results: Results) -> str:
    """The line of a bar that the fastest of the other libraries' rows decides, and how many it is the fastest of."""
    if not peers:
        return _line(bar, "no such row of another library asked for", False)
    found = {peer.row: _against(peer, case, results) for peer in peers}
    measured = {row: each for row, each in found.items() if isinstance(each, Ratio)}
    if not measured:
        return _line(bar, "; ".join(dict.fromkeys(map(str, found.values()))), False)
    row = min(measured, key=lambda name: measured[name].median)
    what = f"fastest of {len(measured)} (of {len(peers)} asked for): {row}, "
    return _line(bar, measured[row], measured[row].median >= limit, what)


def _line(bar: str, found: Ratio | float | str, met: bool, what: str = "") -> str:
    """A string is the reason why nothing was measured."""
    if isinstance(found, str):
        return f"| {bar} | {found} | not measured |"
    if isinstance(found, Ratio):
        measured = f"{found.median:.3f} x ({found.low:.2f} to {found.high:.2f} in {found.turns} turns)"
    else:
        measured = f"{found:.3f} x"
    return f"| {bar} | {what}{measured} | {'met' if met else '**missed**'} |"

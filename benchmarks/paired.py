"""What `train_step.py` compares: cases, their samples turn by turn, and ratios over the turns that two cases share."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.rounds import Found
from benchmarks.samples import MAX_WAIT

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
class Case:
    """One cell of the comparison."""

    row: str
    precision: str
    allocator: str
    steps: int
    input: str

    @property
    def peer(self) -> bool:
        """Whether it is another library's."""
        return self.row in PEERS


@dataclass
class Turns(Found):
    """Found, turn by turn; `pace_s`: of every turn with undisturbed samples, their median in seconds."""

    pace_s: dict[int, float] = field(default_factory=dict)

    def add(self, turn: int, line: Mapping[str, Any]) -> None:
        """What a worker said in a turn."""
        taken = [(seconds, wait, cpu) for seconds, wait, cpu in line["samples"]]
        self.samples += taken
        self.said.append({**line, "turn": turn})
        clean = [seconds for seconds, wait, _ in taken if wait < MAX_WAIT]
        if clean:
            self.pace_s[turn] = statistics.median(clean)


Results = Mapping[Case, Turns]


class Ratio(NamedTuple):
    """Quartiles of a ratio of two paces over the turns that both have."""

    low: float
    median: float
    high: float
    turns: int


def ratio(found: Turns, other: Turns) -> Ratio | None:
    """How much longer one takes than the other; None without a turn in which both were undisturbed.

    The machine's speed in a turn is a factor of both, so it cancels; in the ratio of two overall medians it does not.
    """
    ratios = [pace / other.pace_s[turn] for turn, pace in found.pace_s.items() if turn in other.pace_s]
    if not ratios:
        return None
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0], 1)
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(low, median, high, len(ratios))

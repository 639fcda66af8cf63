"""A simulation in parts: some samples at a time, so that memory does not grow with the data set, and on any process.

Counts of parts add up to those of all samples, so how many there are, and who ran them, makes no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.activity import PopulationActivity
from sim import activity, equivalence, float_model
from sim.equivalence import Comparison
from sim.float_model import LayerAgreement
from sim.probe import Probe

Accuracy = dict[str, tuple[int, int]]  # engine or model -> (correct, samples)


@dataclass(frozen=True, eq=False)
class Part:
    """What some of the samples gave.

    Attributes:
        comparisons: of the integer engine with each of the others.
        populations: what the integer engine sent.
        floats: agreement with the float model, () where there is none.
        probe: where the loss begins; of the first part alone, and only where there is a float model.
    """

    samples: int
    comparisons: tuple[Comparison, ...]
    populations: tuple[PopulationActivity, ...]
    floats: tuple[LayerAgreement, ...]
    probe: Probe | None
    accuracy: Accuracy


def cuts(samples: int, size: int) -> list[slice]:
    """All samples in parts of `size`; the last may be smaller."""
    return [slice(first, min(first + size, samples)) for first in range(0, samples, size)]


def joined(parts: Sequence[Part]) -> Part:
    """One of all samples, from parts in their order."""
    return Part(
        samples=sum(p.samples for p in parts),
        comparisons=tuple(map(equivalence.joined, zip(*(p.comparisons for p in parts), strict=True))),
        populations=activity.joined([p.populations for p in parts]),
        floats=tuple(map(float_model.joined, zip(*(p.floats for p in parts), strict=True))),
        probe=parts[0].probe,
        accuracy={
            name: (sum(p.accuracy[name][0] for p in parts), sum(p.accuracy[name][1] for p in parts))
            for name in parts[0].accuracy
        },
    )

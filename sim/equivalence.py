"""The check that two engines give the same spikes: every population, every step, every sample."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from export.network import LIF, Attention, Driven, Ints, Network, Population
from sim import reference
from sim.recording import Recording
from train.errors import UserError


@dataclass(frozen=True)
class PopulationResult:
    """One population: values compared, spikes among them (None for attention and read-out), values that differ."""

    id: str
    compared: int
    spikes: int | None
    mismatches: int


@dataclass(frozen=True)
class Divergence:
    """Where two engines part for the first time, in machine time, and why as far as the reference machine knows."""

    sample: int
    step: int
    population: str
    neuron: tuple[int, ...]
    text: str

    @property
    def where(self) -> str:
        """How messages name the place; the step counts from the start of the population's window."""
        return f"sample {self.sample}, step {self.step}, population {self.population}, neuron {list(self.neuron)}"


@dataclass(frozen=True)
class Comparison:
    """The result for two engines over the samples that both ran."""

    engines: tuple[str, str]
    samples: int
    steps: int
    populations: tuple[PopulationResult, ...]
    divergence: Divergence | None

    @property
    def equal(self) -> bool:
        """No value differs."""
        return self.divergence is None

    @property
    def spikes(self) -> int:
        """Spikes compared."""
        return sum(p.spikes or 0 for p in self.populations)

    @property
    def difference(self) -> str:
        """One line on where they part first, and why; "" where they are equal."""
        first = self.divergence
        return "" if first is None else f"{' and '.join(self.engines)} differ, first in {first.where}: {first.text}"


def compare(
    network: Network,
    first: Recording,
    second: Recording,
    inputs: Ints | None,
    only: Collection[str] | None = None,
) -> Comparison:
    """Compare two recordings of the same samples; where one has fewer, those at the front.

    Args:
        inputs: int64 [samples, T, *shape], what both engines were given, to explain a divergence; None: unexplained.
        only: ids of the populations to compare, by default all.

    Raises:
        UserError: an engine left out a population, or there is not one spike to compare.
    """
    return checked(network, part(network, first, second, inputs, only))


def part(
    network: Network,
    first: Recording,
    second: Recording,
    inputs: Ints | None,
    only: Collection[str] | None = None,
) -> Comparison:
    """`compare` for a part of the samples, which may be silent.

    Raises:
        UserError: an engine left out a population.
    """
    samples = min(first.samples, second.samples)
    results = []
    differing: dict[str, npt.NDArray[np.bool_]] = {}
    for population in network.populations:
        if not isinstance(population.program, Driven) or not (only is None or population.id in only):
            continue
        ours, theirs = (_values(r, population.id, samples) for r in (first, second))
        expected = (samples, network.steps, *population.shape)
        for engine, values in ((first.engine, ours), (second.engine, theirs)):
            if values.shape != expected:
                raise UserError(f"recorded {values.shape}, expected {expected}", where=f"{engine}, {population.id}")
        differing[population.id] = ours != theirs
        binary = isinstance(population.program, LIF) and not population.readout
        spikes = int(np.count_nonzero(ours)) if binary else None
        mismatches = int(np.count_nonzero(differing[population.id]))
        results.append(PopulationResult(population.id, ours.size, spikes, mismatches))
    engines = (first.engine, second.engine)
    divergence = _first(network, differing, first, second, inputs)
    return Comparison(engines, samples, network.steps, tuple(results), divergence)


def joined(parts: Sequence[Comparison]) -> Comparison:
    """The comparison of all samples, from those of its parts in their order."""
    samples = 0
    divergence: Divergence | None = None
    for found in parts:
        if divergence is None and found.divergence is not None:
            divergence = replace(found.divergence, sample=found.divergence.sample + samples)
        samples += found.samples
    populations = tuple(
        PopulationResult(
            id=same[0].id,
            compared=sum(p.compared for p in same),
            spikes=None if same[0].spikes is None else sum(p.spikes or 0 for p in same),
            mismatches=sum(p.mismatches for p in same),
        )
        for same in zip(*(found.populations for found in parts), strict=True)
    )
    return Comparison(parts[0].engines, samples, parts[0].steps, populations, divergence)


def checked(network: Network, comparison: Comparison) -> Comparison:
    """The comparison itself.

    Raises:
        UserError: there is not one spike to compare.
    """
    if not comparison.spikes and not any(p.mismatches for p in comparison.populations):
        raise UserError(
            f"{comparison.engines[0]} sent no spike at all, so there is nothing to compare",
            where=f"network {network.name}",
            hint="check the inputs and the training; a silent network is equal to any other",
        )
    return comparison


def _values(recording: Recording, population: str, samples: int) -> npt.NDArray[np.bool_] | Ints:
    found = recording.values(population)
    if found is None:
        raise UserError(f"did not record population {population}", where=f"engine {recording.engine}")
    return found[:samples]


def _first(
    network: Network,
    differing: dict[str, npt.NDArray[np.bool_]],
    first: Recording,
    second: Recording,
    inputs: Ints | None,
) -> Divergence | None:
    """The first mismatch by sample, then by machine step, then by distance from the input."""
    candidates = []
    for order, population in enumerate(network.populations):
        if population.id in differing and differing[population.id].any():
            place = tuple(int(i) for i in np.argwhere(differing[population.id])[0])
            candidates.append((place[0], population.sends(network.steps) + place[1], order, place))
    if not candidates:
        return None
    _, _, order, (sample, step, *rest) = min(candidates)
    neuron = tuple(rest)
    population = network.populations[order]
    values = [_values(r, population.id, sample + 1)[(sample, step, *neuron)] for r in (first, second)]
    words = [_word(value, population) for value in values]
    text = f"{first.engine} says {words[0]}, {second.engine} says {words[1]}"
    if inputs is not None:
        text += f"; {_explain(network, population.id, inputs[sample : sample + 1], step, neuron)}"
    return Divergence(sample, step, population.id, neuron, text)


def _word(value: np.bool_ | np.int64, population: Population) -> str:
    if isinstance(value, np.bool_):
        return "spike" if value else "no spike"
    return f"v = {int(value)}" if population.readout else f"a graded spike of {int(value)}"


def _explain(network: Network, name: str, inputs: Ints, step: int, neuron: tuple[int, ...]) -> str:
    """What the reference machine does with that neuron at that step of that sample."""
    population = network.population(name)
    program = population.program
    stream = reference.simulate(network, inputs)
    at = (population.start + step, *neuron)
    if isinstance(program, Attention):
        sent = int(stream.graded[name][(population.sends(network.steps) + step, *neuron)])
        return f"reference: a_in {int(stream.current[name][at])} at this step of the window, sends {sent}"
    assert isinstance(program, LIF)
    bias = int(np.broadcast_to(program.bias, population.shape)[neuron])
    threshold = int(np.broadcast_to(program.threshold, population.shape)[neuron])
    after = int(stream.membrane[name][at])
    spike = "spike" if program.reset == "zero" else f"spike, which leaves v {after - threshold}"
    verdict = "it never fires" if population.readout else (spike if after > threshold else "no spike")
    return (
        f"reference: v {int(stream.before[name][at])} before, a_in {int(stream.current[name][at])}, bias {bias}, "
        f"v {after} after, threshold {threshold}: {verdict}"
    )

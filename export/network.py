"""The integer network: what the chip runs, and all that engines, planner and writers may know of a model.

A network is a synchronous dataflow graph of populations and connections; every connection costs one step, and a
delay of d costs d more. A sample is a window of `steps` steps, and samples follow each other every `period` steps.
Population p sees sample n in machine steps [start_p + n * period, start_p + n * period + steps); machine steps count
from 0. It sends in the same steps, but for attention that waits for its whole window: that sends from sends_p =
start_p + steps on. Within windows a source spike at window step i reaches its target at window step
i + sends_source + 1 + delay - start_target. A connection may lead back, to its own population or to an earlier one:
that is a recurrent network.

Outside its window a population must be silent. Where `period > steps` every LIF population that sends spikes has a
`Gate`: an inhibitory input that holds it below threshold then. State is reset to zero at the start of each window.
Attention takes nothing and sends nothing outside its windows: its program counts the steps.

There is one `Source`, the input, and any number of `Clock`s, which send the same in every window. The parts are in
`export.population`, `export.programs` and `export.connections`, what they must satisfy in `export.validation`.

This module needs numpy alone: no torch, no Lava.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from export import limits
from export.connections import NO_CROP as NO_CROP
from export.connections import Connection as Connection
from export.connections import Convolution as Convolution
from export.connections import Crop as Crop
from export.connections import Dense as Dense
from export.connections import Synapses as Synapses
from export.population import Population as Population
from export.programs import LIF as LIF
from export.programs import Attention as Attention
from export.programs import Clock as Clock
from export.programs import Driven as Driven
from export.programs import Gate as Gate
from export.programs import Ints as Ints
from export.programs import Program as Program
from export.programs import Reset as Reset
from export.programs import Source as Source
from export.validation import validate
from train.errors import UserError


@dataclass(frozen=True)
class LayerRecord:
    """How a population's scale was decided and what the quantisation of its inputs cost; kept for the report.

    Attributes:
        population: its id.
        scale: units of v (a current unit is 64 of them) per unit of the float membrane potential: smallest and largest
            over its channels.
        weight_error: RMS of (quantised - float) weights over RMS of the float ones, each times the largest payload.
        saturated: weights that the search clipped to the ends of the range.
        spike_agreement: fraction of calibration spikes and silences equal to the float model's, window by window; for
            attention 1 - RMS(error of the gains) / RMS(gains), float gains of the same currents beside them.
        current_bound: proved bounds of the current u over all neurons and inputs, gate included, in units of a_in:
            those of a_in itself where the current has no memory, and for attention.
        current_limit: a current below this cannot wrap.
    """

    population: str
    scale: tuple[float, float]
    weight_error: float
    saturated: int
    spike_agreement: float
    current_bound: tuple[int, int]
    current_limit: int = limits.CURRENT_LIMIT

    @property
    def bits_in_use(self) -> int:
        """Bits of the 24-bit current that the proved bound occupies, sign included."""
        peak = max(abs(self.current_bound[0]), abs(self.current_bound[1])) * (limits.STATE_LIMIT // self.current_limit)
        return peak.bit_length() + 1


@dataclass(frozen=True, eq=False)
class Network:
    """Populations and the connections between them. Sources come before their targets, unless a connection leads back.

    Validated on construction against `export.limits`.

    Raises:
        UserError: a name, shape, range, delay or window is not possible; the message names the place.
    """

    name: str
    populations: tuple[Population, ...]
    connections: tuple[Connection, ...]
    steps: int
    period: int
    records: tuple[LayerRecord, ...] = field(default=())

    def __post_init__(self) -> None:
        validate(self.name, self.populations, self.connections, self.steps, self.period)
        ids = {p.id for p in self.populations} | {c.id for c in self.connections}
        unknown = next((record.population for record in self.records if record.population not in ids), None)
        if unknown is not None:
            raise UserError(f"a record names {unknown!r}, which does not exist", where=f"network {self.name}")

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides a spike: two networks with the same digest do the same."""
        content = hashlib.sha256(repr((self.steps, self.period)).encode())
        for population in self.populations:
            content.update(repr((population.id, population.shape, population.start, population.readout)).encode())
            _hash(content, {"program": type(population.program).__name__, **vars(population.program)})
        for connection in self.connections:
            content.update(repr((connection.id, connection.source, connection.target, connection.weight_exp)).encode())
            _hash(content, {**vars(connection.synapses), "delay": connection.delay})
        return content.hexdigest()

    def population(self, population_id: str) -> Population:
        """The population with this id (KeyError if there is none)."""
        for population in self.populations:
            if population.id == population_id:
                return population
        raise KeyError(population_id)

    def loops(self) -> tuple[tuple[Population, ...], ...]:
        """The populations, cut into the shortest runs that no connection leads back out of.

        The order is that of the populations, but that input and clocks, which nothing drives, come first: none of them
        stands between the populations of a loop. A feed-forward population is a run of its own; a run with a loop has
        to be simulated step by step.
        """
        ordered = sorted(self.populations, key=lambda p: isinstance(p.program, Driven))  # stable
        place = {p.id: index for index, p in enumerate(ordered)}
        back = [(place[c.target], place[c.source]) for c in self.connections if place[c.source] >= place[c.target]]
        cuts = [i for i in range(1, len(place)) if not any(first < i <= last for first, last in back)]
        return tuple(tuple(ordered[a:b]) for a, b in zip([0, *cuts], [*cuts, len(place)], strict=True))

    def inputs_of(self, population_id: str) -> tuple[Connection, ...]:
        """The connections that end in a population."""
        return tuple(c for c in self.connections if c.target == population_id)

    @property
    def source(self) -> Population:
        """The input population."""
        return next(p for p in self.populations if isinstance(p.program, Source))

    @property
    def readout(self) -> Population | None:
        """The population whose membrane potential is the network's answer."""
        return next((p for p in self.populations if p.readout), None)

    @property
    def latency(self) -> int:
        """Machine steps from the first input of a sample to the last step of its read-out."""
        return self._last - self.source.start + self.steps

    def machine_steps(self, samples: int) -> int:
        """Machine steps that `samples` back-to-back samples take, until the last population has seen them."""
        return self._last + (samples - 1) * self.period + self.steps

    @property
    def _last(self) -> int:
        """When the last population begins to send, or to be read out."""
        return max(p.sends(self.steps) for p in self.populations)


def _hash(content: hashlib._Hash, values: dict[str, object]) -> None:
    for name, value in sorted(values.items()):
        if isinstance(value, np.ndarray):
            content.update(f"{name}{value.shape}".encode() + np.ascontiguousarray(value, np.int64).tobytes())
        else:
            content.update(repr((name, value)).encode())

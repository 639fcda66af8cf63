"""What a NIR file leaves open, said explicitly: time step, integrator, threshold, reset, and each writer's units.

One step of a LIF, whoever wrote it (a and b are the fractions that membrane and current keep in a step):
    i <- b i + w x        v <- a v + (1 - a) v_leak + g i        spike when v > theta (or v >= theta), then reset
Writers differ in a, b, g and w for the same numbers in the file; `Writer` names the choice, docs/nir.md explains it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from export.graph import Floats
from train.errors import UserError

Integrator: TypeAlias = Literal["euler", "exponential"]
Fires: TypeAlias = Literal["above", "reached"]
Reset: TypeAlias = Literal["zero", "subtract"]
Initial: TypeAlias = Literal["zero", "v_leak", "v_reset"]
Tau: TypeAlias = Literal["seconds", "seconds * dt", "steps"]


@dataclass(frozen=True)
class Writer:
    """How a framework's numbers are meant.

    Attributes:
        integrator: a = 1 - dt / tau, or exp(-dt / tau).
        fires: above the threshold (v > theta), or when it is reached (v >= theta).
        tau: the unit of tau in the file; norse writes dt * tau, sinabs counts steps.
        unit_integrator: IF and I add r x in a step, not dt r x.
        unit_synapse: a CubaLIF's current grows by x in a step, not by (1 - b) w_in x.
        initial: membrane potential at the start of a sample.
        late: the reset is at work in the next step: subtraction then takes theta away after the leak, and a neuron with
            a current, or with recurrent edges, is held at zero for all of that step. A plain LIF that is reset to zero
            does the same either way.
        several: several spikes in one step where v passes the threshold several times.
    """

    name: str
    integrator: Integrator = "euler"
    fires: Fires = "above"
    tau: Tau = "seconds"
    unit_integrator: bool = False
    unit_synapse: bool = False
    initial: Initial = "v_reset"
    late: bool = False
    several: bool = False


WRITERS: dict[str, Writer] = {
    writer.name: writer
    for writer in (
        Writer("nir"),
        Writer("norse", tau="seconds * dt", unit_integrator=True, unit_synapse=True, initial="v_leak"),
        Writer("snntorch", initial="zero", late=True),
        Writer("spikingjelly", fires="reached"),
        Writer("sinabs", "exponential", "reached", "steps", unit_integrator=True, initial="zero", several=True),
    )
}


@dataclass(frozen=True)
class Discretisation:
    """The network that a NIR file means: step in seconds, window steps T, largest raw input, reset rule and writer."""

    dt: float
    steps: int
    levels: int
    reset: Reset = "zero"
    writer: Writer = WRITERS["nir"]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.dt) and self.dt > 0):
            raise UserError(f"--dt {self.dt}, must be a positive number of seconds")
        if self.writer.several:
            raise UserError(
                f"neurons of --writer {self.writer.name} fire several times in one step, those of the chip once",
                hint="train with at most one spike a step (sinabs: spike_fn=SingleSpike), and say --spikes single",
            )

    def kept(self, tau: Floats, where: str, what: str = "tau") -> Floats:
        """The fraction of a state with time constant `tau` (the file's number) that is left after one step.

        Raises:
            UserError: not positive, or shorter than what the Euler integrator can take.
        """
        worst = float(tau.min())
        if worst <= 0:
            raise UserError(f"{what} is {worst:g}, must be positive", where=where)
        steps = tau / {"seconds": self.dt, "seconds * dt": self.dt * self.dt, "steps": 1.0}[self.writer.tau]
        if self.writer.integrator == "exponential":
            return np.asarray(np.exp(-1 / steps))
        kept = np.asarray(1 - 1 / steps)
        kept = np.where(np.abs(kept) < 1e-9, 0.0, kept)  # tau = dt, but for rounding
        if kept.min() < 0:
            raise UserError(
                f"{what} {worst:g} s with --dt {self.dt:g} s gives a leak of {float(kept.min()):g}, below 0",
                where=where,
                hint="a smaller --dt, or --integrator exponential",
            )
        return kept

    def integrator_gain(self, r: Floats) -> Floats:
        """What IF and I add to the membrane potential in one step, for each unit of input."""
        return r if self.writer.unit_integrator else np.asarray(self.dt * r)

    def synapse_gain(self, kept: Floats, w_in: Floats) -> Floats:
        """What the current of a CubaLIF gains in one step, for each unit of input."""
        return np.ones_like(w_in) if self.writer.unit_synapse else np.asarray((1 - kept) * w_in)

    def threshold(self, theta: Floats) -> Floats:
        """The threshold for v > threshold: the next number below where the writer fires at v >= theta."""
        return np.asarray(np.nextafter(theta, -np.inf)) if self.writer.fires == "reached" else theta


@dataclass(frozen=True)
class Meaning:
    """What the user says about a NIR file; None leaves the writer's usual choice."""

    dt: float
    reset: Reset = "zero"
    writer: str = "nir"
    integrator: Integrator | None = None
    fires: Fires | None = None
    reset_at: Literal["once", "late"] | None = None
    spikes: Literal["single"] | None = None

    def discretisation(self, steps: int, levels: int) -> Discretisation:
        """All of it, for windows of `steps` and inputs up to `levels`.

        Raises:
            UserError: a combination that a spiking chip cannot run.
        """
        writer = WRITERS[self.writer]
        if self.integrator is not None:
            writer = replace(writer, integrator=self.integrator)
        if self.fires is not None:
            writer = replace(writer, fires=self.fires)
        if self.reset_at is not None:
            writer = replace(writer, late=self.reset_at == "late")
        if self.spikes == "single":
            writer = replace(writer, several=False)
        return Discretisation(self.dt, steps, levels, self.reset, writer)

"""Fold attention: every gate becomes the mean of its gains on calibration samples.

    y[t] = x[t] gain(x)[t]   becomes   y[t] = x[t] G,   G = mean over samples and steps of gain(x)

Promise: approximate, measured by the spread of each gate's gains around G: over the samples at one step, and of the
steps' means. Where no gate depends on the sample or the step it is exact. What it keeps differs by gate:

* FSTA-SNN: G (1, H, W), a gain for each place; the amplitude gate g_t, one a step, is averaged into it;
* STAA-SNN's global context: G (C, 1, 1), a gain for each channel;
* STAA-SNN's step attention: G (1, 1, 1), one gain for the spikes of all steps.

STAA-SNN's position code is no gate: a clock gives it exactly.

The gains are measured on the network as it was trained, all at once: no gate sees what folding did before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.attention import FrequencyAttention, Gain, GlobalContext, StepAttention, gain
from export.graph import Floats, Graph, Node
from export.interpret import evaluations
from train.errors import UserError


@dataclass(frozen=True, eq=False)
class Gate:
    """One gate, measured.

    Attributes:
        id, origin: of its node.
        kind: of its node.
        mean: G above.
        over_samples: root mean square of gain - (mean over samples), at one step.
        over_steps: root mean square of (mean over samples) - G; the sum of both squares is the error the fold makes.
    """

    id: str
    origin: str
    kind: str
    mean: Floats
    over_samples: float
    over_steps: float


def depends_on_data(node: Node) -> bool:
    """Whether a node is attention that only calibration can make static."""
    return isinstance(node, FrequencyAttention | GlobalContext | StepAttention)


def measure(graph: Graph, calibration: Floats) -> tuple[Gate, ...]:
    """The mean of every gate of a graph, and its spread, on raw inputs [T, B, *shape] in float64.

    Raises:
        UserError: a mean gain that is not positive, which neither threshold nor weight can take; the gate is named.
    """
    gates = []
    for node, inputs, _ in evaluations(graph, calibration):
        if isinstance(node, FrequencyAttention | GlobalContext | StepAttention):
            gates.append(_gate(node, gain(node, inputs[0].astype(np.float64))))
            lowest = float(gates[-1].mean.min())
            if lowest <= 0:
                raise UserError(f"its mean gain is {lowest:.4f}, folding needs one above 0", where=node.where)
    return tuple(gates)


def _gate(node: Node, gains: Floats) -> Gate:
    """`gains` [T, B, ...], with sides of 1 where they are the same."""
    by_step = gains.mean(1, keepdims=True)
    mean = by_step.mean(0, keepdims=True)
    spread = (float(np.sqrt(np.square(part).mean())) for part in (gains - by_step, by_step - mean))
    return Gate(node.id, node.origin, type(node).__name__, mean[0, 0], *spread)


def fold_attention(graph: Graph, gates: Sequence[Gate]) -> Graph:
    """Every measured gate is a `Gain`."""
    means = {gate.id: gate.mean for gate in gates}
    return graph.with_nodes([Gain(n.id, n.origin, n.inputs, means[n.id]) if n.id in means else n for n in graph.nodes])

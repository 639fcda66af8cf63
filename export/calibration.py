"""How many samples the scale search looks at: as many as small networks can have, fewer where each costs a lot."""

from __future__ import annotations

import numpy as np

from export.graph import Graph, Synapse

MOST, FEWEST = 256, 8
BUDGET = 1 << 37  # multiply-accumulates of one run of the network over all of its calibration samples


def affordable_samples(graph: Graph) -> int:
    """Calibration samples that a network of this size takes unless its user asks for another number."""
    return int(np.clip(BUDGET // max(1, multiply_accumulates(graph)), FEWEST, MOST))


def multiply_accumulates(graph: Graph) -> int:
    """Of one sample, over all of its steps, with weights of zero left out."""
    total = 0
    for node in graph.nodes:
        if isinstance(node, Synapse):
            positions = int(np.prod(graph.shapes[node.id][1:]))
            total += int(np.count_nonzero(node.weight)) * positions
    return total * graph.steps

"""How far each channel of a population can be scaled before its current or its bias has no room left on the chip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export import proof
from export.graph import Floats, Shape
from export.terms import Term
from train.quantise.coding import CURRENT_SHARE, largest_scale

HALVINGS = 6  # how far a channel whose current could wrap is scaled down before its layer is refused


def needs(terms: Sequence[Term], payloads: Sequence[proof.Payload], shapes: Sequence[Shape]) -> Floats:
    """(C,) the largest current of each channel to either side, in units of the float membrane potential."""
    low, high = (np.sum(side, axis=0) for side in zip(*map(_channels, terms, shapes, payloads), strict=True))
    return np.asarray(np.maximum(-low, high))


def _channels(term: Term, shape: Shape, payload: proof.Payload) -> tuple[Floats, Floats]:
    low, high = proof.extremes(term.synapse, shape, payload)
    return low.reshape(len(low), -1).min(1), high.reshape(len(high), -1).max(1)


def widest_scales(
    terms: Sequence[Term],
    payloads: Sequence[proof.Payload],
    shapes: Sequence[Shape],
    bias: Floats,
    gated: bool,
    full: Floats,
) -> Floats | None:
    """(C,) units of a_in per unit of the float membrane potential; half of the current is left to a gate.

    None: a channel's current leaves its weights less than 2^-HALVINGS of their range, the scale `full`. A bias may:
    what it leaves no range to is small beside it.
    """
    limit = CURRENT_SHARE if gated else 2 * CURRENT_SHARE
    need = needs(terms, payloads, shapes)
    if bool((largest_scale(need, 0 * need, limit) < full / (1 << HALVINGS)).any()):
        return None
    return largest_scale(need, np.abs(bias).reshape(len(bias), -1).max(1), limit)

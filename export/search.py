"""The scale search: for each population, the scales whose integers fire most like the float model.

Layers are searched in order, each fed by the integer spikes of the layers before it, so that a later layer can make up
for what an earlier one lost. A candidate maps the largest weight of a channel to `factor` times the top of the range;
factors above 1 clip a few large weights to give the many small ones finer steps. The score is the number of spikes
and silences that differ from the float model's on calibration samples, then the weight error. Channels are judged
apart from each other, and in rounds: few samples decide which factors of a channel are worth a look at more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from export import limits, quantise
from export.candidate import Integers, Output, exponents, integers, program, respond, rounded
from export.graph import Accumulate, Floats, Gating, Neuron
from export.headroom import HALVINGS, widest_scales
from export.interpret import Reals
from export.layer import Layer, Spikes, part
from export.network import Ints, LayerRecord
from export.quantise import Granularity, PerChannel, Signed, Weights
from train.errors import UserError
from train.kernels import scores

FACTORS = tuple(np.round(np.geomspace(0.75, 1.6, 40), 4))
# values of each channel that a round looks at, and the factors that stay
ROUNDS = ((1 << 10, 12), (1 << 12, 5), (1 << 16, 1))


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen for a population, and what it lost."""

    integers: Integers
    record: LayerRecord


def search(layer: Layer, grid: Signed, granularity: Granularity) -> tuple[Choice, Output]:
    """Choose the integers of one population; also what they answer.

    Raises:
        UserError: no scale keeps its current within 24 bits; the message names the layer.
    """
    node = layer.node
    assert not isinstance(node, Gating)
    if node.scale is not None:
        return _given(layer, node.scale, grid)
    scales = _channel_scales(layer, grid, granularity)
    for power in range(grid.largest_exponent, -HALVINGS - 1, -1):
        top = scales * grid.largest * 2.0**power
        if integers(layer, top * FACTORS[-1], top, grid) is not None:  # the largest factor is the hardest to prove
            apart = isinstance(granularity, PerChannel) and isinstance(node, Neuron)
            found = [(*_best(layer, t, grid, apart), t) for t in (top, *(_levelled(layer, top, grid) if apart else ()))]
            _, scale, top = min(found, key=lambda item: item[0])
            return _choice(layer, scale, top, grid)
    raise _refused(node)


def _levelled(layer: Layer, top: Floats, grid: Signed) -> Iterator[Floats]:
    """Smaller scales for the channels that fill the grid, so that those which lack the room come closer to filling it.

    All channels of a layer share its exponents. Weights of fewer than 8 bits have finer grids left, at the price of
    coarser thresholds, so the search looks at each.
    """
    full = grid.largest / layer.peaks
    for exponent in range(-1, grid.smallest_exponent - 1, -1):
        level = full * 2.0**exponent
        if not (top < 2 * level).any():
            continue  # every channel fills the grid without it
        yield np.minimum(top, level)
        if (top >= level).all():
            return


def _refused(node: Neuron | Accumulate) -> UserError:
    return UserError(
        f"its current can leave the 24 bits of the chip's state at every scale down to 2^-{HALVINGS} of full range",
        where=node.where,
        hint="fewer inputs per neuron, fewer input levels, or a smaller bias or time window",
    )


def _given(layer: Layer, scale: Floats, grid: Signed) -> tuple[Choice, Output]:
    """The integers of a population that was trained in them: nothing is searched, the proof still has to hold."""
    chosen = integers(layer, scale, scale, grid)
    if chosen is None:
        raise UserError(
            "its current can leave the 24 bits of the chip's state, at the scale it was trained at",
            where=layer.node.where,
            hint="the checkpoint was changed since it was trained with --quantize",
        )
    # the trained model is these integers, so its own output is what they agree with; `sim` holds the two together
    output = _run(layer, chosen)
    unit = scale * (1 << limits.STATE_SHIFT)
    target = output / unit if isinstance(layer.node, Accumulate) else output
    return Choice(chosen, _record(replace(layer, target=target), chosen, output)), output


def _channel_scales(layer: Layer, grid: Signed, granularity: Granularity) -> Floats:
    """(C,) units of a_in per unit of the float potential that map the largest weight to 1.

    Less for a channel whose bias or current has no room for that: it alone is scaled down then, not its whole layer.
    """
    if isinstance(granularity, PerChannel) and isinstance(layer.node, Neuron):
        shapes = [x.shape[2:] for x in layer.inputs]
        full = grid.largest / layer.peaks
        widest = widest_scales(layer.terms, layer.payloads, shapes, layer.bias, layer.gated, full)
        if widest is None:
            raise _refused(layer.node)
        return np.asarray(np.minimum(full, widest / FACTORS[-1]) / grid.largest)
    return np.full_like(layer.peaks, 1 / layer.peaks.max())  # classes of a read-out must stay comparable


def _best(layer: Layer, top: Floats, grid: Signed, apart: bool) -> tuple[float, Floats]:
    """What it loses, and the best scale of each channel, (C,); one for all of them unless they are `apart`."""
    channels = np.arange(len(top))
    shifts = exponents(layer, top, grid)
    assert shifts is not None, "the largest factor was proved"
    scales = np.outer(FACTORS, top)
    for values, stay in ROUNDS:
        samples = _samples(layer, values)
        inputs, target = part(layer, samples)
        scored = [_score(layer, scale, shifts, grid, inputs, target) for scale in scales]
        wrong, error = (np.stack(column) for column in zip(*scored, strict=True))
        if not apart:
            wrong, error = (np.broadcast_to(x.sum(1, keepdims=True), x.shape) for x in (wrong, error))
        order = np.lexsort((error, wrong), axis=0)
        scales, lost = scales[order[:stay], channels], float(wrong[order[0], channels].sum()) / len(samples)
        if len(samples) == layer.target.shape[1]:
            break  # another round would see the same
    return lost, np.asarray(scales[0])


def _samples(layer: Layer, values: int) -> Ints:
    """Calibration samples, evenly spread, that show `values` spikes or silences of each channel (or all there are)."""
    per_sample = layer.steps * int(np.prod(layer.shape[1:]))
    count = layer.target.shape[1]
    wanted = min(count, -(-values // per_sample))
    chosen: Ints = np.arange(wanted) * count // wanted
    return chosen


def _score(
    layer: Layer,
    scale: Floats,
    shifts: tuple[int, ...],
    grid: Signed,
    inputs: tuple[Spikes, ...],
    target: Spikes | Reals,
) -> tuple[Floats, Floats]:
    """(C,) spikes that differ from the float model's, and squared weight errors in float units.

    For the read-out one squared error for all. What the proof allows at the largest factor it allows at every other.
    """
    neuron = program(layer, scale, grid)
    assert neuron is not None, "the largest factor was proved"
    drafts = [rounded(t.synapse.weight, scale, e, grid) for t, e in zip(layer.terms, shifts, strict=True)]
    weights, errors = zip(*drafts, strict=True)
    output = respond(layer, weights, neuron, inputs)
    return _mismatches(layer, scale, output, target), np.sum(errors, axis=0)


def _mismatches(layer: Layer, scale: Floats, output: Output, target: Spikes | Reals) -> Floats:
    channels = len(layer.peaks)
    if isinstance(layer.node, Accumulate):
        unit = scale.reshape(1, 1, -1) * (1 << limits.STATE_SHIFT)
        return np.full(channels, np.square(output[-1:] / unit - target[-1:]).sum() / channels)
    return scores.differing(output, target).astype(np.float64)


def _choice(layer: Layer, scale: Floats, top: Floats, grid: Signed) -> tuple[Choice, Output]:
    chosen = integers(layer, scale, top, grid)
    if chosen is None:  # channels are independent, so what each candidate satisfies, their mixture does: not reached
        raise UserError("the scales of its channels cannot be combined", where=layer.node.where)
    return choice_of(layer, chosen)


def choice_of(layer: Layer, chosen: Integers) -> tuple[Choice, Output]:
    """Chosen integers with what they lost, and what they answer."""
    output = _run(layer, chosen)
    return Choice(chosen, _record(layer, chosen, output)), output


def _run(layer: Layer, chosen: Integers) -> Output:
    weights = [(w.values << w.exponent).astype(np.float32) for w in chosen.weights]
    return respond(layer, weights, chosen.program, layer.inputs)


def weight_error(layer: Layer, weights: Sequence[Weights], scale: Floats) -> float:
    """RMS of (quantised - float) weights over RMS of the float weights, each times the largest that it may weigh."""
    lost = total = 0.0
    for term, w, payload in zip(layer.terms, weights, layer.payloads, strict=True):
        back = (w.values << w.exponent) / quantise.rows(scale, w.values.ndim)
        lost += float(np.square((back - term.synapse.weight) * payload.peak).sum())
        total += float(np.square(term.synapse.weight * payload.peak).sum())
    return float(np.sqrt(lost / total))


def _record(layer: Layer, chosen: Integers, output: Output) -> LayerRecord:
    if isinstance(layer.node, Accumulate):
        agreement = np.mean(output[-1].argmax(-1) == layer.target[-1].argmax(-1))
    else:
        agreement = np.mean(output == layer.target)
    per_volt = chosen.scale * (1 << limits.STATE_SHIFT)
    return LayerRecord(
        population=layer.node.id,
        scale=(float(per_volt.min()), float(per_volt.max())),
        weight_error=weight_error(layer, chosen.weights, chosen.scale),
        saturated=sum(w.saturated for w in chosen.weights),
        spike_agreement=float(agreement),
        current_bound=chosen.bound,
    )

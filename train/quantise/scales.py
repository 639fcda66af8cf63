"""The numbers of one population: its scale, its exponents, and the shares of the 24-bit current its inputs may take.

A LIF with hard reset does the same at every scale, so each channel has its own (all classes of a read-out share one):
the largest at which its weights fill the grid and its current keeps clear of 24 bits. How far the sums of weights
may grow while they are trained is fixed here too: within these limits the overflow proof of the export holds, so a
network that was trained cannot be refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from train.errors import UserError
from train.quantise import limits
from train.quantise.grid import Signed
from train.quantise.integers import finest_exponent
from train.quantise.reach import reach
from train.quantise.straight_through import weight_values

# A gate as strong as the highest current comes on top of the lowest one: each may have a little less than half.
SPIKING_LIMIT = 63_000
BIAS_LIMIT = (limits.BIAS_MANT_RANGE[1] << limits.BIAS_EXP_RANGE[1]) >> limits.STATE_SHIFT
READOUT_LIMIT = 0.98 * limits.VTH_LIMIT  # over the window, so that it can neither fire nor clip
HEADROOM = 1.25  # for training: how much the sums may still grow
BIAS_SHARE, TERM_SHARE = 0.05, 0.01  # of the current, at least
FACTORS = (1.0, *(0.75 * 1.06**i for i in range(25)))  # 1 first: it always fits
LARGEST_EXPONENT = 4  # as in the export's search: beyond it, finer thresholds and shortcuts gain nothing
SMALLEST_PEAK = 1e-3  # channels this far below the largest of their layer do not decide its exponent


@dataclass(frozen=True, eq=False)
class Term:
    """One layer into a population. float64.

    weight: [O, I, ...] (or (C,)) as it meets what really arrives, of the first O channels where others have none; low,
    high: (I,), the smallest and the largest value that arrives; halves: columns of `weight` with an exponent of their
    own.
    """

    weight: Tensor
    low: Tensor
    high: Tensor
    halves: tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Scaled:
    """scale (O,); for each term its units, one for each half, and its limit (O,); the bias's limit (O,)."""

    scale: Tensor
    units: tuple[tuple[float, ...], ...]
    limits: tuple[Tensor, ...]
    bias_limit: Tensor


def scaled(
    terms: tuple[Term, ...], bias: Tensor, threshold: float | None, steps: int, grid: Signed, where: str
) -> Scaled:
    """Choose the numbers of a population; without threshold it is the read-out.

    Raises:
        UserError: all weights are zero, or a connection needs an exponent that the chip does not have.
    """
    total = SPIKING_LIMIT if threshold is not None else READOUT_LIMIT / steps
    needs = [_for_all(reach(term.weight, term.low, term.high), bias) for term in terms]
    biases = bias.abs().reshape(len(bias), -1).amax(1)
    need = torch.stack(needs).sum(0)
    peak = torch.stack([_for_all(_by_row(term.weight).abs().amax(1), bias) for term in terms]).amax(0)
    if not bool(peak.any()):
        raise UserError("every weight into it is zero", where=where, hint="train longer before --quantize takes over")
    peak = peak.clamp(min=SMALLEST_PEAK * float(peak.max()))
    # the shares below add 5 % for the bias and 1 % for each term, which the scale must leave room for
    room = total / HEADROOM / (1 + BIAS_SHARE + TERM_SHARE * len(terms))
    most = torch.minimum(room / (need + biases).clamp(min=1e-12), BIAS_LIMIT / HEADROOM / biases.clamp(min=1e-12))
    if threshold is not None:
        most = most.clamp(max=(limits.VTH_LIMIT - 1) / threshold)
    scale = _largest(grid.largest / peak, most)
    if threshold is None:
        scale = scale.min().expand(len(scale)).clone()
    whole = (need + biases).clamp(min=1e-12)
    shares = [n / whole + TERM_SHARE for n in needs] + [biases / whole + BIAS_SHARE]
    parts = [total * share / torch.stack(shares).sum(0) for share in shares]
    units = tuple(
        tuple(_unit(_by_row(part), scale, grid, where) for part in _parts(term.weight, term.halves)) for term in terms
    )
    scale = _clipping(terms, scale, units, most, grid, shared=threshold is None)
    return Scaled(scale, units, tuple(parts[:-1]), parts[-1].clamp(max=BIAS_LIMIT))


def _clipping(
    terms: tuple[Term, ...],
    scale: Tensor,
    units: tuple[tuple[float, ...], ...],
    most: Tensor,
    grid: Signed,
    shared: bool,
) -> Tensor:
    """The scale times the factor of the smallest squared error: above 1 clips a few weights for finer steps of all."""
    best, chosen = torch.full_like(scale, torch.inf), scale
    for factor in FACTORS:
        candidate = scale * factor
        error = torch.zeros_like(scale)
        for term, steps in zip(terms, units, strict=True):
            for part, unit in zip(_parts(term.weight, term.halves), steps, strict=True):
                weight, per_unit = _by_row(part), candidate[: len(part)].view(-1, 1)
                values = weight_values(weight, per_unit, torch.full_like(per_unit, unit), grid)
                error[: len(part)] += (values * unit / per_unit - weight).square().sum(1)
        error = error.sum().expand_as(error) if shared else error
        fits = (candidate <= most).all().expand_as(most) if shared else candidate <= most
        better = (error < best) & fits
        best, chosen = torch.where(better, error, best), torch.where(better, candidate, chosen)
    return chosen


def _by_row(weight: Tensor) -> Tensor:
    return weight.reshape(len(weight), -1)


def _for_all(values: Tensor, bias: Tensor) -> Tensor:
    """One value for each channel; 0 for those beyond a term's rows."""
    return torch.cat([values, values.new_zeros(len(bias) - len(values))])


def _largest(full: Tensor, most: Tensor) -> Tensor:
    """`full`, at which a channel fills the grid, times the largest power of two that no channel forbids; or `most`."""
    for exponent in range(LARGEST_EXPONENT, 0, -1):
        if bool((full * 2.0**exponent <= most).all()):
            return full * 2.0**exponent
    return torch.minimum(full, most)


def _parts(weight: Tensor, halves: tuple[slice, ...]) -> list[Tensor]:
    return [weight[:, half] for half in halves] if weight.ndim > 1 else [weight]


def _unit(weight: Tensor, scale: Tensor, grid: Signed, where: str) -> float:
    exponent = finest_exponent(float((weight.abs().amax(1) * scale[: len(weight)]).max()), grid)
    if exponent is None:
        raise UserError(
            "a weight into it is too large beside the others for any exponent of the chip",
            where=where,
            hint="train longer before --quantize takes over",
        )
    return 2.0**exponent

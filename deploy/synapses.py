"""Counting synapses without expanding them: fan-in, fan-out, and which axons a block of neurons needs.

A synapse is a nonzero weight between one source neuron and one target neuron. A convolution is counted through three
small matrices, one an axis, because its window of rows does not depend on its window of columns or on the channel.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from export.network import Connection, Convolution, Dense, Ints, Population

Mask = npt.NDArray[np.bool_]


def grid(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """A population's shape as (channels, rows, columns); (N,) is N channels of one neuron."""
    channels, rows, columns = (*shape, 1, 1)[:3]
    return channels, rows, columns


def taps(synapses: Convolution, axis: int, source_side: int, target_side: int) -> Mask:
    """bool [kernel, target side, source side]: kernel tap k of target position t reads source position s."""
    kernel = synapses.weight.shape[2 + axis]
    position = (
        np.arange(target_side)[None, :] * synapses.stride[axis]
        - synapses.padding[axis]
        + np.arange(kernel)[:, None] * synapses.dilation[axis]
    )
    sources = np.arange(source_side)
    first, end = synapses.crop[axis][0], source_side - synapses.crop[axis][1]
    mask: Mask = (position[:, :, None] == sources) & (sources >= first) & (sources < end)
    return mask


def _both_taps(synapses: Convolution, source: Population, target: Population) -> tuple[Ints, Ints]:
    rows, columns = (taps(synapses, axis, source.shape[1 + axis], target.shape[1 + axis]) for axis in (0, 1))
    return rows.astype(np.int64), columns.astype(np.int64)


def fan_out(connection: Connection, source: Population, target: Population) -> Ints:
    """int64 [*source.shape]: the synapses that one event of each source neuron drives."""
    synapses = connection.synapses
    if isinstance(synapses, Dense):
        counts: Ints = np.count_nonzero(synapses.weight, axis=0).reshape(source.shape)
        return counts
    rows, columns = _both_taps(synapses, source, target)
    nonzero = (synapses.weight != 0).astype(np.int64)
    per_group = nonzero.reshape(synapses.groups, -1, *nonzero.shape[1:]).sum(1)
    per_channel = per_group.reshape(source.shape[0], *nonzero.shape[2:])
    spread: Ints = np.einsum("ckl,ky,lx->cyx", per_channel, rows.sum(1), columns.sum(1), optimize=True)
    return spread


def fan_in(connection: Connection, source: Population, target: Population) -> Ints:
    """int64 [*target.shape]: the synapses that end in each target neuron."""
    synapses = connection.synapses
    if isinstance(synapses, Dense):
        counts: Ints = np.count_nonzero(synapses.weight, axis=1).reshape(target.shape)
        return counts
    rows, columns = _both_taps(synapses, source, target)
    per_channel = (synapses.weight != 0).sum(1, dtype=np.int64)
    gathered: Ints = np.einsum("okl,ky,lx->oyx", per_channel, rows.sum(2), columns.sum(2), optimize=True)
    return gathered


def unique_weights(connection: Connection) -> Ints:
    """int64 [output channels]: nonzero weights stored once for each output channel (dense: the same as fan-in)."""
    weight = connection.synapses.weight
    counts: Ints = np.count_nonzero(weight.reshape(weight.shape[0], -1), axis=1)
    return counts


def reach(connection: Connection, source: Population, target: Population) -> tuple[Mask, Mask, Mask]:
    """Per axis, bool [target side, source side]: the target position may read the source position.

    A target neuron reads at most the product of its three rows; for a dense connection, and for kernels with zeros,
    that product counts some source neurons too many, never one too few.
    """
    synapses = connection.synapses
    to, fro = grid(target.shape), grid(source.shape)
    if isinstance(synapses, Dense):
        spread = synapses.weight.reshape(to[0], to[1] * to[2], fro[0], fro[1] * fro[2])
        return np.any(spread, axis=(1, 3)), np.ones((to[1], fro[1]), dtype=bool), np.ones((to[2], fro[2]), dtype=bool)
    used = np.any(synapses.weight, axis=(2, 3))
    channels = np.zeros((to[0], fro[0]), dtype=bool)
    for group in range(synapses.groups):
        outputs = slice(group * used.shape[0] // synapses.groups, (group + 1) * used.shape[0] // synapses.groups)
        channels[outputs, group * used.shape[1] : (group + 1) * used.shape[1]] = used[outputs]
    rows = taps(synapses, 0, fro[1], to[1])
    columns = taps(synapses, 1, fro[2], to[2])
    return channels, np.any(rows, axis=0), np.any(columns, axis=0)

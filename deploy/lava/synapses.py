"""A connection as matrices between flattened populations (C order), the form in which Lava's Sparse takes it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from export.network import Connection, Convolution, Ints, Population


def convolution_matrix(synapses: Convolution, source: tuple[int, ...]) -> csr_matrix:
    """The cross-correlation as an int32 matrix (O * H' * W', C * H * W); zero weights are left out.

    Output (o, y, x) reads input (c, y * stride - padding + ky * dilation, likewise in x) for the channels c of its
    group.
    """
    _, height, width = source
    outputs, out_height, out_width = synapses.output_shape(source)
    weight = synapses.weight
    group_inputs, kernel_height, kernel_width = weight.shape[1:]
    o, i, ky, kx, y, x = np.ogrid[:outputs, :group_inputs, :kernel_height, :kernel_width, :out_height, :out_width]
    row = y * synapses.stride[0] - synapses.padding[0] + ky * synapses.dilation[0]
    column = x * synapses.stride[1] - synapses.padding[1] + kx * synapses.dilation[1]
    channel = o // (outputs // synapses.groups) * group_inputs + i
    weights = weight.astype(np.int32)[..., None, None]
    (top, bottom), (left, right) = synapses.crop
    exists = (row >= top) & (row < height - bottom) & (column >= left) & (column < width - right) & (weights != 0)
    values, targets, sources = (
        np.broadcast_to(part, exists.shape)[exists]
        for part in (weights, (o * out_height + y) * out_width + x, (channel * height + row) * width + column)
    )
    return csr_matrix((values, (targets, sources)), shape=(outputs * out_height * out_width, int(np.prod(source))))


def synapse_count(synapses: Convolution, source: tuple[int, ...]) -> int:
    """Entries of `convolution_matrix`, those that fall into the padding and zero weights included."""
    _, out_height, out_width = synapses.output_shape(source)
    return int(synapses.weight.size) * out_height * out_width


def delay_of_inputs(connection: Connection, source: Population) -> Ints:
    """The delay of every source neuron, int64 (size,), from that of its channel."""
    delay: Ints = np.repeat(connection.delay, source.size // source.shape[0])
    return delay


def delay_matrix(weights: csr_matrix, delay: Ints) -> csr_matrix:
    """The delay of every synapse in `weights`, int64; a delay of 0 is no entry, as DelaySparse expects."""
    delays = weights.astype(np.int64)  # a copy: eliminate_zeros rearranges the indices in place
    delays.data = delay[delays.indices]
    delays.eliminate_zeros()
    return delays


def flipped_kernel(synapses: Convolution, exponent: int) -> npt.NDArray[np.int32]:
    """The kernel as Lava's Conv wants it, (O, kW, kH, I / groups).

    Conv is a true convolution in W-H-C order, so the kernel is flipped in both directions; its fixed-point model
    ignores `weight_exp`, so the weights are shifted here (exact, since exponents are not negative).
    """
    kernel = synapses.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1) << exponent
    return np.ascontiguousarray(kernel, dtype=np.int32)

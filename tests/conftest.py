"""Fixtures that several tests share."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import settings

from export.network import LIF, Connection, Convolution, Dense, Gate, Network, Population, Source

pytest_plugins = ["sim.pytest_plugin"]

settings.register_profile("ci", derandomize=True, deadline=None)  # the same examples every time; elsewhere new ones
if os.environ.get("CI"):
    settings.load_profile("ci")


def ints(values: object) -> np.ndarray:
    """An int64 array, the dtype of every array in a network."""
    return np.asarray(values, dtype=np.int64)


def temporal_shift_network(seed: int = 0, steps: int = 4) -> Network:
    """Graded 8x8 input -> conv 4 -> temporal-shift conv 4, stride 2 -> dense read-out 10, with one guard step."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        return ints(2 * rng.integers(-60, 61, shape))

    def lif(vth: int, bias: np.ndarray) -> LIF:
        return LIF(du=4095, dv=3072, vth=ints(vth), bias_mant=ints(bias), bias_exp=7, gate=Gate(256, 8))

    present, side = ints([1, 1, 1, 1]), ints([0, 0, 2, 1])
    side_weight = weights(4, 4, 3, 3) * ints([1, 1, 1, 0]).reshape(1, 4, 1, 1)
    half = {"stride": (2, 2), "padding": (1, 1)}
    return Network(
        name="shift",
        steps=steps,
        period=steps + 1,
        populations=(
            Population("input", "", (1, 8, 8), 1, Source(payload_bits=5)),
            Population("conv1", "layers.0", (4, 8, 8), 2, lif(1500, rng.integers(-999, 999, (4, 1, 1)))),
            Population("conv2", "layers.1", (4, 4, 4), 4, lif(200, rng.integers(-999, 999, (4, 1, 1)))),
            Population(
                "readout",
                "head",
                (10,),
                5,
                LIF(du=4095, dv=0, vth=ints(131071), bias_mant=ints(rng.integers(-99, 99, 10)), bias_exp=0),
                readout=True,
            ),
        ),
        connections=(
            Connection(
                "input-conv1", "", "input", "conv1", Convolution(weights(4, 1, 3, 3), (1, 1), (1, 1)), 0, ints([0])
            ),
            Connection("conv1-conv2", "", "conv1", "conv2", Convolution(weights(4, 4, 3, 3), **half), 1, present),
            Connection("conv1-conv2.shift", "", "conv1", "conv2", Convolution(side_weight, **half), 0, side),
            Connection("conv2-readout", "", "conv2", "readout", Dense(weights(10, 64)), 0, ints([0] * 4)),
        ),
    )


def recurrent_network(seed: int, steps: int = 4) -> Network:
    """Input (2, 4, 4) -> a, conv onto itself -> b, conv onto itself -> read-out, and b back to a three steps later.

    The 3 x 3 convolutions do not read the last row and the first column.
    """
    rng = np.random.default_rng(seed)

    def connection(name: str, kernel: int, most: int, source: str, target: str) -> Connection:
        channels = 2 if source == "input" else 3
        weight = ints(2 * rng.integers(-40, 48, (3, channels, kernel, kernel)))
        crop = ((0, 1), (1, 0)) if kernel == 3 else ((0, 0), (0, 0))
        synapses = Convolution(weight, (1, 1), (kernel // 2, kernel // 2), crop=crop)
        return Connection(name, "", source, target, synapses, 0, ints(rng.integers(0, most, channels)))

    def lif() -> LIF:
        vth, bias = ints(rng.integers(60, 200, (3, 1, 1))), ints(rng.integers(-99, 999, (3, 1, 1)))
        return LIF(du=4095, dv=int(rng.integers(0, 4096)), vth=vth, bias_mant=bias, bias_exp=2, gate=Gate(256, 8))

    readout = LIF(du=4095, dv=0, vth=ints(131071), bias_mant=ints(0), bias_exp=0)
    return Network(
        name="recurrent",
        steps=steps,
        period=steps + 3,
        populations=(
            Population("input", "", (2, 4, 4), 3, Source(payload_bits=3)),
            Population("a", "", (3, 4, 4), 4, lif()),
            Population("b", "", (3, 4, 4), 6, lif()),
            Population("readout", "", (2,), 7, readout, readout=True),
        ),
        connections=(
            connection("in", 3, 1, "input", "a"),
            connection("a-a", 1, 3, "a", "a"),
            connection("a-b", 3, 5, "a", "b"),
            connection("b-b", 3, 3, "b", "b"),
            connection("b-a", 1, 1, "b", "a"),
            Connection("out", "", "b", "readout", Dense(ints(2 * rng.integers(-60, 60, (2, 48)))), 0, ints([0] * 3)),
        ),
    )


@pytest.fixture
def shift_network() -> Network:
    return temporal_shift_network()


def digits_like_inputs(samples: int, network: Network, seed: int = 0) -> np.ndarray:
    """Constant graded images, int64 [samples, T, C, H, W]."""
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 17, (samples, 1, *network.source.shape))
    return ints(np.repeat(frame, network.steps, axis=1))

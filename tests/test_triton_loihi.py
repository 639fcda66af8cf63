"""Loihi's neurons in Triton, in its interpreter: equal to the plain and to the compiled ones, alone and in networks."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import digits_like_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import networks, payloads

from export import execute, limits, neurons
from export.network import Network
from sim import fast, reference
from sim.pytest_plugin import assert_spikes_equal
from train.kernels import fixed_point, loihi
from train.kernels.cells import neurons as cells_of

U_CORNERS = (0, 1, (1 << 17) - 1, 1 << 17, (1 << 17) + 1, 1 << 18)  # of a_in: u meets 2^23, and 2^24


@pytest.fixture(scope="module")
def triton_loihi() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        pytest.importorskip("triton", minversion="3.7")  # before, no loops with NumPy 2.4 and later
        from train.kernels import triton_loihi

        yield triton_loihi


class Case(NamedTuple):
    """Random neurons and currents, corners among them; `cut`: where the window is taken in two."""

    seed: int
    size: int
    reach: int
    wide: bool
    memory: bool
    shared: bool
    subtract: bool
    cut: int


CASES = st.builds(
    Case,
    seed=st.integers(0, 100_000),
    size=st.sampled_from([1, 7, 300]),
    reach=st.sampled_from([40, 1 << 17, 1 << 18, (1 << 18) + 1, 1 << 23, 33_000_000, 1 << 30]),
    wide=st.booleans(),
    memory=st.booleans(),
    shared=st.booleans(),
    subtract=st.booleans(),
    cut=st.integers(0, 5),
)


def some(rng: np.random.Generator, corners: tuple[int, ...], low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
    """Corners and numbers from `low` to `high`."""
    return np.where(rng.random(shape) < 0.5, rng.choice(corners, shape), rng.integers(low, high + 1, shape))


def assert_equal_three_ways(triton_loihi: ModuleType, case: Case) -> None:
    """Spikes, membrane potentials and the state afterwards of two samples: Triton's, the compiled and the plain ones'.

    Raises:
        AssertionError: they differ.
    """
    rng = np.random.default_rng(case.seed)
    shape, reach = () if case.shared else (case.size,), case.reach
    corners = tuple(sign * min(x, reach) for x in (*U_CORNERS, reach) for sign in (1, -1))
    current = some(rng, corners, -reach, reach, (2, 5, case.size))
    vth = some(rng, (0, 1, limits.VTH_LIMIT - 1), 0, min(2 * reach, limits.VTH_LIMIT - 1), shape)
    bias = some(rng, (0, -(1 << 19), 1 << 19), -5000, 5000, shape)
    dv = some(rng, (0, 1, 4095), *limits.DV_RANGE, shape)
    du = some(rng, (-1, 0, 4095), *limits.DU_RANGE, shape) if case.memory else np.asarray(4095)
    cells = cells_of(vth, bias, dv, du, (case.size,), subtract=case.subtract)
    state, on_device = cells.at_rest(2), triton_loihi.at_rest(cells, 2, reach, torch.device("cpu"))
    fired, membrane = np.full(current.shape, 9, dtype=np.uint8), np.zeros(current.shape, dtype=np.int64)
    spikes, potential = torch.full(current.shape, 9, dtype=torch.uint8), torch.zeros(current.shape, dtype=torch.int64)
    for steps in (slice(0, case.cut), slice(case.cut, 5)):
        part = np.ascontiguousarray(current[:, steps])
        part = part.astype(np.float64 if case.wide or reach > 1 << 24 else np.float32)
        loihi.scan(cells, part, state, fired, membrane, steps.start)
        triton_loihi.scan(on_device, torch.from_numpy(part), spikes, potential, steps.start)
    plain = (torch.from_numpy(x) for x in (current.swapaxes(0, 1).copy(), vth, bias, dv, du))
    expected = fixed_point.loihi_lif(*plain, subtract=case.subtract)
    np.testing.assert_array_equal(spikes.bool().numpy(), expected[0].numpy().swapaxes(0, 1))
    np.testing.assert_array_equal(potential.numpy(), expected[1].numpy().swapaxes(0, 1))
    np.testing.assert_array_equal(spikes.numpy(), fired)
    np.testing.assert_array_equal(potential.numpy(), membrane)
    np.testing.assert_array_equal(on_device.u.numpy(), state[0])
    np.testing.assert_array_equal(on_device.v.numpy(), state[1])


@given(case=CASES)
@settings(max_examples=60, deadline=None)
def test_the_kernel_is_the_plain_and_the_compiled_neuron(triton_loihi: ModuleType, case: Case) -> None:
    """Where currents wrap and potentials clip, in 32 and 64 bits, with one number for all neurons or one for each."""
    assert_equal_three_ways(triton_loihi, case)


def floored(triton_loihi: ModuleType, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(triton_loihi, "kept", lambda x, keep: x * keep >> 12)


def always_32_bits(triton_loihi: ModuleType, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("train.kernels.cells.fits_32_bits", lambda neurons, peak: True)


def wrapped_at_the_limit(triton_loihi: ModuleType, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(triton_loihi, "LIMIT", triton_loihi.tl.constexpr(limits.STATE_LIMIT - 1))


def forgotten_between_chunks(triton_loihi: ModuleType, patch: pytest.MonkeyPatch) -> None:
    scan = triton_loihi.scan

    def faulty(cells: object, current: torch.Tensor, fired: torch.Tensor, membrane: torch.Tensor, begin: int) -> None:
        cells.u.zero_()  # type: ignore[attr-defined]
        scan(cells, current, fired, membrane, begin)

    patch.setattr(triton_loihi, "scan", faulty)


@pytest.mark.parametrize("fault", [floored, always_32_bits, wrapped_at_the_limit, forgotten_between_chunks])
def test_a_fault_in_the_kernel_is_caught(triton_loihi: ModuleType, fault, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    case = Case(0, 300, 1 << 30 if fault is always_32_bits else 1 << 18, False, True, False, True, 2)
    assert_equal_three_ways(triton_loihi, case)
    fault(triton_loihi, monkeypatch)
    with pytest.raises(AssertionError):
        assert_equal_three_ways(triton_loihi, case)


@pytest.mark.parametrize("wild", [False, True])
@given(data=st.data(), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_networks_are_equal(triton_loihi: ModuleType, wild: bool, data: st.DataObject, seed: int) -> None:
    """The whole engine, a step a chunk, against the machine; wild: full ranges of weights, payloads and programs."""
    network = data.draw(networks(wild=wild))
    inputs = payloads(network, 3, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "EVENTS_FROM", 1 << 62)
        patch.setattr(execute, "CURRENTS", 1)
        patch.setattr(execute, "BATCH", 2)
        patch.setattr(neurons, "way", lambda device, size: "triton")
        quick, slow = fast.run(network, inputs), reference.run(network, inputs)
    for name in slow.spikes:  # random networks may be silent
        np.testing.assert_array_equal(slow.spikes[name], quick.spikes[name])
    np.testing.assert_array_equal(slow.membrane["readout"], quick.membrane["readout"])


def test_the_engine_uses_the_kernel(
    triton_loihi: ModuleType, shift_network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in the kernel shows in the spikes of a network, so it is the kernel that ran."""
    inputs = digits_like_inputs(4, shift_network)
    slow = reference.run(shift_network, inputs)
    monkeypatch.setattr(neurons, "way", lambda device, size: "triton")
    assert_spikes_equal(shift_network, fast.run(shift_network, inputs), slow, inputs)
    monkeypatch.setattr(triton_loihi, "kept", lambda x, keep: x * 0)
    with pytest.raises(AssertionError):
        assert_spikes_equal(shift_network, fast.run(shift_network, inputs), slow, inputs)


@pytest.mark.parametrize(("there", "chosen"), [("triton", "triton"), ("reference", "steps")])
def test_a_gpu_takes_the_kernel_where_triton_is(there: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neurons.kernels, "on_cuda", lambda: there)
    assert neurons.way(torch.device("cuda", 1), 1) == chosen
    assert neurons.way(torch.device("cpu"), 1) == "steps"
    assert neurons.way(torch.device("cpu"), neurons.COMPILED_FROM) == "compiled"

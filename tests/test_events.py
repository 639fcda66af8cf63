"""Dense layers by events: exact against whole-number products, at the ends of the range, and inside the executor."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ints
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import networks, payloads

from export import execute, limits
from export.network import Network
from sim import fast, reference
from train.kernels import events


@given(
    seed=st.integers(0, 10_000),
    inputs=st.integers(1, 700),
    outputs=st.sampled_from([1, 3, events.TILE, events.TILE + 5]),
    rate=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    end=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_sums_are_exact(seed: int, inputs: int, outputs: int, rate: float, end: bool) -> None:
    rng = np.random.default_rng(seed)
    low, high = limits.WEIGHT_RANGE[0], limits.ONE_SIGN_RANGE[1]
    weight = ints(rng.choice([low, high], (outputs, inputs)) if end else rng.integers(low, high + 1, (outputs, inputs)))
    if end:
        weight[0] = low if seed % 2 else high  # all the same: the largest sums there are
    spikes = rng.random((5, inputs)) < rate
    np.testing.assert_array_equal(events.sums(spikes, events.transposed(weight)), spikes.astype(np.int64) @ weight.T)


@pytest.mark.parametrize("weight", [limits.WEIGHT_RANGE[0], limits.ONE_SIGN_RANGE[1]])
def test_a_longer_group_would_overflow(weight: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spikes, rows = np.ones((1, 300), dtype=np.uint8), events.transposed(ints(np.full((1, 300), weight)))
    found = np.empty((1, 1), dtype=np.int32)
    events._sums(0, 1, spikes, rows, found)
    assert found == 300 * weight
    monkeypatch.setattr(events, "GROUP", events.GROUP + 1)
    with np.errstate(over="ignore"):
        events._sums(0, 1, spikes, rows, found)
    assert found != 300 * weight


@given(network=networks(), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_networks_by_events_are_equal(network: Network, seed: int) -> None:
    inputs = payloads(network, 3, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "EVENTS_FROM", 0)
        patch.setattr(execute, "EVENTS_BELOW", 1.0)
        quick = fast.run(network, inputs)
    slow = reference.run(network, inputs)
    for name in slow.spikes:  # random networks may be silent
        np.testing.assert_array_equal(slow.spikes[name], quick.spikes[name])
    np.testing.assert_array_equal(slow.membrane["readout"], quick.membrane["readout"])

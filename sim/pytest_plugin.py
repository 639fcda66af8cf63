"""For test suites: `assert_spikes_equal`, and the fixture `deployed`, which exports a model and simulates it.

pytest finds this file by its entry point wherever the project is installed, so importing it loads pytest alone: neither
torch nor Lava before a test asks for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from export.network import Ints, Network
    from sim.deployed import Deployed
    from sim.equivalence import Comparison
    from sim.recording import Recording


def assert_spikes_equal(network: Network, a: Recording, b: Recording, inputs: Ints | None = None) -> Comparison:
    """Every population, step and sample of two recordings is equal, the read-out's membrane potential included.

    Args:
        network: what was recorded.
        a, b: the recordings, of the same samples.
        inputs: int64 [samples, T, *shape] that both ran on; with them the message says why the first difference is one.

    Returns:
        What was compared: populations, values and spikes.

    Raises:
        AssertionError: they differ, one has fewer samples or lacks a population, or there is no spike to compare.
    """
    __tracebackhide__ = True
    from sim.equivalence import compare
    from train.errors import UserError

    names = f"{a.engine} and {b.engine}"
    if a.samples != b.samples:
        raise AssertionError(f"{names} recorded {a.samples} and {b.samples} samples, expected the same")
    try:
        comparison = compare(network, a, b, inputs)
    except UserError as error:
        raise AssertionError(f"{names} cannot be compared: {error}") from None
    if not comparison.equal:
        counts = [f"{p.id} {p.mismatches:,} of {p.compared:,}" for p in comparison.populations if p.mismatches]
        raise AssertionError(f"{comparison.difference}\nvalues that differ: {', '.join(counts)}")
    return comparison


@pytest.fixture
def deployed() -> Callable[..., Deployed]:
    """`deployed(model, inputs, engines=...)`: network and recordings; see `sim.deployed.deploy` for its arguments."""
    from sim.deployed import deploy

    return deploy

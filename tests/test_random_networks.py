"""Hundreds of random integer networks at the corners of what one may hold: all engines give the same spikes."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from integer_networks import CORNERS, Case, cases, corners
from lava_witness import run_all
from test_planted_faults import FAULTS, with_fault

from export.network import LIF
from sim import equivalence, fast, lava, reference
from sim.recording import Recording
from train.errors import UserError

EXAMPLES, FEWEST = 500, 10  # random networks, and how many of them at least meet each corner
LIVELY = 0.7  # of them at least send a spike
ONE_UNIT = {"wrap one unit late at the lower end", "clip one unit low", "clip one unit high"}
"""Faults of one value in 2^24, which chance does not hit; `test_planted_faults` builds it."""
SEEN = sorted(
    set(FAULTS) - ONE_UNIT - {name for name, fault in FAULTS.items() if fault.network in ("attention", "staa")}
)
QUIET = [HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large]


def expected(case: Case) -> Recording:
    """The reference's recording; its run is already there."""
    spiking = [p for p in case.network.populations if isinstance(p.program, LIF)]
    return Recording(
        "reference",
        {p.id: reference.windows(case.stream.spikes[p.id], p, case.network) for p in spiking if not p.readout},
        {p.id: reference.windows(case.stream.membrane[p.id], p, case.network) for p in spiking if p.readout},
    )


def assert_same(case: Case, found: Recording) -> int:
    """Every value is the same, silence too; returns the number of spikes."""
    right = expected(case)
    assert list(found.spikes) == list(right.spikes)
    assert list(found.membrane) == list(right.membrane)
    for name, spikes in right.spikes.items():
        np.testing.assert_array_equal(found.spikes[name], spikes, err_msg=name)
    for name, potential in right.membrane.items():
        np.testing.assert_array_equal(found.membrane[name], potential, err_msg=name)
    return sum(int(spikes.sum()) for spikes in right.spikes.values())


@cache
def some(count: int) -> tuple[Case, ...]:
    """Random networks, the same ones every time."""
    made: list[Case] = []

    @given(cases())
    @settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=QUIET)
    def collect(case: Case) -> None:
        made.append(case)

    collect()
    return tuple(made)


def test_engines_are_equal_on_random_networks() -> None:
    met: Counter[str] = Counter()
    spikes: list[int] = []

    @given(cases())
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=QUIET)
    def one(case: Case) -> None:
        spikes.append(assert_same(case, fast.run(case.network, case.inputs)))
        met.update(corners(case))

    one()
    print(f"{len(spikes)} networks, {np.count_nonzero(spikes)} with spikes, {sum(spikes)} spikes: {dict(met)}")
    assert len(spikes) >= EXAMPLES
    assert np.count_nonzero(spikes) >= LIVELY * len(spikes)
    assert {corner: met[corner] for corner in CORNERS if met[corner] < FEWEST} == {}


@pytest.mark.parametrize("fault", SEEN)
def test_random_networks_catch_every_planted_fault(fault: str) -> None:
    """That they meet a corner means little where a wrong rule gives the same spikes there."""
    bad = with_fault(FAULTS[fault])
    for case in some(EXAMPLES):
        try:
            found = bad.run(case.network, case.inputs)
            if not equivalence.compare(case.network, expected(case), found, None).equal:
                return
        except (UserError, IndexError):  # silent, or the fault reads a step that is not there
            continue
    pytest.fail("no random network sees it")


@pytest.mark.lava
def test_lavas_models_are_equal_on_random_networks() -> None:
    chosen = some(60)
    met = Counter(corner for case in chosen for corner in corners(case))
    found = run_all([(case.network, case.inputs) for case in chosen])
    spikes = [assert_same(case, recording) for case, recording in zip(chosen, found, strict=True)]
    assert np.count_nonzero(spikes) >= LIVELY * len(chosen)
    assert sum(1 for corner in CORNERS if met[corner]) > 0.9 * len(CORNERS)


@pytest.mark.slow
@pytest.mark.lava
def test_lavas_models_are_equal_on_all_random_networks() -> None:
    chosen = some(EXAMPLES)
    met = Counter(corner for case in chosen for corner in corners(case))
    found = run_all([(case.network, case.inputs) for case in chosen], timeout=1800, refused=True)
    spikes = [assert_same(case, recording) for case, recording in zip(chosen, found, strict=True) if recording]
    assert len(spikes) >= 0.99 * len(chosen)  # a gate that fails in Lava's steps before the first window is refused
    print(f"{len(spikes)} networks in Lava's ProcessModels, {sum(spikes)} spikes")
    assert {corner: met[corner] for corner in CORNERS if met[corner] < FEWEST} == {}


@pytest.mark.slow
@pytest.mark.lava
def test_lavas_runtime_is_equal_on_random_networks() -> None:
    spikes = [assert_same(case, lava.run(case.network, case.inputs, timeout=120.0)) for case in some(40)]
    print(f"{len(spikes)} networks in Lava's runtime, {sum(spikes)} spikes")
    assert np.count_nonzero(spikes) >= LIVELY * len(spikes)

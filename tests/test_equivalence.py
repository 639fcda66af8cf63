"""The comparison itself: what it counts, what it refuses, and how it explains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import digits_like_inputs

from export.network import Network
from sim import equivalence, fast, reference
from sim.recording import Recording
from train.errors import UserError


def flipped(recording: Recording, population: str, place: tuple[int, ...]) -> Recording:
    spikes = {name: values.copy() for name, values in recording.spikes.items()}
    spikes[population][place] ^= True
    return replace(recording, engine="other", spikes=spikes)


def test_equal_engines_report_what_they_compared(shift_network: Network) -> None:
    inputs = digits_like_inputs(3, shift_network)
    first, second = fast.run(shift_network, inputs), reference.run(shift_network, inputs)
    result = equivalence.compare(shift_network, first, second, inputs)
    assert result.equal
    assert [p.id for p in result.populations] == ["conv1", "conv2", "readout"]
    assert result.populations[0].compared == 3 * 4 * 4 * 8 * 8
    assert result.spikes == sum(int(s.sum()) for s in second.spikes.values()) > 0


def test_first_divergence_is_first_in_machine_time(shift_network: Network) -> None:
    """conv1 at window step 3 starts before conv2 does at step 2; sample 1 comes before sample 2."""
    inputs = digits_like_inputs(3, shift_network)
    good = fast.run(shift_network, inputs)
    bad = flipped(flipped(good, "conv2", (1, 2, 0, 1, 1)), "conv1", (1, 3, 2, 4, 5))
    bad = flipped(bad, "conv1", (2, 0, 0, 0, 0))
    result = equivalence.compare(shift_network, good, bad, inputs)
    found = result.divergence
    assert found is not None
    where = (found.sample, found.step, found.population, found.neuron)
    assert where in {(1, 3, "conv1", (2, 4, 5)), (1, 2, "conv2", (0, 1, 1))}
    starts = {p.id: p.start for p in shift_network.populations}
    assert where[2] == ("conv1" if starts["conv1"] + 3 < starts["conv2"] + 2 else "conv2")
    assert sum(p.mismatches for p in result.populations) == 3


def test_divergence_is_explained_by_the_reference(shift_network: Network) -> None:
    inputs = digits_like_inputs(2, shift_network)
    good = fast.run(shift_network, inputs)
    result = equivalence.compare(shift_network, good, flipped(good, "conv2", (1, 2, 3, 1, 0)), inputs)
    assert result.divergence is not None
    text = result.divergence.text
    stream = reference.simulate(shift_network, inputs[1:])
    at = (shift_network.population("conv2").start + 2, 3, 1, 0)
    assert f"a_in {stream.current['conv2'][at]}," in text
    assert f"v {stream.membrane['conv2'][at]} after" in text
    assert ("integer says spike" in text) == bool(good.spikes["conv2"][1, 2, 3, 1, 0])


def test_zero_spikes_are_an_error_not_a_pass(shift_network: Network) -> None:
    inputs = digits_like_inputs(2, shift_network)
    good = fast.run(shift_network, inputs)
    silent = replace(good, spikes={name: np.zeros_like(values) for name, values in good.spikes.items()})
    with pytest.raises(UserError, match="no spike at all"):
        equivalence.compare(shift_network, silent, silent, inputs)


def test_a_population_left_out_is_an_error(shift_network: Network) -> None:
    inputs = digits_like_inputs(2, shift_network)
    good = fast.run(shift_network, inputs)
    partial = replace(good, spikes={"conv1": good.spikes["conv1"]})
    with pytest.raises(UserError, match="did not record population conv2"):
        equivalence.compare(shift_network, good, partial, inputs)


def test_missing_steps_are_an_error(shift_network: Network) -> None:
    inputs = digits_like_inputs(2, shift_network)
    good = fast.run(shift_network, inputs)
    short = replace(good, spikes={name: values[:, :3] for name, values in good.spikes.items()})
    with pytest.raises(UserError, match=r"recorded .* expected"):
        equivalence.compare(shift_network, good, short, inputs)


def test_fewer_samples_compare_those_at_the_front(shift_network: Network) -> None:
    inputs = digits_like_inputs(5, shift_network)
    result = equivalence.compare(
        shift_network, fast.run(shift_network, inputs), reference.run(shift_network, inputs[:2]), inputs
    )
    assert result.equal
    assert result.samples == 2

"""The engine `lava-models`: Lava's ProcessModels without its runtime give what the runtime gives."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import digits_like_inputs, ints, recurrent_network, temporal_shift_network
from lava_witness import run_all
from test_lava import (
    TIMEOUT,
    assert_equal,
    chain,
    convolutional,
    graded,
    with_one_weight_flipped,
)
from test_neurons import lively, lively_inputs

from export.network import LIF, Connection, Convolution, Dense, Network, Population, Source
from sim import engines, lava, reference
from train.errors import CheckFailedError


@pytest.fixture(scope="module")
def cases() -> list[tuple[Network, np.ndarray]]:
    """Convolutions with delays and a residual join, loops, temporal shift, the reset that subtracts, no guard steps."""
    shift = temporal_shift_network()
    return [
        *((network, graded(network, 40, 0)) for network in (convolutional(0), chain(0), recurrent_network(3))),
        (lively(), lively_inputs(60)),
        (shift, digits_like_inputs(40, shift)),
    ]


@pytest.mark.lava
def test_models_equal_the_reference(cases: list[tuple[Network, np.ndarray]]) -> None:
    for (network, inputs), found in zip(cases, run_all(cases), strict=True):
        assert found.engine == "lava-models"
        assert_equal(found, reference.run(network, inputs))
    network, inputs = cases[0]
    (found,) = run_all(cases[:1])
    for name in ("in", "delayed", "skip", "out"):
        with pytest.raises(AssertionError, match="not equal"):
            assert_equal(found, reference.run(with_one_weight_flipped(network, name), inputs))


@pytest.mark.lava
def test_models_equal_the_runtime() -> None:
    network = convolutional(1)
    inputs = graded(network, 4, 1)
    seen: list[tuple[int, int]] = []
    found = lava.run_models(network, inputs, timeout=TIMEOUT, progress=lambda done, total: seen.append((done, total)))
    assert_equal(found, lava.run(network, inputs, timeout=TIMEOUT))
    assert seen[-1] == (network.machine_steps(4), network.machine_steps(4))


@pytest.mark.lava
def test_conv_processes_run() -> None:
    """The one process that a network needs only when its matrix would be too large."""
    rng = np.random.default_rng(3)
    weight = ints(2 * rng.integers(-30, 36, (4, 2, 3, 2)))
    program = LIF(3000, 300, 300, 20, 3)
    network = Network(
        name="conv",
        steps=3,
        period=3,
        populations=(
            Population("input", "", (2, 6, 7), 0, Source(payload_bits=3)),
            Population("conv", "", (4, 6, 6), 1, program),
            Population("readout", "", (2,), 2, LIF(4095, 0, 131071, 3, 0), readout=True),
        ),
        connections=(
            Connection("one", "", "input", "conv", Convolution(weight, (1, 1), (1, 0)), 1, ints([0, 0])),
            Connection("two", "", "conv", "readout", Dense(ints(2 * rng.integers(-9, 9, (2, 144)))), 0, ints([0] * 4)),
        ),
    )
    inputs = graded(network, 5, 3)
    script = "from deploy.lava import build; build.CONV_ABOVE = 0; build.Sparse = None"
    (found,) = run_all([(network, inputs)], script=script)
    assert_equal(found, reference.run(network, inputs))


@pytest.mark.lava
@pytest.mark.parametrize(
    "fault",
    [
        "build.LIFSubtract = build.LIFReset",
        "models._run_until_it_waits = lambda synapse: synapse.a_out.send(0 * synapse.a_buff)",
    ],
)
def test_faults_are_seen(fault: str) -> None:
    network, inputs = lively(), lively_inputs(5)
    (found,) = run_all([(network, inputs)], script=f"from deploy.lava import build, models; {fault}")
    with pytest.raises(AssertionError, match="not equal"):
        assert_equal(found, reference.run(network, inputs))


@pytest.mark.lava
def test_a_gate_that_is_missing_is_an_error() -> None:
    network = convolutional(0)
    with pytest.raises(lava.NotSilentError, match="spiked in"):
        run_all(
            [(network, graded(network, 2, 0))], script="from deploy.lava import build; build._gate = lambda *a: None"
        )


@pytest.mark.lava
def test_an_exception_in_a_model_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import sys; from deploy.lava import models, shims; shims.apply()\n"
        "from deploy.lava.processes.record import PyRecordModel as model\n"
        "model.run_spk = lambda self: planted_fault\n"
        "models.main(sys.argv[1:])"
    )
    monkeypatch.setattr(lava, "MODELS_WORKER", ("-c", script))
    network = chain(1)
    with pytest.raises(CheckFailedError, match=r"(?s)Traceback.*planted_fault.*is not defined"):
        engines.run("lava-models", network, None, graded(network, 2, 1))


def test_it_gets_more_samples_than_the_slow_engines() -> None:
    shares = {engine: engines.share(engine, 20) for engine in engines.SLOW}
    assert shares == {"lava": 20, "lava-models": 1000, "reference": 20}

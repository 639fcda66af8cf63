"""The pytest plugin as a user's test suite meets it: passing, failing with a message that explains, and cheap."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import digits_like_inputs
from torch import nn

from export.network import Network
from export.store import write_network
from sim import fast, reference
from sim.deployed import Deployed
from sim.pytest_plugin import assert_spikes_equal
from sim.recording import Recording
from train import models, runs
from train.config import ModelConfig
from train.data import DataSpec
from train.errors import UserError

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[1]

SUITE = """
import numpy as np
import pytest
import torch
from dataclasses import replace
from export.network import LIF
from sim import fast
from sim.pytest_plugin import assert_spikes_equal
from train import models
from train.config import ModelConfig
from train.data import DataSpec

X = np.random.default_rng(0).integers(0, 16, (3, 4, 2, 16, 16))

@pytest.fixture
def model():
    torch.manual_seed(1)
    model = models.build(ModelConfig(width=0.25), DataSpec("mine", (2, 16, 16), 5, 15, (7.0, 7.0), (5.0, 5.0)))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.bias.data.uniform_(0, 0.6)
    return model.eval()

def test_equal(model, deployed):
    found = deployed(model, X, engines=("integer", "torch", "reference"))
    for engine in ("torch", "reference"):
        comparison = assert_spikes_equal(
            found.network, found.recordings["integer"], found.recordings[engine], found.inputs
        )
        assert comparison.samples == 3
        assert comparison.spikes > 1000

def test_planted_fault(model, deployed):
    found = deployed(model, X)
    connection = found.network.connections[1]
    weight = connection.synapses.weight.copy()
    weight[0] = -weight[0].clip(-254)
    wrong = replace(connection, synapses=replace(connection.synapses, weight=weight))
    others = [wrong if c is connection else c for c in found.network.connections]
    other = fast.run(replace(found.network, connections=tuple(others)), found.inputs)
    assert_spikes_equal(found.network, replace(other, engine="faulty"), found.recordings["torch"], found.inputs)
"""


def test_a_users_suite(pytester: pytest.Pytester) -> None:
    """One test passes, the one with a planted fault fails, and its message names the place and the reason."""
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_inprocess("-p", "sim.pytest_plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * faulty and torch differ, first in sample 0, step ?, population block2.lif, neuron [[]0, *[]]: *",
            "E * values that differ: block2.lif * of *",
        ]
    )
    text = result.stdout.str()
    assert "; reference: v " in text
    assert "raise AssertionError" not in text  # the traceback ends at the user's line


def test_the_plugin_is_found_and_can_be_named_as_well(pytester: pytest.Pytester) -> None:
    """By its entry point, which has the module's name: naming it again is then no second registration."""
    (name, target), *others = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
        "pytest11"
    ].items()
    assert name == target == "sim.pytest_plugin"
    assert not others
    info = pytester.path / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[pytest11]\n{name} = {target}\n")
    pytester.makeconftest('pytest_plugins = ["sim.pytest_plugin"]')
    pytester.makepyfile("def test_it(deployed):\n    assert deployed")
    pytester.syspathinsert()
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)


def test_importing_the_plugin_is_cheap() -> None:
    code = "import sys, sim.pytest_plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not set(done.stdout.split()) & {"torch", "lava", "numpy", "h5py", "nir", "rich", "train.errors"}


@pytest.fixture
def x(shift_network: Network) -> np.ndarray:
    return digits_like_inputs(3, shift_network)


@pytest.fixture
def recording(shift_network: Network, x: np.ndarray) -> Recording:
    return fast.run(shift_network, x)


def test_every_population_step_and_sample_counts(shift_network: Network, recording: Recording, x: np.ndarray) -> None:
    """One value changed anywhere, the read-out's membrane potential included, and the message says where."""
    assert assert_spikes_equal(shift_network, recording, reference.run(shift_network, x)).spikes > 1000
    rng = np.random.default_rng(0)
    for name, values in {**recording.spikes, **recording.membrane}.items():
        for corner in (np.zeros(values.ndim, int), np.array(values.shape) - 1, rng.integers(0, values.shape)):
            changed = values.copy()
            changed[tuple(corner)] ^= 1
            other = replace(
                recording,
                engine="other",
                spikes={n: changed if n == name else v for n, v in recording.spikes.items()},
                membrane={n: changed if n == name else v for n, v in recording.membrane.items()},
            )
            with pytest.raises(AssertionError) as caught:
                assert_spikes_equal(shift_network, recording, other)
            sample, step, *neuron = (int(i) for i in corner)
            assert f"first in sample {sample}, step {step}, population {name}, neuron {neuron}: " in str(caught.value)
            assert str(caught.value).endswith(f"values that differ: {name} 1 of {values.size:,}")


def test_what_cannot_be_compared_fails(shift_network: Network, recording: Recording) -> None:
    silent = replace(recording, spikes={n: np.zeros_like(v) for n, v in recording.spikes.items()})
    less = replace(recording, spikes={"conv1": recording.spikes["conv1"]})
    fewer = fast.run(shift_network, digits_like_inputs(2, shift_network))
    for other, message in [
        (less, "did not record population conv2"),
        (fewer, "recorded 3 and 2 samples, expected the same"),
    ]:
        with pytest.raises(AssertionError, match=message):
            assert_spikes_equal(shift_network, recording, other)
    with pytest.raises(AssertionError, match="no spike at all"):
        assert_spikes_equal(shift_network, silent, silent)
    for pair in ((silent, recording), (recording, silent)):
        with pytest.raises(AssertionError, match="differ, first in sample 0"):
            assert_spikes_equal(shift_network, *pair)


def small() -> nn.Module:
    torch.manual_seed(1)
    return models.build(ModelConfig(width=0.25), DataSpec("a", (2, 8, 8), 5, 15, (7.0, 7.0), (5.0, 5.0))).eval()


def test_deployed_takes_a_run_folder(
    tmp_path: Path, shift_network: Network, x: np.ndarray, deployed: Callable[..., Deployed]
) -> None:
    write_network(tmp_path / runs.NETWORK, shift_network)
    found = deployed(tmp_path, x, engines=("integer", "reference"))
    assert found.network.digest == shift_network.digest
    assert_spikes_equal(found.network, found.recordings["integer"], found.recordings["reference"], found.inputs)
    with pytest.raises(UserError, match="no such run folder"):
        deployed(tmp_path / "none", x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engines": ("loihi",)}, "engine loihi .known engines: integer, torch"),
        ({"inputs": np.ones((4, 2, 8, 8))}, r"calibration: shape \(4, 2, 8, 8\), expected \(samples, T, C, H, W\)"),
        ({"inputs": np.full((1, 4, 2, 8, 8), 0.5)}, "calibration: must hold whole numbers"),
        ({"inputs": np.full((1, 4, 2, 8, 8), np.nan)}, "calibration: must hold whole numbers"),
        ({"inputs": np.ones((1, 5, 2, 8, 8))}, r"inputs: x of shape \(1, 5, 2, 8, 8\), expected"),
        ({"inputs": np.full((1, 4, 2, 8, 8), 99), "levels": 15}, "inputs: x holds values 99..99, allowed 0..15"),
    ],
)
def test_deployed_refuses(change: dict[str, object], message: str, deployed: Callable[..., Deployed]) -> None:
    calibration = None if "calibration" in message else np.random.default_rng(0).integers(0, 16, (2, 4, 2, 8, 8))
    arguments = {"inputs": np.ones((1, 4, 2, 8, 8)), "calibration": calibration, **change}
    with pytest.raises(UserError, match=message):
        deployed(small(), arguments.pop("inputs"), **arguments)

"""The Lava engine: equal to the reference simulator, spike for spike, and an error instead of a hang."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import digits_like_inputs, ints, recurrent_network, temporal_shift_network
from test_neurons import FAULTS, lively, lively_inputs, told, told_inputs

from deploy.lava import synapses
from export.network import LIF, Clock, Connection, Convolution, Dense, Gate, Ints, Network, Population, Source
from export.pipeline import compile_graph, lower_graph
from export.store import write_network
from sim import lava, reference
from sim.recording import Recording
from train.errors import UserError

TIMEOUT = 120.0
GATE = Gate(256, 8)


def assert_equal(found: Recording, expected: Recording) -> None:
    assert list(found.spikes) == list(expected.spikes)
    assert list(found.membrane) == list(expected.membrane)
    for name, spikes in expected.spikes.items():
        assert found.spikes[name].dtype == np.bool_
        assert 0 < spikes.mean() < 1, f"{name}: nothing to compare"
        np.testing.assert_array_equal(found.spikes[name], spikes, err_msg=name)
    for name, potential in expected.membrane.items():
        assert found.membrane[name].dtype == np.int64
        assert np.ptp(potential) > 0, f"{name}: nothing to compare"
        np.testing.assert_array_equal(found.membrane[name], potential, err_msg=name)


# --- networks ---


def even(rng: np.random.Generator, *shape: int, low: int = -30, high: int = 36) -> Ints:
    return ints(2 * rng.integers(low, high, shape))


def neurons(rng: np.random.Generator, shape: tuple[int, ...], gate: Gate | None = GATE) -> LIF:
    """Random programs; the first channel fires by its bias alone, so that a gate that is not there shows."""
    per_channel = (shape[0],) + (1,) * (len(shape) - 1)
    bias = ints(rng.integers(-300, 500, per_channel))
    bias[0] = 2500
    return LIF(
        du=int(rng.choice([4095, 3000])),
        dv=int(rng.choice([0, 500, 3072])),
        vth=ints(rng.integers(100, 300, per_channel)),
        bias_mant=bias,
        bias_exp=3,
        gate=gate,
    )


def convolutional(seed: int) -> Network:
    """Graded (3, 9, 7) -> strided, padded -> grouped, dilated, delayed -> joined by a shortcut -> dense -> read-out."""
    rng = np.random.default_rng(seed)
    delays = ints(rng.permutation([0, 1, 2, 1]))
    strided = Convolution(even(rng, 4, 3, 3, 2), (2, 1), (1, 2), (1, 1))
    grouped = Convolution(even(rng, 6, 2, 2, 3), (1, 2), (1, 2), (2, 1), groups=2)
    joined = Convolution(even(rng, 5, 6, 1, 3), (1, 1), (0, 1))
    shortcut = Convolution(even(rng, 5, 4, 1, 1, low=-128, high=1), (1, 2), (0, 1))
    inhibitory = even(rng, 7, 12, low=-128, high=1)
    inhibitory[0] = -256  # without positive weights Lava would clip this at -255 if it chose the sign mode
    shapes = {"strided": (4, 5, 10), "grouped": (6, 5, 6), "joined": (5, 5, 6), "hidden": (12,)}
    return Network(
        name=f"convolutional{seed}",
        steps=4,
        period=6,
        populations=(
            Population("input", "", (3, 9, 7), 1, Source(payload_bits=4)),
            Population("strided", "", shapes["strided"], 2, neurons(rng, shapes["strided"])),
            Population("grouped", "", shapes["grouped"], 4, neurons(rng, shapes["grouped"])),
            Population("joined", "", shapes["joined"], 6, neurons(rng, shapes["joined"])),  # 6: a whole period
            Population("hidden", "", shapes["hidden"], 8, neurons(rng, shapes["hidden"])),
            Population("readout", "", (7,), 9, dataclasses.replace(READOUT, dv=300, du=1000), readout=True),
        ),
        connections=(
            Connection("in", "", "input", "strided", strided, 0, ints([0, 0, 0])),
            Connection("delayed", "", "strided", "grouped", grouped, 2, delays),
            Connection("main", "", "grouped", "joined", joined, 1, ints([1, 2, 0, 3, 1, 0])),
            Connection("skip", "", "strided", "joined", shortcut, 0, ints([3, 3, 3, 3])),
            Connection("flat", "", "joined", "hidden", Dense(even(rng, 12, 150)), 1, ints([1, 0, 2, 1, 1])),
            Connection("out", "", "hidden", "readout", Dense(inhibitory), 3, ints([0] * 12)),
        ),
    )


READOUT = LIF(du=4095, dv=0, vth=ints(131071), bias_mant=ints(11), bias_exp=1)


def chain(seed: int) -> Network:
    """Dense layers without guard steps and without gates."""
    rng = np.random.default_rng(seed)
    return Network(
        name=f"chain{seed}",
        steps=5,
        period=5,
        populations=(
            Population("input", "", (10,), 0, Source(payload_bits=1)),
            Population("a", "", (16,), 1, neurons(rng, (16,), gate=None)),
            Population("b", "", (9,), 4, neurons(rng, (9,), gate=None)),
            Population("readout", "", (4,), 5, READOUT, readout=True),
        ),
        connections=(
            Connection("in-a", "", "input", "a", Dense(even(rng, 16, 10, low=-60, high=90)), 0, ints([0] * 10)),
            Connection("a-b", "", "a", "b", Dense(even(rng, 9, 16)), 2, ints([2] * 16)),
            Connection("b-out", "", "b", "readout", Dense(even(rng, 4, 9, low=1, high=127)), 0, ints([0] * 9)),
        ),
    )


def graded(network: Network, samples: int, seed: int) -> Ints:
    limit = 1 << network.source.program.payload_bits
    shape = (samples, network.steps, *network.source.shape)
    return ints(np.random.default_rng(seed).integers(0, limit, shape))


def with_one_weight_flipped(network: Network, name: str) -> Network:
    """The largest weight of a connection changes its sign."""
    changed = []
    for connection in network.connections:
        if connection.id == name:
            weight = connection.synapses.weight.copy()
            largest = np.argmax(np.abs(weight))
            weight.flat[largest] = min(-weight.flat[largest], 254)
            flipped = dataclasses.replace(connection.synapses, weight=weight)
            connection = dataclasses.replace(connection, synapses=flipped)
        changed.append(connection)
    return dataclasses.replace(network, connections=tuple(changed))


def worker_script(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have the engine run `script` as its worker."""
    monkeypatch.setattr(lava, "WORKER", ("-c", script))


# --- equality ---


@pytest.mark.lava
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lava_equals_the_reference(seed: int) -> None:
    network = convolutional(seed)
    inputs = graded(network, 5, seed)
    found = lava.run(network, inputs, timeout=TIMEOUT)
    assert_equal(found, reference.run(network, inputs))
    for name in ("in", "delayed", "out"):
        with pytest.raises(AssertionError, match="not equal"):
            assert_equal(found, reference.run(with_one_weight_flipped(network, name), inputs))


@pytest.mark.lava
def test_lava_equals_the_reference_without_guard_steps() -> None:
    network = chain(0)
    inputs = graded(network, 6, 0)
    assert_equal(lava.run(network, inputs, timeout=TIMEOUT), reference.run(network, inputs))


@pytest.mark.lava
def test_lava_equals_the_reference_with_every_program() -> None:
    """Decays of each channel, synaptic currents, a clock, the reset that subtracts."""
    network, inputs = lively(), lively_inputs(60)
    found = lava.run(network, inputs, timeout=TIMEOUT)
    assert_equal(found, reference.run(network, inputs))
    for fault, (plant, _) in FAULTS.items():
        if "off by one" in fault:
            continue  # seen in more samples than Lava gets here
        with pytest.raises(AssertionError, match="not equal"):
            assert_equal(found, reference.run(plant(network), inputs))


@pytest.mark.lava
def test_proved_gates_keep_every_program_silent() -> None:
    """A compiled network with guard steps; the engine refuses a spike outside a window."""
    x = told_inputs(8)
    network = compile_graph(lower_graph(told(shift=True)), x).network
    inputs = x.swapaxes(0, 1).astype(np.int64)
    assert network.period > network.steps
    assert_equal(lava.run(network, inputs, timeout=TIMEOUT), reference.run(network, inputs))


@pytest.mark.lava
def test_lava_equals_the_reference_at_the_corners() -> None:
    """Every neuron its own decays, the ends of their ranges among them; currents wrap and potentials clip."""
    rng = np.random.default_rng(4)
    du = ints(rng.permutation([-1, 0, 1, 4094, 4095, *rng.integers(-1, 4096, 35)]))
    dv = ints(rng.permutation([0, 1, 4094, 4095, *rng.integers(0, 4096, 36)]))
    vth, bias = ints(rng.integers(0, 131_072, 40)) >> ints(rng.integers(0, 10, 40)), ints(rng.integers(-4096, 4096, 40))
    zero = LIF(du, dv, vth, bias, 6)
    weights = [even(rng, 40, 8, low=-128, high=128) for _ in range(4)]
    out = even(rng, 3, 40)
    network = Network(
        name="corners",
        steps=8,
        period=8,
        populations=(
            Population("input", "", (8,), 0, Source(payload_bits=8)),
            Population("clock", "", (8,), 0, Clock()),
            Population("zero", "", (40,), 1, zero),
            Population("subtract", "", (40,), 1, dataclasses.replace(zero, reset="subtract")),
            Population("readout", "", (3,), 2, READOUT, readout=True),
        ),
        connections=(
            Connection("a", "", "input", "zero", Dense(weights[0]), 0, ints([0] * 8)),
            Connection("b", "", "input", "subtract", Dense(weights[1]), 0, ints([0] * 8)),
            Connection("c", "", "clock", "zero", Dense(weights[2]), 7, ints([0] * 8)),
            Connection("d", "", "clock", "subtract", Dense(weights[3]), 7, ints([0] * 8)),
            Connection("e", "", "zero", "readout", Dense(out), 0, ints([0] * 40)),
            Connection("f", "", "subtract", "readout", Dense(out), 0, ints([0] * 40)),
        ),
    )
    inputs = graded(network, 8, 4)
    stream = reference.simulate(network, inputs)
    assert max(np.abs(stream.current[name]).max() for name in ("zero", "subtract")) > 1 << 17  # some currents wrap
    assert (
        max(np.abs(stream.membrane[name]).max() for name in ("zero", "subtract")) == (1 << 23) - 1
    )  # and v is clipped
    assert_equal(lava.run(network, inputs, timeout=TIMEOUT), reference.run(network, inputs))


@pytest.mark.lava
def test_stock_neurons_in_place_of_subtracting_ones_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    worker_script(
        monkeypatch,
        "import sys; from deploy.lava import shims, worker; shims.apply()\n"
        "from deploy.lava import build; build.LIFSubtract = build.LIFReset\n"
        "worker.main(sys.argv[1:])",
    )
    network, inputs = lively(), lively_inputs(5)
    with pytest.raises(AssertionError, match="not equal"):
        assert_equal(lava.run(network, inputs, timeout=TIMEOUT), reference.run(network, inputs))


@pytest.mark.lava
def test_lava_equals_the_reference_with_temporal_shift() -> None:
    network = temporal_shift_network()
    inputs = digits_like_inputs(6, network)
    seen: list[tuple[int, int]] = []
    found = lava.run(network, inputs, timeout=TIMEOUT, progress=lambda done, total: seen.append((done, total)))
    assert_equal(found, reference.run(network, inputs))
    assert seen == sorted(seen)
    assert seen[-1] == (network.machine_steps(6), network.machine_steps(6))


@pytest.mark.lava
def test_lava_equals_the_reference_with_loops() -> None:
    network = recurrent_network(3)
    inputs = graded(network, 6, 0)
    found = lava.run(network, inputs, timeout=TIMEOUT)
    assert_equal(found, reference.run(network, inputs))
    with pytest.raises(AssertionError, match="not equal"):
        assert_equal(found, reference.run(with_one_weight_flipped(network, "b-a"), inputs))


@pytest.mark.lava
def test_odd_weights_of_one_sign() -> None:
    """Excitatory and inhibitory matrices keep their lowest bit, dense and sparse, delayed or not."""
    rng = np.random.default_rng(5)
    excitatory = Convolution(ints(rng.integers(0, 256, (3, 1, 2, 2))), (1, 1), (1, 0))
    program = LIF(4095, 500, ints(rng.integers(200, 900, (3, 5, 3))), ints(-400), 6, GATE)
    inhibitory = -ints(rng.integers(0, 256, (4, 45)))
    network = Network(
        name="odd",
        steps=4,
        period=5,
        populations=(
            Population("input", "", (1, 4, 4), 1, Source(payload_bits=2)),
            Population("excited", "", (3, 5, 3), 2, program),
            Population("readout", "", (4,), 4, READOUT, readout=True),
        ),
        connections=(
            Connection("in", "", "input", "excited", excitatory, 0, ints([0])),
            Connection("now", "", "excited", "readout", Dense(inhibitory), 0, ints([0, 1, 2])),
            Connection("later", "", "excited", "readout", Dense(255 + inhibitory), 0, ints([1] * 3)),
        ),
    )
    inputs = graded(network, 5, 5)
    assert_equal(lava.run(network, inputs, timeout=TIMEOUT), reference.run(network, inputs))


@pytest.mark.lava
def test_large_convolutions_run_in_conv(monkeypatch: pytest.MonkeyPatch) -> None:
    worker_script(
        monkeypatch,
        "import sys; from deploy.lava import shims, worker; shims.apply()\n"
        "from deploy.lava import build; build.CONV_ABOVE = 0\n"
        "make, made = build._conv, []\n"
        "build._conv = lambda *arguments: made.append(1) or make(*arguments)\n"
        "worker.main(sys.argv[1:])\n"
        "assert len(made) == 2",
    )
    rng = np.random.default_rng(3)
    kernel = Convolution(even(rng, 6, 2, 3, 2), (2, 1), (1, 0), (1, 2), groups=2)
    network = Network(
        name="conv",
        steps=3,
        period=4,
        populations=(
            Population("input", "", (4, 8, 7), 1, Source(payload_bits=3)),
            Population("conv", "", (6, 4, 5), 2, neurons(rng, (6, 4, 5))),
            Population("readout", "", (6, 3, 4), 3, READOUT, readout=True),
        ),
        connections=(
            Connection("one", "", "input", "conv", kernel, 1, ints([0] * 4)),
            Connection("two", "", "conv", "readout", Convolution(even(rng, 6, 6, 2, 2)), 2, ints([0] * 6)),
        ),
    )
    inputs = graded(network, 3, 3)
    assert_equal(lava.run(network, inputs, timeout=TIMEOUT), reference.run(network, inputs))


def test_convolution_matrix_is_the_correlation() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        groups = int(rng.integers(1, 3))
        stride, padding, dilation = (tuple(map(int, pair)) for pair in rng.integers(1, 4, (3, 2)))
        weight = even(rng, 2 * groups, 2, *rng.integers(1, 4, 2))
        (top, bottom), (left, right) = crop = tuple(tuple(map(int, pair)) for pair in rng.integers(0, 3, (2, 2)))
        kernel = Convolution(weight, stride, padding, dilation, groups, crop)
        source = (2 * groups, 9, 8)
        spikes = ints(rng.integers(0, 4, (1, *source)))
        matrix = synapses.convolution_matrix(kernel, source)
        inside = np.zeros_like(spikes)
        inside[..., top : 9 - bottom, left : 8 - right] = spikes[..., top : 9 - bottom, left : 8 - right]
        expected = torch.nn.functional.conv2d(
            torch.from_numpy(inside), torch.from_numpy(weight), None, stride, padding, dilation, groups
        )
        np.testing.assert_array_equal(matrix @ spikes.ravel(), expected.numpy().ravel())


def test_comparison_over_zero_spikes_fails() -> None:
    network = chain(0)
    silent = reference.run(network, graded(network, 1, 0))
    silent = dataclasses.replace(silent, spikes={name: np.zeros_like(s) for name, s in silent.spikes.items()})
    with pytest.raises(AssertionError, match="nothing to compare"):
        assert_equal(silent, silent)


# --- errors ---


PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


def processes(field: int, value: int) -> list[int]:
    """Processes (no zombies) with `value` in a field of /proc/PID/stat, counted from the state: 1 parent, 3 session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[field]) == value and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


@pytest.mark.lava
@PROC
def test_killed_lava_process_is_an_error_at_once() -> None:
    network = chain(1)
    killed: list[float] = []

    def kill_one(done: int, total: int) -> None:
        if done > 20 and not killed:
            (worker,) = processes(1, os.getpid())
            os.kill(processes(1, worker)[5], signal.SIGKILL)
            killed.extend((time.monotonic(), worker))

    with pytest.raises(lava.LavaError, match="ended during the run with signal 9"):
        lava.run(network, graded(network, 2000, 1), timeout=TIMEOUT, progress=kill_one)
    assert time.monotonic() - killed[0] < TIMEOUT / 2  # long before it would have given up
    assert processes(3, int(killed[1])) == []


@pytest.mark.lava
def test_exception_in_a_lava_process_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    worker_script(
        monkeypatch,
        "import sys; from deploy.lava import shims, worker; shims.apply()\n"
        "from deploy.lava.processes.record import PyRecordModel as model\n"
        "step = model.run_spk\n"
        "model.run_spk = lambda self: step(self) if self.time_step < 7 else planted_fault\n"
        "worker.main(sys.argv[1:])",
    )
    network = chain(1)
    begin = time.monotonic()
    with pytest.raises(lava.LavaError, match=r"(?s)PyRecordModel.*Traceback.*planted_fault.*is not defined"):
        lava.run(network, graded(network, 10, 1), timeout=TIMEOUT)
    assert time.monotonic() - begin < 30


@pytest.mark.lava
def test_exception_in_the_worker_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    worker_script(monkeypatch, "raise ValueError('no such thing')")
    network = chain(1)
    with pytest.raises(lava.LavaError, match=r"(?s)exit code 1.*Traceback.*no such thing"):
        lava.run(network, graded(network, 1, 1), timeout=TIMEOUT)


@pytest.mark.lava
@PROC
@pytest.mark.parametrize("interrupt", [False, True])
def test_end_of_time_and_interrupt_leave_nothing_running(interrupt: bool) -> None:
    network = chain(1)
    workers: set[int] = set()

    def look(done: int, total: int) -> None:
        workers.update(processes(1, os.getpid()))
        if interrupt and done > 0:
            raise KeyboardInterrupt

    expected, timeout = (KeyboardInterrupt, TIMEOUT) if interrupt else (lava.LavaTimeoutError, 3.0)
    with pytest.raises(expected, match=None if interrupt else r"ran for 3 s and did \d+ of \d+ machine steps"):
        lava.run(network, graded(network, 20_000, 1), timeout=timeout, progress=look)
    (worker,) = workers
    assert processes(3, worker) == []


@pytest.mark.lava
def test_spikes_outside_the_windows_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    worker_script(
        monkeypatch,
        "import sys; from deploy.lava import shims, worker; shims.apply()\n"
        "from deploy.lava import build; build._gate = lambda *a: None\n"
        "worker.main(sys.argv[1:])",
    )
    network = convolutional(0)
    with pytest.raises(lava.NotSilentError, match=r"population strided spiked in \d+ machine steps outside"):
        lava.run(network, graded(network, 2, 0), timeout=TIMEOUT)


@pytest.mark.lava
def test_worker_imports_no_torch(tmp_path: Path) -> None:
    network = chain(0)
    write_network(tmp_path / "network.h5", network)
    np.save(tmp_path / "inputs.npy", graded(network, 1, 0))
    script = (
        "import sys; from deploy.lava import worker; worker.main(sys.argv[1:])\n"
        "assert 'lava.proc' in sys.modules and 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", script, *map(str, (tmp_path / "network.h5", tmp_path / "inputs.npy", tmp_path))]
    subprocess.run(command, check=True, cwd=tmp_path, env=lava._environment(), timeout=TIMEOUT)


def test_inputs_that_do_not_fit_are_refused() -> None:
    network = chain(0)
    good = graded(network, 2, 0)
    for bad, message in (
        (good.astype(np.int32), "dtype int32"),
        (good[:, :-1], "expected"),
        (good[:0], "expected"),
        (good + 1, "allowed 0..1"),
        (good - 1, "allowed 0..1"),
    ):
        with pytest.raises(UserError, match=message):
            lava.run(network, bad, timeout=1)


def test_engine_does_not_import_lava() -> None:
    script = "import sys, sim.lava; assert not [m for m in sys.modules if m == 'lava' or m.startswith('lava.')]"
    subprocess.run([sys.executable, "-c", script], check=True, env=lava._environment(), timeout=60)

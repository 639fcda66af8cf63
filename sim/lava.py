"""The `lava` and `lava-models` engines: Lava's fixed-point simulator, in a subprocess with a time limit.

`lava` is Lava's runtime, a system process for each of Lava's; `lava-models` steps the same ProcessModels, as Lava's own
compiler and builders make them, in one (`deploy.lava.models`), which is many times faster.

All samples go through one run, back to back. Every machine step is recorded, so the windows are cut out here and the
silence outside of them is checked, not assumed.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

import deploy
from deploy.lava import layout
from export.network import LIF, Ints, Network, Population, Source
from export.store import write_network
from sim.recording import Recording
from train.errors import CheckFailedError, UserError

Progress = Callable[[int, int], None]

WORKER = ("-m", "deploy.lava.worker")
MODELS_WORKER = ("-m", "deploy.lava.models")
POLL = 0.1  # seconds between two looks at the worker
GRACE = 1.0  # seconds that processes get to end before they are killed
LOG_TAIL = 6000  # characters of the worker's output in an error


class LavaError(RuntimeError):
    """Lava failed; the message carries the tracebacks of its processes."""


class LavaTimeoutError(LavaError):
    """Lava was still running when its time was up."""


class NotSilentError(CheckFailedError):
    """A population spiked outside its windows: its gate is too weak."""


def run(network: Network, inputs: Ints, *, timeout: float, progress: Progress | None = None) -> Recording:
    """Run `network` in Lava's runtime.

    Args:
        network: what to run.
        inputs: raw values, int64 [samples, T, *raw shape], 0 <= value < 2^payload_bits.
        timeout: seconds for all of it, start included.
        progress: called about ten times a second with (machine steps done, machine steps in all).

    Raises:
        UserError: the inputs do not fit the network.
        LavaTimeoutError: the time is up.
        NotSilentError: a gated population spiked outside its windows.
        LavaError: Lava raised, or one of its processes died.
    """
    return _run("lava", WORKER, network, inputs, timeout, progress)


def run_models(network: Network, inputs: Ints, *, timeout: float, progress: Progress | None = None) -> Recording:
    """Run `network` in Lava's ProcessModels, without its runtime; arguments and errors are those of `run`."""
    return _run("lava-models", MODELS_WORKER, network, inputs, timeout, progress)


def _run(
    engine: str,
    script: Sequence[str],
    network: Network,
    inputs: Ints,
    timeout: float,
    progress: Progress | None,
) -> Recording:
    _check_inputs(network, inputs)
    with tempfile.TemporaryDirectory(prefix="spikeproof-lava-") as name:
        folder = Path(name)
        write_network(folder / "network.h5", network)
        np.save(folder / "inputs.npy", inputs)
        _run_worker(script, network, len(inputs), folder, timeout, progress or (lambda done, total: None))
        return read(engine, network, len(inputs), folder)


def _check_inputs(network: Network, inputs: Ints) -> None:
    where = f"inputs of network {network.name}"
    program = network.source.program
    assert isinstance(program, Source)
    expected = (network.steps, *program.raw_shape(network.source.shape))
    if inputs.dtype != np.int64:
        raise UserError(f"dtype {inputs.dtype}, expected int64", where=where)
    if inputs.shape[1:] != expected or len(inputs) < 1:
        raise UserError(f"shape {inputs.shape}, expected (samples, {', '.join(map(str, expected))})", where=where)
    low, high, limit = int(inputs.min()), int(inputs.max()), 1 << program.payload_bits
    if low < 0 or high >= limit:
        raise UserError(f"values {low}..{high}, allowed 0..{limit - 1}", where=where)


def _run_worker(
    script: Sequence[str], network: Network, samples: int, folder: Path, timeout: float, progress: Progress
) -> None:
    total = network.machine_steps(samples)
    last = layout.spikes_file(folder, layout.spiking(network)[-1]) if layout.spiking(network) else None
    deadline = time.monotonic() + timeout
    log = folder / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, *script, *(str(folder / name) for name in ("network.h5", "inputs.npy")), str(folder)],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while worker.poll() is None:
            done = _steps_done(last)
            progress(done, total)
            if time.monotonic() > deadline:
                raise LavaTimeoutError(f"Lava ran for {timeout:g} s and did {done} of {total} machine steps")
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(POLL)
    finally:
        _end_session(worker)
    if worker.returncode != 0:
        raise LavaError(_failure(folder / layout.ERRORS, log, worker.returncode))
    progress(total, total)


def _environment() -> dict[str, str]:
    """The worker's environment: this source tree importable from any folder, one thread per Lava process."""
    root = str(Path(deploy.__file__).resolve().parents[1])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": path}


def _steps_done(recording: Path | None) -> int:
    """Machine steps that the recording holds so far (0 as long as there is no such file)."""
    if recording is None or not recording.exists():
        return 0
    rows = np.load(recording, mmap_mode="r")
    return bisect.bisect_left(rows, True, key=lambda row: bool(row[0] == layout.UNRECORDED))


def _end_session(worker: subprocess.Popen[bytes]) -> None:
    """End whatever a worker that did not succeed left running.

    First with SIGTERM, which multiprocessing's resource tracker survives: it removes the shared memory of the others.
    """
    if worker.returncode == 0:
        return  # Lava has joined its processes
    with contextlib.suppress(ProcessLookupError):  # nobody is left
        deadline = time.monotonic() + GRACE
        os.killpg(worker.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            worker.poll()
            time.sleep(0.02)
            os.killpg(worker.pid, 0)
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _failure(errors: Path, log: Path, code: int) -> str:
    """One message from what the Lava processes and the worker left behind."""
    parts = [f"Lava failed (exit code {code})"]
    if errors.exists():
        parts.append(errors.read_text(encoding="utf-8", errors="replace"))
    output = log.read_text(encoding="utf-8", errors="replace").strip()
    if output:
        parts.append(f"output of the worker:\n{output[-LOG_TAIL:]}")
    return "\n".join(parts)


def read(engine: str, network: Network, samples: int, folder: Path) -> Recording:
    """What a worker left in its folder.

    Raises:
        NotSilentError: a gated population spiked outside its windows.
        LavaError: a machine step was not recorded.
    """
    membrane = {}
    if network.readout is not None:
        rows = np.load(layout.membrane_file(folder, network.readout))
        membrane[network.readout.id] = _windows(network, network.readout, samples, rows)
    spikes = {p.id: _spikes(network, p, samples, folder) for p in layout.spiking(network)}
    graded = {p.id: _graded(network, p, samples, folder) for p in layout.attending(network)}
    return Recording(engine, spikes, membrane, graded)


def _graded(network: Network, population: Population, samples: int, folder: Path) -> Ints:
    rows = np.load(layout.graded_file(folder, population), mmap_mode="r")
    missing = np.flatnonzero((rows == layout.UNSENT).any(axis=1))
    if missing.size:
        raise LavaError(f"population {population.id}: machine step {missing[0]} was not recorded")
    since = np.arange(len(rows)) - population.sends(network.steps)
    between = (since < 0) | (since % network.period >= network.steps)  # behind the last sample its windows go on
    loud = np.flatnonzero(between & rows.any(axis=1))
    if loud.size:
        raise NotSilentError(
            f"population {population.id} sent in {loud.size} machine steps outside its windows, first in step {loud[0]}"
        )
    return _windows(network, population, samples, rows).astype(np.int64)


def _spikes(network: Network, population: Population, samples: int, folder: Path) -> npt.NDArray[np.bool_]:
    rows = np.load(layout.spikes_file(folder, population), mmap_mode="r")
    missing = np.flatnonzero((rows > 1).any(axis=1))
    if missing.size:
        raise LavaError(f"population {population.id}: machine step {missing[0]} was not recorded")
    assert isinstance(population.program, LIF)
    if population.program.gate is not None:
        outside = layout.outside_windows(network, population, samples)
        loud = np.flatnonzero(outside & rows.any(axis=1))
        if loud.size:
            raise NotSilentError(
                f"population {population.id} spiked in {loud.size} machine steps outside its windows, "
                f"first in step {loud[0]}, {int(np.count_nonzero(rows[loud[0]]))} of {population.size} neurons"
            )
    return _windows(network, population, samples, rows).astype(np.bool_)


def _windows(network: Network, population: Population, samples: int, rows: Ints) -> Ints:
    """[machine_steps, size] -> [samples, T, *shape]."""
    steps = layout.window_steps(network, population, samples)
    windows: Ints = rows[steps].reshape(samples, network.steps, *population.shape)
    return windows

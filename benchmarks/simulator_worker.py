"""One row of `simulators.py` in a process of its own: simulates a few batches and prints one line of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import numpy as np  # noqa: E402
from scipy import sparse  # noqa: E402

from benchmarks.samples import Sample, memory_kb, on_cpu  # noqa: E402
from export import limits  # noqa: E402

if TYPE_CHECKING:
    from export.network import Ints, Network

LAVA_TIMEOUT_S = 240.0
TICKS = os.sysconf("SC_CLK_TCK")


def main(row: str, name: str, steps: int, samples: int, threads: int, wanted: int) -> None:
    """Print firing rate, peak memory over the state before it (MB) and samples: (s, part disturbed, CPU s) a batch."""
    from train import allocator

    assert allocator.tune(), "malloc cannot be tuned on this machine"
    import torch

    torch.set_num_threads(threads)
    from benchmarks import simulator_networks as networks

    network = networks.NETWORKS[name](steps)
    batch = networks.inputs(network, samples)
    before = memory_kb("VmRSS")
    rate = 0.0
    if row == "nengo-loihi":
        print(json.dumps({"rate": rate, **_nengo_loihi(network, batch, wanted)}))
        return
    if row in ("lava", "lava-models"):
        timed = [_lava(network, batch, row)]
    else:
        step = _engine(row, network, batch)
        recording = step()
        if row == "integer":
            spikes = recording.spikes.values()
            rate = sum(int(x.sum()) for x in spikes) / sum(x.size for x in spikes)
            del spikes
        del recording
        timed = on_cpu(step, wanted)
    peak = (memory_kb("VmHWM") - before) / 1024
    print(json.dumps({"rate": rate, "peak_mb": peak, "samples": timed}))


def _engine(row: str, network: Network, batch: Ints) -> Callable[[], object]:
    """A function that simulates the batch once."""
    import torch

    if row == "integer":
        from export.execute import batch_size
        from sim import fast, parts

        cuts = parts.cuts(len(batch), batch_size(network))  # as `python -m sim` does

        def run() -> object:
            for cut in cuts:
                recording = fast.run(network, batch[cut])
            return recording  # of the last part

        return run
    if row == "reference":
        from sim import reference

        return lambda: reference.run(network, batch)
    if row == "torch":
        from benchmarks.simulator_networks import torch_model
        from sim import torch_engine

        model = torch_engine.with_membrane(network, torch_model(network))
        ids = {p.origin: p.id for p in network.populations[1:]}
        return lambda: torch_engine.record(model, ids, batch)
    if row == "onnx":
        import onnxruntime

        from export.formats.onnx_integer import to_onnx

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        model = to_onnx(network).SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {network.source.id: batch})
    assert row == "relu", row
    from benchmarks.simulator_networks import Relu

    relu = Relu(network).eval()
    images = torch.from_numpy(batch.copy()).flatten(0, 1).float()

    @torch.inference_mode()
    def step() -> object:
        return relu(images)

    return step


def _nengo_loihi(network: Network, batch: Ints, wanted: int) -> dict[str, object]:
    """The emulator in its own environment, with this network's integers; its spikes must be those of this project."""
    from benchmarks.peers import build
    from deploy.lava.synapses import convolution_matrix
    from export.network import Convolution
    from sim import reference

    layers = network.populations[1:]
    data: dict[str, object] = {"layers": len(layers), "inputs": batch.reshape(len(batch), network.steps, -1) > 0}
    for index, (population, connection) in enumerate(zip(layers, network.connections, strict=True)):
        synapses, program = connection.synapses, population.program
        source = network.population(connection.source).shape
        kernel = isinstance(synapses, Convolution)
        matrix = convolution_matrix(synapses, source) if kernel else sparse.csr_matrix(synapses.weight)
        rows = matrix.T.tocsr()
        rows.sort_indices()
        data |= {f"size{index}": population.size, f"indptr{index}": rows.indptr, f"indices{index}": rows.indices}
        data |= {f"weights{index}": rows.data << connection.weight_exp + limits.STATE_SHIFT}
        data |= {f"vth{index}": program.threshold.reshape(-1), f"decay_u{index}": program.du.reshape(-1)}
        data |= {f"decay_v{index}": program.dv.reshape(-1)}
    with tempfile.TemporaryDirectory() as folder:
        network_file, spikes_file = Path(folder) / "network.npz", Path(folder) / "spikes.npy"
        np.savez(network_file, **data)
        python = build.python(build.FOLDERS["nengo-loihi"])
        script = Path(build.__file__).parent / "nengo_loihi_emulator.py"
        command = [str(python), str(script), str(network_file), str(spikes_file), str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        fired = np.load(spikes_file)
    expected = reference.run(network, batch)
    first = 0
    for population in layers[:-1]:
        found = fired[:, population.start : population.start + network.steps, first : first + population.size]
        first += population.size
        if not np.array_equal(found.reshape(expected.spikes[population.id].shape), expected.spikes[population.id]):
            raise SystemExit(f"other spikes in {population.id}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _lava(network: Network, batch: Ints, engine: str) -> Sample:
    """Seconds for the batch at the pace that Lava's runtime, or its ProcessModels, have once they have started.

    The runtime's processes wait for each other by design, so what counts as a disturbance is the share of all cores'
    time that processes other than them have used.
    """
    from sim import lava

    seen: list[tuple[float, int, float, float]] = []

    def progress(done: int, total: int) -> None:
        if 0 < done < total:
            seen.append((time.perf_counter(), done, _busy_s(), _tree_s(os.getpid())))

    run = lava.run if engine == "lava" else lava.run_models
    run(network, batch, timeout=LAVA_TIMEOUT_S, progress=progress)
    if len(seen) < 3:
        raise SystemExit("too few samples for a pace")
    (begin, first, busy, own), (end, last, busy_after, own_after) = seen[0], seen[-1]
    others = (busy_after - busy) - (own_after - own)
    part = len(batch) * network.steps / (last - first)  # the batch is more than what has been seen
    disturbed = max(0.0, others / ((end - begin) * (os.cpu_count() or 1)))
    return (end - begin) * part, disturbed, (own_after - own) * part


def _busy_s() -> float:
    """Seconds that all cores together have been busy."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / TICKS  # without idle, iowait and guests


def _tree_s(root: int) -> float:
    """CPU seconds of a process and its descendants that are alive."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # ended
            continue
        process = int(stat.parent.name)
        parents[process], used[process] = int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS
    total = 0.0
    for process, seconds in used.items():
        ancestor = process
        while ancestor not in (root, 0, 1) and ancestor in parents:
            ancestor = parents[ancestor]
        total += seconds if ancestor == root else 0.0
    return total


if __name__ == "__main__":
    name, network_name, *numbers = sys.argv[1:]
    main(name, network_name, *map(int, numbers))

"""What `python -m sim` does: run the engines in parts, compare them, write equivalence.json and activity.h5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deploy.activity_store import write_activity
from export.execute import batch_size
from export.network import Ints, Network
from export.store import read_network
from sim import activity, equivalence, float_model, inputs, parts, probe, recorded, summary
from sim.engines import SLOW, share
from sim.engines import check as check_engines
from sim.engines import run as run_engine
from sim.equivalence import Comparison
from sim.inputs import Inputs
from sim.parts import Accuracy, Part
from sim.recording import Recording
from train import data, distributed, runs
from train.config import from_json
from train.console import console, progress
from train.distributed import Processes
from train.errors import CheckFailedError, UserError
from train.loop import resolve_device
from train.quantise.layers import is_prepared
from train.restore import coded, dataset_of, restore


def simulate(
    run: Path | None,
    engines: Sequence[str],
    samples: int | None,
    slow_samples: int,
    input_file: Path | None,
    lava_timeout: float,
    record: Path | None = None,
    compare: Path | None = None,
    device: str = "cpu",
) -> None:
    """Run the engines on the run's test set (or a file), compare them with each other and with a recording.

    Args:
        device: where the engines integer and torch and the float model run, as `--device` of `python -m train`.

    Raises:
        UserError: bad input, or nothing to compare.
        CheckFailedError: two engines differ, one of them from the recording, or Lava failed.
    """
    folder = runs.find(run, needs={runs.NETWORK: "python -m export --target loihi2"})
    network = read_network(folder / runs.NETWORK)
    check_engines(engines, "--engines")
    given = _inputs(folder, network, input_file, samples)
    theirs = None if compare is None else recorded.read(compare, network, given.read(slice(0, given.samples)))
    model = restore(folder).model if (folder / runs.CHECKPOINT).is_file() else None
    others = [engine for engine in dict.fromkeys(engines) if engine != "integer"]
    quick, slow = ([e for e in others if (e in SLOW) is late] for late in (False, True))
    file = record or compare
    with distributed.join(cpu=True) as processes:
        where = _device(device, processes.local)
        model = None if model is None else model.to(where)
        if file is not None and processes.world > 1:
            raise UserError("a recording is read and written by one process", where=str(file), hint="without torchrun")
        kept: list[Recording] = []
        size = batch_size(network) if file is None else given.samples  # a file has all samples
        cuts = list(enumerate(parts.cuts(given.samples, size)))[processes.rank :: processes.world]
        kept_too = kept if file is not None else None
        found = _run_parts(network, model, given, quick, dict(cuts), where, processes, kept_too)
        gathered = processes.gather(found)
    if gathered is None:
        return
    in_order = sorted((index, part) for some in gathered for index, part in some.items())
    total = parts.joined([part for _, part in in_order])
    comparisons = [equivalence.checked(network, c) for c in total.comparisons]
    accuracy = total.accuracy
    if slow:
        more, correct = _run_slow(network, given, slow, slow_samples, where, lava_timeout)
        comparisons, accuracy = [*comparisons, *more], accuracy | correct
    comparisons.sort(key=lambda c: others.index(c.engines[1]))
    against = None
    if theirs is not None:
        x = given.read(slice(0, given.samples))
        against = equivalence.compare(network, kept[0], theirs.recording, x, theirs.populations)
    if record is not None:
        recorded.write(record, network, kept[0], given.read(slice(0, given.samples)))
    counts = activity.complete(network, "integer", total.populations, total.samples, accuracy)
    write_activity(folder / runs.ACTIVITY, counts)
    runs.write_json(folder / runs.EQUIVALENCE, summary.to_json(network, comparisons, total, accuracy, against))
    every = [*comparisons, *([] if against is None else [against])]
    summary.show(network, every, total, accuracy)
    console.print(f"wrote {folder / runs.EQUIVALENCE} and {folder / runs.ACTIVITY}")
    if theirs is not None:
        summary.show_recorded(theirs, given.samples)
    if record is not None:
        console.print(f"wrote {record}, the integer engine's {total.samples} samples")
    different = next((c.difference for c in every if c.difference), None)
    if different is not None:
        raise CheckFailedError(different)


def _device(name: str, local: int) -> torch.device:
    device = resolve_device(name, local)
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}", hint="choose auto, cpu, cuda or one of several, as cuda:1")
    return device


def _inputs(folder: Path, network: Network, file: Path | None, samples: int | None) -> Inputs:
    if file is not None:
        given = inputs.read(file, network)
    else:
        runs.find(folder, needs={runs.CONFIG: "python -m train (or give --input INPUTS.npz)"})
        settings = from_json(folder / runs.CONFIG)
        test = dataset_of(settings).test
        if samples is not None and not 1 <= samples <= len(test):
            raise UserError(f"--samples {samples}, there are {len(test)}")
        wanted = data.spread(len(test), samples or len(test))

        def read(part: slice) -> Ints:
            drawn = torch.Generator().manual_seed(settings.seed + part.start)  # rate coding differs between parts
            frames = coded(settings, data.spec(settings.dataset), test.read(wanted[part]), drawn)
            return inputs.payloads(frames.transpose(0, 1).numpy(), network, "test set")

        given = Inputs(read, len(wanted), test.labels[wanted].numpy().astype(np.int64))
    if samples is not None and not 1 <= samples <= given.samples:
        raise UserError(f"--samples {samples}, there are {given.samples}")
    return given.first(samples or given.samples)


def _run_parts(
    network: Network,
    model: nn.Module | None,
    given: Inputs,
    engines: Sequence[str],
    cuts: dict[int, slice],
    device: torch.device,
    processes: Processes,
    kept: list[Recording] | None,
) -> dict[int, Part]:
    """The parts that this process runs, by number; their recordings go to `kept`, if there is one."""
    found: dict[int, Part] = {}
    float_too = model is not None and not is_prepared(model)  # trained in integers, it has no float model beside it
    own = sum(cut.stop - cut.start for cut in cuts.values())
    note = f"of {given.samples} samples" if processes.world > 1 else "samples"
    with progress() if processes.first else nullcontext() as bar:
        names = ("integer", *engines, *(["float"] if float_too else []))
        tasks = {} if bar is None else {name: bar.add_task(name, total=own, note=note) for name in names}
        done = 0
        for number, cut in cuts.items():

            def advance(name: str, before: int = done) -> Callable[[int, int], None]:
                return lambda now, _: None if bar is None else bar.update(tasks[name], completed=before + now)

            x, labels = given.read(cut), None if given.labels is None else given.labels[cut]
            recordings = {
                e: run_engine(e, network, model, x, device=device, progress=advance(e)) for e in ("integer", *engines)
            }
            integer = recordings["integer"]
            floats = probed = None
            if float_too:
                assert model is not None
                floats = float_model.run(network, model, x, integer, progress=advance("float"))
                if number == 0:
                    probed = probe.run(network, model, x, integer, floats.answers, labels)
            found[number] = Part(
                samples=len(x),
                comparisons=tuple(equivalence.part(network, integer, recordings[e], x) for e in engines),
                populations=activity.populations(network, integer, x),
                floats=() if floats is None else floats.layers,
                probe=probed,
                accuracy=_accuracy(network, recordings, floats, labels),
            )
            if kept is not None:
                kept.append(integer)
            done += len(x)
    return found


def _run_slow(
    network: Network, given: Inputs, engines: Sequence[str], samples: int, device: torch.device, lava_timeout: float
) -> tuple[list[Comparison], Accuracy]:
    """Engines that get the first few samples, against the integer engine."""
    x = given.read(slice(0, min(max(share(engine, samples) for engine in engines), given.samples)))
    recordings = {engine: _run(engine, network, x[: share(engine, samples)], lava_timeout) for engine in engines}
    integer = run_engine("integer", network, None, x, device=device)
    comparisons = [equivalence.compare(network, integer, recording, x) for recording in recordings.values()]
    return comparisons, _accuracy(network, recordings, None, given.labels)


def _run(engine: str, network: Network, x: Ints, lava_timeout: float) -> Recording:
    with progress() as bar:
        task = bar.add_task(engine, total=len(x), note="")

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        advance(0, len(x))
        result = run_engine(engine, network, None, x, lava_timeout=lava_timeout, progress=advance)
        bar.update(task, completed=len(x), total=len(x), note=f"{len(x)} samples")
    return result


def _accuracy(
    network: Network, recordings: dict[str, Recording], floats: float_model.FloatRun | None, labels: Ints | None
) -> Accuracy:
    if labels is None:
        return {}
    answers = {name: float_model.answers(network, r) for name, r in recordings.items() if network.readout}
    if floats is not None:
        answers = {"float": floats.answers, **answers}
    return {name: (int((a == labels[: len(a)]).sum()), len(a)) for name, a in answers.items()}

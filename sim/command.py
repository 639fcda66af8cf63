"""What `python -m sim` does: run the engines, compare them, write equivalence.json and activity.h5."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.table import Table
from torch import nn

from deploy.activity_store import write_activity
from export.network import Driven, Ints, Network
from export.store import read_network
from sim import activity, equivalence, float_model, inputs, recorded
from sim.engines import SLOW
from sim.engines import check as check_engines
from sim.engines import run as run_engine
from sim.equivalence import Comparison
from sim.inputs import Inputs
from sim.recorded import INPUT, Recorded
from sim.recording import Recording
from train import data, runs
from train.config import from_json
from train.console import console, progress
from train.errors import CheckFailedError, UserError
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
) -> None:
    """Run the engines on the run's test set (or a file), compare them with each other and with a recording.

    Raises:
        UserError: bad input, or nothing to compare.
        CheckFailedError: two engines differ, one of them from the recording, or Lava failed.
    """
    folder = runs.find(run, needs={runs.NETWORK: "python -m export --target loihi2"})
    network = read_network(folder / runs.NETWORK)
    check_engines(engines, "--engines")
    given = _inputs(folder, network, input_file, samples)
    found = None if compare is None else recorded.read(compare, network, given.x)
    has_model = (folder / runs.CHECKPOINT).is_file()
    model = restore(folder).model if has_model else None
    order = ["integer", *(engine for engine in engines if engine != "integer")]
    recordings = {e: _run(e, network, model, _share(e, given.x, slow_samples), lava_timeout) for e in order}
    integer = recordings["integer"]
    comparisons = [
        equivalence.compare(network, integer, recording, given.x)
        for engine, recording in recordings.items()
        if engine != "integer"
    ]
    against = (
        None if found is None else equivalence.compare(network, integer, found.recording, given.x, found.populations)
    )
    if record is not None:
        recorded.write(record, network, integer, given.x)
    floats = None
    if model is not None and not is_prepared(model):  # trained in integers, it has no float model beside it
        with progress() as bar:
            task = bar.add_task("float", total=len(given.x), note="")
            floats = float_model.run(
                network, model, given.x, integer, progress=lambda done, total: bar.update(task, completed=done)
            )
    accuracy = _accuracy(network, recordings, floats, given.labels)
    write_activity(folder / runs.ACTIVITY, activity.measure(network, integer, given.x, accuracy))
    runs.write_json(folder / runs.EQUIVALENCE, to_json(network, comparisons, floats, accuracy, against))
    every = [*comparisons, *([] if against is None else [against])]
    _print(folder, network, every, floats, accuracy)
    if found is not None:
        _print_recorded(found, len(given.x))
    if record is not None:
        console.print(f"wrote {record}, the integer engine's {integer.samples} samples")
    different = next((c.difference for c in every if c.difference), None)
    if different is not None:
        raise CheckFailedError(different)


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
        frames = coded(settings, data.spec(settings.dataset), test.read(wanted)).transpose(0, 1)
        labels = test.labels[wanted].numpy().astype(np.int64)
        given = Inputs(inputs.payloads(frames.numpy(), network, "test set"), labels)
    if samples is not None and not 1 <= samples <= len(given.x):
        raise UserError(f"--samples {samples}, there are {len(given.x)}")
    return Inputs(given.x[:samples], None if given.labels is None else given.labels[:samples])


def _share(engine: str, x: Ints, slow_samples: int) -> Ints:
    return x[:slow_samples] if engine in SLOW else x


def _run(engine: str, network: Network, model: nn.Module | None, x: Ints, lava_timeout: float) -> Recording:
    with progress() as bar:
        task = bar.add_task(engine, total=len(x), note="")

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        advance(0, len(x))
        result = run_engine(engine, network, model, x, lava_timeout=lava_timeout, progress=advance)
        bar.update(task, completed=len(x), total=len(x), note=f"{len(x)} samples")
    return result


def _accuracy(
    network: Network, recordings: dict[str, Recording], floats: float_model.FloatRun | None, labels: Ints | None
) -> dict[str, tuple[int, int]]:
    if labels is None:
        return {}
    answers = {name: float_model.answers(network, r) for name, r in recordings.items() if network.readout}
    if floats is not None:
        answers = {"float": floats.answers, **answers}
    return {name: (int((a == labels[: len(a)]).sum()), len(a)) for name, a in answers.items()}


def to_json(
    network: Network,
    comparisons: Sequence[Comparison],
    floats: float_model.FloatRun | None,
    accuracy: dict[str, tuple[int, int]],
    recording: Comparison | None = None,
) -> dict[str, object]:
    """equivalence.json (schema version 1). `recording`: that with a file, which may leave out populations."""
    correct, total = accuracy.get("float", (0, 0))
    return {
        "schema_version": 1,
        "network": network.digest,
        "comparisons": [{**dataclasses.asdict(c), "equal": c.equal} for c in comparisons],
        "recording": None if recording is None else {**dataclasses.asdict(recording), "equal": recording.equal},
        "float": None
        if floats is None
        else {
            "agreement": [dataclasses.asdict(layer) for layer in floats.layers],
            "accuracy": correct / total if total else None,
        },
        "accuracy": {name: list(counts) for name, counts in accuracy.items()},
    }


def _print_recorded(found: Recorded, samples: int) -> None:
    """What of a recording was not compared."""
    name = found.recording.engine
    if not found.same_inputs:
        console.print(f"{name} does not hold its inputs ({INPUT}), so that they were these is not checked")
    if found.absent:
        console.print(f"not in {name}: {', '.join(found.absent)}")
    if found.strange:
        console.print(f"in {name} and not compared: {', '.join(found.strange)}", markup=False)
    if found.total != samples:
        compared = f"{min(found.total, samples)} compared"
        console.print(f"{name} has {found.total} samples, the engines ran {samples}: {compared}")


def _print(
    folder: Path,
    network: Network,
    comparisons: Sequence[Comparison],
    floats: float_model.FloatRun | None,
    accuracy: dict[str, tuple[int, int]],
) -> None:
    if comparisons:
        driven = sum(isinstance(p.program, Driven) for p in network.populations)
        table = Table(title=f"{network.name}: every population, step and sample", title_justify="left", box=SIMPLE)
        table.add_column("engines", no_wrap=True)
        for column in ("samples", "steps", "layers", "spikes", "compared", "differ"):
            table.add_column(column, justify="right", no_wrap=True)
        for c in comparisons:
            mismatches = sum(p.mismatches for p in c.populations)
            layers = str(len(c.populations)) if len(c.populations) == driven else f"{len(c.populations)} of {driven}"
            table.add_row(
                " = ".join(c.engines) if c.equal else " != ".join(c.engines),
                *(f"{c.samples:,}", f"{c.steps:,}", layers, f"{c.spikes:,}"),
                f"{sum(p.compared for p in c.populations):,}",
                f"[green]{mismatches}[/]" if c.equal else f"[red]{mismatches:,}[/]",
            )
        console.print(table)
    if accuracy:
        console.print("accuracy  " + "   ".join(f"{n} {k / total:.2%} ({total})" for n, (k, total) in accuracy.items()))
    if floats is not None:
        parts = "   ".join(f"{layer.population} {layer.agreement:.2%}" for layer in floats.layers)
        console.print(f"float and integer spikes that agree  {parts}")
    console.print(f"wrote {folder / runs.EQUIVALENCE} and {folder / runs.ACTIVITY}")

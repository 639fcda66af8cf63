"""What a simulation found: equivalence.json, and one screen of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from export.network import Driven, Network
from sim.equivalence import Comparison
from sim.float_model import LayerAgreement
from sim.parts import Accuracy, Part
from sim.probe import NOISE, Probe
from sim.recorded import INPUT, Recorded
from train.console import console


def to_json(
    network: Network,
    comparisons: Sequence[Comparison],
    total: Part,
    accuracy: Accuracy,
    recording: Comparison | None = None,
) -> dict[str, object]:
    """equivalence.json (schema version 2). `recording`: that with a file, which may leave out populations."""
    correct, answered = accuracy.get("float", (0, 0))
    return {
        "schema_version": 2,
        "network": network.digest,
        "comparisons": [{**dataclasses.asdict(c), "equal": c.equal} for c in comparisons],
        "recording": None if recording is None else {**dataclasses.asdict(recording), "equal": recording.equal},
        "float": None
        if total.probe is None
        else {
            "agreement": _agreement(total.floats, total.probe),
            "accuracy": correct / answered if answered else None,
            "probe": {k: v for k, v in dataclasses.asdict(total.probe).items() if k != "layers"},
        },
        "accuracy": {name: list(counts) for name, counts in accuracy.items()},
    }


def _agreement(floats: Sequence[LayerAgreement], probed: Probe) -> list[dict[str, object]]:
    return [
        {
            "population": layer.population,
            "agreement": layer.agreement,
            "own": tried.own,
            "count_distance": layer.count_distance,
            "float_spikes": layer.float_spikes,
            "integer_spikes": layer.integer_spikes,
            "correct": tried.correct,
        }
        for layer, tried in zip(floats, probed.layers, strict=True)
    ]


def show_recorded(found: Recorded, samples: int) -> None:
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


def _show_float(floats: Sequence[LayerAgreement], probed: Probe) -> None:
    """The float model against the integer network, layer by layer, and where the loss begins."""
    table = Table(title="float model against integer network", title_justify="left", box=SIMPLE)
    table.add_column("population", overflow="fold")
    right = "accuracy with integers up to here" if probed.labelled else "answers kept with integers up to here"
    for column in ("agreement", "its own", "counts differ", right):
        table.add_column(column, justify="right")
    for layer, tried in zip(floats, probed.layers, strict=True):
        shares = (layer.agreement, tried.own, layer.count_distance, tried.correct / probed.samples)
        table.add_row(layer.population, *(f"{share:.2%}" for share in shares))
    console.print(table)
    ends = f"{probed.float_correct / probed.samples:.2%} float, {probed.integer_correct / probed.samples:.2%} integer"
    lost = f"the loss begins at {probed.loss_begins}" if probed.loss_begins else f"no more than {NOISE:.0%} is lost"
    console.print(f"on the first {probed.samples} samples {ends}: {lost}", markup=False)


def show(
    network: Network,
    comparisons: Sequence[Comparison],
    total: Part,
    accuracy: Accuracy,
) -> None:
    if comparisons:
        driven = sum(isinstance(p.program, Driven) for p in network.populations)
        table = Table(title=f"{network.name}: every population, step and sample", title_justify="left", box=SIMPLE)
        table.add_column("engines", overflow="fold")  # figures keep their digits where a row is long
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
        console.print("accuracy  " + "   ".join(f"{n} {right / of:.2%} ({of})" for n, (right, of) in accuracy.items()))
    if total.probe is not None:
        _show_float(total.floats, total.probe)

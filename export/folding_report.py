"""What folding attention cost, for the user and for the run folder: every gate, and the accuracy of every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from export.folding import Folded, Version, correct_integers
from export.network import Network
from train import runs
from train.console import console


def report(folded: Folded, final: Network | None, run: Path) -> None:
    """Print what the fold cost, with the accuracy of the integers `final` of its graph; keep it in attention.json."""
    samples = len(folded.labels)
    versions = list(folded.versions)
    if final is not None:
        last = versions[-1]
        versions[-1] = Version(last.name, last.correct, correct_integers(final, folded.inputs, folded.labels))
    runs.write_json(run / runs.ATTENTION, to_json(folded, versions, samples))
    console.print(_gates(folded))
    console.print("samples, steps: spread of a gain over them; kept: spikes and silences as with attention")
    console.print(accuracy(versions, samples))
    console.print(f"wrote {run / runs.ATTENTION}")


def accuracy(versions: Sequence[Version], samples: int) -> Table:
    """Versions of a model and how many of the test samples each answers rightly, in float and in integers."""
    table = Table(title=f"accuracy on {samples} test samples", title_justify="left", box=SIMPLE)
    table.add_column("network", overflow="fold")
    for column in ("float", "integer"):
        table.add_column(column, justify="right")
    for version in versions:
        integer = "" if version.integer is None else f"{version.integer / samples:.2%}"
        table.add_row(version.name, f"{version.correct / samples:.2%}", integer)
    return table


def _gates(folded: Folded) -> Table:
    table = Table(title="folded to means of the calibration samples", title_justify="left", box=SIMPLE)
    table.add_column("gate", overflow="fold")
    for column in ("mean", "range", "samples", "steps", "kept"):
        table.add_column(column, justify="right", no_wrap=True)
    for gate, agreement in folded.lost:
        span = f"{gate.mean.min():.2f}..{gate.mean.max():.2f}"
        numbers = (f"{value:.3f}" for value in (gate.over_samples, gate.over_steps))
        table.add_row(gate.id, f"{gate.mean.mean():.3f}", span, *numbers, f"{agreement:.2%}")
    return table


def to_json(folded: Folded, versions: Sequence[Version], samples: int) -> dict[str, object]:
    """attention.json (schema version 1)."""
    return {
        "schema_version": 1,
        "attention": "fold",
        "gates": [
            {
                "id": gate.id,
                "origin": gate.origin,
                "kind": gate.kind,
                "shape": list(gate.mean.shape),
                "mean": float(gate.mean.mean()),
                "lowest": float(gate.mean.min()),
                "highest": float(gate.mean.max()),
                "over_samples": gate.over_samples,
                "over_steps": gate.over_steps,
                "spikes_kept": agreement,
            }
            for gate, agreement in folded.lost
        ],
        "heal_losses": list(folded.losses),
        "samples": samples,
        "correct": [asdict(version) for version in versions],
    }

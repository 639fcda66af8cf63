"""What `--attention quantize` says of a run: what every gate lost, and how many test samples are answered rightly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from rich.box import SIMPLE
from rich.table import Table

from export.folding import Version, correct, correct_integers, test_inputs
from export.folding_report import accuracy
from export.graph import Floats, Graph
from export.heal import static_model
from export.network import Attention, Network, Population
from export.passes.fold_attention import measure
from train import runs
from train.console import console
from train.errors import UserError
from train.models import Classifier
from train.restore import Trained


@dataclass(frozen=True)
class Quantising:
    """The command line's choice: test samples of the report."""

    name: ClassVar[str] = "quantize"

    test_samples: int = 1000

    def __post_init__(self) -> None:
        if self.test_samples < 1:
            raise UserError(f"--test-samples {self.test_samples}, must be at least 1")


def report(how: Quantising, trained: Trained, graph: Graph, calibration: Floats, network: Network, run: Path) -> None:
    """Print what the gates lost and the accuracy of the integers, beside a fold's; keep it in attention.json.

    Args:
        graph: of the model with attention.
        calibration: raw inputs [T, B, *shape], on which a fold would measure its means.
        network: the integer network with attention.
    """
    model = trained.model
    assert isinstance(model, Classifier)
    inputs, labels = test_inputs(trained, how.test_samples)
    folded = correct(static_model(model, measure(graph, calibration)), inputs, labels)
    versions = (
        Version("folded", folded),
        Version("with attention", correct(model, inputs, labels), correct_integers(network, inputs, labels)),
    )
    runs.write_json(run / runs.ATTENTION, to_json(network, versions, len(labels)))
    console.print(_gates(network))
    console.print("error: of the integer gains, RMS over that of the float gains of the same currents")
    console.print(accuracy(versions, len(labels)))
    console.print(f"wrote {run / runs.ATTENTION}")


def _attending(network: Network) -> list[Population]:
    return [p for p in network.populations if isinstance(p.program, Attention)]


def _error(network: Network, population: Population) -> float:
    (record,) = (record for record in network.records if record.population == population.id)
    return 1 - record.spike_agreement


def _gates(network: Network) -> Table:
    table = Table(title="attention in integers, not a stock program", title_justify="left", box=SIMPLE)
    table.add_column("gate", overflow="fold")
    for column in ("program", "products a sample", "error"):
        table.add_column(column, justify="right", no_wrap=True)
    for p in _attending(network):
        assert isinstance(p.program, Attention)
        products = p.program.products(p.shape, network.steps)
        table.add_row(p.id, type(p.program).__name__, f"{products:,}", f"{_error(network, p):.2%}")
    return table


def to_json(network: Network, versions: tuple[Version, ...], samples: int) -> dict[str, object]:
    """attention.json (schema version 1)."""
    return {
        "schema_version": 1,
        "attention": "quantize",
        "gates": [
            {"id": p.id, "origin": p.origin, "kind": type(p.program).__name__, "error": _error(network, p)}
            for p in _attending(network)
        ],
        "samples": samples,
        "correct": [asdict(version) for version in versions],
    }

"""The last thing that the whole path says: what was equal, how accurate it is, and where the report is."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from deploy.report import formats


def summary(report: dict[str, Any]) -> Table:
    """Equality, accuracy and cost of a report (the content of report.json) as one table."""
    table = Table(box=SIMPLE, show_header=False, title="what is known of this network", title_justify="left")
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    comparisons = report["equivalence"]["comparisons"] if report["equivalence"] else []
    if not comparisons:
        table.add_row("equality", "not checked yet: python -m sim")
    for comparison in comparisons:
        table.add_row(" = ".join(comparison["engines"]), _equality(comparison))
    if report["accuracy"]:
        parts = [f"{name} {k / n:.2%} ({n})" for name, (k, n) in report["accuracy"].items()]
        table.add_row("accuracy (samples)", ", ".join(parts))
    if report["cost"]:
        table.add_row("a sample", f"{formats.number(report['cost']['synaptic_operations'])} synaptic operations")
    timing = report["timing"]
    table.add_row("time", f"latency {timing['latency']} steps, a new sample every {timing['period']}")
    return table


def _equality(comparison: dict[str, Any]) -> str:
    spikes = sum(p["spikes"] or 0 for p in comparison["populations"])
    samples, steps, layers = comparison["samples"], comparison["steps"], len(comparison["populations"])
    where = f"{samples:,} samples x {steps} steps, {layers} populations, {spikes:,} spikes"
    if comparison["equal"]:
        return f"[green]equal[/] on all of them: {escape(where)}"
    return f"[red]different[/]: {sum(p['mismatches'] for p in comparison['populations']):,} values of {escape(where)}"

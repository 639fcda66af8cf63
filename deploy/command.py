"""What `python -m deploy` does: read the network, plan it, print the plan, write the report."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from deploy import chip as chips
from deploy import mapping, rules
from deploy.mapping import Plan
from deploy.report import formats
from deploy.report.assemble import write_report
from deploy.summary import summary
from export.network import Network
from export.store import read_network
from train import runs
from train.console import console
from train.errors import CheckFailedError


def deploy(run: Path | None, chip_name: str) -> None:
    """Plan the network of a run folder on a chip, print the plan, write report.html and report.json.

    Raises:
        UserError: a file is missing or damaged, or there is no such chip.
        CheckFailedError: the network breaks a rule of the chip; the report is written all the same.
    """
    chip = chips.load(chip_name)
    folder = runs.find(run, needs={runs.NETWORK: "python -m export --target loihi2"})
    network = read_network(folder / runs.NETWORK)
    plan = mapping.plan(network, chip)
    broken = rules.violations(network, plan)
    report = write_report(folder, network, plan, broken)
    console.print(table(network, plan))
    chips_needed = "1 chip" if plan.chips == 1 else f"{plan.chips:,} chips"
    console.print(f"memory  convolutions {chip.storage.convolution.value}, over all cores")
    console.print(f"cores   {plan.cores:,}, a chip has {chip.limits.cores.value:,}: {chips_needed}")
    for violation in broken:
        console.print(f"[red]{violation.rule}[/]  {escape(str(violation))}")
    for line in rules.not_stock(network):
        console.print(escape(line))
    console.print(summary(report))
    console.print(f"report  {escape(str(folder / runs.REPORT_HTML))}")
    if broken:
        count = "1 rule" if len(broken) == 1 else f"{len(broken)} rules"
        raise CheckFailedError(f"network {network.name} breaks {count} of {chip.title}")


def table(network: Network, plan: Plan) -> Table:
    """The plan as a table: one row a population, totals below."""
    result = Table(
        title=escape(f"{network.name} on {plan.chip.title}"), title_justify="left", show_footer=True, box=SIMPLE
    )
    result.add_column("population", "all", overflow="fold")
    placements = plan.placements
    result.add_column("neurons", f"{sum(p.neurons for p in placements):,}", justify="right", no_wrap=True)
    result.add_column("synapses", f"{sum(p.synapses for p in placements):,}", justify="right", no_wrap=True)
    memory = formats.memory(sum(p.memory_bits for p in placements))
    result.add_column("memory", memory, justify="right", no_wrap=True)
    result.add_column("cores", f"{plan.cores:,}", justify="right", no_wrap=True)
    result.add_column("fullest core", justify="right", no_wrap=True)
    for placement in placements:
        fullest = max(placement.uses, key=lambda use: use.fraction)
        result.add_row(
            placement.population,
            f"{placement.neurons:,}",
            f"{placement.synapses:,}",
            formats.memory(placement.memory_bits),
            f"{placement.cores:,}",
            f"{formats.percent(fullest.fraction)} {fullest.resource}",
        )
    return result

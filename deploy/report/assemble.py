"""From a run folder to report.html and report.json."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from deploy.activity import COMMAND, Activity, check_matches
from deploy.activity_store import read_activity
from deploy.mapping import Plan
from deploy.report import diagram, numbers, page, raster
from deploy.report.equivalence import read_equivalence
from deploy.rules import Violation
from export.network import Network
from train import runs
from train.errors import UserError


def write_report(run: Path, network: Network, plan: Plan, broken: tuple[Violation, ...]) -> dict[str, Any]:
    """Write report.html and report.json into the run folder; returns what report.json holds.

    activity.h5, equivalence.json and config.json are optional: without them the page names the command that makes them.

    Raises:
        UserError: one of these files is there and damaged, or belongs to another network.
    """
    activity = _read_matching(run / runs.ACTIVITY, network)
    equivalence = _read_comparisons(run / runs.EQUIVALENCE, network)
    report = _finite(numbers.build(network, plan, broken, activity, equivalence, _read_config(run / runs.CONFIG)))
    runs.write_text(run / runs.REPORT_HTML, page.render(report, _figures(report, network, activity)))
    runs.write_json(run / runs.REPORT_JSON, report)
    assert isinstance(report, dict)
    return report


def _read_matching(path: Path, network: Network) -> Activity | None:
    if not path.is_file():
        return None
    activity = read_activity(path)
    try:
        check_matches(activity, network)
    except UserError as error:
        raise UserError(error.what, where=str(path), hint=error.hint) from error
    return activity


def _read_comparisons(path: Path, network: Network) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    equivalence = read_equivalence(path)
    compared = {p["id"] for comparison in equivalence["comparisons"] for p in comparison["populations"]}
    strange = compared - {p.id for p in network.populations}
    if strange or equivalence["network"] != network.digest:
        raise UserError("belongs to another network, or an older export", where=str(path), hint=f"again: {COMMAND}")
    return equivalence


def _read_config(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    config = runs.read_json(path, limit=1 << 20)
    if not isinstance(config, dict):
        raise UserError("not a JSON object", where=str(path))
    return config


def _figures(report: dict[str, Any], network: Network, activity: Activity | None) -> dict[str, Markup]:
    figures = {"diagram": diagram.draw(report["network"])}
    if activity is not None:
        figures["raster"] = raster.draw(network, activity)
    return figures


def _finite(value: Any) -> Any:
    """JSON data with lists for tuples, and null for the numbers that JSON cannot say (NaN, infinity)."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

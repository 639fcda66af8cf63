"""The page: the numbers and the figures put into the template, with everything escaped that comes from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from deploy.report import diagram, formats, raster

FOLDER = Path(__file__).parent


def render(numbers: Mapping[str, Any], figures: Mapping[str, Markup]) -> str:
    """One HTML page that loads nothing: style and figures are inside."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=formats.number,
        percent=formats.percent,
        energy=formats.energy,
        memory=formats.memory,
        duration=formats.duration,
        shape=formats.shape,
        label=diagram.label,
        flat=flatten,
    )
    environment.globals.update(bars=raster.bars, formats=formats)
    style = Markup((FOLDER / "style.css").read_text(encoding="utf-8"))
    return environment.get_template("template.html").render(**numbers, figures=figures, style=style)


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested JSON object as (dotted name, value) pairs, lists in JSON."""
    if isinstance(value, dict) and value:
        return [
            pair for key, item in value.items() for pair in flatten(item, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, value if isinstance(value, str) else json.dumps(value))]

"""The network as an SVG: populations from top to bottom, connections between neighbours, arcs for those that skip."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from deploy.report import formats

STYLES = {"input": "input", "clock": "input", "read-out": "readout", "LIF": "lif", "attention": "lif"}
BOX_WIDTH, BOX_HEIGHT, LINE = 330, 58, 17
LEFT, TOP, LANE = 1, 6, 210


def draw(network: dict[str, Any]) -> Markup:
    """SVG markup of `numbers["network"]`; every text from the file is escaped."""
    rows = {population["id"]: index for index, population in enumerate(network["populations"])}
    gaps, skips = _sort_connections(network["connections"], rows)
    tops = _tops(gaps)
    lanes = _lanes(skips, rows)
    width = LEFT + BOX_WIDTH + 12 + LANE * (max(lanes, default=-1) + 1)
    height = tops[-1] + BOX_HEIGHT + TOP
    parts = [_box(population, tops[index]) for index, population in enumerate(network["populations"])]
    for upper, connections in enumerate(gaps):
        parts += _arrow(connections, tops[upper] + BOX_HEIGHT, tops[upper + 1])
    for connection, lane in zip(skips, lanes, strict=True):
        parts.append(_arc(connection, tops[rows[connection["source"]]], tops[rows[connection["target"]]], lane))
    return Markup(
        '<svg class="diagram" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="network diagram">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" class="tip"/></marker></defs>{body}</svg>'
    ).format(w=width, h=height, body=Markup("").join(parts))


def _sort_connections(
    connections: list[dict[str, Any]], rows: dict[str, int]
) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Connections between neighbouring rows, by the upper row; and the others, short ones first."""
    gaps: list[list[dict[str, Any]]] = [[] for _ in range(len(rows) - 1)]
    skips = []
    for connection in connections:
        upper, lower = rows[connection["source"]], rows[connection["target"]]
        if lower == upper + 1:
            gaps[upper].append(connection)
        else:
            skips.append(connection)
    return gaps, sorted(skips, key=lambda c: abs(rows[c["target"]] - rows[c["source"]]))


def _tops(gaps: list[list[dict[str, Any]]]) -> list[int]:
    tops = [TOP]
    for connections in gaps:
        tops.append(tops[-1] + BOX_HEIGHT + max(30, LINE * len(connections) + 18))
    return tops


def _lanes(skips: list[dict[str, Any]], rows: dict[str, int]) -> list[int]:
    """For each skipping connection the leftmost lane in which no other one runs beside it."""
    taken: list[list[tuple[int, int]]] = []
    lanes = []
    for connection in skips:
        low, high = sorted((rows[connection["source"]], rows[connection["target"]]))
        lane = next(
            (i for i, spans in enumerate(taken) if all(high <= a or low >= b for a, b in spans)),
            len(taken),
        )
        if lane == len(taken):
            taken.append([])
        taken[lane].append((low, high))
        lanes.append(lane)
    return lanes


def _box(population: dict[str, Any], top: int) -> Markup:
    bits = population["payload_bits"]
    kind = f"{bits}-bit graded events" if bits > 1 else population["kind"]
    kind = f"attention, {kind}" if population["kind"] == "attention" else kind
    kind += ", gated" if population["gated"] else ""
    kind += ", reset subtracts" if population["reset"] == "subtract" else ""
    return Markup(
        '<g><title>{origin}</title><rect class="box {style}" x="{x}" y="{y}" width="{w}" height="{h}" rx="6"/>'
        '<text class="id" x="{left}" y="{first}">{id}</text>'
        '<text class="right strong" x="{right}" y="{first}">{shape}</text>'
        '<text class="quiet" x="{left}" y="{second}">{kind}</text>'
        '<text class="right quiet" x="{right}" y="{second}">starts at step {start}</text></g>'
    ).format(
        origin=population["origin"] or population["id"],
        style=STYLES[population["kind"]],
        x=LEFT, y=top, w=BOX_WIDTH, h=BOX_HEIGHT,
        left=LEFT + 14, right=LEFT + BOX_WIDTH - 14, first=top + 24, second=top + 44,
        id=_short(population["id"], 22), shape=formats.shape(population["shape"]), kind=kind, start=population["start"],
    )  # fmt: skip


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def label(connection: dict[str, Any]) -> str:
    """Kind and delays in a few words."""
    delays = formats.steps(connection["delays"])
    return f"{connection['kind']}{', ' if delays else ''}{delays}"


def _arrow(connections: list[dict[str, Any]], top: int, bottom: int) -> list[Markup]:
    if not connections:
        return []
    x = LEFT + 40
    first = (top + bottom) / 2 - LINE * (len(connections) - 1) / 2 + 4
    line = Markup('<path class="edge" d="M{x} {a} L{x} {b}" marker-end="url(#tip)"/>').format(x=x, a=top, b=bottom - 1)
    texts = [
        Markup('<text class="label" x="{}" y="{}">{}</text>').format(x + 14, first + LINE * i, label(connection))
        for i, connection in enumerate(connections)
    ]
    return [line, *texts]


def _arc(connection: dict[str, Any], source_top: int, target_top: int, lane: int) -> Markup:
    right = LEFT + BOX_WIDTH
    turn = right + 26 + LANE * lane
    start, end = source_top + BOX_HEIGHT - 14, target_top + 14
    if end < start:  # a connection back in time, or to itself
        start, end = source_top + 14, target_top + BOX_HEIGHT - 14
    return Markup(
        '<path class="edge" d="M{r} {a} L{t} {a} L{t} {b} L{r} {b}" marker-end="url(#tip)"/>'
        '<text class="label" x="{text}" y="{middle}">{label}</text>'
    ).format(r=right, t=turn, a=start, b=end, text=turn + 8, middle=(start + end) / 2 + 4, label=label(connection))

"""Spikes of one sample, every population in its own window on the common axis of machine steps; and small bars."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from deploy.activity import Activity, PopulationActivity
from export.network import Network

WIDTH, GUTTER, GAP, FOOT = 1000, 190, 14, 40


def draw(network: Network, activity: Activity) -> Markup:
    """SVG markup: a band per population, neurons from top to bottom, machine steps of the sample from left to right."""
    origin = network.source.start
    unit = (WIDTH - GUTTER - 10) / network.latency
    y, parts = 6.0, []
    for population in activity.populations:
        height = float(np.clip(1.5 * population.raster_neurons.size, 40, 110))
        left = GUTTER + unit * (network.population(population.id).sends(network.steps) - origin)
        parts.append(_band(population, left, y, unit, height))
        y += height + GAP
    parts.append(_axis(network.latency, unit, y))
    return Markup(
        '<svg class="raster" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="spike raster">'
        "{body}</svg>"
    ).format(w=WIDTH, h=round(y + FOOT), body=Markup("").join(parts))


def _band(population: PopulationActivity, left: float, top: float, unit: float, height: float) -> Markup:
    shown, neurons = population.raster_neurons.size, population.spikes_per_neuron.size
    row = height / max(shown, 1)
    tick = max(unit * 0.72, 0.6)
    marks = [
        f"M{left + unit * (step + 0.14):.1f} {top + row * (neuron + 0.5):.1f}h{tick:.1f}"
        for step, neuron in np.argwhere(population.raster)
    ]
    count = f"{neurons:,} neurons" if shown == neurons else f"{shown:,} of {neurons:,} neurons"
    name = population.id if len(population.id) <= 22 else f"{population.id[:21]}…"
    return Markup(
        '<text class="id" x="0" y="{y1:.0f}">{name}</text><text class="quiet" x="0" y="{y2:.0f}">{count}</text>'
        '<rect class="window" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"/>'
        '<path class="spikes" stroke-width="{stroke:.2f}" d="{d}"/>'
    ).format(
        y1=top + height / 2 - 3, y2=top + height / 2 + 14, name=name, count=count,
        x=left, y=top, w=unit * population.raster.shape[0], h=height,
        stroke=max(row * 0.8, 0.5), d=Markup("").join(marks),
    )  # fmt: skip


def _axis(latency: int, unit: float, top: float) -> Markup:
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if latency / step <= 20)
    ticks = [
        Markup('<text class="tick" x="{:.1f}" y="{:.0f}">{}</text>').format(GUTTER + unit * (s + 0.5), top + 8, s)
        for s in range(0, latency, every)
    ]
    caption = Markup('<text class="quiet" x="{}" y="{:.0f}">machine step since the first input of the sample</text>')
    return Markup("").join([*ticks, caption.format(GUTTER, top + 28)])


def bars(values: list[float], peak: float) -> Markup:
    """A small bar chart of one value per window step, all charts of a table on the same scale `peak`."""
    width, height = 120, 26
    unit = width / max(len(values), 1)
    gap = 2 if unit > 6 else 0
    shape = [f"M0 {height}"]
    for step, value in enumerate(values):  # one outline, so that many narrow bars show no seams
        top = height * (1 - value / peak) if peak else height
        left = unit * step
        shape.append(f"H{left:.1f}V{top:.1f}H{left + unit - gap:.1f}" + (f"V{height}" if gap else ""))
    return Markup(
        '<svg class="bars" viewBox="0 0 {w} {h}" width="{w}" height="{h}" aria-hidden="true">'
        '<path class="bar" d="{shape}V{height}z"/><path class="base" d="M0 {base}h{w}"/></svg>'
    ).format(w=width, h=height + 1, height=height, base=height + 0.5, shape="".join(shape))

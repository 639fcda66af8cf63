"""Attention on every backbone, folded and as integer programs: it exports, and all engines give one answer.

In `make test` each attention meets three backbones; the rest, and Lava's runtime on all of them, is
`pytest -m slow tests/test_attention_backbones.py`.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple, get_args

import numpy as np
import pytest
from test_attention import STEPS, lively, time_first
from torch import nn

from export.network import Attention, Ints, Network
from export.passes.fold_attention import measure
from export.pipeline import compile_graph, lower_graph
from export.trace import trace
from sim import equivalence, fast, lava, reference, torch_engine
from sim.recording import Recording
from train.choices import AttentionName, ModelName
from train.data import DataSpec

SPEC = DataSpec("random", (2, 16, 16), 5, 15, (7.0, 7.0), (5.0, 5.0))
Way = Literal["fold", "quantize"]


class Case(NamedTuple):
    """One combination; temporal shift is in all of them, adaptive LIF where STAA-SNN is."""

    model: ModelName
    attention: AttentionName
    way: Way


ALL = [
    Case(model, attention, way)
    for model in get_args(ModelName)
    if model != "recurrent"
    for attention in ("fsta", "staa")
    for way in get_args(Way)
]
SOME = {
    Case("vgg-11", "fsta", "quantize"),
    Case("resnet-18-imagenet", "staa", "quantize"),
    Case("resnet-20", "staa", "fold"),
    Case("resnet-18", "fsta", "fold"),
}
CASES = [pytest.param(case, id="-".join(case), marks=() if case in SOME else pytest.mark.slow) for case in ALL]


def frames(samples: int, seed: int = 0) -> Ints:
    """Random frames that change from step to step, int64 [samples, T, C, H, W]."""
    return np.random.default_rng(seed).integers(0, 16, (samples, STEPS, *SPEC.shape))


@cache
def compiled(case: Case) -> tuple[nn.Module, Network]:
    model = lively(case.attention, case.model, 1 / 4 if case.model == "small-conv" else 1 / 32, SPEC)
    graph, inputs = trace(model, SPEC, STEPS, case.model), time_first(frames(4, seed=1))
    gates = measure(graph, inputs) if case.way == "fold" else ()
    return model, compile_graph(lower_graph(graph, gates, attention=case.way == "quantize"), inputs).network


def same(network: Network, first: Recording, second: Recording, x: Ints) -> int:
    """The spikes that were compared, where nothing differs."""
    result = equivalence.compare(network, first, second, x)
    assert result.equal, result.difference
    return result.spikes


@pytest.mark.parametrize("case", CASES)
def test_it_exports_and_the_engines_agree(case: Case) -> None:
    model, network = compiled(case)
    assert any(isinstance(p.program, Attention) for p in network.populations) == (case.way == "quantize")
    x = frames(2)
    integer = fast.run(network, x)
    assert same(network, integer, torch_engine.run(network, model, x), x) > 0
    assert same(network, integer, reference.run(network, x[:1]), x[:1]) > 0


@pytest.mark.slow
@pytest.mark.lava
@pytest.mark.parametrize("case", [pytest.param(case, id="-".join(case)) for case in ALL])
def test_integer_and_lava_are_equal(case: Case) -> None:
    _, network = compiled(case)
    x = frames(2)
    spikes = same(network, fast.run(network, x), lava.run(network, x, timeout=900.0), x)
    print(f"{'-'.join(case)}: {len(network.populations)} populations, {spikes} spikes equal")

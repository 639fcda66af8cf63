"""Input coding: slices add up exactly, the rule, and 8-bit normalised images from the model to the machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_passes import graphs, random_inputs
from torch import nn

from export import graph as g
from export import proof
from export.input_coding import choose_coding
from export.interpret import interpret
from export.network import Network, Source
from export.passes.code_input import code_input
from export.pipeline import PASSES, Compiled, compile_graph, lower_graph
from export.quantise import Signed
from export.store import read_network, write_network
from export.trace import trace
from sim import equivalence, fast, lava, reference, torch_engine
from sim.pytest_plugin import assert_spikes_equal
from train import checkpoint, loop, models, runs
from train.config import ModelConfig, TrainConfig
from train.data import DataSpec
from train.errors import UserError
from train.layers.fixed_point import CodedInput
from train.quantise.coding import InputCoding, candidates, centre, choose
from train.quantise.layers import constrain
from train.quantise.prepare import input_coding, prepare
from train.restore import as_sent, restore, trained_coding

MEAN, STD = (125.3, 123.0, 113.9), (51.6, 50.8, 51.3)
CIFAR_LIKE = DataSpec("cifar-like", (3, 8, 8), 10, 255, MEAN, STD)
STEPS = 3


@st.composite
def codings(draw: st.DrawFn, channels: int, bits: int | None = None) -> InputCoding:
    """Any coding of `channels` raw channels."""
    bits = bits or draw(st.integers(1, 12))
    offset = draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=channels, max_size=channels) | st.just([]))
    return InputCoding(bits, tuple(offset), draw(st.integers(0, bits - 1)))


def raw_values(coding: InputCoding, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Random raw values, both ends among them."""
    values = np.random.default_rng(seed).integers(0, 1 << coding.payload_bits, shape)
    values.flat[0], values.flat[-1] = 0, (1 << coding.payload_bits) - 1
    return values


def lively(config: ModelConfig, spec: DataSpec = CIFAR_LIKE, seed: int = 1) -> models.Classifier:
    """An untrained model whose batch norms have seen data like it gets and fire."""
    torch.manual_seed(seed)
    model = models.build(config, spec)
    for _ in range(5):
        model(torch.from_numpy(images(32, seed, spec).swapaxes(0, 1)).float())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 1.5)
            nn.init.normal_(module.bias, 0.2, 0.4)
    return model.eval()


def images(count: int, seed: int = 0, spec: DataSpec = CIFAR_LIKE) -> np.ndarray:
    """Smooth random images over time, int64 [samples, T, C, H, W]."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1, (count, spec.shape[0], 2, 2)).repeat(spec.shape[1] // 2, 2).repeat(spec.shape[2] // 2, 3)
    noisy = coarse + rng.normal(0, 0.5, (count, *spec.shape))
    mean, std = (np.asarray(values).reshape(-1, 1, 1) for values in (spec.mean, spec.std))
    frames = np.clip(np.rint(mean + std * noisy), 0, spec.levels).astype(np.int64)
    return np.repeat(frames[:, None], STEPS, axis=1)


def compiled(model: nn.Module, spec: DataSpec = CIFAR_LIKE, **options: object) -> Compiled:
    stages = lower_graph(trace(model, spec, STEPS, spec.name))
    calibration = images(8, 7, spec).swapaxes(0, 1).astype(np.float64)
    return compile_graph(stages, calibration, **options)  # type: ignore[arg-type]


@given(data=st.data(), channels=st.integers(1, 3), seed=st.integers(0, 1 << 30))
def test_slices_add_up_to_the_raw_value_and_stay_within_their_reach(
    data: st.DataObject, channels: int, seed: int
) -> None:
    coding = data.draw(codings(channels))
    x = raw_values(coding, seed, (2, 3, channels, 2, 5))
    sent = coding.encode(x)
    assert sent.shape[2:] == coding.sent_shape(x.shape[2:])
    assert coding.raw_shape(sent.shape[2:]) == x.shape[2:]
    offset = np.asarray(coding.offset or [0] * channels).reshape(-1, 1, 1)
    parts = sent.reshape(2, 3, channels, coding.slices, 2, 5)
    back = parts[:, :, :, 0] + offset if coding.slices == 1 else (parts[:, :, :, 0] << coding.low_bits) + offset
    np.testing.assert_array_equal(back + (parts[:, :, :, 1] if coding.slices == 2 else 0), x)
    low, high = (side.reshape(-1, 1, 1) for side in coding.reach(sent.shape[2]))
    assert (low <= sent).all()
    assert (sent <= high).all()
    assert (low <= 0).all(), "silence must be within the reach"
    signed = bool((low < 0).any())
    assert high.max() < 1 << (coding.spike_bits - signed)
    assert low.min() >= -(1 << (coding.spike_bits - signed))


@given(data=st.data(), channels=st.integers(1, 3), seed=st.integers(0, 1 << 30))
def test_the_torch_layer_and_the_float_arrays_code_alike(data: st.DataObject, channels: int, seed: int) -> None:
    coding = data.draw(codings(channels))
    x = raw_values(coding, seed, (2, 3, channels, 4, 2))
    layer = CodedInput(torch.tensor(coding.offset or (0,)), coding.low_bits)
    np.testing.assert_array_equal(layer(torch.from_numpy(x).float()).numpy(), coding.encode(x))
    np.testing.assert_array_equal(coding.encode(x.astype(np.float64)), coding.encode(x))


@given(graph=graphs(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_coded_graph_does_what_the_graph_does(graph: g.Graph, data: st.DataObject) -> None:
    final = lower_graph(graph)[PASSES[-1].__name__]
    coding = data.draw(codings(graph.shapes["input"][0], bits=4))
    inputs = random_inputs(graph)
    before, after = (interpret(x, inputs).values for x in (final, code_input(final, coding)))
    for name in before.keys() - {"input"}:
        np.testing.assert_allclose(before[name], after[name], rtol=0, atol=1e-9, err_msg=name)


def test_slices_reach_through_groups_delays_and_dense_layers() -> None:
    rng = np.random.default_rng(3)
    nodes = (
        g.Input("input", "", (), (2, 4, 4), 255),
        g.Delay("late", "", ("input",), np.array([0, 1])),
        g.Convolution("conv", "", ("late",), rng.normal(0, 1, (4, 1, 3, 3)), None, (1, 1), (1, 1), groups=2),
        g.Neuron("lif", "", ("conv",), 0.25, 60.0),
        g.Dense("dense", "", ("input",), rng.normal(0, 1, (5, 32)), rng.normal(0, 1, 5)),
        g.Neuron("other", "", ("dense",), 0.25, 60.0),
        g.Dense("head", "", ("lif",), rng.normal(0, 1, (3, 64)), None),
        g.Accumulate("readout", "", ("head",)),
    )
    graph = g.Graph("odd", nodes, 4)
    coded = code_input(graph, InputCoding(8, (), 3))
    inputs = rng.integers(0, 256, (4, 2, 2, 4, 4)).astype(np.float64)
    before, after = interpret(graph, inputs).values, interpret(coded, inputs).values
    for name in ("lif", "other", "readout"):
        assert before[name].any()
        np.testing.assert_allclose(before[name], after[name], rtol=0, atol=1e-9)
    with pytest.raises(UserError, match="is delayed, so it cannot be centred"):
        code_input(graph, InputCoding(8, (3, 4), 0))


@given(data=st.data(), seed=st.integers(0, 1 << 30))
def test_proved_bounds_hold_for_all_inputs_and_are_reached_where_there_is_one_slice(
    data: st.DataObject, seed: int
) -> None:
    coding = data.draw(codings(4, bits=5))
    rng = np.random.default_rng(seed)
    size = 4 * coding.slices
    weight = 2 * rng.integers(-128, 128, (3, size))
    node = g.Dense("d", "", ("x",), weight.astype(np.float64), None)
    payload = proof.payload(Source(coding.payload_bits, coding.offset, coding.low_bits), size)
    low, high = proof.current_bounds([proof.Driver(node, weight, 1, (size,), payload)])
    for row, least, most in zip(weight, low, high, strict=True):
        ends = (31 * (row[:: coding.slices] > 0), 31 * (row[:: coding.slices] < 0))
        x = np.stack([*ends, *rng.integers(0, 32, (20, 4))])
        current = (coding.encode(x[None])[0] @ row) << 1
        assert least <= current.min()
        assert current.max() <= most
        if coding.slices == 1:
            assert (current.max(), current.min()) == (most, least)


def test_rule_takes_the_cheapest_coding_that_keeps_the_range() -> None:
    def losing(*bits: float) -> tuple[list[InputCoding], object]:
        left, tried = list(bits), []

        def lost(coding: InputCoding) -> np.ndarray:
            tried.append(coding)
            return np.array([left.pop(0), 0.0, 9.0])[[0, 0, 2]]

        return tried, lost

    for losses, expected in [
        ((0.9,), InputCoding(8)),
        ((1.1, 1.0), InputCoding(8, (9,))),
        ((3.0, 2.0, 1.5, 0.5), InputCoding(8, (9,), 2)),
        ((5.0, 5.0, 4.0, 3.5, 3.0, 3.2), InputCoding(8, (9,), 3)),
    ]:
        tried, lost = losing(*losses)
        assert choose("auto", 8, (9,), lost, 8).coding == expected  # type: ignore[arg-type]
        assert len(tried) == len(losses)
    assert [c.low_bits for c in candidates("auto", 5, ())] == [0, 1, 2]
    assert choose("auto", 1, (), lambda coding: np.zeros(1), 8).coding.words == "events"


def test_codings_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="the model reads values of 8 bits"):
        list(candidates("events", 8, ()))
    with pytest.raises(UserError, match="normalisation maps no raw value but 0 to zero"):
        list(candidates("centred", 8, (0, 0)))
    assert centre((-3.0, 124.6, 300.0), 8) == (0, 125, 255)


@pytest.mark.parametrize("shift", [False, True])
def test_normalised_8_bit_images_are_exact_in_every_engine(shift: bool) -> None:
    model = lively(ModelConfig(temporal_shift=shift))
    result = compiled(model)
    assert result.coding.coding.offset == (125, 123, 114)
    assert result.coding.coding.low_bits > 0
    assert "as it is costs" in result.coding.reason
    network, x = result.network, images(3)
    assert_equal(network, model, x)
    for record, least in zip(network.records, (0.985, 0.97, 0.95), strict=False):
        assert record.spike_agreement > least


def assert_equal(network: Network, model: nn.Module, x: np.ndarray) -> None:
    integer = fast.run(network, x)
    for other in (torch_engine.run(network, model, x), reference.run(network, x)):
        found = assert_spikes_equal(network, integer, other, x)
        assert all(p.spikes is None or p.spikes > 0 for p in found.populations)


@pytest.mark.parametrize("name", ["graded", "centred", "sliced"])
def test_any_coding_may_be_asked_for(name: str) -> None:
    """As they are too: a channel without room is scaled down alone, so such a model is exported, not refused."""
    model = lively(ModelConfig())
    result = compiled(model, coding=name)
    assert_equal(result.network, model, images(2))
    assert name in result.coding.reason


def test_slices_agree_better_with_the_float_model() -> None:
    model = lively(ModelConfig())
    graded, sliced = (compiled(model, coding=name).network.records[0] for name in ("graded", "sliced"))
    assert 1 - sliced.spike_agreement < (1 - graded.spike_agreement) / 2


def test_swapped_slices_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(ModelConfig())
    network, x = compiled(model).network, images(2)
    own = torch_engine.run(network, model, x)
    assert_spikes_equal(network, fast.run(network, x), own, x)
    right = InputCoding.encode

    def swapped(coding: InputCoding, values: np.ndarray) -> np.ndarray:
        sent = right(coding, values)
        return sent.reshape(*sent.shape[:2], -1, 2, *sent.shape[3:])[:, :, :, ::-1].reshape(sent.shape)

    monkeypatch.setattr(InputCoding, "encode", swapped)
    for engine in (fast, reference):
        found = equivalence.compare(network, engine.run(network, x), own, x)
        assert not found.equal
        assert found.divergence is not None
        assert found.divergence.population == "block1.lif"


def test_small_graded_values_and_events_stay_as_they_are() -> None:
    digits = DataSpec("digits-like", (1, 8, 8), 10, 16, (0.0,), (16.0,))
    events = DataSpec("events", (2, 8, 8), 10, 31, (0.0, 0.0), (1.0, 1.0), has_time=True)
    for spec in (digits, events):
        assert compiled(lively(ModelConfig(), spec), spec).coding.coding == InputCoding(5)
    binary = as_sent(TrainConfig(coding="poisson"), digits)
    assert trace(lively(ModelConfig(), digits), binary, STEPS, "binary")["input"].bits == 1  # type: ignore[attr-defined]
    assert as_sent(TrainConfig(coding="poisson"), events) == events


def test_the_coding_is_kept_in_the_network_file(tmp_path: Path) -> None:
    network = compiled(lively(ModelConfig())).network
    write_network(tmp_path / "network.h5", network)
    again = read_network(tmp_path / "network.h5")
    assert again.source.program == network.source.program
    assert again.digest == network.digest
    assert isinstance(network.source.program, Source)
    moved = replace(network.source, program=replace(network.source.program, offset=(124, 123, 114)))
    other = replace(network, populations=(moved, *network.populations[1:]))
    assert other.digest != network.digest
    for wrong in ({"offset": (1, 2)}, {"offset": (0, 0, 256)}, {"low_bits": 8}):
        program = replace(network.source.program, **wrong)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="population input"):
            replace(network, populations=(replace(network.source, program=program), *network.populations[1:]))


@pytest.mark.parametrize("model", ["small-conv", "resnet-19"])
def test_training_in_integers_follows_the_same_rule(model: str) -> None:
    config = ModelConfig(model=model, width=1 / 16 if model == "resnet-19" else 1)  # type: ignore[arg-type]
    floats = lively(config)
    stages = lower_graph(trace(floats, CIFAR_LIKE, STEPS, "rule"))
    ours = choose_coding(stages["trace"], stages[PASSES[-1].__name__], Signed(8), "auto")
    assert ours == input_coding(floats, CIFAR_LIKE, Signed(8))
    assert ours.coding.low_bits > 0


def test_a_model_trained_in_integers_is_its_export() -> None:
    """As prepared, and where training has taken the weights: both slices are free then."""
    model = prepare(lively(ModelConfig(temporal_shift=True)), CIFAR_LIKE, STEPS)
    for growth in (0.0, 0.5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * parameter.std(correction=0) * growth)
        constrain(model)
        result = compiled(model)
        assert result.coding.coding.low_bits > 0
        assert "trained with it" in result.coding.reason
        assert_equal(result.network, model, images(3))
    with pytest.raises(UserError, match="trained in integers"):
        compiled(model, coding="graded")


def test_prepared_model_fires_like_the_float_model() -> None:
    model, x = lively(ModelConfig()), images(16)
    before = torch_engine.record(model, {"block1.lif": "spikes"}, x)["spikes"]
    after = torch_engine.record(prepare(model, CIFAR_LIKE, STEPS), {"block1.lif": "spikes"}, x)["spikes"]
    assert before.any()
    assert np.mean(before == after) > 0.985


def test_a_checkpoint_brings_its_coding_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule sees other weights when a run is restored, so the file decides."""
    settings = TrainConfig(model=ModelConfig(), quantize=True, quantize_epochs=1, epochs=2, device="cpu")
    monkeypatch.setattr("train.data.spec", lambda name: CIFAR_LIKE)
    model = prepare(lively(ModelConfig()), CIFAR_LIKE, settings.model.time_steps, coding=InputCoding(8, (1, 2, 3), 4))
    checkpoint.save(tmp_path / runs.CHECKPOINT, 2, model, torch.optim.SGD(model.parameters(), 0.1))
    state = checkpoint.load(tmp_path / runs.CHECKPOINT)
    assert trained_coding(state, CIFAR_LIKE, tmp_path) == InputCoding(8, (1, 2, 3), 4)
    runs.write_json(tmp_path / runs.CONFIG, loop.to_json(settings, {"versions": {}}))
    again = restore(tmp_path).model
    x = torch.from_numpy(images(4).swapaxes(0, 1)).float()
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x))


@pytest.mark.lava
def test_lava_gives_the_same_spikes() -> None:
    """Negative payloads and two slices in Lava's runtime, with guard steps and gates."""
    spec = replace(CIFAR_LIKE, shape=(3, 4, 4))
    model = lively(ModelConfig(temporal_shift=True, width=0.25), spec)
    network, x = compiled(model, spec).network, images(2, 0, spec)
    assert isinstance(network.source.program, Source)
    assert network.source.program.low_bits
    assert network.source.program.offset
    assert_spikes_equal(network, fast.run(network, x), lava.run(network, x, timeout=120), x)

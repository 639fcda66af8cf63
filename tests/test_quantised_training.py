"""Training in integers: the trained PyTorch model is the integer network, spike for spike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.network import LIF, Network
from export.pipeline import compile_graph, lower_graph
from export.quantise import finest_exponent, quantise_bias, quantise_decay, quantise_weights
from export.trace import trace
from sim import equivalence, fast, float_model, reference, torch_engine
from train import checkpoint, data, kernels, layers, loop, models, optimise, runs
from train.config import ModelConfig, TrainConfig
from train.errors import UserError
from train.kernels import fixed_point
from train.models import Classifier
from train.quantise.grid import Signed
from train.quantise.layers import constrain, is_prepared
from train.quantise.neurons import IntegerLIF
from train.quantise.prepare import prepare
from train.quantise.recurrent import IntegerRecurrent
from train.quantise.straight_through import bias_values, integer_lif, weight_values
from train.quantise.synapses import IntegerConv2d, IntegerLinear, IntegerSynapses, Numbers
from train.quantise.weight_layout import ByChannel
from train.restore import restore
from train.surrogate import TanhWindow

STEPS = 4
SHIFTED = ModelConfig(temporal_shift=True)
RESIDUAL = ModelConfig(model="resnet-19", width=1 / 16)
CONFIGS = {
    "shift": SHIFTED,
    "residual": RESIDUAL,
    "residual-shift": replace(RESIDUAL, temporal_shift=True),
    "residual-da-lif": replace(RESIDUAL, neuron="da-lif", per_channel=True),
    "adaptive-lif": replace(SHIFTED, neuron="adaptive-lif"),
    "plif": replace(SHIFTED, neuron="plif"),
    "if": ModelConfig(neuron="if", time_steps=7),
    "shift-of-currents": replace(SHIFTED, shift_position="current"),
    "recurrent": ModelConfig(model="recurrent", neuron="da-lif"),
    "overlapping-pool": ModelConfig(model="resnet-18-imagenet", width=1 / 16, temporal_shift=True),
}
MOVED = ("shift", "residual-shift", "shift-of-currents", "recurrent", "overlapping-pool")
TRAINING = TrainConfig(model=SHIFTED, epochs=3, quantize=True, quantize_epochs=1, device="cpu")


def inputs(count: int, steps: int = STEPS) -> np.ndarray:
    """The first test images over time, int64 [samples, T, C, H, W]."""
    frames = data.load("digits").test.frames[:count]
    return data.repeat_over_time(frames, steps).long().transpose(0, 1).contiguous().numpy()


def warmed(config: ModelConfig, seed: int) -> Classifier:
    """An untrained model whose batch norms have seen data and have odd gains, so that all its layers fire."""
    torch.manual_seed(seed)
    model = models.build(config, data.spec("digits"))
    x = torch.from_numpy(inputs(64, config.time_steps)).transpose(0, 1).float()
    for _ in range(5):
        model(x)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.2, 1.5)
            torch.nn.init.normal_(module.bias, 0.1, 0.4)
    if isinstance(model, models.RecurrentDense):
        torch.nn.init.normal_(model.input.weight, 0, 0.1)
        torch.nn.init.normal_(model.hidden.weight, 0, 0.3)
    return model.eval()


def exported(model: torch.nn.Module, bits: int = 8, steps: int = STEPS) -> Network:
    stages = lower_graph(trace(model, data.spec("digits"), steps, "digits"))
    calibration = inputs(16, steps).swapaxes(0, 1).astype(np.float64)
    return compile_graph(stages, calibration, Signed(bits)).network


def comparisons(network: Network, model: torch.nn.Module, x: np.ndarray) -> list[equivalence.Comparison]:
    """The PyTorch model against both integer engines; the slow one gets the first sample of a large network."""
    own = torch_engine.run(network, model, x)
    few = x[: 1 if len(network.populations) > 6 else len(x)]
    return [
        equivalence.compare(network, engine.run(network, given), own, given)
        for engine, given in ((fast, x), (reference, few))
    ]


@given(
    bits=st.integers(2, 8),
    exponent=st.integers(-6, 9),
    scale=st.floats(0.1, 1e5),
    values=st.lists(st.floats(-2, 2), min_size=1, max_size=20),
)
@settings(max_examples=200, deadline=None)
def test_training_and_export_round_weights_alike(bits: int, exponent: int, scale: float, values: list[float]) -> None:
    weight = np.array([values])
    exponent = max(exponent, Signed(bits).smallest_exponent)
    weights = quantise_weights(weight, np.array([scale]), exponent, Signed(bits))
    expected = (weights.values << weights.exponent) / 2.0**exponent
    factor, unit = torch.tensor([[scale]], dtype=torch.float64), torch.tensor([2.0**exponent], dtype=torch.float64)
    found = weight_values(torch.from_numpy(weight), factor, unit, Signed(bits))
    np.testing.assert_array_equal(found.numpy(), expected)


@given(scale=st.floats(1, 1e5), values=st.lists(st.floats(-1, 1), min_size=1, max_size=9))
@settings(max_examples=200, deadline=None)
def test_training_and_export_round_biases_alike(scale: float, values: list[float]) -> None:
    bias = np.array(values)
    expected = quantise_bias(bias * scale * 64, Signed(8))
    if expected is not None:
        found = bias_values(torch.from_numpy(bias), torch.full((len(bias),), scale, dtype=torch.float64))
        np.testing.assert_array_equal(found.numpy(), expected[0] << expected[1])


@given(
    seed=st.integers(0, 1 << 30), dv=st.integers(0, 4095), vth=st.integers(0, 131_071), reach=st.integers(1, 200_000)
)
@settings(max_examples=100, deadline=None)
def test_spikes_are_those_of_the_chip(seed: int, dv: int, vth: int, reach: int) -> None:
    """Any current, those that wrap and those that clip included."""
    rng = torch.Generator().manual_seed(seed)
    current = torch.randint(-reach, reach, (6, 2, 3, 2, 2), generator=rng)
    bias = torch.randint(-500_000, 500_000, (3, 1, 1), generator=rng)
    expected, _ = fixed_point.loihi_lif(current, torch.tensor(vth), bias, dv)
    scale = torch.rand((3, 1, 1), generator=rng, dtype=torch.float64) + 0.5
    args = (torch.tensor(vth), torch.tensor(dv), scale, 0.5, TanhWindow())
    found = integer_lif(current.double(), bias.double(), *args)
    assert torch.equal(found.bool(), expected)


@pytest.mark.parametrize("leak", [0.25, (0.25, 0.75, 0.0)], ids=["one leak", "a leak each"])
def test_gradient_is_that_of_the_float_neuron(leak: float | tuple[float, ...]) -> None:
    """At a fine scale rounding does not matter, so the gradients of current and bias are the float neuron's."""
    torch.manual_seed(0)
    scale = torch.tensor([2.0**14, 2.0**13, 2.0**12], dtype=torch.float64).view(3, 1, 1)
    current = (torch.rand(5, 2, 3, 4, 4, dtype=torch.float64) * scale).round().requires_grad_()
    bias = (torch.tensor([0.1, -0.1, 0.05], dtype=torch.float64).view(3, 1, 1) * scale * 64).round().requires_grad_()
    vth, dv = torch.round(scale * 0.5).long(), torch.as_tensor(quantise_decay(np.asarray(leak)))
    dv = dv.view(-1, 1, 1) if dv.ndim else dv
    upstream = torch.randn(5, 2, 3, 4, 4)
    spikes = integer_lif(current, bias, vth, dv, scale, 0.5, TanhWindow())
    ours = torch.autograd.grad((spikes * upstream).sum(), (current, bias))
    unit = 64 * scale
    expected = kernels.lif(
        current / scale + bias / unit,
        torch.tensor(leak, dtype=torch.float64) if isinstance(leak, tuple) else leak,
        0.5,
        TanhWindow(),
    )
    assert torch.equal(spikes, expected.float())
    theirs = torch.autograd.grad((expected * upstream).sum(), (current, bias))
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 / float(scale.min()))


def test_gradient_of_recurrence_is_that_of_the_float_layer() -> None:
    """At a fine scale the integer layer's gradients are those of `layers.Recurrent`, through time and weights."""
    torch.manual_seed(0)
    size, scale = 6, torch.full((6,), 2.0**12, dtype=torch.float64)
    plain = layers.Recurrent(layers.LIF(0.25, 0.5, TanhWindow()), size).double()
    torch.nn.init.normal_(plain.weight, 0, 0.4)
    one = torch.ones(size, dtype=torch.float64)
    numbers = Numbers(scale, 16 * one, one, 1e6 * one, 0 * one, one)
    weights = IntegerLinear(plain.weight.detach(), numbers, Signed(8), ByChannel(size))
    exact = weights.values * 16 / 2.0**12  # the float layer gets the rounded weights
    plain.weight.data.copy_(exact.flatten(1))
    weights.weight.data.copy_(exact.flatten(1))
    lif = IntegerLIF(0 * one, one, scale, torch.tensor(3072), 0.5, TanhWindow())
    ours = IntegerRecurrent(lif, weights)
    current = torch.rand(5, 3, size, dtype=torch.float64).mul(2.0**12).round().requires_grad_()
    upstream = torch.randn(5, 3, size)
    found, wanted = ours(current), plain(current / 2.0**12)
    assert torch.equal(found.double(), wanted)
    assert bool(found.any())
    assert not bool(found.all())
    (in_integers,) = torch.autograd.grad((found * upstream).sum(), current, retain_graph=True)
    (in_float,) = torch.autograd.grad((wanted * upstream).sum(), current, retain_graph=True)
    torch.testing.assert_close(in_integers, in_float, rtol=1e-3, atol=1e-7)
    (found * upstream).sum().backward()
    (wanted * upstream).sum().backward()
    torch.testing.assert_close(weights.weight.grad.double(), plain.weight.grad, rtol=1e-3, atol=1e-4)  # type: ignore[union-attr]
    assert bool(plain.weight.grad.any())  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "bits"), [*((name, 8) for name in CONFIGS), ("shift", 4), ("shift", 2)])
def test_prepared_model_is_its_export(name: str, bits: int) -> None:
    """No training: every kind of network, every population, step and sample, and a proof that never refuses."""
    config = CONFIGS[name]
    model = prepare(warmed(config, 0), data.spec("digits"), config.time_steps, bits)
    network = exported(model, bits, config.time_steps)
    for comparison in comparisons(network, model, inputs(8, config.time_steps)):
        assert comparison.equal, comparison.divergence
        assert all(p.spikes is None or p.spikes > 0 for p in comparison.populations)
    assert all(record.spike_agreement == 1 and record.saturated == 0 for record in network.records)


@given(seed=st.integers(0, 1 << 30), growth=st.floats(0.5, 8), name=st.sampled_from(MOVED))
@settings(max_examples=8, deadline=None)
def test_proof_holds_wherever_training_takes_the_weights(seed: int, growth: float, name: str) -> None:
    model = prepare(warmed(CONFIGS[name], seed), data.spec("digits"), STEPS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(growth).add_(torch.randn_like(parameter) * parameter.std(correction=0) * growth)
    constrain(model)
    network = exported(model)
    assert max(record.bits_in_use for record in network.records) <= 24
    x = inputs(2)
    assert equivalence.compare(network, fast.run(network, x), torch_engine.run(network, model, x), x).equal


def test_prepared_model_does_what_the_float_model_does() -> None:
    """Folding and rounding: the first layer's spikes are the float model's but for a few near the threshold."""
    for config in (SHIFTED, RESIDUAL):
        model = warmed(config, 2)
        x = inputs(16)
        first = "block1.lif" if config is SHIFTED else "stem.conv1.lif"
        before = torch_engine.record(model, {first: "spikes"}, x)["spikes"]
        after = torch_engine.record(prepare(model, data.spec("digits"), STEPS), {first: "spikes"}, x)["spikes"]
        assert before.any()
        assert np.mean(before == after) > 0.995


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs in float, one in integers."""
    path = tmp_path_factory.mktemp("quantised") / "run"
    loop.train(TRAINING, path)
    return path


def test_trained_model_is_the_integer_network_on_the_whole_test_set(run: Path) -> None:
    trained = restore(run)
    assert is_prepared(trained.model)
    network = exported(trained.model)
    x = inputs(360)
    own = torch_engine.run(network, trained.model, x)
    for engine in (fast, reference):
        comparison = equivalence.compare(network, engine.run(network, x), own, x)
        assert comparison.equal, comparison.divergence
        assert comparison.samples == 360
        assert comparison.spikes > 100_000
    labels = data.load("digits").test.labels.numpy()
    accuracy = np.mean(float_model.answers(network, own) == labels)
    rows = [json.loads(line) for line in (run / runs.METRICS).read_text().splitlines()]
    assert [row["phase"] for row in rows] == ["float", "float", "integer"]
    assert rows[-1]["test_accuracy"] == pytest.approx(accuracy)  # training measured the integer network itself
    assert accuracy > 0.6


@pytest.mark.parametrize("name", ["trained", "shift-of-currents", "recurrent", "overlapping-pool"])
def test_every_weight_and_bias_is_trained(name: str, run: Path) -> None:
    digits = data.spec("digits")
    model = restore(run).model if name == "trained" else prepare(warmed(CONFIGS[name], 0), digits, STEPS)
    assert isinstance(model, Classifier)
    model.logits(torch.from_numpy(inputs(64)).transpose(0, 1).float()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name
        assert bool(torch.isfinite(parameter.grad).all()), name


def test_one_latent_weight_moved_by_a_step_is_seen(run: Path) -> None:
    model = restore(run).model
    network = exported(model)
    x = inputs(360)
    rates = fast.run(network, x).spikes["block1.lif"].mean((0, 1, 3, 4))
    busy = int(np.abs(rates - 0.5).argmin())
    layer = model.get_submodule("block1.conv")
    assert isinstance(layer, IntegerConv2d)
    with torch.no_grad():
        layer.weight[busy, 0, 1, 1] += float(2 * layer.unit[0] / (layer.scale[busy] * layer.factor[0]))
    result = comparisons(network, model, x)
    assert not any(comparison.equal for comparison in result)
    assert result[0].divergence is not None
    assert result[0].divergence.population == "block1.lif"


def test_less_than_half_a_step_changes_nothing(run: Path) -> None:
    """The integers are what counts: latent weights set to the values of their integers export to the same network."""
    model = restore(run).model
    before = exported(model).digest
    for layer in model.modules():
        if isinstance(layer, IntegerConv2d):
            with torch.no_grad():
                factor = layer.scale.view(-1, 1, 1, 1) * layer.factor.view(1, -1, 1, 1)
                exact = layer.values * layer.unit.view(1, -1, 1, 1) / torch.where(factor == 0, 1.0, factor)
                layer.weight.copy_(exact)
    assert exported(model).digest == before


@pytest.mark.parametrize("name", ["trained", "shift-of-currents", "recurrent"])
def test_autocast_does_not_reach_the_integers(name: str, run: Path) -> None:
    model = restore(run).model if name == "trained" else prepare(warmed(CONFIGS[name], 0), data.spec("digits"), STEPS)
    x = torch.from_numpy(inputs(8)).transpose(0, 1).float()
    with torch.no_grad():
        plain = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model(x), plain)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resume_in_either_phase(stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TRAINING, epochs=4, quantize_epochs=2, train_samples=128)
    loop.train(config, tmp_path / "whole")

    class StoppedError(Exception):
        pass

    real = checkpoint.save

    def save_and_stop(path: Path, epoch: int, *rest: Any) -> None:
        real(path, epoch, *rest)
        if epoch == stop:
            raise StoppedError

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    with pytest.raises(StoppedError):
        loop.train(config, tmp_path / "parts")
    assert checkpoint.load(tmp_path / "parts" / runs.CHECKPOINT).integer == (stop > 2)
    monkeypatch.setattr(checkpoint, "save", real)
    loop.train(config, tmp_path / "parts", resume=True)
    whole, parts = (checkpoint.load(tmp_path / name / runs.CHECKPOINT).model for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_training_in_integers_starts_from_another_run(tmp_path: Path) -> None:
    small = replace(TRAINING, epochs=1, quantize=False, quantize_epochs=0, train_samples=128)
    loop.train(small, tmp_path / "float")
    config = replace(small, quantize=True, init=str(tmp_path / "float"), quantize_bits=4)
    loop.train(config, tmp_path / "integer")
    model = restore(tmp_path / "integer").model
    largest = max(float(m.values.abs().max()) for m in model.modules() if isinstance(m, IntegerSynapses))
    assert is_prepared(model)
    assert largest <= 256
    with pytest.raises(UserError, match="trained in integers"):
        loop.train(replace(config, init=str(tmp_path / "integer")), tmp_path / "again")


def test_weights_stay_on_the_grid_and_within_their_limits(run: Path) -> None:
    for layer in restore(run).model.modules():
        if isinstance(layer, IntegerSynapses):
            high = layer._columns(layer.high)
            whole = (layer.values * layer._columns(layer.unit) * high).reshape(len(layer.weight), -1)
            assert bool((layer.values % 2 == 0).all())
            assert bool((whole.clamp(min=0).sum(1) <= layer.limit).all())
            peak = float((layer.values.abs() * layer._columns(layer.unit)).max())
            assert finest_exponent(min(peak, 254 * 512), layer.grid) is not None


def test_learning_rate_of_the_integer_epochs() -> None:
    config = replace(TRAINING, epochs=8, quantize_epochs=0)
    assert config.float_epochs == 6
    rates = [optimise.rate(config, step, 5) for step in range(40)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[29] < 0.001
    assert rates[30] == pytest.approx(0.1 * optimise.QUANTIZE_RATE)
    assert rates[30:] == sorted(rates[30:], reverse=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": replace(SHIFTED, attention="fsta")}, "--quantize takes no --attention fsta"),
        ({"model": ModelConfig(neuron="relu")}, "--quantize takes no --neuron relu"),
        ({"quantize_epochs": 3}, "--init RUN"),
        ({"quantize_bits": 9}, "--quantize-bits 9, allowed 2..8"),
        ({"quantize": False}, "--quantize-epochs 1 has no effect without --quantize"),
    ],
)
def test_what_cannot_be_trained_in_integers(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(TRAINING, **change)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(SHIFTED, attention="fsta"), "no --attention with --quantize"),
        (ModelConfig(neuron="relu"), "no --neuron relu"),
    ],
)
def test_layers_without_a_rule_are_named(config: ModelConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        prepare(models.build(config, data.spec("digits")), data.spec("digits"), STEPS)
    assert error.value.where


def test_leaks_of_channels_stay_their_own() -> None:
    """Decays of a trained adaptive LIF: every channel has its own in the network, and its export is equal."""
    model = scattered(warmed(CONFIGS["adaptive-lif"], 0), 0)
    leaks = model.get_submodule("block1.lif").leak.detach().double().numpy()  # type: ignore[union-attr, operator]
    prepared = prepare(model, data.spec("digits"), STEPS)
    network = exported(prepared)
    program = network.population("block1.lif").program
    assert isinstance(program, LIF)
    assert program.dv.reshape(-1).tolist() == np.rint(4096 * (1 - leaks)).astype(int).tolist()
    assert len(np.unique(program.dv)) > 10
    for comparison in comparisons(network, prepared, inputs(8)):
        assert comparison.equal, comparison.divergence
        assert all(p.spikes is None or p.spikes > 0 for p in comparison.populations)


def scattered(model: Classifier, seed: int) -> Classifier:
    """Leaks and gains of every channel moved apart, some gains negative."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, layers.AdaptiveLIF):
            torch.nn.init.uniform_(module.m, 0, 1)
            torch.nn.init.uniform_(module.n, 0.5, 1.5)
            module.n.data[::5] *= -1
    return model


def test_leak_that_the_chip_does_not_have() -> None:
    model = warmed(ModelConfig(neuron="da-lif"), 0)
    model.get_submodule("block1.lif").tau_b.data.fill_(-0.1)  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"block1.lif: a leak of -0\.100, allowed 0\.\.1"):
        prepare(model, data.spec("digits"), STEPS)

"""Temporal shift is exact at the window's edges, in every form that the network takes on its way to the chip."""

from __future__ import annotations

from pathlib import Path

import nir_machine
import numpy as np
import pytest
import torch
from torch import nn

from export.formats.nir_writer import write_nir
from export.interpret import interpret
from export.pipeline import PASSES, Compiled, compile_graph, lower_graph
from export.trace import trace
from sim import fast, reference, torch_engine
from train import data, models
from train.config import ModelConfig
from train.layers.temporal_shift import Split, TemporalShift, shift

STEPS, SAMPLES = 4, 6
SPEC = data.spec("digits")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A model that fires at every layer, with thresholds off zero so that guard steps matter."""
    torch.manual_seed(3)
    model = models.build(ModelConfig(temporal_shift=True, time_steps=STEPS), SPEC).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.fill_(0.2)
            module.bias.data.uniform_(-0.2, 0.9)  # some neurons fire from their bias alone, also in guard steps
    return model.eval()


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return data.load("digits").test.frames[:SAMPLES].numpy().astype(np.int64)


@pytest.fixture(scope="module")
def inputs(frames: np.ndarray) -> np.ndarray:
    """[samples, T, 1, 8, 8]; not constant, so that a shift by one step is seen."""
    moving = np.repeat(frames[:, None], STEPS, axis=1)
    return np.stack([np.roll(moving[:, t], t, axis=-1) for t in range(STEPS)], axis=1)


@pytest.fixture(scope="module")
def compiled(model: nn.Module, inputs: np.ndarray) -> Compiled:
    stages = lower_graph(trace(model, SPEC, STEPS, "edges"))
    return compile_graph(stages, inputs.swapaxes(0, 1).astype(np.float64))


def test_shift_by_hand() -> None:
    x = torch.arange(1.0, 13.0).view(3, 1, 4)  # [T, B, C]: step t holds 4 t + 1 .. 4 t + 4
    z = shift(x, Split(future=1, past=3))
    np.testing.assert_array_equal(z[:, 0, 0], [5, 9, 0])  # sees t + 1, zero at the end
    np.testing.assert_array_equal(z[:, 0, 1], [0, 2, 6])  # sees t - 1, zero at the start
    np.testing.assert_array_equal(z[:, 0, 2], [0, 3, 7])
    np.testing.assert_array_equal(z[:, 0, 3], [4, 8, 12])  # the present


def test_module_at_the_edges() -> None:
    module = TemporalShift(6, alpha=0.5).eval()
    x = torch.rand(3, 2, 6)
    split, y = module.fixed_split, module(x)
    torch.testing.assert_close(y[-1, :, : split.future], x[-1, :, : split.future])
    torch.testing.assert_close(y[0, :, split.future : split.past], x[0, :, split.future : split.past])
    torch.testing.assert_close(y[:, :, split.past :], 1.5 * x[:, :, split.past :])


def test_alpha_zero_is_identity_and_one_step_has_no_neighbours() -> None:
    x = torch.rand(1, 2, 6)
    torch.testing.assert_close(TemporalShift(6, alpha=0.0)(x), x)
    split, y = TemporalShift(6).fixed_split, TemporalShift(6, alpha=0.5).eval()(x)
    torch.testing.assert_close(y[:, :, : split.past], x[:, :, : split.past])


def test_training_draws_splits_and_evaluation_does_not() -> None:
    module = TemporalShift(32)
    torch.manual_seed(0)
    drawn = {module._random_split() for _ in range(50)}
    assert len(drawn) > 10
    assert all(0 < split.future < split.past < 32 for split in drawn)
    x = torch.rand(3, 1, 32)
    module.eval()
    torch.testing.assert_close(module(x), module(x))


def float_spikes(model: nn.Module, inputs: np.ndarray) -> dict[str, np.ndarray]:
    ids = {path: path for path, module in model.named_modules() if path.endswith("lif")}
    return {name: values > 0 for name, values in torch_engine.record(model, ids, inputs).items()}


@pytest.mark.parametrize("step", [0, STEPS - 1])
def test_float_model_graph_and_retimed_graph_agree_at_the_edges(
    model: nn.Module, inputs: np.ndarray, compiled: Compiled, step: int
) -> None:
    spikes = float_spikes(model, inputs)
    for name in ("trace", PASSES[-1].__name__, "retime"):
        traced = interpret(compiled.stages[name], inputs.swapaxes(0, 1).astype(np.float64))
        for layer, values in spikes.items():
            np.testing.assert_array_equal(traced.values[layer][step] > 0, values[:, step], err_msg=f"{name} {layer}")


def test_retimed_nir_file_gives_the_float_models_spikes_back_to_back(
    model: nn.Module, inputs: np.ndarray, compiled: Compiled, tmp_path: Path
) -> None:
    write_nir(tmp_path / "model.nir", compiled.nir)
    outputs = nir_machine.run(tmp_path / "model.nir", inputs.astype(np.float64))
    spikes = float_spikes(model, inputs)
    assert sum(int(values.sum()) for values in spikes.values()) > 1000
    for layer, values in spikes.items():
        np.testing.assert_array_equal(outputs[layer.replace(".", "_")] > 0, values, err_msg=layer)
    with torch.no_grad():
        logits = model(torch.from_numpy(inputs.swapaxes(0, 1)).double())
    np.testing.assert_allclose(outputs["output"].mean(1), logits.numpy(), atol=1e-9)


def test_integer_network_back_to_back_is_the_quantised_model(
    model: nn.Module, inputs: np.ndarray, compiled: Compiled
) -> None:
    """The machine with delays, gates and guard steps, against the model with zero padding and no machine at all."""
    machine = reference.run(compiled.network, inputs)
    quantised = torch_engine.run(compiled.network, model, inputs)
    quick = fast.run(compiled.network, inputs)
    for name, values in machine.spikes.items():
        assert values.any()
        for step in (0, STEPS - 1):
            np.testing.assert_array_equal(values[:, step], quantised.spikes[name][:, step], err_msg=f"{name} {step}")
        np.testing.assert_array_equal(values, quantised.spikes[name], err_msg=name)
        np.testing.assert_array_equal(values, quick.spikes[name], err_msg=name)
    np.testing.assert_array_equal(machine.membrane["readout"], quantised.membrane["readout"])


def test_guard_steps_hold_the_machine_silent(inputs: np.ndarray, compiled: Compiled) -> None:
    stream = reference.simulate(compiled.network, inputs)
    network = compiled.network
    for population in network.populations[1:-1]:
        step = np.arange(len(stream.spikes[population.id])) - population.start
        outside = (step < 0) | (step % network.period >= network.steps)
        assert outside.any()
        assert not stream.spikes[population.id][outside].any()

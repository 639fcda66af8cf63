"""What the command line sets arrives in the network and in the optimiser, and defaults are the stated ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from train import data, layers, loop, losses, models, optimise, runs, teacher
from train.choices import NeuronName
from train.config import ModelConfig, TrainConfig, from_json
from train.data import DataSpec
from train.errors import UserError
from train.restore import as_sent, coded, restore

IMAGES = DataSpec("random", (3, 32, 32), 10, 255, (127.5,) * 3, (64.0,) * 3)


@pytest.mark.parametrize(("neuron", "kind"), [("lif", layers.LIF), ("plif", layers.PLIF), ("da-lif", layers.DALIF)])
def test_leak_and_threshold_of_every_neuron(neuron: NeuronName, kind: type[nn.Module]) -> None:
    model = models.build(ModelConfig(neuron=neuron, leak=0.6, threshold=0.9), IMAGES)
    cells = [m for m in model.modules() if isinstance(m, kind)]
    assert [(pytest.approx(0.6), 0.9)] * 3 == [(float(torch.as_tensor(m.leak).detach()), m.threshold) for m in cells]


@pytest.mark.parametrize(("per_channel", "shapes"), [(False, [()] * 3), (True, [(16,), (32,), (32,)])])
def test_one_leak_a_layer_or_a_channel(per_channel: bool, shapes: list[tuple[int, ...]]) -> None:
    model = models.build(ModelConfig(neuron="da-lif", per_channel=per_channel), IMAGES)
    assert [tuple(m.tau_b.shape) for m in model.modules() if isinstance(m, layers.DALIF)] == shapes


def test_defaults_of_the_neuron() -> None:
    """Leak 0.25, threshold 0.5 (official FSTA-SNN code)."""
    assert (layers.LIF().leak, layers.LIF().threshold) == (0.25, 0.5)
    assert (ModelConfig().leak, ModelConfig().threshold) == (0.25, 0.5)


def test_initial_weights() -> None:
    """Convolutions N(0, 2 / (k k C_out)), linear layers with deviation 1 / C_in: measured on a hundred thousand."""
    torch.manual_seed(0)
    model = models.build(ModelConfig(model="resnet-19", width=0.5), IMAGES)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 1e5]
    assert convolutions
    for conv in convolutions:
        expected = (2 / (conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels)) ** 0.5
        assert float(conv.weight.detach().std()) == pytest.approx(expected, rel=0.02)
    linear = next(m for m in model.modules() if isinstance(m, nn.Linear))
    assert float(linear.weight.detach().std()) == pytest.approx(1 / linear.in_features, rel=0.1)


def test_weight_decay_is_for_convolutions_and_linear_weights() -> None:
    config = TrainConfig(model=ModelConfig(neuron="da-lif", temporal_shift=True), weight_decay=0.02)
    model = models.build(config.model, IMAGES)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimise.optimiser(model, config).param_groups:
        for parameter in group["params"]:
            weight = names[parameter].endswith(("conv.weight", "head.weight"))
            assert group["weight_decay"] == (0.02 if weight else 0.0), names[parameter]


def test_teacher_answers_as_the_run_does(tmp_path: Path) -> None:
    loop.train(TrainConfig(model=ModelConfig(neuron="relu", time_steps=1), epochs=1, train_samples=64), tmp_path)
    found = restore(tmp_path)
    frames = data.load("digits").test.read(torch.arange(4))
    with torch.no_grad():
        expected = found.model(coded(from_json(tmp_path / runs.CONFIG), found.data, frames))
    answer = teacher.load(tmp_path, TrainConfig(), found.data, torch.device("cpu"))(frames)
    assert answer.std() > 0
    torch.testing.assert_close(answer, expected)


def test_poisson_spikes_of_a_test_are_of_the_seed() -> None:
    settings = TrainConfig(coding="poisson", seed=3)
    frames = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    expected = data.poisson(frames, settings.model.time_steps, 255, torch.Generator().manual_seed(3))
    assert torch.equal(coded(settings, IMAGES, frames), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"momentum": -1.0}, "--momentum -1.0"),
        ({"momentum": float("nan")}, "--momentum nan"),
        ({"weight_decay": float("nan")}, "--weight-decay nan"),
        ({"seed": 1 << 31}, "--seed 2147483648"),
        ({"train_samples": 1}, "--train-samples 1"),
        ({"distill": "tser", "teacher": "x", "loss": "bce"}, "takes no --loss bce"),
        ({"temperature": 2.0}, "--temperature 2.0 has no effect without --distill"),
        ({"quantize_bits": 4}, "--quantize-bits 4 has no effect without --quantize"),
        ({"tet_weight": 0.5}, "--tet-weight 0.5 has no effect without --loss tet"),
    ],
)
def test_training_options_that_are_wrong_or_ignored(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"per_channel": True},
        {"leak": 0.5, "neuron": "if"},
        {"threshold": 1.0, "neuron": "relu"},
        {"shift_position": "current"},
    ],
)
def test_network_options_that_are_ignored(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="has no effect without"):
        ModelConfig(**values)


def test_poisson_spikes_are_normalised_as_spikes(tmp_path: Path) -> None:
    """Spikes of mean v / 16 are divided by 1, not by the 16 levels of a pixel of digits; also when the run is read."""
    loop.train(TrainConfig(coding="poisson", epochs=1, train_samples=64), tmp_path)
    (normalise,) = (m for m in restore(tmp_path).model.modules() if isinstance(m, layers.Normalise))
    assert float(normalise.std) == 1.0
    fresh = restore(tmp_path)
    assert as_sent(fresh.config, fresh.data).std == (1.0,)


def test_teacher_gets_its_own_coding(tmp_path: Path) -> None:
    config = TrainConfig(coding="poisson", epochs=1, train_samples=64)
    loop.train(config, tmp_path)
    found = restore(tmp_path)
    frames = data.load("digits").test.read(torch.arange(4))
    with torch.no_grad():
        expected = found.model(coded(config, found.data, frames))
        assert not torch.equal(found.model(data.over_time(frames, 4)), expected)
    assert torch.equal(teacher.load(tmp_path, TrainConfig(), found.data, torch.device("cpu"))(frames), expected)


def test_all_classes_are_head() -> None:
    """Also where their probabilities, summed up in float32, come to more than 1: then it is forward KL alone."""
    torch.manual_seed(0)
    student, taught = torch.randn(500, 100), torch.randn(500, 100)
    torch.testing.assert_close(losses.hta_kl(student, taught, 1.0, head_mass=1.0), losses.kl(student, taught, 1.0))

"""Backbones: shapes, published sizes, every switch, and what the exporter relies on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, fx, nn

from train import choices, layers, losses, models
from train.config import LossConfig, ModelConfig, TrainConfig, from_json, to_json
from train.data.catalogue import ENTRIES
from train.data.spec import DataSpec
from train.errors import UserError
from train.models import Classifier
from train.presets import PRESETS, preset

SPEC = DataSpec("toy", (3, 16, 16), 10, 255, (127.0, 120.0, 110.0), (60.0, 61.0, 62.0))
T, B = 2, 2
TINY = ModelConfig(width=1 / 16, time_steps=T)


def frames(spec: DataSpec = SPEC, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (T, B, *spec.shape), generator=generator).float()


def build(config: ModelConfig, spec: DataSpec = SPEC, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return models.build(config, spec)


def train_two_steps(model: Classifier) -> list[float]:
    optimiser = torch.optim.SGD(model.parameters(), 0.01)
    labels = torch.arange(B)
    values = []
    for seed in range(2):
        value = losses.loss(LossConfig(loss="tsce"), model.logits(frames(seed=seed)), labels)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    return values


COMBINATIONS = [
    # every backbone as it is, as a teacher, and with everything switched on
    *(replace(TINY, model=name) for name in get_args(choices.ModelName)),
    *(replace(TINY, model=name, neuron="relu") for name in get_args(choices.ModelName) if name != "recurrent"),
    *(
        replace(TINY, model=name, neuron="da-lif", attention="fsta", temporal_shift=True)
        for name in get_args(choices.ModelName)
        if name not in ("recurrent", "resnet-34-imagenet")
    ),
    # every neuron with every attention and every place of the shift
    *(
        replace(TINY, model="small-conv", neuron=neuron, attention=attention, temporal_shift=True, shift_position=place)
        for neuron in get_args(choices.NeuronName)
        for attention in get_args(choices.AttentionName)
        for place in get_args(choices.ShiftPosition)
        if neuron != "relu" or attention == "none"
    ),
    *(
        replace(TINY, model="resnet-19", attention="staa", temporal_shift=True, shift_position=place)
        for place in get_args(choices.ShiftPosition)
    ),
    *(replace(TINY, model="recurrent", neuron=name) for name in ("plif", "da-lif", "adaptive-lif", "if")),
    *(replace(TINY, model="vgg-11", surrogate=name) for name in get_args(choices.SurrogateName)),
    replace(TINY, model="resnet-20", neuron="plif", per_channel=True, leak=0.5, threshold=1.0),
    replace(TINY, temporal_shift=True, shift_split="fixed"),
]


def label(config: ModelConfig) -> str:
    place = config.shift_position if config.temporal_shift else "unshifted"
    return f"{config.model}-{config.neuron}-{config.attention}-{place}-{config.surrogate}"


@pytest.mark.parametrize("config", COMBINATIONS, ids=label)
def test_builds_trains_two_steps_and_reloads(config: ModelConfig) -> None:
    model = build(config)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    assert all(torch.isfinite(torch.tensor(train_two_steps(model))))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter).all(), name
    assert any(not torch.equal(before[name], value) for name, value in model.named_parameters())
    reloaded = build(config, seed=99)
    reloaded.load_state_dict(model.state_dict())
    model.eval(), reloaded.eval()
    with torch.no_grad():
        logits = model.logits(frames())
        assert logits.shape == (T, B, SPEC.classes)
        assert torch.equal(model(frames()), logits.mean(0))
        assert torch.equal(reloaded(frames()), model(frames()))


class Leaves(fx.Tracer):
    """The exporter's view: this project's layers are leaves, containers are not."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith(("train.layers", "torch.nn")) and not isinstance(m, nn.Sequential)


@pytest.mark.parametrize(
    "config", [c for c in COMBINATIONS if c.surrogate == "auto" and c.neuron in ("lif", "da-lif")], ids=label
)
def test_symbolic_trace_is_module_calls_and_sums_and_ends_in_the_read_out(config: ModelConfig) -> None:
    model = build(config).eval()
    graph = Leaves().trace(model)
    assert {node.op for node in graph.nodes} <= {"placeholder", "call_module", "call_function", "output"}
    assert {node.target.__name__ for node in graph.nodes if node.op == "call_function"} <= {"add"}
    assert list(graph.nodes)[-2].target == "readout"
    assert torch.equal(fx.GraphModule(model, graph)(frames()), model(frames()))


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "lifs", "convolutions"),
    [  # neurons: the published counts; convolutions: the layers that give a network its name, plus 1x1 shortcuts
        ("resnet-18", 17, 17 + 3),
        ("resnet-19", 17, 17 + 2),
        ("resnet-20", 19, 19 + 3),
        ("resnet-34", 33, 33 + 3),
        ("resnet-18-imagenet", 17, 17 + 3),
        ("resnet-34-imagenet", 33, 33 + 3),
        ("vgg-11", 8, 8),
        ("vgg-16", 13, 13),
    ],
)
def test_layer_counts(name: str, lifs: int, convolutions: int) -> None:
    model = build(replace(TINY, model=name, attention="fsta"))
    assert count(model, layers.LIF) == lifs
    assert count(model, layers.FSTA) == lifs
    assert count(model, layers.Conv2d) == convolutions


@pytest.mark.parametrize(
    ("name", "spec", "parameters"),
    [  # convolutions, two values of batch norm a channel, and the linear layer, added up by hand
        ("resnet-18", replace(SPEC, shape=(3, 32, 32)), 11_173_962),
        ("resnet-34", replace(SPEC, shape=(3, 32, 32)), 21_282_122),
        ("resnet-19", replace(SPEC, shape=(3, 32, 32)), 12_569_226),
        ("resnet-20", replace(SPEC, shape=(3, 32, 32)), 11_247_946),
        ("vgg-11", replace(SPEC, shape=(3, 32, 32)), 9_228_362),
        ("vgg-16", replace(SPEC, shape=(3, 32, 32)), 14_724_042),
        ("resnet-18-imagenet", DataSpec("imagenet", (3, 224, 224), 1000, 255, (0.0,) * 3, (1.0,) * 3), 11_689_512),
        ("resnet-34-imagenet", DataSpec("imagenet", (3, 224, 224), 1000, 255, (0.0,) * 3, (1.0,) * 3), 21_797_672),
    ],
)
def test_published_parameter_counts(name: str, spec: DataSpec, parameters: int) -> None:
    with torch.device("meta"):
        model = models.build(ModelConfig(model=name), spec)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "pooled"),
    [
        ("small-conv", []),
        ("resnet-18", []),
        ("resnet-19", []),
        ("resnet-20", ["stages.0.0.first.conv", *(f"stages.{i}.0.shortcut.conv" for i in (1, 2, 3))]),
        ("resnet-34-imagenet", ["stages.0.0.first.conv"]),
        ("vgg-11", [f"features.{i}.conv" for i in (2, 4, 7, 10)]),
    ],
)
def test_convolutions_read_spikes_but_for_the_first_and_those_after_pooling(name: str, pooled: list[str]) -> None:
    model = build(replace(TINY, model=name, width=0.25)).train()  # at evaluation, untrained deep layers are silent
    inputs: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        if isinstance(module, layers.Conv2d):
            module.register_forward_hook(lambda m, x, y, path=path: inputs.__setitem__(path, x[0]))
    model(frames())
    graded = {path for path, x in inputs.items() if not torch.isin(x, torch.tensor([0.0, 1.0])).all()}
    assert graded == {next(iter(inputs)), *pooled}


def test_shift_positions() -> None:
    def shifts(**changes: object) -> list[str]:
        model = build(replace(TINY, model="resnet-19", temporal_shift=True, **changes))
        return [path for path, module in model.named_modules() if isinstance(module, layers.TemporalShift)]

    assert len(shifts()) == 16
    assert shifts()[:2] == ["stages.0.0.first.shift", "stages.0.0.second.shift"]
    assert shifts(shift_position="block-input") == [
        f"stages.{i}.{j}.first.shift" for i, j in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    ]
    assert shifts(shift_position="current")[:2] == ["stages.0.0.first.shift", "stages.0.0.join.shift"]


def test_small_conv_keeps_its_names() -> None:
    names = set(build(ModelConfig(temporal_shift=True)).state_dict())
    assert {
        "block1.conv.weight",
        "block1.norm.bias",
        "block2.shift.alpha",
        "block3.conv.weight",
        "head.weight",
    } <= names


def test_attention_keeps_its_own_initial_values() -> None:
    model = build(replace(TINY, model="resnet-19", attention="fsta", time_steps=T))
    attention = next(module for module in model.modules() if isinstance(module, layers.FSTA))
    assert 0.4 < attention.temporal.abs().max() <= T**-0.5


def test_images_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="multiples of 16"):
        build(replace(TINY, model="resnet-20"), replace(SPEC, shape=(3, 28, 28)))
    with pytest.raises(UserError, match="at least 16 x 16"):
        build(replace(TINY, model="vgg-16"), replace(SPEC, shape=(3, 8, 8)))


# --- configuration ------------------------------------------------------------------------------------------------


def test_every_model_name_has_a_builder() -> None:
    assert set(models.BUILDERS) == set(get_args(choices.ModelName))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "alexnet"}, "--model 'alexnet'"),
        ({"neuron": "izhikevich"}, "--neuron 'izhikevich'"),
        ({"neuron": "relu", "attention": "staa"}, "--attention staa needs a spiking neuron"),
        ({"model": "recurrent", "temporal_shift": True}, "--model recurrent takes neither"),
        ({"model": "recurrent", "neuron": "relu"}, "--model recurrent needs a spiking neuron"),
        ({"time_steps": 0}, "--time-steps 0"),
        ({"width": 0.0}, "--width 0.0"),
        ({"leak": 1.0}, "--leak 1.0"),
        ({"threshold": float("nan")}, "--threshold nan"),
    ],
)
def test_model_config_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "mse"}, "--loss 'mse'"),
        ({"distill": "kl"}, "--distill kl needs --teacher RUN"),
        ({"teacher": "runs/t"}, "--teacher runs/t needs --distill"),
        ({"temperature": 0.0}, "--temperature 0.0"),
        ({"distill_weight": 1.5}, "--distill-weight 1.5"),
        ({"label_smoothing": float("nan")}, "--label-smoothing nan"),
        ({"epochs": 0}, "--epochs 0"),
    ],
)
def test_train_config_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**changes)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_on_their_data(name: str) -> None:
    config, spec = PRESETS[name], ENTRIES[PRESETS[name].dataset].spec
    steps = config.model.time_steps
    with torch.device("meta"):  # shapes only
        model = models.build(config.model, spec).eval()
        assert model.logits(torch.empty(steps, B, *spec.shape)).shape == (steps, B, spec.classes)


def test_every_data_set_has_a_quick_preset() -> None:
    assert {p.dataset for name, p in PRESETS.items() if name.startswith("quick-")} == set(ENTRIES) - {"digits"}


def test_presets_have_the_numbers_of_the_papers() -> None:
    """The table of official settings of FSTA-SNN, and the stem that its ResNet-18 has on ImageNet."""
    found = {
        name: (p.epochs, p.batch_size, p.optimizer, p.learning_rate, p.weight_decay, p.warmup_epochs, p.precision)
        for name, p in PRESETS.items()
        if name.startswith("fsta")
    }
    assert found == {
        "fsta-cifar10": (600, 128, "sgd", 0.1, 0.0, 10, "fp32"),
        "fsta-cifar100": (600, 128, "sgd", 0.1, 1e-4, 0, "fp32"),
        "fsta-dvs": (500, 32, "sgd", 0.02, 1e-4, 10, "bf16"),
        "fsta-gesture": (200, 4, "lamb", 5e-3, 0.02, 0, "bf16"),
        "fsta-imagenet": (120, 64, "lamb", 1.5e-3, 0.01, 5, "bf16"),
    }
    assert PRESETS["fsta-imagenet"].model.model == "resnet-18-imagenet"
    for name in ("ts-snn-cifar10", "staa-cifar10"):  # follow its recipe
        assert replace(PRESETS[name], model=PRESETS["fsta-cifar10"].model) == PRESETS["fsta-cifar10"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_config_json(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_json(preset(name), {})))
    assert from_json(path) == preset(name)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("model", "neuron", "spiky", "config.json: --neuron 'spiky'"),
        ("model", "neuron", 3, "field 'neuron' is int, expected str"),
        ("model", "neuron", ["lif"], "field 'neuron' is list, expected str"),
        ("", "distill", "magic", "config.json: --distill 'magic'"),
    ],
)
def test_config_json_with_other_choices_is_refused(
    section: str, key: str, value: object, message: str, tmp_path: Path
) -> None:
    data = to_json(TrainConfig(), {})
    (data["config"][section] if section else data["config"])[key] = value
    path = tmp_path / "config.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=message):
        from_json(path)


def test_unknown_preset() -> None:
    with pytest.raises(UserError, match="known presets: da-lif-cifar10"):
        preset("alexnet")

"""What a run is made of, as frozen data: the command line fills it, config.json keeps it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from train import runs
from train.errors import UserError

SCHEMA_VERSION = 1
Section = TypeVar("Section")


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    model: str = "small-conv"
    """Backbone: small-conv."""
    temporal_shift: bool = False
    """TS-SNN: shift part of the channels one step to each side before the convolutions."""
    time_steps: int = 4
    """Time steps T of a sample's window."""

    def __post_init__(self) -> None:
        if not 1 <= self.time_steps <= 1024:
            raise UserError(f"--time-steps {self.time_steps}, allowed 1..1024")


@dataclass(frozen=True)
class TrainConfig:
    """The network, its data and the recipe."""

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: str = "digits"
    """Data set: digits (scikit-learn's bundled handwritten digits, no download)."""
    epochs: int = 40
    """Passes over the training set."""
    batch_size: int = 64
    """Samples per step."""
    learning_rate: float = 0.1
    """Peak learning rate of SGD with Nesterov momentum; falls to zero along a cosine."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 penalty on convolution and linear weights."""
    label_smoothing: float = 0.1
    """Probability mass that the target spreads over all classes."""
    seed: int = 0
    """Seed of initial values, batch order and random splits."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1 ..."""

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch_size", 2), ("learning_rate", 0.0), ("seed", 0)):
            value = getattr(self, name)
            if not value >= low:
                raise UserError(f"--{name.replace('_', '-')} {value}, must be at least {low}")


PRESETS: dict[str, TrainConfig] = {
    "digits": TrainConfig(model=ModelConfig(temporal_shift=True)),
}


def preset(name: str) -> TrainConfig:
    """A recipe by name.

    Raises:
        UserError: no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}", hint=f"known presets: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


def to_json(config: TrainConfig, extra: dict[str, Any]) -> dict[str, Any]:
    """config.json: schema version, the configuration, and what else the caller wants on record."""
    return {"schema_version": SCHEMA_VERSION, "config": dataclasses.asdict(config), **extra}


def from_json(path: Path) -> TrainConfig:
    """Read the configuration of config.json (or of a file given with --config).

    Raises:
        UserError: missing, not JSON, another schema, an unknown field or a value of the wrong type.
    """
    data = runs.read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("config"), dict):
        raise UserError("not a run configuration", where=str(path))
    if data.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"schema version {data.get('schema_version')}, this program reads {SCHEMA_VERSION}", where=str(path)
        )
    values = dict(data["config"])
    model = _section(ModelConfig, values.pop("model", {}), path)
    return _section(TrainConfig, {"model": model, **values}, path)


def _section(kind: type[Section], values: Any, path: Path) -> Section:
    if not isinstance(values, dict):
        raise UserError(f"{kind.__name__} is {type(values).__name__}, expected an object", where=str(path))
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in fields:
            raise UserError(f"unknown field {name!r}", where=str(path))
        default = fields[name].default
        expected = ModelConfig if name == "model" and kind is TrainConfig else type(default)
        if expected is float and type(value) is int:
            continue
        if type(value) is not expected:
            raise UserError(f"field {name!r} is {type(value).__name__}, expected {expected.__name__}", where=str(path))
    return kind(**values)

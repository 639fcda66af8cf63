"""What a chip holds: a YAML file in which every number names its unit, its source and how sure it is."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from train.errors import UserError

FOLDER = Path(__file__).with_name("chips")
MAX_BYTES = 1 << 20
CERTAINTIES = ("official", "secondary", "assumption")
ENERGY = ("synaptic_operation", "neuron_update_active", "neuron_update_inactive", "spike_within_tile")
TIME = ("barrier_fastest", "barrier_slowest")


@dataclass(frozen=True)
class Quantity:
    """A number of the chip with its provenance: certainty is "official", "secondary" or "assumption"."""

    value: float
    unit: str
    certainty: str
    source: str


@dataclass(frozen=True)
class Limit:
    """A whole number of the chip with its provenance."""

    value: int
    unit: str
    certainty: str
    source: str


@dataclass(frozen=True)
class Choice:
    """One of several ways, with its provenance."""

    value: str
    unit: str
    certainty: str
    source: str


@dataclass(frozen=True)
class Limits:
    """What the chip cannot exceed; memory in bytes, delay in steps, the rest counts or bits."""

    cores: Limit
    neurons_per_core: Limit
    memory_per_core: Limit
    axons_in: Limit
    axons_out: Limit
    delay: Limit
    weight_bits: Limit
    payload_bits: Limit


@dataclass(frozen=True)
class Storage:
    """How many bits synapses and delays are taken to occupy.

    `convolution`: "shared" (one copy of the kernels a core) or "expanded" (every synapse).
    """

    convolution: Choice
    index_bits: Limit
    delay_bits: Limit
    accumulator_bits: Limit


@dataclass(frozen=True)
class Neurons:
    """What its neurons can do. `reset`: "zero" (a spike sets v to zero, nothing else) or "any" (programmed neurons)."""

    reset: Choice


@dataclass(frozen=True)
class Chip:
    """One chip. `energy` (pJ) and `time` (ns) may be empty: then nobody has published them.

    Attributes:
        name: how the user asked for it, such as "loihi2".
        energy: keys from ENERGY, all of them or none.
        time: keys from TIME, all of them or none.
    """

    name: str
    title: str
    note: str
    limits: Limits
    storage: Storage
    neurons: Neurons
    energy: Mapping[str, Quantity]
    time: Mapping[str, Quantity]


Entry: TypeAlias = Quantity | Limit | Choice


def known() -> tuple[str, ...]:
    """Names of the chips that come with the project."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(name_or_file: str) -> Chip:
    """The chip of this name, or the one described in a YAML file.

    Raises:
        UserError: no such chip or file, or the file is not a chip; the message names the key.
    """
    if name_or_file in known():
        path = FOLDER / f"{name_or_file}.yaml"
    elif name_or_file.endswith((".yaml", ".yml")):
        path = Path(name_or_file)
    else:
        raise UserError(
            f"no chip {name_or_file!r}", where="--chip", hint=f"one of {', '.join(known())}, or a file FILE.yaml"
        )
    if not path.is_file():
        raise UserError("no such file", where=name_or_file, hint="copy deploy/chips/loihi2.yaml to start with")
    try:
        return _chip(_load_yaml(path), path.stem)
    except UserError as error:
        raise UserError(error.what, where=f"{name_or_file}{error.where}", hint=error.hint) from error


def _load_yaml(path: Path) -> Any:
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"file of {path.stat().st_size} bytes, limit {MAX_BYTES}")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise UserError(f"not YAML: {getattr(error, 'problem', None) or 'cannot be parsed'}{line}") from error
    except (ValueError, RecursionError) as error:
        raise UserError("not YAML: cannot be read as text, or nested too deeply") from error


def _chip(data: Any, name: str) -> Chip:
    sections = _keys(data, ("title", "note", "limits", "storage", "neurons", "energy", "time"), "")
    storage = _keys(sections["storage"], _names(Storage), ": storage")
    neurons = _keys(sections["neurons"], _names(Neurons), ": neurons")
    return Chip(
        name=name,
        title=_text(sections["title"], ": title"),
        note=_text(sections["note"], ": note"),
        limits=Limits(**{key: _limit(entry, f": limits.{key}") for key, entry in _limits(sections["limits"]).items()}),
        storage=Storage(
            convolution=_choice(storage.pop("convolution"), ": storage.convolution", ("shared", "expanded")),
            **{key: _limit(entry, f": storage.{key}") for key, entry in storage.items()},
        ),
        neurons=Neurons(_choice(neurons["reset"], ": neurons.reset", ("zero", "any"))),
        energy=_optional(sections["energy"], ENERGY, "energy", "pJ"),
        time=_optional(sections["time"], TIME, "time", "ns"),
    )


def _limits(data: Any) -> dict[str, Any]:
    return _keys(data, _names(Limits), ": limits")


def _optional(data: Any, names: tuple[str, ...], section: str, unit: str) -> dict[str, Quantity]:
    """All the quantities of a section, or none when it is empty."""
    if data in ({}, None):
        return {}
    return {
        key: _quantity(item, f": {section}.{key}", unit) for key, item in _keys(data, names, f": {section}").items()
    }


def _names(kind: type) -> tuple[str, ...]:
    return tuple(item.name for item in dataclasses.fields(kind))


def _keys(data: Any, names: tuple[str, ...], where: str) -> dict[str, Any]:
    """`data` as a mapping with exactly these keys."""
    if not isinstance(data, dict):
        raise UserError(f"is {_kind(data)}, expected a mapping with {', '.join(names)}", where=where)
    for key in data:
        if key not in names:
            close = difflib.get_close_matches(str(key)[:80], names, n=1)
            meant = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"
            raise UserError(f"unknown key {str(key)[:80]!r}", where=where, hint=meant)
    for name in names:
        if name not in data:
            raise UserError(f"missing key {name!r}", where=where)
    return {name: data[name] for name in names}


def _kind(value: Any) -> str:
    return {dict: "a mapping", list: "a list", str: "text", type(None): "empty"}.get(type(value), type(value).__name__)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"is {_kind(value)}, expected text", where=where)
    return value.strip()


def _provenance(data: Any, where: str) -> tuple[Any, str, str, str]:
    entry = _keys(data, _names(Quantity), where)
    certainty = _text(entry["certainty"], f"{where}.certainty")
    if certainty not in CERTAINTIES:
        raise UserError(f"is {certainty[:80]!r}, expected one of {', '.join(CERTAINTIES)}", where=f"{where}.certainty")
    return entry["value"], _text(entry["unit"], f"{where}.unit"), certainty, _text(entry["source"], f"{where}.source")


def _limit(data: Any, where: str) -> Limit:
    value, unit, certainty, source = _provenance(data, where)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 40:
        raise UserError("expected a whole number of at least 1", where=f"{where}.value")
    return Limit(value, unit, certainty, source)


def _quantity(data: Any, where: str, expected_unit: str) -> Quantity:
    value, unit, certainty, source = _provenance(data, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise UserError("expected a number of at least 0", where=f"{where}.value")
    if unit != expected_unit:
        raise UserError(f"is {unit[:80]!r}, expected {expected_unit!r}", where=f"{where}.unit")
    return Quantity(float(value), unit, certainty, source)


def _choice(data: Any, where: str, options: tuple[str, ...]) -> Choice:
    value, unit, certainty, source = _provenance(data, where)
    if value not in options:
        raise UserError(f"expected {' or '.join(map(repr, options))}", where=f"{where}.value")
    return Choice(value, unit, certainty, source)

"""`equivalence.json`, written by the simulator: checked field by field before the report repeats it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from train import runs
from train.errors import UserError

SCHEMA_VERSION = 2
COMMAND = "python -m sim"


def read_equivalence(path: Path) -> dict[str, Any]:
    """The comparisons of engines, with exactly the fields that the report shows.

    Returns:
        {"network", "comparisons": [{"engines", "samples", "steps", "equal", "populations", "divergence"}],
        "float": {"agreement": [...], "accuracy", "probe"} or None, "accuracy": {name: [correct, total]}}.

    Raises:
        UserError: the file is missing, not JSON, or has a field of another kind; the message names the field.
    """
    data = runs.read_json(path)
    try:
        version = _get(data, "schema_version", int, "")
        if version != SCHEMA_VERSION:
            raise UserError(f"schema version {version}, this program reads {SCHEMA_VERSION}", hint=f"again: {COMMAND}")
        return {
            "network": _get(data, "network", str, ""),
            "comparisons": [_comparison(c, f"comparisons[{i}]") for i, c in _list(data, "comparisons", "")],
            "float": _float(data.get("float")),
            "accuracy": _accuracy(data.get("accuracy", {}), "accuracy"),
        }
    except UserError as error:
        where = f"{path}: {error.where}" if error.where else str(path)
        raise UserError(error.what, where=where, hint=error.hint) from error


def _get(data: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """data[key], which must be there and of this kind (a bool is no number)."""
    if not isinstance(data, dict) or key not in data:
        raise UserError(f"field {key!r} is missing", where=where)
    value = data[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"field {key!r} is {type(value).__name__}", where=where)
    return value


def _list(data: Any, key: str, where: str) -> list[tuple[int, Any]]:
    return list(enumerate(_get(data, key, list, where)))


def _comparison(data: Any, where: str) -> dict[str, Any]:
    engines = _get(data, "engines", list, where)
    if len(engines) != 2 or not all(isinstance(engine, str) for engine in engines):
        raise UserError("field 'engines' is not two names", where=where)
    populations = [_population(p, f"{where}.populations[{i}]") for i, p in _list(data, "populations", where)]
    equal = _get(data, "equal", bool, where)
    if equal and any(p["mismatches"] for p in populations):
        raise UserError("says equal, and counts mismatches", where=where)
    spikes = [p["spikes"] for p in populations if p["spikes"] is not None]
    if equal and (not any(p["compared"] for p in populations) or (spikes and not any(spikes))):
        raise UserError("says equal, over no spikes at all", where=where, hint="simulate samples that make it spike")
    return {
        "engines": engines,
        "samples": _get(data, "samples", int, where),
        "steps": _get(data, "steps", int, where),
        "equal": equal,
        "populations": populations,
        "divergence": _divergence(data.get("divergence"), f"{where}.divergence"),
    }


def _population(data: Any, where: str) -> dict[str, Any]:
    """`spikes` is None for the read-out, whose membrane potential is compared instead."""
    spikes = None if isinstance(data, dict) and data.get("spikes") is None else _get(data, "spikes", int, where)
    return {
        "id": _get(data, "id", str, where),
        "spikes": spikes,
        "compared": _get(data, "compared", int, where),
        "mismatches": _get(data, "mismatches", int, where),
    }


def _divergence(data: Any, where: str) -> dict[str, Any] | None:
    if data is None:
        return None
    neuron = _get(data, "neuron", list, where)
    if not all(isinstance(index, int) for index in neuron):
        raise UserError("field 'neuron' is not a list of whole numbers", where=where)
    return {
        "sample": _get(data, "sample", int, where),
        "step": _get(data, "step", int, where),
        "population": _get(data, "population", str, where),
        "neuron": neuron,
        "text": _get(data, "text", str, where),
    }


def _float(data: Any) -> dict[str, Any] | None:
    if data is None:
        return None
    accuracy = None if isinstance(data, dict) and data.get("accuracy") is None else _number(data, "accuracy", "float")
    probe = _probe(_get(data, "probe", dict, "float"), "float.probe")
    layers = [_layer(item, f"float.agreement[{i}]", probe["samples"]) for i, item in _list(data, "agreement", "float")]
    return {"agreement": layers, "accuracy": accuracy, "probe": probe}


def _layer(data: Any, where: str, samples: int) -> dict[str, Any]:
    distance = float(_get(data, "count_distance", (int, float), where))
    if not 0 <= distance < math.inf:
        raise UserError(f"field 'count_distance' is {distance}, expected a number that is not negative", where=where)
    return {
        "population": _get(data, "population", str, where),
        "agreement": _number(data, "agreement", where),
        "own": _number(data, "own", where),
        "count_distance": distance,
        "correct": _count(data, "correct", samples, where),
    }


def _probe(data: Any, where: str) -> dict[str, Any]:
    samples = _get(data, "samples", int, where)
    if samples < 1:
        raise UserError(f"field 'samples' is {samples}, expected at least 1", where=where)
    begins = None if data.get("loss_begins") is None else _get(data, "loss_begins", str, where)
    return {
        "samples": samples,
        "labelled": _get(data, "labelled", bool, where),
        "float_correct": _count(data, "float_correct", samples, where),
        "integer_correct": _count(data, "integer_correct", samples, where),
        "loss_begins": begins,
    }


def _count(data: Any, key: str, samples: int, where: str) -> int:
    count: int = _get(data, key, int, where)
    if not 0 <= count <= samples:
        raise UserError(f"field {key!r} is {count}, expected 0..{samples}", where=where)
    return count


def _number(data: Any, key: str, where: str) -> float:
    value = float(_get(data, key, (int, float), where))
    if not 0 <= value <= 1:
        raise UserError(f"field {key!r} is {value}, expected a fraction", where=where)
    return value


def _accuracy(data: Any, where: str) -> dict[str, list[int]]:
    if not isinstance(data, dict):
        raise UserError(f"is {type(data).__name__}, expected a mapping", where=where)
    for name, pair in data.items():
        whole = isinstance(pair, list) and len(pair) == 2 and all(type(value) is int for value in pair)
        if not whole or not 0 <= pair[0] <= pair[1] or pair[1] < 1:
            raise UserError(f"{name[:80]!r} is not [correct, total]", where=where)
    return data

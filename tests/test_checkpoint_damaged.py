"""Checkpoints from strangers: whatever is wrong with one is one line that names it; exit code 2 at the command line."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from export.__main__ import Options, command
from train import checkpoint, config, data, models, runs
from train.config import ModelConfig, TrainConfig
from train.console import main
from train.errors import UserError
from train.restore import restore

METADATA = {"schema_version": "1", "epoch": "3", "phase": "float"}
WEIGHT = "model.block1.conv.weight"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of an untrained model, small enough for hundreds of readings."""
    folder = tmp_path_factory.mktemp("run")
    settings_of_run = replace(TrainConfig(), dataset="digits", model=ModelConfig(width=0.25))
    runs.write_json(folder / runs.CONFIG, config.to_json(settings_of_run, {}))
    model = models.build(settings_of_run.model, data.spec("digits"))
    checkpoint.save(folder / runs.CHECKPOINT, 3, model, torch.optim.SGD(model.parameters()))
    assert isinstance(restore(folder).model, nn.Module)
    return folder


@pytest.fixture(scope="module")
def content(run: Path) -> bytes:
    return (run / runs.CHECKPOINT).read_bytes()


def outcome(run: Path, content: bytes) -> str:
    """The one line that reading this checkpoint gives, "" where it is read."""
    return read(run, lambda path: path.write_bytes(content))


def read(run: Path, write: Callable[[Path], object]) -> str:
    """The same of what `write` writes."""
    write(run / runs.CHECKPOINT)
    try:
        restore(run)
    except UserError as error:
        line = str(error)
        assert line.startswith(str(run / runs.CHECKPOINT))
        assert line.isprintable()
        assert len(line) < 500
        return line
    return ""


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_truncated(data: st.DataObject, run: Path, content: bytes) -> None:
    cut = data.draw(st.integers(0, len(content) - 1))
    assert "damaged, or not a checkpoint: " in outcome(run, content[:cut])


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_changed_bytes(data: st.DataObject, run: Path, content: bytes) -> None:
    """Most of them in the header, which says what the rest means; weights that stay finite are weights."""
    (header,) = struct.unpack("<Q", content[:8])
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        end = data.draw(st.sampled_from([8, 8 + header, 8 + header, len(content)]))
        damaged[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    outcome(run, bytes(damaged))


def rebuilt(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with another header."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "shape": (lambda h: h[WEIGHT].update(shape=[1 << 40, 1 << 40]), "damaged, or not a checkpoint"),
    "shape negative": (lambda h: h[WEIGHT].update(shape=[-1]), "damaged, or not a checkpoint"),
    "offsets": (lambda h: h[WEIGHT].update(data_offsets=[0, 1 << 60]), "damaged, or not a checkpoint"),
    "offsets swapped": (lambda h: h[WEIGHT].update(data_offsets=[9, 1]), "damaged, or not a checkpoint"),
    "dtype": (lambda h: h[WEIGHT].update(dtype="os.system"), "damaged, or not a checkpoint"),
    "no such entry": (lambda h: h.pop(WEIGHT), "damaged, or not a checkpoint"),
    "version": (lambda h: h["__metadata__"].update(schema_version="9"), "schema version 9, this program reads 1"),
    "version long": (lambda h: h["__metadata__"].update(schema_version="9" * 9999), "schema version 99"),
    "version lines": (lambda h: h["__metadata__"].update(schema_version="1\n2"), "schema version"),
    "no metadata": (lambda h: h.pop("__metadata__"), "schema version none"),
    "no epoch": (lambda h: h["__metadata__"].pop("epoch"), "damaged, or not a checkpoint"),
    "epoch": (lambda h: h["__metadata__"].update(epoch="soon\n"), "damaged, or not a checkpoint"),
    "epoch long": (lambda h: h["__metadata__"].update(epoch="9" * 9999), "damaged, or not a checkpoint"),
    "integer phase": (lambda h: h["__metadata__"].update(phase="integer"), "tensor "),
    "name": (lambda h: h.update({"model.block1.\nconv": h.pop(WEIGHT)}), "tensor block1.conv.weight is missing"),
}


@pytest.mark.parametrize("change", HEADERS)
def test_headers(change: str, run: Path, content: bytes) -> None:
    make, message = HEADERS[change]
    assert message in outcome(run, rebuilt(content, make))


@pytest.mark.parametrize("length", [0, 1, 100_000_001, 1 << 40, (1 << 64) - 1])
def test_headers_of_any_length(length: int, run: Path, content: bytes) -> None:
    """A header that claims terabytes is not reserved."""
    assert "damaged, or not a checkpoint" in outcome(run, struct.pack("<Q", length) + content[8:])


def test_a_header_of_a_million_names(run: Path) -> None:
    names = {f"model.x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(300_000)}
    text = json.dumps({"__metadata__": METADATA, **names}).encode()
    assert "is missing" in outcome(run, struct.pack("<Q", len(text)) + text)


TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "NaN": (lambda t: t[WEIGHT].view(-1)[3:4].fill_(torch.nan), "block1.conv.weight holds NaN or infinity"),
    "infinity": (lambda t: t[WEIGHT].fill_(-torch.inf), "block1.conv.weight holds NaN or infinity"),
    "transposed": (
        lambda t: t.update({WEIGHT: t[WEIGHT].movedim(0, 1).contiguous()}),
        "block1.conv.weight is of shape",
    ),
    "scalar": (lambda t: t.update({WEIGHT: torch.tensor(1.0)}), "block1.conv.weight is of shape ()"),
    "many axes": (lambda t: t.update({WEIGHT: torch.zeros([1] * 500)}), "conv.weight is of shape (1, 1, "),
    "missing": (lambda t: t.pop(WEIGHT), "tensor block1.conv.weight is missing"),
    "one more": (lambda t: t.update({"model.x\ny": torch.ones(1)}), "the model has no such tensor"),
    "long name": (lambda t: t.update({"model." + "x" * 9999: torch.ones(1)}), "the model has no such tensor"),
    "integers": (lambda t: t.update({WEIGHT: t[WEIGHT].long()}), "block1.conv.weight is of dtype int64"),
    "complex": (lambda t: t.update({WEIGHT: t[WEIGHT].cfloat()}), "block1.conv.weight is of dtype complex64"),
    "truth values": (lambda t: t.update({WEIGHT: t[WEIGHT] > 0}), "block1.conv.weight is of dtype bool"),
    "8-bit floats": (lambda t: t.update({WEIGHT: t[WEIGHT].to(torch.float8_e4m3fn)}), "is of dtype float8_e4m3fn"),
    "double": (lambda t: t.update({WEIGHT: t[WEIGHT].double() * 1e300}), "block1.conv.weight is of dtype float64"),
}


@pytest.mark.parametrize("change", TENSORS)
def test_tensors(change: str, run: Path, content: bytes) -> None:
    make, message = TENSORS[change]
    (run / runs.CHECKPOINT).write_bytes(content)
    tensors = load_file(run / runs.CHECKPOINT)
    make(tensors)
    assert message in read(run, lambda path: save_file(tensors, path, METADATA))


@pytest.mark.parametrize(
    "coding",
    [
        {"low_bits": torch.tensor([1, 2])},
        {"low_bits": torch.tensor(torch.nan), "offset": torch.zeros(1)},
        {"low_bits": torch.tensor(-4), "offset": torch.zeros(1)},
        {"low_bits": torch.tensor(1 << 40), "offset": torch.zeros(1, dtype=torch.long)},
        {"low_bits": torch.tensor(2)},
        {"low_bits": torch.tensor(2), "offset": torch.tensor(3)},
        {"low_bits": torch.tensor(2), "offset": torch.full((5000,), 1 << 60)},
    ],
)
def test_input_codings(coding: dict[str, Tensor], run: Path, content: bytes) -> None:
    """A model that was trained in integers says how its input is coded, before its weights can be looked at."""
    (run / runs.CHECKPOINT).write_bytes(content)
    tensors = load_file(run / runs.CHECKPOINT) | {f"model.code.{name}": value for name, value in coding.items()}
    assert read(run, lambda path: save_file(tensors, path, {**METADATA, "phase": "integer"}))


@pytest.mark.parametrize("damage", ["truncated", "tensor", "header"])
def test_exit_code(damage: str, run: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = {
        "truncated": content[:999],
        "tensor": rebuilt(content, lambda h: h.update({"model.y": h.pop(WEIGHT)})),
        "header": struct.pack("<Q", 1 << 50) + content,
    }
    (run / runs.CHECKPOINT).write_bytes(damaged[damage])
    with pytest.raises(SystemExit) as end:
        main(Options, command, "python -m export", arguments=[str(run)])
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "checkpoint.safetensors" in captured.err


def test_sound(run: Path, content: bytes) -> None:
    """What the changes above start from is read."""
    assert outcome(run, content) == ""
    assert outcome(run, rebuilt(content, lambda header: None)) == ""

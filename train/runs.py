"""The run folder: where each command leaves its artefact and finds the one before it.

`runs/<name>/` holds config.json, checkpoint.safetensors, metrics.jsonl, model.nir, network.h5, network.net,
network.onnx, model.onnx, attention.json (where attention was folded), equivalence.json, activity.h5, report.html and
report.json. Every file is written beside its final name and renamed into place, so a process killed at any moment
leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from train.errors import UserError

ROOT = Path("runs")
CONFIG = "config.json"
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
MODEL_NIR = "model.nir"
NETWORK = "network.h5"
NETWORK_NETX = "network.net"
NETWORK_ONNX = "network.onnx"
MODEL_ONNX = "model.onnx"
ATTENTION = "attention.json"
EQUIVALENCE = "equivalence.json"
ACTIVITY = "activity.h5"
REPORT_HTML = "report.html"
REPORT_JSON = "report.json"

OF_A_NETWORK = (NETWORK, NETWORK_NETX, NETWORK_ONNX, MODEL_ONNX)
"""What an export writes of one integer network; another export may leave out some of them."""


def newest(root: Path = ROOT) -> Path:
    """The run folder that was written last; `root` holds one folder per run.

    Raises:
        UserError: there is no run under `root`.
    """
    runs = [path.parent for path in root.glob(f"*/{CONFIG}")]
    if not runs:
        raise UserError("no run found", where=str(root), hint="train one first: python -m train")
    return max(runs, key=lambda run: (run / CONFIG).stat().st_mtime_ns)


def find(run: Path | None, needs: dict[str, str]) -> Path:
    """The run folder `run` (or the newest), checked to hold every file that the caller needs.

    Args:
        run: the folder, or None for the newest under `runs/`.
        needs: file name -> the command that makes it.

    Raises:
        UserError: the folder or a file in it is missing.
    """
    folder = newest() if run is None else run
    if not folder.is_dir():
        raise UserError("no such run folder", where=str(folder))
    for name, command in needs.items():
        if not (folder / name).is_file():
            raise UserError(f"the run has no {name}", where=str(folder), hint=f"make it with: {command}")
    return folder


def remove(run: Path, names: Iterable[str]) -> None:
    """Remove files of a run that are out of date; those that are not there are no error."""
    for name in names:
        (run / name).unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends without an error.

    The data reaches the disk before the rename does (fsync), so a crash leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically (UTF-8)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically as indented JSON; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, limit: int = 64 * 2**20) -> Any:
    """Read a JSON file of at most `limit` bytes.

    Raises:
        UserError: the file is missing, too large, or not JSON.
    """
    if not path.is_file():
        raise UserError("no such file", where=str(path))
    if path.stat().st_size > limit:
        raise UserError(f"file of {path.stat().st_size} bytes, limit {limit}", where=str(path))
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"not a JSON file: {error}", where=str(path)) from error

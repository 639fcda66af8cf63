"""metrics.jsonl, one row an epoch, and TensorBoard events where asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from train import runs
from train.errors import UserError


class Metrics:
    """Rows of a run, rewritten whole and atomically: at most a few hundred short lines.

    Raises:
        UserError: TensorBoard is asked for and not installed.
    """

    def __init__(self, run: Path, tensorboard: bool, epochs_done: int) -> None:
        self._path = run / runs.METRICS
        self._rows = [row for row in read(run) if row["epoch"] <= epochs_done]
        self._events = _writer(run) if tensorboard else None

    def write(self, epoch: int, values: dict[str, float | str]) -> None:
        """Add the row of an epoch (counted from 1)."""
        self._rows.append({"epoch": epoch, **values})
        runs.write_text(self._path, "".join(json.dumps(row) + "\n" for row in self._rows))
        if self._events is not None:
            for name, value in values.items():
                if not isinstance(value, str):
                    self._events.add_scalar(name, value, epoch)

    def last(self, name: str) -> float:
        """A value of the last row that has it; not a number without one."""
        return next((float(row[name]) for row in reversed(self._rows) if name in row), math.nan)

    def close(self) -> None:
        """Flush what TensorBoard has not written yet."""
        if self._events is not None:
            self._events.close()


def read(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, none where there is no such file.

    Raises:
        UserError: a line that is no row.
    """
    path = run / runs.METRICS
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines() if path.is_file() else (), 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
            raise UserError(f"line {number} is no row of an epoch", where=str(path), hint="remove the file to go on")
        rows.append(row)
    return rows


def _writer(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs the tensorboard package", hint="pip install tensorboard") from error
    return SummaryWriter(str(run / runs.TENSORBOARD))

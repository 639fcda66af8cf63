"""Run folders: found, refused, and written atomically even when the writer is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train import runs
from train.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def test_newest_run_is_the_one_configured_last(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old")):
        runs.write_json(tmp_path / name / runs.CONFIG, {})
        os.utime(tmp_path / name / runs.CONFIG, (1000 - age, 1000 - age))
    assert runs.newest(tmp_path).name == "new"


def test_missing_artefact_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no network\.h5 .*python -m export"):
        runs.find(tmp_path, {runs.NETWORK: "python -m export"})


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError), runs.atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    """A process rewrites a file of equal letters without end; killed at 20 moments, the file is never mixed."""
    target = tmp_path / "file"
    writer = (
        "import sys, itertools; from pathlib import Path; from train import runs\n"
        "for letter in itertools.cycle('ab'): runs.write_text(Path(sys.argv[1]), letter * 200_000)"
    )
    for moment in range(20):
        process = subprocess.Popen([sys.executable, "-c", writer, str(target)], cwd=ROOT)
        deadline = time.monotonic() + 20
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.003 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        text = target.read_text()
        assert len(text) == 200_000
        assert len(set(text)) == 1


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        runs.write_json(tmp_path / "x.json", float("nan"))
    assert not (tmp_path / "x.json").exists()

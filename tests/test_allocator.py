"""The allocator is tuned before PyTorch is loaded, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from train import allocator


def test_leaves_a_process_with_torch_alone() -> None:
    import torch  # noqa: F401

    assert allocator.tune() is None
    assert not allocator.keeps_memory()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_tunes_a_fresh_process() -> None:
    code = (
        "from train import allocator; line = allocator.tune();"
        "import os; print(line is None or os.environ['THP_MEM_ALLOC_ENABLE'] == '1');"
        "print(allocator.keeps_memory() == (line is not None))"
    )
    environment = {name: value for name, value in os.environ.items() if name != allocator.HUGE_PAGES}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_other_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.tune() is None

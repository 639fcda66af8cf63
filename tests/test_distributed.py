"""Several processes: together they take the step that one process takes with the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from train import checkpoint, runs
from train.layers.stateless import BatchNorm2d
from train.layers.sync_norm import synchronise

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ("--preset", "digits", "--epochs", "1", "--train-samples", "64", "--batch-size", "64", "--device", "cpu")


# `python -m train`, which must leave no thread of the process group: it could free a tensor while Python shuts down.
TRAIN_AND_COUNT_THREADS = """
import pathlib, runpy, sys
try:
    runpy.run_module("train", run_name="__main__", alter_sys=True)
finally:
    names = [(task / "comm").read_text() for task in pathlib.Path("/proc/self/task").glob("*")]
    if any("gloo" in name for name in names):
        sys.exit(f"threads of the process group are left: {names}")
"""


def train(run: Path, *launcher: str) -> dict[str, torch.Tensor]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, *OPTIONS, "--out", str(run)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return checkpoint.load(run / runs.CHECKPOINT).model


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    """One step, 64 samples: gradients, batch norm statistics and so every tensor of the checkpoint agree."""
    script = tmp_path / "train_and_count_threads.py"
    script.write_text(TRAIN_AND_COUNT_THREADS)
    one = train(tmp_path / "one", "-m", "train")
    two = train(tmp_path / "two", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script))
    losses = [json.loads((tmp_path / name / runs.METRICS).read_text())["loss"] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5), "the mean over both processes"
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_synchronised_norm_keeps_parameters_and_names() -> None:
    model = torch.nn.Sequential(torch.nn.Sequential(BatchNorm2d(3)), BatchNorm2d(4))
    before = dict(model.named_parameters())
    state = set(model.state_dict())
    synchronise(model)
    assert set(model.state_dict()) == state
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert {type(module).__name__ for module in model.modules()} == {"Sequential", "SyncBatchNorm2d"}


def test_synchronised_norm_of_one_process_is_batch_norm(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        plain, synced = BatchNorm2d(3), torch.nn.Sequential(BatchNorm2d(3))
        synchronise(synced)
        x = torch.randn(4, 5, 3, 6, 6)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        weight = torch.randn_like(x)
        for module, given in zip((plain, synced), inputs, strict=True):
            (module(given) * weight).sum().backward()
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(synced[0].weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-4)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(synced[0].state_dict()[name], value, msg=name)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("bad", [{"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "2"}])
def test_strange_environment_is_one_clear_error(bad: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train", *OPTIONS, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **bad}, timeout=120)
    assert done.returncode == 2
    assert "RANK, WORLD_SIZE and LOCAL_RANK must be numbers" in done.stderr

"""The trainer: layers against obvious loops, exact resume, and what a killed run leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from train import checkpoint, data, kernels, loop, models, runs
from train.config import ModelConfig, TrainConfig, from_json, to_json
from train.surrogate import TanhWindow

ROOT = Path(__file__).resolve().parents[1]
SMALL = TrainConfig(model=ModelConfig(temporal_shift=True), epochs=3, device="cpu")


def test_lif_by_hand() -> None:
    current = torch.tensor([0.4, 0.45, 0.1, 0.6, 0.5]).view(5, 1, 1)
    spikes = kernels.lif(current, 0.25, 0.5, TanhWindow())
    # V: 0.4 | 0.1 + 0.45 = 0.55 fires | 0.1 | 0.025 + 0.6 fires | 0.5 is not above the threshold
    assert spikes.flatten().tolist() == [0, 1, 0, 1, 0]


def test_surrogate_is_the_derivative_of_its_primitive() -> None:
    k, threshold = 3.0, 0.5
    v = torch.linspace(-0.5, 1.5, 401, dtype=torch.float64, requires_grad=True)
    u = (v / (2 * threshold)).clamp(0, 1)
    primitive = (torch.tanh(k * (u - 0.5)) + np.tanh(k / 2)) / (2 * np.tanh(k / 2))
    (expected,) = torch.autograd.grad(primitive.sum(), v)
    found = TanhWindow(k).derivative(v.detach(), threshold)
    inside = (v > 1e-6) & (v < 1 - 1e-6)
    torch.testing.assert_close(found[inside], expected[inside])
    assert not found[(v <= 0) | (v >= 1)].any()


def numpy_lif_gradient(current: np.ndarray, leak: float, threshold: float, upstream: np.ndarray) -> np.ndarray:
    """dL/dx by hand: backwards through V_t = leak H_{t-1} + x_t, H_t = V_t (1 - S_t)."""
    steps = len(current)
    v, s = np.zeros(steps), np.zeros(steps)
    h = 0.0
    for t in range(steps):
        v[t] = leak * h + current[t]
        s[t] = v[t] > threshold
        h = v[t] * (1 - s[t])
    surrogate = TanhWindow().derivative(torch.from_numpy(v), threshold).numpy()
    gradient, dh = np.zeros(steps), 0.0
    for t in reversed(range(steps)):
        ds = upstream[t] - dh * v[t]
        dv = dh * (1 - s[t]) + ds * surrogate[t]
        gradient[t] = dv
        dh = leak * dv
    return gradient


def test_gradient_through_time_by_hand() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        current, upstream = rng.normal(0.3, 0.4, 6), rng.normal(0, 1, 6)
        x = torch.tensor(current, requires_grad=True)
        kernels.lif(x.view(6, 1, 1), 0.25, 0.5, TanhWindow()).backward(torch.tensor(upstream).view(6, 1, 1))
        assert x.grad is not None
        np.testing.assert_allclose(x.grad.numpy(), numpy_lif_gradient(current, 0.25, 0.5, upstream), atol=1e-12)


def trained(run: Path, config: TrainConfig, resume: bool = False) -> dict[str, torch.Tensor]:
    loop.train(config, run, resume)
    return checkpoint.load(run / runs.CHECKPOINT).model


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole", SMALL)

    class StoppedError(Exception):
        pass

    real = checkpoint.save

    def save_and_stop(path: Path, epoch: int, *rest: object) -> None:
        real(path, epoch, *rest)  # type: ignore[arg-type]
        if epoch == 1:
            raise StoppedError

    monkeypatch.setattr(checkpoint, "save", save_and_stop)
    with pytest.raises(StoppedError):
        loop.train(SMALL, tmp_path / "parts")
    monkeypatch.setattr(checkpoint, "save", real)
    parts = trained(tmp_path / "parts", SMALL, resume=True)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=0, msg=name)
    rows = [json.loads(line) for line in (tmp_path / "parts" / runs.METRICS).read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [2, 3] or [row["epoch"] for row in rows] == [1, 2, 3]


def test_killed_training_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "train",
        "--preset",
        "digits",
        "--epochs",
        "4",
        "--device",
        "cpu",
        "--out",
        str(run),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (run / runs.CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.load(run / runs.CHECKPOINT).epoch >= 1
    config = from_json(run / runs.CONFIG)
    resumed = trained(run, config, resume=True)
    whole = trained(tmp_path / "whole", config)
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0, msg=name)


def test_checkpoint_reloads_to_identical_outputs(tmp_path: Path) -> None:
    loop.train(TrainConfig(model=ModelConfig(temporal_shift=True), epochs=1), tmp_path)
    dataset = data.load("digits")
    first, second = (models.build(SMALL.model, dataset.spec) for _ in range(2))
    state = checkpoint.load(tmp_path / runs.CHECKPOINT)
    for model in (first, second):
        checkpoint.restore_model(state, model, tmp_path)
        model.eval()
    x = data.repeat_over_time(dataset.test.frames[:16], 4)
    with torch.no_grad():
        torch.testing.assert_close(first(x), second(x), rtol=0, atol=0)


def test_configuration_round_trip(tmp_path: Path) -> None:
    runs.write_json(tmp_path / "config.json", to_json(SMALL, {}))
    assert from_json(tmp_path / "config.json") == SMALL

"""The trainer: layers against obvious loops, exact resume, and what a killed run leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from train import checkpoint, data, kernels, loop, models, optimise, runs
from train.choices import DistillName, OptimizerName
from train.config import ModelConfig, TrainConfig, from_json, to_json
from train.errors import UserError
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


class StoppedError(Exception):
    """Where a run is killed."""


def stopped(run: Path, config: TrainConfig, epoch: int, saved: bool) -> None:
    """Train until an epoch's row is written, and with `saved` its checkpoint, too."""
    real = checkpoint.save

    def save_and_stop(path: Path, done: int, *rest: object) -> None:
        if done < epoch or saved:
            real(path, done, *rest)  # type: ignore[arg-type]
        if done == epoch:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(StoppedError):
            loop.train(config, run)


def rows(run: Path) -> list[dict[str, object]]:
    """The rows of a run, but for its speed."""
    found = [json.loads(line) for line in (run / runs.METRICS).read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "samples_per_second"} for row in found]


@pytest.mark.parametrize(
    ("optimizer", "saved"), [("sgd", True), ("sgd", False), ("adamw", True), ("lamb", True)], ids=str
)
def test_resumed_run_equals_an_uninterrupted_one(optimizer: OptimizerName, saved: bool, tmp_path: Path) -> None:
    """Killed behind an epoch, or between its row and its checkpoint; the rows are those of the whole run, too."""
    rate = 0.1 if optimizer == "sgd" else 0.005
    config = replace(SMALL, optimizer=optimizer, learning_rate=rate, train_samples=400)
    whole = trained(tmp_path / "whole", config)
    stopped(tmp_path / "parts", config, 2, saved)
    parts = trained(tmp_path / "parts", config, resume=True)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=0, msg=name)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_more_samples_than_there_are(tmp_path: Path) -> None:
    """All of them then: the mean loss and the learning rate are of as many batches as an epoch has."""
    for name, samples in (("all", 0), ("more", 5000)):
        loop.train(replace(SMALL, epochs=2, train_samples=samples), tmp_path / name)
    assert rows(tmp_path / "more") == rows(tmp_path / "all")


def test_tested_on_part_of_the_test_set(tmp_path: Path) -> None:
    accuracy = loop.train(replace(SMALL, epochs=1, test_samples=7), tmp_path)
    assert round(accuracy * 7, 6) in range(8)


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
    deadline = time.monotonic() + 300
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


@pytest.mark.parametrize("distill", ["kl", "hta-kl", "tser"])
def test_distillation_from_a_trained_teacher(distill: DistillName, tmp_path: Path) -> None:
    """A ReLU teacher of another number of steps teaches a spiking student; the teacher itself does not change."""
    teacher = TrainConfig(model=ModelConfig(neuron="relu", time_steps=1), epochs=1, train_samples=256)
    loop.train(teacher, tmp_path / "teacher")
    before = checkpoint.load(tmp_path / "teacher" / runs.CHECKPOINT).model
    config = replace(SMALL, epochs=1, train_samples=128, teacher=str(tmp_path / "teacher"), distill=distill)
    loop.train(config, tmp_path / "student")
    plain = trained(tmp_path / "plain", replace(SMALL, epochs=1, train_samples=128))
    taught = checkpoint.load(tmp_path / "student" / runs.CHECKPOINT).model
    assert any(not torch.equal(plain[name], taught[name]) for name in plain)
    after = checkpoint.load(tmp_path / "teacher" / runs.CHECKPOINT).model
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_teacher_that_does_not_exist(tmp_path: Path) -> None:
    config = replace(SMALL, teacher=str(tmp_path / "nobody"), distill="kl")
    with pytest.raises(UserError, match="no such run folder"):
        loop.train(config, tmp_path / "student")


def test_learning_rate_rises_and_falls() -> None:
    config = replace(SMALL, epochs=10, warmup_epochs=2, learning_rate=0.1, final_learning_rate=0.001)
    rates = [optimise.rate(config, step, 5) for step in range(50)]
    assert rates[9] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert optimise.rate(config, 50, 5) == pytest.approx(0.001)


def test_weight_decay_is_for_weights_of_convolutions_and_linear_layers_only() -> None:
    config = ModelConfig(temporal_shift=True, neuron="adaptive-lif", attention="staa")
    model = models.build(config, data.spec("digits"))
    decayed, rest = optimise.optimiser(model, SMALL).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(names[id(p)].endswith("weight") and p.ndim in (2, 4) for p in decayed["params"])
    assert {"block2.shift.alpha", "block1.norm.weight"} <= {names[id(p)] for p in rest["params"]}
    assert any("code" in names[id(p)] for p in rest["params"])
    assert len(decayed["params"]) + len(rest["params"]) == len(names)


def test_poisson_coding_trains_and_resumes(tmp_path: Path) -> None:
    config = replace(SMALL, epochs=2, train_samples=128, coding="poisson")
    whole = trained(tmp_path / "whole", config)
    again = trained(tmp_path / "again", config)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_bf16_trains(tmp_path: Path) -> None:
    loop.train(replace(SMALL, epochs=1, train_samples=128, precision="bf16"), tmp_path)
    assert all(torch.isfinite(value).all() for value in checkpoint.load(tmp_path / runs.CHECKPOINT).model.values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    loop.train(replace(SMALL, epochs=1, train_samples=64, tensorboard=True), tmp_path)
    assert list((tmp_path / "tensorboard").glob("events.*"))

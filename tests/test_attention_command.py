"""`python -m export --attention fold` from the outside: what it writes, prints and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_commands import call, error_line
from torch import nn

from export.training_only import dropped
from train import runs
from train.config import TrainConfig
from train.data import spec
from train.restore import Trained

SMALL = ("--preset", "digits", "--width", "0.25", "--epochs", "1", "--train-samples", "256")


def train(folder: Path, *options: str) -> Path:
    assert call("train", *SMALL, *options, "--out", folder) == 0
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "staa", "--attention", "staa")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


FOLD = ("--attention", "fold", "--calibration-samples", "32", "--test-samples", "40")


def test_fold_and_heal_and_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", run, *FOLD, "--heal", "1") == 0
    out = capsys.readouterr().out
    assert "left out, needed in training only: time-step dropout of 3 layers (probability 0.1)" in out
    assert "left out, needed in training only: the random channel groups of 2 temporal shifts" in out
    assert "folded, healed for 1 epochs" in out
    data = json.loads((run / runs.ATTENTION).read_text())
    assert data["samples"] == 40
    ids = [gate["id"] for gate in data["gates"][:2]]
    assert ids == ["block1.lif.context", "block1.lif.step"]
    assert all(0 < gate["spikes_kept"] <= 1 for gate in data["gates"])
    assert [version["name"] for version in data["correct"]] == [
        "with attention",
        "folded",
        "folded, healed for 1 epochs",
    ]
    assert data["correct"][0]["integer"] is None
    assert all(0 <= version["integer"] <= 40 for version in data["correct"][1:])
    assert len(data["heal_losses"]) == 1
    assert call("sim", run, "--engines", "torch", "reference", "--samples", "40", "--lava-samples", "3") == 0
    correct, samples = json.loads((run / runs.EQUIVALENCE).read_text())["accuracy"]["integer"]
    assert (correct, samples) == (data["correct"][-1]["integer"], 40)


def test_fold_alone_keeps_the_weights(run: Path) -> None:
    before = (run / runs.CHECKPOINT).read_bytes()
    assert call("export", run, *FOLD) == 0
    data = json.loads((run / runs.ATTENTION).read_text())
    assert [version["name"] for version in data["correct"]] == ["with attention", "folded"]
    assert data["correct"][1]["integer"] is not None
    assert data["heal_losses"] == []
    assert call("export", run, *FOLD, "--heal", "1") == 0
    assert (run / runs.CHECKPOINT).read_bytes() == before


def test_a_teacher_is_named_among_what_is_left_out() -> None:
    config = TrainConfig(teacher="runs/t", distill="hta-kl")
    (line,) = dropped(Trained(nn.Identity(), config, spec("digits")))
    assert line == "the teacher runs/t and its hta-kl loss"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "attention multiplies by what a whole window decides, which no weight can do (python -m export"),
        (("--attention", "quantize", "--heal", "1"), "--heal 1 needs --attention fold"),
        (("--attention", "quantize", "--test-samples", "0"), "--test-samples 0, must be at least 1"),
        (("--heal", "2"), "--heal 2 needs --attention fold"),
        ((*FOLD, "--heal", "-1"), "--heal -1, must be at least 0"),
        ((*FOLD, "--heal-rate", "0"), "--heal-rate 0.0, must be above 0"),
        (("--attention", "fold", "--test-samples", "0"), "--test-samples 0, must be at least 1"),
    ],
)
def test_wrong_use_is_one_line(
    trained: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("export", trained, *options) == 2
    assert message in error_line(capsys)


@pytest.fixture(scope="module")
def fsta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "fsta", "--attention", "fsta")


QUANTISE = ("--attention", "quantize", "--calibration-samples", "32", "--test-samples", "40")


def test_quantise_and_run_and_plan(fsta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(fsta, tmp_path / "run"))
    assert call("export", run, *QUANTISE) == 0
    out = capsys.readouterr().out
    assert "no sum of attention 32" in out
    assert "attention in integers, not a stock program" in out
    data = json.loads((run / runs.ATTENTION).read_text())
    assert data["attention"] == "quantize"
    assert [gate["id"] for gate in data["gates"]] == [f"block{i}.lif.attention" for i in (1, 2, 3)]
    assert all(0 < gate["error"] < 0.05 for gate in data["gates"])
    folded, kept = data["correct"]
    assert (folded["name"], kept["name"]) == ("folded", "with attention")
    assert 0 <= kept["integer"] <= 40
    assert call("sim", run, "--engines", "torch", "reference", "--samples", "40", "--lava-samples", "3") == 0
    equal = json.loads((run / runs.EQUIVALENCE).read_text())
    assert all(comparison["equal"] for comparison in equal["comparisons"])
    assert len(equal["comparisons"][0]["populations"]) == 7
    assert equal["accuracy"]["integer"] == [kept["integer"], 40]
    capsys.readouterr()
    assert call("deploy", run) == 0
    assert "not a stock program of Lava or Loihi" in " ".join(capsys.readouterr().out.split())
    report = json.loads((run / runs.REPORT_JSON).read_text())
    assert "attention" in {population["kind"] for population in report["network"]["populations"]}


def test_quantise_staa_and_run_and_plan(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", run, *QUANTISE) == 0
    out = capsys.readouterr().out
    assert "attention in integers, not a stock program" in out
    for kind in ("ContextGains", "StepGains", "UnitGains"):
        assert kind in out
    data = json.loads((run / runs.ATTENTION).read_text())
    gates = [f"block{i}.lif.{gate}" for i in (1, 2, 3) for gate in ("context", "step")]
    assert [gate["id"] for gate in data["gates"]] == [*gates, "readout.sum"]
    assert all(gate["error"] < 0.05 for gate in data["gates"])
    assert call("sim", run, "--engines", "torch", "reference", "--samples", "40", "--lava-samples", "3") == 0
    equal = json.loads((run / runs.EQUIVALENCE).read_text())
    assert all(comparison["equal"] for comparison in equal["comparisons"])
    assert len(equal["comparisons"][0]["populations"]) == 11
    assert equal["accuracy"]["integer"] == [data["correct"][1]["integer"], 40]
    capsys.readouterr()
    assert call("deploy", run) == 0
    assert "block1.lif.context, block1.lif.step, " in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("target", "message"), [("nir", "NIR has no such node"), ("netx", "attention has no netx form"), ("onnx", "ONNX")]
)
def test_formats_without_attention_refuse_it(
    target: str, message: str, fsta: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if target == "onnx":
        pytest.importorskip("onnx")
    run = Path(shutil.copytree(fsta, tmp_path / "run"))
    assert call("export", run, *QUANTISE, "--target", target) == 2
    line = error_line(capsys)
    assert "block1.lif.attention" in line
    assert message in line


def test_nothing_to_fold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(tmp_path / "plain")
    capsys.readouterr()
    assert call("export", run, *FOLD) == 2
    assert "--attention fold, but the model has no attention" in error_line(capsys)
    assert call("export", run, *QUANTISE) == 2
    assert "--attention quantize, but the model has no attention" in error_line(capsys)

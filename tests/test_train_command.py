"""`python -m train` with every method on every backbone that takes it: two steps, then the checkpoint reloads."""

from __future__ import annotations

from functools import partialmethod
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from train import checkpoint, choices, data
from train.__main__ import Options, command
from train.console import main
from train.layers import BatchNorm2d
from train.quantise.synapses import IntegerSynapses
from train.restore import coded, restore

SAMPLES, BATCH = 4, 2  # two steps an epoch

METHODS = {
    "plain": "",
    "temporal shift": "--temporal-shift",
    "da-lif": "--neuron da-lif",
    "plif": "--neuron plif",
    "if": "--neuron if",
    "adaptive-lif": "--neuron adaptive-lif",
    "staa": "--attention staa",
    "fsta": "--attention fsta",
    "kl": "--distill kl --teacher {teacher}",
    "hta-kl": "--distill hta-kl --teacher {teacher}",
    "tser": "--distill tser --teacher {teacher}",
    "tsce": "--loss tsce",
    "tet": "--loss tet",
    "all at once": "--temporal-shift --neuron da-lif --attention fsta --distill tser --teacher {teacher}",
}
NOT_ON_RECURRENT = ("temporal shift", "staa", "fsta", "all at once")
CASES = [
    (model, method)
    for model, method in product(get_args(choices.ModelName), METHODS)
    if model != "recurrent" or method not in NOT_ON_RECURRENT
]
SWITCHES = [
    *(f"--surrogate {name}" for name in get_args(choices.SurrogateName)),
    *(f"--temporal-shift --shift-position {name}" for name in get_args(choices.ShiftPosition)),
    "--neuron relu",
    "--coding poisson",
    "--precision bf16",
    "--mixup 0.2",
    "--mixup 0.2 --cutmix 1.0 --mix-probability 0.5 --augment randaugment --augment-repeats 3",
    "--cutmix 1.0",
    "--mixup 0.2 --cutmix 1.0 --loss tsce",
    "--augment crop-flip",
    "--quantize --epochs 2",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in the layout of CIFAR-100, random."""
    root = tmp_path_factory.mktemp("data") / "cifar-100-binary"
    root.mkdir()
    generator = np.random.default_rng(0)
    for name in ("train", "test"):
        labels = generator.integers(0, 20, (SAMPLES, 2), np.uint8)
        images = generator.integers(0, 256, (SAMPLES, 3 * 32 * 32), np.uint8)
        (root / f"{name}.bin").write_bytes(np.concatenate([labels, images], 1).tobytes())
    return root.parent


def run(folder: Path, out: Path, options: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Train from the command line; the model as it was when its checkpoint was written."""
    kept: list[nn.Module] = []
    save = checkpoint.save

    def keep(path: Path, epoch: int, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        kept.append(model)
        save(path, epoch, model, optimiser)

    monkeypatch.setattr(checkpoint, "save", keep)
    # Statistics of the last batch: with those of two steps of training, mixed with the initial ones, nothing fires.
    monkeypatch.setattr(BatchNorm2d, "__init__", partialmethod(nn.BatchNorm2d.__init__, momentum=1.0))
    common = f"--dataset cifar100 --data-dir {folder} --width 0.0625 --time-steps 2 --batch-size {BATCH}"
    arguments = f"{common} --learning-rate 0.01 --device cpu --no-malloc-tuning --out {out} {options}".split()
    if "recurrent" in options:
        arguments += ["--threshold", "0.02"]  # it has no batch norm, and small weights at first
    if "--epochs" not in arguments:
        arguments += ["--epochs", "1"]
    with pytest.raises(SystemExit) as ended:
        main(Options, command, "python -m train", arguments=arguments)
    assert ended.value.code == 0
    return kept[-1].eval()


def assert_reloads(model: nn.Module, out: Path, folder: Path) -> None:
    """The restored model gives the very outputs of the trained one, and does not with other weights below its head."""
    found = restore(out)
    frames: Tensor = data.load("cifar100", folder).test.read(torch.arange(SAMPLES))
    x = coded(found.config, found.data, frames)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(found.model(x), expected)
        *below, _ = [m for m in found.model.modules() if isinstance(m, nn.Conv2d | nn.Linear | IntegerSynapses)]
        for layer in below:
            layer.weight.neg_()
        assert not torch.equal(found.model(x), expected), "the network is silent: nothing was compared"


@pytest.fixture(scope="module")
def teacher(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to learn from."""
    out = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        run(folder, out, "--neuron relu", patch)
    return out


@pytest.mark.parametrize(("model", "method"), CASES, ids=lambda value: value.replace(" ", "-"))
def test_method_trains_and_reloads(
    model: str, method: str, folder: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = METHODS[method].format(teacher=teacher)
    assert_reloads(run(folder, tmp_path, f"--model {model} {options}", monkeypatch), tmp_path, folder)


@pytest.mark.parametrize("options", SWITCHES)
def test_switch_trains_and_reloads(options: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_reloads(run(folder, tmp_path, options, monkeypatch), tmp_path, folder)


@pytest.mark.parametrize("options", ["--mixup 0.5", "--cutmix 0.5"])
def test_mixed_samples_change_training(
    options: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(folder, tmp_path / "plain", "", monkeypatch).state_dict()
    mixed = run(folder, tmp_path / "mixed", options, monkeypatch).state_dict()
    again = run(folder, tmp_path / "again", options, monkeypatch).state_dict()
    assert any(not torch.equal(plain[name], mixed[name]) for name in plain)
    assert all(torch.equal(again[name], mixed[name]) for name in mixed)

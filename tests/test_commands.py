"""The four commands from the outside: the whole path, exit codes, and one-line errors for bad input."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest

from export.store import read_network, write_network
from train import runs
from train.config import TrainConfig, to_json
from train.console import main


def call(package: str, *arguments: str | Path) -> int:
    """Run a command in this process; its exit code."""
    module = importlib.import_module(f"{package}.__main__")
    given = [str(argument) for argument in arguments]
    default = (lambda: module._defaults(given)) if package == "train" else None
    with pytest.raises(SystemExit) as end:
        main(module.Options, module.command, f"python -m {package}", default=default, arguments=given)
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder after two epochs and an export."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    assert call("train", "--preset", "digits", "--epochs", "2", "--out", run) == 0
    assert call("export", run, "--target", "loihi2", "--calibration-samples", "64") == 0
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


def test_whole_path_without_lava(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sim", run, "--engines", "torch", "integer", "reference", "--lava-samples", "5") == 0
    out = capsys.readouterr().out
    assert "integer = torch" in out
    data = json.loads((run / runs.EQUIVALENCE).read_text())
    assert [c["samples"] for c in data["comparisons"]] == [360, 5]
    assert all(c["equal"] and sum(p["spikes"] or 0 for p in c["populations"]) > 0 for c in data["comparisons"])
    assert call("deploy", run) == 0
    assert "<svg" in (run / runs.REPORT_HTML).read_text()


@pytest.mark.lava
def test_whole_path_with_lava(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sim", run, "--engines", "lava", "--lava-samples", "20") == 0
    data = json.loads((run / runs.EQUIVALENCE).read_text())
    (comparison,) = data["comparisons"]
    assert comparison["engines"] == ["integer", "lava"]
    assert (comparison["samples"], comparison["equal"]) == (20, True)
    assert sum(p["spikes"] or 0 for p in comparison["populations"]) > 1000
    assert all(p["compared"] for p in comparison["populations"])


def flip_one_weight(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        values = file["connections/block1.conv/weight"][()]
        values[3, 0, 1, 1] ^= 128
        file["connections/block1.conv/weight"][...] = values


def test_one_flipped_weight_fails_the_check(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One engine runs a network with one weight flipped: exit code 1, and the first divergence is explained."""
    from sim import fast

    whole = read_network(run / runs.NETWORK)
    flip_one_weight(run / runs.NETWORK)
    flipped = read_network(run / runs.NETWORK)
    write_network(run / runs.NETWORK, whole)
    real = fast.run
    monkeypatch.setattr(fast, "run", lambda network, x, **options: real(flipped, x, **options))
    assert call("sim", run, "--engines", "torch") == 1
    line = error_line(capsys)
    assert "integer and torch differ, first in sample" in line
    assert "population block1.lif" in line
    assert "reference: v " in line
    data = json.loads((run / runs.EQUIVALENCE).read_text())
    assert not data["comparisons"][0]["equal"]


def test_record_and_compare(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the integer engine saw, there and back; one spike taken out, a node left out and one that nobody knows."""
    file = run / "ours.h5"
    assert call("sim", run, "--engines", "integer", "--samples", "20", "--record", file) == 0
    assert call("sim", run, "--engines", "integer", "--samples", "30", "--compare", file) == 2
    assert "ours.h5: was recorded on other inputs: 19 of 20 samples differ, first sample 1" in error_line(capsys)
    assert call("sim", run, "--engines", "integer", "--samples", "20", "--compare", file) == 0
    out = capsys.readouterr().out
    assert "integer = ours.h5" in out
    recording = json.loads((run / runs.EQUIVALENCE).read_text())["recording"]
    assert (recording["equal"], recording["samples"], len(recording["populations"])) == (True, 20, 4)
    with h5py.File(file, "r+") as recorded:
        recorded.move("nodes/block2.lif", "nodes/elsewhere")
        data = recorded["nodes/block3.lif/observables/spikes/data"]
        sample, step, neuron = (int(i) for i in np.argwhere(data[()])[0])
        data[sample, step, neuron] = False
    assert call("sim", run, "--engines", "integer", "--samples", "20", "--compare", file) == 1
    captured = capsys.readouterr()
    assert "not in ours.h5: block2.lif" in captured.out
    assert "in ours.h5 and not compared: elsewhere: spikes" in captured.out
    assert "3 of 4" in captured.out
    assert f"integer and ours.h5 differ, first in sample {sample}, step {step}, population block3.lif" in captured.err
    assert call("deploy", run) == 0
    assert "ours.h5" not in (run / runs.REPORT_HTML).read_text()  # which speaks of engines and of every population
    file.write_bytes(file.read_bytes()[:2000])
    capsys.readouterr()
    assert call("sim", run, "--compare", file) == 2
    assert "ours.h5: damaged, or not a recording" in error_line(capsys)


def test_run_without_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / runs.CHECKPOINT).unlink()
    assert call("export", run) == 2
    assert "the run has no checkpoint.safetensors (make it with: python -m train)" in error_line(capsys)


def test_truncated_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / runs.CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    assert call("export", run) == 2
    assert "checkpoint.safetensors: damaged, or not a checkpoint" in error_line(capsys)


def test_checkpoint_of_another_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((run / runs.CONFIG).read_text())
    config["config"]["model"]["temporal_shift"] = False
    (run / runs.CONFIG).write_text(json.dumps(config))
    assert call("export", run) == 2
    assert "block2.shift.alpha" in error_line(capsys)


@pytest.mark.parametrize("command", ["sim", "deploy"])
def test_truncated_network(command: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / runs.NETWORK
    path.write_bytes(path.read_bytes()[:-3000])
    assert call(command, run) == 2
    assert "network.h5: damaged, or not a network file" in error_line(capsys)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 9, "config": {}}', '{"config": {"model": 3}}'])
def test_damaged_config(text: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / runs.CONFIG).write_text(text)
    assert call("export", run) == 2
    assert "config.json" in error_line(capsys)


def test_no_such_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("export", "sim", "deploy"):
        assert call(command, tmp_path / "nothing") == 2
        assert "no such run folder" in error_line(capsys)


def write_nir(path: Path, **change: object) -> Path:
    """A two-layer NIR file, as another framework would write it."""
    shape = (6,)
    lif = {
        "tau": np.full(shape, 2e-4),
        "r": np.full(shape, 2.0),
        "v_leak": np.zeros(shape),
        "v_threshold": np.ones(shape),
        "v_reset": np.zeros(shape),
    }
    rng = np.random.default_rng(0)
    nodes = {
        "input": nir.Input({"input": np.array([4])}),
        "fc": nir.Affine(rng.normal(0, 0.4, (6, 4)), rng.normal(0, 0.2, 6)),
        "lif": nir.LIF(**{**lif, **change}),
        "out": nir.Linear(rng.normal(0, 0.4, (3, 6))),
        "output": nir.Output({"output": np.array([3])}),
    }
    names = list(nodes)
    nir.write(path, nir.NIRGraph(nodes, list(pairwise(names)), type_check=False))
    return path


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    x = np.random.default_rng(0).integers(0, 4, (32, 5, 4))
    np.savez(tmp_path / "x.npz", x=x)
    return tmp_path / "x.npz"


def export_nir(file: Path, calibration: Path, *more: str) -> int:
    out = file.parent / "out"
    return call("export", "--nir", file, "--dt", "1e-4", "--calibration", calibration, "--out", out, *more)


def test_network_trained_elsewhere(tmp_path: Path, calibration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_nir(write_nir(tmp_path / "a.nir"), calibration) == 0
    assert call("sim", tmp_path / "out", "--input", calibration, "--engines", "reference") == 0
    assert "integer = reference" in capsys.readouterr().out


def test_netx_there_and_back(tmp_path: Path, calibration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A chain to network.net, and that file to a run of its own: the same spikes counted in both."""
    assert export_nir(write_nir(tmp_path / "a.nir"), calibration, "--target", "netx") == 0
    assert f"wrote {tmp_path / 'out' / runs.NETWORK_NETX}" in capsys.readouterr().out.replace("\n", "")
    again = tmp_path / "again"
    assert call("export", "--netx", tmp_path / "out" / runs.NETWORK_NETX, "--out", again) == 0
    counts = []
    for folder in (tmp_path / "out", again):
        assert call("sim", folder, "--input", calibration, "--engines", "reference") == 0
        (comparison,) = json.loads((folder / runs.EQUIVALENCE).read_text())["comparisons"]
        counts.append([(p["spikes"], p["compared"]) for p in comparison["populations"]])
    assert counts[0] == counts[1]
    assert counts[0][0][0] > 0


def test_netx_of_a_network_with_delays(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / runs.NETWORK).read_bytes()
    assert call("export", run, "--target", "netx", "--calibration-samples", "16") == 2
    assert "connection block2.conv.shift (block1.lif to block2.lif): one of 2 connections" in error_line(capsys)
    assert (run / runs.NETWORK).read_bytes() == before
    assert not (run / runs.NETWORK_NETX).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--netx", "a.net"), "--netx needs --out"),
        (("--netx", "a.net", "--nir", "a.nir"), "--nir and --netx"),
        (("--netx", "a.net", "--out", "o", "--dt", "1"), "--dt is for --nir"),
        (("--steps", "3"), "--steps is for --netx"),
        (("--netx", "a.net", "--out", "o", "--target", "nir"), "--target nir from a netx file"),
        (("--netx", "a.net", "--out", "o"), "a.net: no such file"),
    ],
)
def test_netx_options(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", *arguments) == 2
    assert message in error_line(capsys)


def test_onnx_files_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    assert call("export", run, "--target", "onnx", "--calibration-samples", "64") == 0
    assert "wrote" in capsys.readouterr().out
    assert (run / runs.NETWORK_ONNX).stat().st_size > 50_000
    assert (run / runs.MODEL_ONNX).is_file()
    assert call("sim", run, "--engines", "onnx") == 0
    assert "integer = onnx" in capsys.readouterr().out


def test_an_export_leaves_no_file_of_the_one_before(run: Path) -> None:
    (run / runs.NETWORK_NETX).write_bytes(b"of another network")
    assert call("export", run) == 0
    assert (run / runs.NETWORK).is_file()
    assert not (run / runs.NETWORK_NETX).exists()


def test_onnx_that_is_not_installed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("onnx", "onnxruntime") or ".onnx_" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert call("export", run, "--target", "onnx", "--calibration-samples", "16") == 2
    assert "install the extra: pip install spikeproof[onnx]" in error_line(capsys)
    assert call("sim", run, "--engines", "onnx") == 2
    assert "install the extra" in error_line(capsys)


def test_nir_with_an_unknown_node(tmp_path: Path, calibration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_nir(tmp_path / "a.nir")
    with h5py.File(path, "r+") as file:
        del file["node/nodes/fc/type"]
        file["node/nodes/fc/type"] = "Attention"
    assert export_nir(path, calibration) == 2
    line = error_line(capsys)
    assert "a.nir: node fc: node of type 'Attention' (known: " in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v_reset": np.full(6, 1.5)}, "is below its reset potential"),
        ({"tau": np.full(6, 1e-5)}, "gives a leak of -9"),
        ({"v_threshold": np.full(6, np.nan)}, "NaN or infinity"),
        ({"r": np.full(6, -1.0)}, "must be positive"),
    ],
)
def test_nir_that_cannot_be_reproduced_exactly(
    change: dict[str, np.ndarray],
    message: str,
    tmp_path: Path,
    calibration: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert export_nir(write_nir(tmp_path / "a.nir", **change), calibration) == 2
    line = error_line(capsys)
    assert "node lif" in line
    assert message in line


def test_truncated_nir(tmp_path: Path, calibration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_nir(tmp_path / "a.nir")
    path.write_bytes(path.read_bytes()[:2000])
    assert export_nir(path, calibration) == 2
    assert "a.nir: damaged, or not a NIR file" in error_line(capsys)


def test_nir_needs_its_time_step(tmp_path: Path, calibration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_nir(tmp_path / "a.nir")
    assert call("export", "--nir", path, "--calibration", calibration, "--out", tmp_path / "out") == 2
    assert "--nir needs --dt" in error_line(capsys)
    assert export_nir(path, calibration, "--writer", "sinabs") == 2
    assert "--writer sinabs fire several times in one step" in error_line(capsys)


def test_nir_with_a_reset_that_subtracts(tmp_path: Path, calibration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_nir(write_nir(tmp_path / "a.nir"), calibration, "--reset", "subtract") == 0
    assert call("sim", tmp_path / "out", "--input", calibration, "--engines", "reference") == 0
    printed = capsys.readouterr().out
    assert "NIR has no reset that subtracts" in printed
    assert "integer = reference" in printed


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((3, 4, 1, 7, 8))}, "x of shape (3, 4, 1, 7, 8), expected (samples, 4, 1, 8, 8)"),
        ({"x": np.full((3, 4, 1, 8, 8), 0.5)}, "not whole numbers"),
        ({"x": np.full((3, 4, 1, 8, 8), 32)}, "values 32..32, allowed 0..31"),
        ({"x": np.full((3, 4, 1, 8, 8), np.nan)}, "not whole numbers"),
        ({"y": np.zeros(3)}, "no array 'x'"),
        ({"x": np.zeros((3, 4, 1, 8, 8)), "y": np.zeros(4, dtype=int)}, "y of shape (4,)"),
    ],
)
def test_inputs_that_do_not_fit(
    arrays: dict[str, np.ndarray], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    assert call("sim", run, "--input", tmp_path / "x.npz") == 2
    assert message in error_line(capsys)


def test_pickled_inputs_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([{"a": 1}], dtype=object))
    assert call("sim", run, "--input", tmp_path / "x.npz") == 2
    assert "not an .npz file of arrays" in error_line(capsys)


def test_network_with_no_spikes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    from export.network import LIF

    network = read_network(run / runs.NETWORK)
    silent = [
        replace(p, program=replace(p.program, vth=np.full_like(p.program.vth, 131_071), bias_mant=0 * p.program.vth))
        if isinstance(p.program, LIF)
        else p
        for p in network.populations
    ]
    write_network(run / runs.NETWORK, replace(network, populations=tuple(silent)))
    assert call("sim", run, "--engines", "reference") == 2
    assert "sent no spike at all" in error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "nothing"), "unknown preset 'nothing'"),
        (("--dataset", "nothing"), "unknown data set 'nothing'"),
        (("--epochs", "0"), "--epochs 0"),
        (("--time-steps", "0"), "--time-steps 0"),
        (("--device", "abacus"), "--device abacus"),
        (("--resume",), "--resume needs --out"),
        (("--teacher", "nowhere", "--distill", "kl"), "no such run folder to learn from (train it first"),
        (("--resume", "--out", "x", "--preset", "digits"), "takes its options from the run"),
        (("--out", "/proc/nothing/here"), "/proc/nothing"),
        (("--preset", "digits", "--config", "x"), "can't use both"),
    ],
)
def test_training_options_that_make_no_sense(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        from train import __main__ as module

        main(module.Options, module.command, "train", lambda: module._defaults(list(arguments)), list(arguments))
    assert end.value.code == 2
    assert message in error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "holds a trained network (--resume to go on with it"),
        ("--resume --seed 9 --leak 0.5", "--resume with another --leak, --seed"),
    ],
)
def test_a_run_is_neither_lost_nor_changed_unasked(
    arguments: str, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (run / runs.CONFIG, run / runs.CHECKPOINT)
    before = [path.read_bytes() for path in files]
    assert call("train", "--out", run, *arguments.split()) == 2
    assert message in error_line(capsys)
    assert [path.read_bytes() for path in files] == before


def test_resume_before_the_first_checkpoint_and_with_damaged_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(train_samples=64, epochs=1, device="cpu")
    runs.write_json(tmp_path / runs.CONFIG, to_json(config, {}))
    assert call("train", "--resume", "--out", tmp_path) == 0
    assert "interrupted in its first epoch" in capsys.readouterr().out
    (tmp_path / runs.METRICS).write_text("{")
    assert call("train", "--resume", "--epochs", "2", "--out", tmp_path) == 2
    assert "metrics.jsonl: line 1 is no row" in error_line(capsys)


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("deploy", tmp_path / "nothing", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_weight_bits_out_of_range(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", run, "--weight-bits", "9") == 2
    assert "--weight-bits 9, allowed 2..8" in error_line(capsys)


def test_dump_after_a_stage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export", run, "--dump-after", "fold_batch_norm", "--target", "nir") == 0
    out = capsys.readouterr().out
    assert "block1.conv: Convolution block1.conv (16, 8, 8) <- normalise" in out
    assert "block1.norm" not in out
    assert call("export", run, "--dump-after", "nothing") == 2

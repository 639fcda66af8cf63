"""--device, and what runs on one that is no CPU: on "meta", where no value is, and operations are watched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import digits_like_inputs, ints, recurrent_network
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import networks, payloads
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from export import execute
from export.network import Network
from export.pipeline import compile_graph, lower_graph
from export.store import write_network
from export.trace import trace
from sim import command, torch_engine
from sim.__main__ import Options
from sim.__main__ import command as start
from sim.command import simulate
from train import models, runs
from train.config import ModelConfig
from train.console import main
from train.data import DataSpec
from train.errors import UserError
from train.kernels import fixed_point
from train.layers.fixed_point import FixedPointLIF


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of two devices, as CUDA does; numbers of the CPU, and copies, are allowed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        devices = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.ndim}
        if len(devices) > 1 and func.overloadpacket not in (torch.ops.aten.copy_, torch.ops.aten._to_copy):
            raise RuntimeError(f"{func} on {devices}")
        return func(*args, **kwargs or {})


def run_meta(network: Network, inputs: np.ndarray) -> None:
    with OneDevice():
        execute.run(network, inputs, keep=(), device="meta")


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_the_integer_engine_stays_on_its_device(data: st.DataObject) -> None:
    """All but Triton's kernel: no tensor of the CPU meets one of the device, no value is read before the results."""
    network = data.draw(networks(wild=True))
    run_meta(network, payloads(network, 3, 0))


def test_loops_stay_on_their_device_and_a_tensor_elsewhere_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = recurrent_network(3), ints(np.zeros((3, 4, 2, 4, 4)))
    run_meta(network, inputs)
    weighted = execute._weighted
    monkeypatch.setattr(execute, "_weighted", lambda *given: torch.zeros_like(weighted(*given), device="cpu"))
    with pytest.raises(RuntimeError, match="meta"):
        run_meta(network, inputs)


def test_sums_on_cuda_are_in_float64(shift_network: Network) -> None:
    (first, *_) = shift_network.connections
    assert execute._exact(first, shift_network, torch.device("cpu")) is torch.float32
    assert execute._exact(first, shift_network, torch.device("cuda", 0)) is torch.float64


def test_the_torch_engine_runs_where_its_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec("random", (2, 16, 16), 5, 15, (7.0, 7.0), (5.0, 5.0))
    model = models.build(ModelConfig(temporal_shift=True), spec).double().eval()
    x = np.random.default_rng(0).integers(0, 16, (4, 4, 2, 16, 16))
    network = compile_graph(lower_graph(trace(model, spec, 4, "model")), x.swapaxes(0, 1).astype(np.float64)).network

    def lif(current: Tensor, *values: Tensor, subtract: bool) -> tuple[Tensor, Tensor]:
        total = sum(values, current)  # the neuron itself asks whether a current has a memory, which is a value
        return total > 0, total.long()

    monkeypatch.setattr(fixed_point, "loihi_lif", lif)
    integers = torch_engine.with_membrane(network, model.to("meta"))
    with OneDevice():
        torch_engine.record(integers, {}, x)
    path = next(path for path, module in integers.named_modules() if isinstance(module, FixedPointLIF))
    integers.get_submodule(path).to_empty(device="cpu")
    with OneDevice(), pytest.raises(RuntimeError, match="meta"):
        torch_engine.record(integers, {}, x)


@pytest.fixture
def folder(tmp_path: Path, shift_network: Network) -> Path:
    write_network(tmp_path / runs.NETWORK, shift_network)
    np.savez(tmp_path / "x.npz", x=digits_like_inputs(4, shift_network))
    return tmp_path


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_device_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(folder), "--input", str(folder / "x.npz"), "--engines", "integer", "--device", "cuda"]
    with pytest.raises(SystemExit) as end:
        main(Options, start, "python -m sim", arguments=arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--device cuda" in line


@pytest.mark.parametrize("name", ["meta", "tpu", "cuda:x"])
def test_other_devices_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"--device {name}"):
        simulate(folder, ["integer"], None, 1, folder / "x.npz", 1.0, device=name)


def test_all_runs_of_the_integer_engine_are_on_the_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the slow engines are compared with, too."""
    seen, run = [], execute.run

    def watched(*arguments: Any, device: torch.device, **more: Any) -> dict[str, np.ndarray]:
        seen.append(device)
        return run(*arguments, device=device, **more)

    monkeypatch.setattr(execute, "run", watched)
    monkeypatch.setattr(command, "resolve_device", lambda name, local: torch.device("cpu", 0))
    simulate(folder, ["integer", "reference"], None, 2, folder / "x.npz", 1.0, device="auto")
    assert seen == [torch.device("cpu", 0)] * 2

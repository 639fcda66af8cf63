"""The fused LIF against the loop in plain PyTorch: equal spikes, equal gradients."""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from train import kernels
from train.kernels import loops, norm, reference, trace
from train.layers import DALIF, IF, LIF, PLIF, AdaptiveLIF, BatchNorm2d
from train.layers.chain import Chain
from train.surrogate import ATan, Rectangle, Sigmoid, Surrogate, TanhWindow, Triangle

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


@pytest.fixture(autouse=True)
def compiled_for_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors, too, take the compiled kernel here: else the reference would be compared with itself."""
    monkeypatch.setattr(kernels, "SMALL", 0)
    assert kernels.choose("cpu", Triangle(), 1) == "cpu"


@dataclass(frozen=True)
class Unknown:
    """A derivative that no kernel can translate."""

    def derivative(self, membrane: Tensor, threshold: float) -> Tensor:
        return torch.erfc((membrane - threshold).abs())


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(2, -1).contiguous().movedim(-1, 2)


def strided(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=1)[:, ::2]


def compare(current: Tensor, surrogate: Surrogate, parameters: list[float | Tensor], detach: bool) -> None:
    """Spikes and all gradients of the CPU kernel and the reference."""
    leak, gain, bias = parameters
    gradient = torch.randn_like(current)
    found = []
    for backend in ("reference", "cpu"):
        x = current.clone(memory_format=torch.preserve_format).requires_grad_()
        tensors = [value for value in parameters if isinstance(value, Tensor)]
        spikes = kernels.lif(x, leak, 0.5, surrogate, gain, detach, bias, backend=backend)  # type: ignore[arg-type]
        found.append((spikes, *torch.autograd.grad(spikes, [x, *tensors], gradient)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0)
    tolerance = TOLERANCE[current.dtype]
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from(
        [(1, 2, 3, 5, 4), (5, 3, 7, 3, 3), (4, 2, 9), (2, 1, 3000), (3, 2, 4, 48, 48), (7, 1, 1, 2, 2)]
    ),
    layout=st.sampled_from([torch.Tensor.contiguous, channels_last, strided]),
    kind=st.sampled_from(["number", "scalar", "channel"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    detach=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_layout_and_parameters(shape, layout, kind, dtype, detach, seed) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(seed)
    make = {
        "number": lambda value: value,
        "scalar": lambda value: torch.tensor(value, dtype=dtype, requires_grad=True),
        "channel": lambda value: (value * (0.5 + torch.rand(shape[2], dtype=dtype))).requires_grad_(),
    }[kind]
    compare(layout(torch.randn(shape, dtype=dtype)), Triangle(), [make(0.5), make(1.2), make(0.1)], detach)


@pytest.mark.parametrize("surrogate", [TanhWindow(), Rectangle(0.8), Sigmoid(), ATan(), Unknown()], ids=str)
def test_surrogates(surrogate: Surrogate) -> None:
    compare(torch.randn(4, 2, 3, 4, 4), surrogate, [0.25, 1.0, 0.0], False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    compare(torch.randn(4, 2, 3, 4, 4).to(dtype), Triangle(), [0.5, 1.0, 0.0], False)


def test_unknown_operations_do_not_translate() -> None:
    with pytest.raises(trace.UntraceableError):
        trace.expression(Unknown(), 0.5, loops.DIALECT)


def test_empty_batch_and_no_grad() -> None:
    with torch.no_grad():
        assert kernels.lif(torch.zeros(4, 0, 3), 0.5, 0.5, Triangle()).shape == (4, 0, 3)
        current = torch.randn(4, 2, 3)
        expected = reference.lif(current, 0.5, 0.5, Triangle())
        assert torch.equal(kernels.lif(current, 0.5, 0.5, Triangle()), expected)


def test_falls_back_and_says_so_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(kernels, "_installed", lambda package: False)
    kernels._slow.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [kernels.choose("cpu", Triangle(), kernels.SMALL) for _ in range(2)] == ["reference", "reference"]
    assert len(caplog.records) == 1
    kernels._slow.cache_clear()


CHANNELS = 6
NEURONS = {
    "lif": lambda: LIF(surrogate=Triangle(), detach_reset=True),
    "if": IF,
    "plif": PLIF,
    "plif by channel": lambda: PLIF(channels=CHANNELS),
    "da-lif": DALIF,
    "da-lif by channel": lambda: DALIF(channels=CHANNELS),
    "adaptive-lif": lambda: AdaptiveLIF(CHANNELS, surrogate=Unknown()),
}


def modules(dtype: torch.dtype, neuron: str = "lif") -> tuple[Chain, nn.Sequential]:
    """A fused pair and the same two modules in sequence; what is learned differs from channel to channel."""
    pair = nn.Sequential(BatchNorm2d(CHANNELS), NEURONS[neuron]()).to(dtype)
    for parameter in pair.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return Chain(*copy.deepcopy(pair)), pair


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last])
def test_batch_norm_and_neuron_fused(
    layout: Callable[[Tensor], Tensor], training: bool, neuron: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    pair = modules(torch.float64, neuron)
    calls: list[object] = []
    monkeypatch.setattr(norm, "norm_lif", lambda *given, run=norm.norm_lif: calls.append(given) or run(*given))
    current = layout(torch.randn(4, 3, CHANNELS, 5, 7, dtype=torch.float64) * 3 + 20)
    gradient = torch.randn_like(current)
    found = []
    for model in pair:
        model.train(training)
        x = current.clone(memory_format=torch.preserve_format).requires_grad_()
        spikes = model(x)
        spikes.backward(gradient)
        gradients = [parameter.grad for parameter in model.parameters()]
        found.append([spikes.detach(), x.grad, *gradients, *model.buffers()])
    assert len(calls) == 1, "of the two, one is fused"
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_hooks_on_the_parts_are_called() -> None:
    fused, _ = modules(torch.float32)
    seen: list[Tensor] = []
    fused[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    fused(torch.randn(2, 2, 6, 3, 3))
    assert len(seen) == 1


def test_channels_last_and_autocast_pass_through() -> None:
    fused, _ = modules(torch.float32)
    current = channels_last(torch.randn(2, 2, 6, 3, 3)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        spikes = fused(current)
    assert spikes.dtype == torch.bfloat16
    assert spikes.stride() == current.stride()


@pytest.fixture
def triton_lif(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The kernel for GPUs in Triton's interpreter."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton", minversion="3.7")  # before, no loops with NumPy 2.4 and later
    from train.kernels import triton_lif

    return triton_lif


@pytest.mark.parametrize("learned", [True, False])
def test_triton_kernel_in_its_interpreter(triton_lif: ModuleType, learned: bool) -> None:
    """Learned leak and gain, one a layer and one a channel; or numbers, which go to the kernel as they are."""
    for surrogate in (TanhWindow(), Rectangle(0.8), Sigmoid(), ATan(), Triangle()):
        leak: float | Tensor = torch.tensor(0.5, requires_grad=True) if learned else 0.6
        gain: float | Tensor = (0.5 + torch.rand(7)).requires_grad_() if learned else 1.2
        current = channels_last(torch.randn(5, 2, 7, 3, 3)).requires_grad_()
        inputs = [current, leak, gain] if learned else [current]
        gradient = torch.randn_like(current)
        found = []
        for implementation in (reference.lif, triton_lif.lif):
            spikes = implementation(current, leak, 0.5, surrogate, gain, not learned, 0.1)
            found.append((spikes, *torch.autograd.grad(spikes, inputs, gradient)))
        for expected, actual in zip(*found, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


class Copies(TorchDispatchMode):
    """Counts tensors made from numbers of Python, and numbers read from tensors: on a GPU, either waits for it."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waiting = (torch.ops.aten.lift_fresh, torch.ops.aten._local_scalar_dense)
        self.count += func.overloadpacket in waiting
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("leak", [0.5, torch.tensor(0.5)])
def test_the_triton_kernel_does_not_wait_for_its_gpu(
    triton_lif: ModuleType, leak: float | Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that waits leaves the GPU idle until the next one is launched."""
    current = torch.randn(2, 2, 3, 4, 4, requires_grad=True)
    for kernel in ("forward_kernel", "backward_kernel"):  # the interpreter itself reads tensors
        monkeypatch.setattr(triton_lif, kernel, defaultdict(lambda: lambda *arguments, **options: None))
    with Copies() as copies:
        triton_lif.lif(current, leak, 1.0, ATan()).sum().backward()
    assert copies.count == 0
    with copies:
        float(torch.tensor(0.5))
    assert copies.count == 2


def test_more_neurons_than_the_triton_kernel_counts(triton_lif: ModuleType) -> None:
    """They take the plain implementation, which needs no memory here."""
    current = torch.empty(1, 2, 1 << 29, device="meta")
    with pytest.raises(Exception, match="meta"):
        triton_lif.lif(current, 0.5, 1.0, ATan())
    current = torch.empty(1, 2, (1 << 29) + 1, device="meta")
    assert triton_lif.lif(current, 0.5, 1.0, ATan()).shape == current.shape

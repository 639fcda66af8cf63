"""An image that is the same at every step: computed once where nothing has a memory, with the same result."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels import Unknown
from torch import Tensor, nn

from train import kernels, models
from train.choices import NeuronName
from train.config import ModelConfig
from train.data import DataSpec, repeat_over_time
from train.layers import LIF, BatchNorm2d, Chain, Conv2d, Normalise
from train.surrogate import Surrogate, Triangle

STEPS = 4
IMAGES = DataSpec("random", (3, 32, 32), 10, 255, (127.5,) * 3, (64.0,) * 3)


@pytest.fixture(autouse=True)
def compiled_for_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SMALL", 0)


def chain(surrogate: Surrogate | None = None) -> Chain:
    """Double precision; few values a channel, so that a wrong count of them shows in the running variance."""
    norm = BatchNorm2d(6)
    nn.init.uniform_(norm.weight, 1.5, 3.0)
    nn.init.uniform_(norm.bias)
    return Chain(Conv2d(3, 6, 3, padding=1), norm, LIF(surrogate=surrogate or Triangle())).double()


def found(model: nn.Module, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """What a pass forward and backward leaves: result, gradients of the parameters, buffers."""
    out = model(x)
    out.backward(torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(seed)))
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"out": out.detach(), **gradients, **dict(model.named_buffers())}


def assert_as_with_copies(model: nn.Module, x: Tensor) -> None:
    """`model` does with steps of one memory as its layers, one by one, with steps of their own."""
    assert x.stride(0) == 0
    other = copy.deepcopy(model)
    other = nn.Sequential(*other) if isinstance(other, Chain) else other
    actual, expected = found(model, x), found(other, x.clone(memory_format=torch.contiguous_format))
    assert expected["out"].count_nonzero(), "nothing fires: nothing is compared"
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    steps=st.integers(2, 6),
    batch=st.integers(1, 3),
    side=st.sampled_from([3, 9, 40]),
    channels_last=st.booleans(),
    training=st.booleans(),
    surrogate=st.sampled_from([Triangle(), Unknown()]),
    seed=st.integers(0, 99),
)
def test_chain(
    steps: int, batch: int, side: int, channels_last: bool, training: bool, surrogate: Surrogate, seed: int
) -> None:
    torch.manual_seed(seed)
    model = chain(surrogate).train(training)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.randn(batch, 3, side, side, dtype=torch.float64)
    assert_as_with_copies(model, image.expand(steps, *image.shape))


@pytest.mark.parametrize("neuron", ["lif", "plif", "da-lif"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_whole_network(neuron: NeuronName, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the normalisation of the pixels; neurons that do not fuse with their batch norm, too."""
    monkeypatch.setattr(kernels, "choose", lambda *_: backend)
    torch.manual_seed(1)
    config = ModelConfig(model="small-conv", neuron=neuron, time_steps=STEPS, temporal_shift=True)
    model = models.build(config, IMAGES).double().eval()
    for norm in (m for m in model.modules() if isinstance(m, BatchNorm2d)):
        norm.train()  # the random split of the temporal shift stays fixed
    image = torch.randint(256, (2, 3, 32, 32)).double()
    assert_as_with_copies(model, image.expand(STEPS, *image.shape))


def images_seen(model: nn.Module, x: Tensor) -> int:
    """How many images a network's first convolution takes."""
    seen: list[int] = []
    original = nn.Conv2d.forward

    def forward(self: nn.Conv2d, input: Tensor) -> Tensor:
        seen.append(len(input))
        return original(self, input)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Conv2d, "forward", forward)
        model(x)
    return seen[0]


def test_first_convolution_runs_once() -> None:
    image = torch.randint(256, (2, 3, 32, 32))
    network = nn.Sequential(Normalise(IMAGES.mean, IMAGES.std), chain().float())
    assert images_seen(network, repeat_over_time(image, STEPS)) == 2
    assert images_seen(network, repeat_over_time(image, STEPS).clone()) == 2 * STEPS


def test_hooks_see_every_step() -> None:
    model = chain()
    seen: list[int] = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    model(torch.randn(2, 3, 5, 5, dtype=torch.float64).expand(STEPS, -1, -1, -1, -1))
    assert seen == [STEPS]


def test_gradient_of_an_input_is_that_of_every_step() -> None:
    """Steps that share memory but want a gradient each are computed each."""
    model = chain()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64).expand(STEPS, -1, -1, -1, -1)
    gradients = []
    for steps in (x.detach().requires_grad_(), x.clone().requires_grad_()):
        model(steps)[1:3].sum().backward()
        gradients.append(steps.grad)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("index", [1, 2])
def test_backward_hooks_are_called(index: int) -> None:
    model = chain()
    seen: list[int] = []
    model[index].register_full_backward_hook(lambda module, inputs, outputs: seen.append(len(outputs[0])))
    model(torch.randn(2, 3, 5, 5, dtype=torch.float64).expand(STEPS, -1, -1, -1, -1)).sum().backward()
    assert seen == [STEPS]


def test_hooks_on_all_modules_are_called() -> None:
    seen: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, inputs, out: seen.append(type(m).__name__))
    try:
        chain()(torch.randn(2, 3, 5, 5, dtype=torch.float64).expand(STEPS, -1, -1, -1, -1))
    finally:
        handle.remove()
    assert seen == ["Conv2d", "BatchNorm2d", "LIF", "Chain"]

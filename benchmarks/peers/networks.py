"""The benchmark's network as the users of other libraries write it: decay 0.5, threshold 1, hard and detached reset.

Every builder returns [T, B, 3, 32, 32] -> logits [B, 10], with its state new at every call. `neurons.py` has the neuron
alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

WIDTHS = ((3, 32), (32, 32), (32, 64), (64, 64))
POOLED = (1, 3)
CLASSES, FEATURES = 10, 64 * 8 * 8


def _stack(neuron: Callable[[], nn.Module], package: Any = nn) -> Iterator[nn.Module]:
    for index, (inputs, outputs) in enumerate(WIDTHS):
        yield package.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        yield package.BatchNorm2d(outputs)
        yield neuron()
        if index in POOLED:
            yield package.AvgPool2d(2)
    yield package.Flatten()
    yield package.Linear(FEATURES, CLASSES)


class _Whole(nn.Module):
    """Layers that take all time steps at once, with a function that resets them."""

    def __init__(self, body: nn.Module, reset: Callable[[nn.Module], None], compiled: bool) -> None:
        super().__init__()
        self.body, self.reset = body, reset
        self.call = torch.compile(body) if compiled else body

    def forward(self, x: Tensor) -> Tensor:
        self.reset(self.body)
        return self.call(x).mean(0)


def lif_node(**options: str) -> nn.Module:
    """SpikingJelly's LIF with the settings of this benchmark."""
    from spikingjelly.activation_based import neuron, surrogate

    return neuron.LIFNode(
        tau=2.0,
        decay_input=False,
        v_threshold=1.0,
        v_reset=0.0,
        surrogate_function=surrogate.ATan(),
        detach_reset=True,
        **options,
    )


def spikingjelly(step_mode: str, compiled: bool = False) -> nn.Module:
    """SpikingJelly's layers in multi-step ("m") or single-step ("s") mode, PyTorch backend."""
    from spikingjelly.activation_based import functional, layer

    body = nn.Sequential(*_stack(lif_node, layer))
    functional.set_step_mode(body, step_mode)
    return (_Whole if step_mode == "m" else _Stepped)(body, functional.reset_net, compiled)


class _Stepped(_Whole):
    """Layers called once a time step."""

    def forward(self, x: Tensor) -> Tensor:
        self.reset(self.body)
        return torch.stack([self.call(frame) for frame in x]).mean(0)


class _Norse(nn.Module):
    def __init__(self, compiled: bool) -> None:
        super().__init__()
        from norse.torch import LIFBoxCell, LIFBoxParameters, SequentialState

        parameters = LIFBoxParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(1.0), method="super")
        body = SequentialState(*_stack(lambda: LIFBoxCell(parameters, dt=0.001)))
        self.body = body
        self.call = torch.compile(body) if compiled else body

    def forward(self, x: Tensor) -> Tensor:
        state, total = None, 0.0
        for frame in x:
            logits, state = self.call(frame, state)
            total = total + logits
        return total / len(x)


def _snntorch(compiled: bool) -> nn.Module:
    import snntorch
    from snntorch import surrogate, utils

    def lif() -> nn.Module:
        return snntorch.Leaky(
            beta=0.5, threshold=1.0, spike_grad=surrogate.atan(), init_hidden=True, reset_mechanism="zero"
        )

    return _Stepped(nn.Sequential(*_stack(lif)), utils.reset, compiled)


class _Sinabs(nn.Module):
    def __init__(self, compiled: bool) -> None:
        super().__init__()
        import sinabs
        from sinabs.activation import MembraneReset, SingleSpike
        from sinabs.layers import LIFSqueeze

        def lif() -> nn.Module:
            return LIFSqueeze(
                tau_mem=1 / math.log(2), batch_size=1, norm_input=False, spike_fn=SingleSpike, reset_fn=MembraneReset()
            )

        self.body = nn.Sequential(*_stack(lif))
        self.squeezed = [module for module in self.body if isinstance(module, LIFSqueeze)]
        self.reset = sinabs.reset_states
        self.call = torch.compile(self.body) if compiled else self.body

    def forward(self, x: Tensor) -> Tensor:
        self.reset(self.body)
        for module in self.squeezed:
            module.batch_size = x.shape[1]
        images = x.transpose(0, 1).flatten(0, 1)  # sinabs puts the batch first
        return self.call(images).view(x.shape[1], len(x), -1).mean(1)


ROWS: dict[str, Callable[[], nn.Module]] = {
    "spikingjelly-multi": lambda: spikingjelly("m"),
    "spikingjelly-multi-compiled": lambda: spikingjelly("m", compiled=True),
    "spikingjelly-single": lambda: spikingjelly("s"),
    "norse": lambda: _Norse(compiled=False),
    "norse-compiled": lambda: _Norse(compiled=True),
    "snntorch": lambda: _snntorch(compiled=False),
    "snntorch-compiled": lambda: _snntorch(compiled=True),
    "sinabs": lambda: _Sinabs(compiled=False),
    "sinabs-compiled": lambda: _Sinabs(compiled=True),
}
warnings.filterwarnings("ignore")

"""The engines by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from export.network import Ints, Network
from sim import fast, lava, onnx_engine, reference, torch_engine
from sim.recording import Recording
from train.errors import CheckFailedError, UserError

ENGINES = ("integer", "torch", "lava", "lava-models", "onnx", "reference")
SLOW = {"lava": 1, "reference": 1, "lava-models": 50}
"""A sample takes these milliseconds to seconds, so they get the first few; how many times as few as the slowest."""


def share(engine: str, slow_samples: int) -> int:
    """How many samples a slow engine gets where the slowest get `slow_samples`."""
    return SLOW[engine] * slow_samples


def check(names: Sequence[str], argument: str) -> None:
    """Refuse names that no engine has.

    Raises:
        UserError: there is one; `argument` is where it was given.
    """
    unknown = next((name for name in names if name not in ENGINES), None)
    if unknown is not None:
        raise UserError(f"{argument} {unknown}", hint=f"known engines: {', '.join(ENGINES)}")


def run(
    engine: str,
    network: Network,
    model: nn.Module | None,
    x: Ints,
    *,
    device: torch.device | str = "cpu",
    lava_timeout: float = 600.0,
    progress: Callable[[int, int], None] | None = None,
) -> Recording:
    """Run one engine on x int64 [samples, T, *shape] of raw values; `model` is what the torch engine needs, and
    runs where it is; `device` is where the integer engine runs.

    Raises:
        UserError: the engine cannot run this.
        CheckFailedError: Lava failed.
    """
    if engine == "torch":
        if model is None:
            raise UserError("the torch engine needs the run's checkpoint", hint="choose --engines integer lava")
        return torch_engine.run(network, model, x, progress=progress)
    if engine in ("lava", "lava-models"):
        start = lava.run if engine == "lava" else lava.run_models
        try:
            return start(network, x, timeout=lava_timeout, progress=progress)
        except lava.LavaError as error:
            raise CheckFailedError(str(error)) from error
    if engine == "onnx":
        return onnx_engine.run(network, x, progress=progress)
    if engine == "reference":
        return reference.run(network, x)
    return fast.run(network, x, device=device, progress=progress)

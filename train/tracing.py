"""A model as the layers that its forward pass goes through: the one way in which training and export look at it.

The pass is traced symbolically down to the layers of this project; nothing is run.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from train.errors import UserError


@dataclass(frozen=True, eq=False)
class Step:
    """The model's input (no module, no inputs), one layer, or a sum (no module).

    Attributes:
        name: unique; what `inputs` refer to.
        place: module path of the layer, or of the block in which the sum stands.
        readers: how many steps take its value.
    """

    name: str
    place: str
    module: nn.Module | None
    inputs: tuple[str, ...]
    readers: int


class _Tracer(fx.Tracer):
    """Traces down to this project's layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = ("train.layers", "train.quantise", "torch.nn")
        return type(m).__module__.startswith(ours) and not isinstance(m, nn.Sequential)


def traced(model: nn.Module, hint: str) -> Iterator[Step]:
    """The steps of a forward pass in order; the input is the first, identities are left out.

    Raises:
        UserError: an operation that is neither a layer nor a sum; `hint` says what to do.
    """
    modules = dict(model.named_modules())
    names: dict[fx.Node, str] = {}
    for node in _Tracer().trace(model).nodes:
        inputs = tuple(names[argument] for argument in node.all_input_nodes if argument in names)
        if node.op == "output":
            return
        names[node] = node.name
        module = modules[str(node.target)] if node.op == "call_module" else None
        if isinstance(module, nn.Identity):
            names[node] = inputs[0]
        elif module is not None:
            yield Step(node.name, str(node.target), module, inputs, len(node.users))
        elif node.op == "placeholder":
            yield Step(node.name, "", None, (), len(node.users))
        elif node.op == "call_function" and node.target in (operator.add, torch.add):
            yield Step(node.name, _block(node), None, inputs, len(node.users))
        else:
            raise UserError(f"no rule for the operation {node.target}", where=_block(node), hint=hint)


def _block(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(stack.values()))[0]) if stack else node.name


def pair(value: Any) -> tuple[int, int]:
    """A size that PyTorch takes as one number or as two."""
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)

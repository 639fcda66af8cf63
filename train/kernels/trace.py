"""A surrogate's derivative as scalar source code: one definition in PyTorch serves every fused kernel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from train.surrogate import Surrogate

# ATen operation to an expression in its operands; {0}, {1} stand for operands, which are names or literals.
ARITHMETIC: Mapping[str, str] = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "rsub": "{1} - {0}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "bitwise_and": "{0} & {1}",
    "logical_and": "{0} & {1}",
    "bitwise_or": "{0} | {1}",
    "logical_or": "{0} | {1}",
    "square": "{0} * {0}",
    "_to_copy": "{0}",
    "clone": "{0}",
}
LOGICAL = {"bitwise_and", "logical_and", "bitwise_or", "logical_or"}


class UntraceableError(Exception):
    """The derivative uses an operation that the kernels' dialect lacks; another implementation takes over."""


def expression(surrogate: Surrogate, threshold: float, dialect: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """Statements and final expression of dS/dV in terms of `v`.

    `dialect` extends `ARITHMETIC` by the functions of a language: abs, relu, tanh, sigmoid, exp, reciprocal, where,
    number (a literal from its repr) and real (0 or 1 from a truth value).

    Raises:
        UntraceableError: an operation without an expression, a tensor constant, or code that cannot be traced.
    """
    try:
        graph = make_fx(lambda v: surrogate.derivative(v, threshold))(torch.linspace(-1.0, 1.0, 3)).graph
    except Exception as error:  # the surrogate may be anyone's code
        raise UntraceableError(str(error)) from error
    table = {**ARITHMETIC, **dialect}
    names: dict[fx.Node, str] = {}
    lines: list[str] = []
    for node in graph.nodes:
        if node.op == "placeholder":
            names[node] = "v"
        elif node.op == "output":
            return tuple(lines), _operand(node.args[0], names, table, arithmetic=True)
        elif node.op == "call_function":
            names[node] = f"a{len(lines)}"
            lines.append(f"a{len(lines)} = {_call(node, names, table)}")
        else:
            raise UntraceableError(f"{node.op} {node.target}")
    raise UntraceableError("no output")


def _call(node: fx.Node, names: Mapping[fx.Node, str], table: Mapping[str, str]) -> str:
    operation = str(node.target).split(".")[1]
    options = {key for key in node.kwargs if key not in ("dtype", "memory_format")}
    if operation == "pow" and node.args[1] in (2, 2.0) and not options:
        operation, arguments = "square", node.args[:1]
    else:
        arguments = node.args
    if operation == "div" and isinstance(arguments[1], int | float) and arguments[1]:
        operation, arguments = "mul", (arguments[0], 1 / arguments[1])  # a division takes ten times as long
    if operation not in table or options or operation == "pow":
        raise UntraceableError(str(node.target))
    arithmetic = operation not in LOGICAL
    operands = [
        _operand(argument, names, table, arithmetic and not (operation == "where" and index == 0))
        for index, argument in enumerate(arguments)
    ]
    return table[operation].format(*operands)


def _operand(argument: object, names: Mapping[fx.Node, str], table: Mapping[str, str], arithmetic: bool) -> str:
    if isinstance(argument, fx.Node):
        name = names[argument]
        value = argument.meta.get("val")
        truth = value is not None and value.dtype == torch.bool
        return table["real"].format(name) if truth and arithmetic else name
    if isinstance(argument, int | float):
        return table["number"].format(repr(float(argument)))
    raise UntraceableError(repr(argument))

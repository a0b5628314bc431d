"""A network as data: which kernels run one after the other, and where their tensors lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_latency.memory import Lifetime, aligned, plan_memory

# TVM puts buffers of fewer bytes on the stack, where nothing aligns them to a vector.
_ON_THE_HEAP = 1024

Place = Literal["input", "weights", "memory", "output"]


@dataclass(frozen=True)
class Operand:
    """A tensor of a call, `offset` bytes into its place; `number` tells inputs apart."""

    place: Place
    shape: tuple[int, ...]
    dtype: str
    offset: int = 0
    number: int = 0


@dataclass(frozen=True)
class Step:
    """A call of a kernel, which writes its last operand and reads the others."""

    kernel: str
    operands: tuple[Operand, ...]


@dataclass(frozen=True, eq=False)
class NetworkPlan:
    """A chain of kernel calls.

    weights: all constants as bytes, in the order in which they are read, so that what a kernel fetches ahead of its own
        weights are the next kernel's. memory_bytes: the workspace of all tensors between kernels.
    """

    inputs: tuple[Operand, ...]
    output: Operand
    steps: tuple[Step, ...]
    weights: NDArray[np.uint8]
    memory_bytes: int


def plan_network(module: Any) -> NetworkPlan | None:
    """The plan of `main`; None for a network with more than kernels and views (a sort, several outputs)."""
    main = module["main"]
    found = _calls(module)
    if found is None:
        return None
    calls, alias, output = found
    constants = list(dict.fromkeys(a for call in calls for a in call.value.args[1] if _is_constant(a)))
    sizes = [aligned(constant.value.numpy().nbytes) for constant in constants]
    starts = dict(zip(constants, np.cumsum([0, *sizes]).tolist()))
    weights = np.zeros(max(sum(sizes), 1), np.uint8)
    for constant, start in starts.items():
        data = np.ascontiguousarray(constant.value.numpy()).reshape(-1).view(np.uint8)
        weights[start : start + data.size] = data
    result = _root(output, alias)
    offsets, memory_bytes = _workspace(calls, alias, result)
    numbers = {param: number for number, param in enumerate(main.params)}

    def operand(expr: Any) -> Operand:
        shape, dtype = tuple(_shape(expr)), str(expr.ty.dtype)
        if _is_constant(expr):
            return Operand("weights", shape, dtype, starts[expr])
        root = _root(expr, alias)
        if root in numbers:
            return Operand("input", shape, dtype, number=numbers[root])
        return (
            Operand("output", shape, dtype) if root.same_as(result) else Operand("memory", shape, dtype, offsets[root])
        )

    return NetworkPlan(
        inputs=tuple(map(operand, main.params)),
        output=operand(output),
        steps=tuple(
            Step(call.value.args[0].name_hint, tuple(map(operand, [*call.value.args[1], call.var]))) for call in calls
        ),
        weights=weights,
        memory_bytes=max(memory_bytes, _ON_THE_HEAP),
    )


def _calls(module: Any) -> tuple[list[Any], dict[Any, Any], Any] | None:
    """The bindings that call a kernel, which variables are views of which, and the output; None if there is more."""
    main = module["main"]
    calls: list[Any] = []
    alias: dict[Any, Any] = {}
    for binding in (binding for block in main.body.blocks for binding in block.bindings):
        value, tensor = binding.value, isinstance(binding.var.ty, relax.TensorType)
        if isinstance(value, relax.Var) and tensor:
            alias[binding.var] = value
        elif not (isinstance(value, relax.Call) and tensor and value.op == tvm.ir.Op.get("relax.call_tir")):
            return None
        elif relax.analysis.has_reshape_pattern(module[value.args[0]]) and isinstance(value.args[1][0], relax.Var):
            alias[binding.var] = value.args[1][0]
        elif len(value.args) > 2:  # sizes known at run time only
            return None
        else:
            calls.append(binding)
    output = main.body.body
    written = {call.var for call in calls}
    computed = isinstance(output, relax.Var) and _root(output, alias) in written
    tensors = [a for call in calls for a in call.value.args[1]]
    known = written | set(main.params)
    plain = all(_is_constant(a) or (isinstance(a, relax.Var) and _root(a, alias) in known) for a in tensors)
    return (calls, alias, output) if computed and plain else None


def _workspace(calls: Sequence[Any], alias: Mapping[Any, Any], result: Any) -> tuple[dict[Any, int], int]:
    """Where each tensor between kernels lies in one workspace, and the bytes of that."""
    last = {call.var: step for step, call in enumerate(calls)}
    for step, call in enumerate(calls):
        last |= {_root(a, alias): step for a in call.value.args[1] if isinstance(a, relax.Var)}
    inner = [(step, call.var) for step, call in enumerate(calls) if not call.var.same_as(result)]
    offsets, size = plan_memory([Lifetime(_bytes(var), step, last[var]) for step, var in inner])
    return {var: offset for (_, var), offset in zip(inner, offsets)}, size


def _is_constant(expr: Any) -> bool:
    return isinstance(expr, tvm.ir.GenericConst)


def _root(var: Any, alias: Mapping[Any, Any]) -> Any:
    while var in alias:
        var = alias[var]
    return var


def _shape(expr: Any) -> list[int]:
    return [int(size) for size in expr.ty.shape]


def _bytes(expr: Any) -> int:
    return prod(_shape(expr)) * int(tvm.DataType(str(expr.ty.dtype)).itemsize)

"""The whole network as one function, so that nothing stands between two kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as build

from tvm_latency.memory import ALIGNMENT, Lifetime, aligned, plan_memory

NETWORK = "network"
# How TVM names functions in object files.
SYMBOL_PREFIX = "__tvm_ffi_"
# TVM puts buffers of fewer bytes on the stack, where nothing aligns them to a vector.
_ON_THE_HEAP = 1024


@tvm.transform.module_pass(opt_level=0, name="SingleCall")
def single_call(module: Any, _: Any) -> Any:
    """Replace `main`, a chain of kernel calls, by one call of one function that calls the kernels.

    main(x):                                          network(x, weights, y):
        a = call_tir(stem, x, w0, b0)                     stem(x, weights + 0, weights + 3456, memory + 0)
        b = call_tir(depthwise, a, w1, b1)       -->      depthwise(memory + 0, weights + 3584, ..., memory + 1605632)
        ...                                               ...

    TVM's virtual machine takes time for each call, among it that for making a tensor. All constants become one, in the
    order in which they are read, so that what a kernel fetches ahead of its own weights are the next kernel's.
    A network with more than kernels and views (a sort, several outputs) is left to the virtual machine.
    """
    main = module["main"]
    steps = _steps(module)
    if steps is None:
        return module
    calls, alias, output = steps
    constants = list(dict.fromkeys(a for call in calls for a in call.value.args[1] if _is_constant(a)))
    sizes = [aligned(constant.value.numpy().nbytes) for constant in constants]
    starts = dict(zip(constants, np.cumsum([0, *sizes]).tolist()))
    weights = np.zeros(max(sum(sizes), 1), np.uint8)
    for constant, start in starts.items():
        data = np.ascontiguousarray(constant.value.numpy()).reshape(-1).view(np.uint8)
        weights[start : start + data.size] = data
    function = _network(main.params, calls, alias, output, starts, weights.size)
    kernels = {var: f for var, f in module.functions_items() if var.name_hint != "main"}
    builder = relax.BlockBuilder(tvm.IRModule(kernels, attrs=module.attrs))
    network = builder.add_func(function, NETWORK)
    params = [relax.Var(p.name, p.ty) for p in main.params]
    with builder.function("main", params, attrs=dict(main.attrs or {})):
        with builder.dataflow():
            result = builder.emit_output(relax.call_tir(network, [*params, relax.const(weights, "uint8")], output.ty))
        builder.emit_func_output(result)
    return builder.get()


def _is_constant(expr: Any) -> bool:
    return isinstance(expr, tvm.ir.GenericConst)


def _steps(module: Any) -> tuple[list[Any], dict[Any, Any], Any] | None:
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


def _root(var: Any, alias: Mapping[Any, Any]) -> Any:
    while var in alias:
        var = alias[var]
    return var


def _network(
    params: Sequence[Any],
    calls: Sequence[Any],
    alias: Mapping[Any, Any],
    output: Any,
    starts: Mapping[Any, int],
    weight_bytes: int,
) -> Any:
    """network(params, weights, output): one call after the other, intermediates in one workspace.

    starts: where each constant lies in the weights, in bytes.
    """
    last = {call.var: step for step, call in enumerate(calls)}
    for step, call in enumerate(calls):
        last |= {_root(a, alias): step for a in call.value.args[1] if isinstance(a, relax.Var)}
    result = _root(output, alias)
    inner = [(step, call.var) for step, call in enumerate(calls) if not call.var.same_as(result)]
    offsets, size = plan_memory([Lifetime(_bytes(var), step, last[var]) for step, var in inner])
    where = {var: offset for (_, var), offset in zip(inner, offsets)}
    with IRBuilder() as builder, build.prim_func():
        build.func_name(NETWORK)
        build.func_attr({"global_symbol": NETWORK, "tirx.is_scheduled": True})
        # Without `align`, LLVM takes for granted what is checked below.
        data = {p: build.arg(p.name, build.buffer(_shape(p), str(p.ty.dtype), align=1)).data for p in params}
        weights = build.arg("weights", build.buffer([weight_bytes], "uint8")).data
        data[result] = build.arg("output", build.buffer(_shape(output), str(output.ty.dtype))).data
        memory = build.alloc_buffer([max(size, _ON_THE_HEAP)], "uint8").data

        def tensor(expr: Any) -> Any:
            if _is_constant(expr):
                pointer = tirx.handle_add_byte_offset(weights, starts[expr])
            else:
                root = _root(expr, alias)
                pointer = data[root] if root in data else tirx.handle_add_byte_offset(memory, where[root])
            return _tensor(pointer, _shape(expr), str(expr.ty.dtype))

        for param in params:
            _check_alignment(param.name, data[param])
        for call in calls:
            kernel, arguments = call.value.args[:2]
            build.evaluate(tirx.call_cpacked(kernel.name_hint, *map(tensor, [*arguments, call.var])))
    return builder.get()


def _check_alignment(name: str, pointer: Any) -> None:
    """Refuse what other libraries may hand over: kernels load whole vectors from where TVM would have put a tensor."""
    past = tirx.call_llvm_pure_intrin("handle", "llvm.ptrmask", pointer, tirx.const(ALIGNMENT - 1, "int64"))
    message = f"Input {name} must begin at a multiple of {ALIGNMENT} bytes. Copy it with tvm.runtime.tensor(array)."
    with build.Assert(tirx.isnullptr(past), message, "ValueError"):
        pass


def _tensor(pointer: Any, shape: Sequence[int], dtype: str) -> Any:
    sizes = tirx.tvm_stack_make_shape(*(tirx.const(size, "int64") for size in shape))
    return tirx.tvm_stack_make_array(pointer, sizes, 0, len(shape), dtype, 0)


def caller(kernel: Any, name: str) -> Any:
    """A function like the kernel `name` that calls it in another object file.

    TVM declares a function of another file anew for every call, and only the first has its name: so there is but one.
    """
    with IRBuilder() as builder, build.prim_func():
        build.func_name(name)
        build.func_attr({"global_symbol": name, "tirx.is_scheduled": True})
        shapes = [([int(size) for size in p.shape], str(p.dtype)) for p in kernel.params]
        arguments = [build.arg(f"a{i}", build.buffer(*shape)).data for i, shape in enumerate(shapes)]
        tensors = [_tensor(data, *shape) for data, shape in zip(arguments, shapes, strict=True)]
        build.evaluate(tirx.call_cpacked(SYMBOL_PREFIX + code_of(name), *tensors))
    return builder.get()


def code_of(name: str) -> str:
    """What a kernel is called in its own object file."""
    return f"{name}_code"


def _shape(expr: Any) -> list[int]:
    return [int(size) for size in expr.ty.shape]


def _bytes(expr: Any) -> int:
    return prod(_shape(expr)) * int(tvm.DataType(str(expr.ty.dtype)).itemsize)
